/*
 * Back-pressure: what to do at a given fill of a group's journal, and how the appliance's room
 * for journals is shared between groups. Pure functions, so that the table can be tested:
 *
 *	fill       what happens
 *	below 60 % nothing
 *	60 %       the oldest local-only points and flushed segments give way, down to 60 %
 *	80 %       a point is sealed and flushed at once; writes are slowed, from four times the
 *	           flush rate down to it
 *	92 %       the flusher skips points in between; writes are slowed to a quarter of its rate
 *	97 %       writes wait for room, and are refused if none comes
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum backpressure_level {
	BACKPRESSURE_NONE,
	BACKPRESSURE_TRIM,
	BACKPRESSURE_DELAY,
	BACKPRESSURE_THIN,
	BACKPRESSURE_FULL,
};

struct backpressure_facts {
	uint64_t used_bytes, limit_bytes;
	uint64_t flush_bytes_per_s; /* how fast room comes free; 0: it does not, or is not known */
};

struct backpressure_plan {
	enum backpressure_level level;
	double fill;                /* used / limit; 1 if the limit is 0 */
	uint64_t trim_target_bytes; /* from BACKPRESSURE_TRIM */
	uint64_t write_bytes_per_s; /* allowed; 0: no limit */
};

void backpressure_decide(
	const struct backpressure_facts *facts, struct backpressure_plan *ret_plan);

/* Shares `total_bytes` between `count` groups, given what each needs (bytes that cannot be
 * freed). Half of the room is guaranteed in equal parts, whoever needs what; the other half goes
 * to need first, and what is left is split. The limits never add up to more than the total. */
void backpressure_share(uint64_t total_bytes, const uint64_t *need_bytes, unsigned count,
	uint64_t *ret_limit_bytes);
