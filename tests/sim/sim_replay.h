/*
 * How a simulation is told what to do, and how it tells of a failure: by one command that repeats
 * it. Only a program's main part may use it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct sim_settings {
	const char *program, *mode;
	const char *replay; /* NULL: run the mode */
	uint64_t seed, crash_points;
	unsigned shard, shards;
	unsigned divisor; /* do that much less */
	FILE *trace;      /* NULL: silent */
	bool drains;
};

/* Reads --mode, --seed, --crash-points, --shard I/N, --replay KIND:ARG, --drains, --verbose;
 * without a seed makes one from the time. `LANDFALL_SIM_DIVISOR` in the environment asks for so
 * many times fewer crash points (sanitizers make each dearer). Catches signals. -EINVAL. */
int sim_settings_parse(
	int argc, char **argv, const char *mode, uint64_t crash_points, struct sim_settings *ret);
/* What is run from now on, as the argument of --replay: said if it dies or hangs. */
void sim_replay_set(const struct sim_settings *settings, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Prints a failure and how to repeat it; returns 1. */
int sim_replay_report(const char *failure);
/* A seed made of two. */
uint64_t sim_mix(uint64_t a, uint64_t b);
