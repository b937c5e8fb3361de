/*
 * The methods job.list, job.show, job.watch, job.cancel of the control socket; SOCKET.md tells
 * parameters and results.
 */
#pragma once

struct control;
struct jobs;

/* `jobs` is borrowed and must outlive the control's threads. */
int methods_job_register(struct control *control, struct jobs *jobs);
