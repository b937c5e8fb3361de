/*
 * How much the agent counts on the machine that it protects: less than what runs there, for the
 * processor and for disks; and more, for the moment in which all of that stands still for it.
 *
 * The kernel keeps both for each thread; new threads have what the one has that made them.
 */
#pragma once

#include <stdbool.h>

struct gentle {
	int nice;
	int io; /* as ioprio_set(2) has it */
};

/* The calling thread, and those that it makes: 5 as nice(2) counts, and the last but one level of
 * disks' best effort, unless it was given less. What it cannot set stays as it is. */
void gentle_begin(struct gentle *ret_gentle);
/* All threads of the process: ahead of others, or as they were. Not while anything is frozen. */
void gentle_hurry(const struct gentle *gentle, bool hurry);
