/*
 * Trust in the marks of a disk, with a method that is nothing but its tables and a kernel that is
 * two files: what is stored in which order, and what is called proven.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "replicator/agent/tracker_disk.h"

struct world {
	struct method method; /* first: what is called gets only this */
	struct capture_registry registry;
	struct capture_device device;
	struct capture_slot slot;
	struct tracker tracker;
	struct tracker_disk disk;
	bool busy; /* writes begin all the time */
	uint64_t known;
	bool was_old; /* its number, while it was trusted again and not trusted yet */
	unsigned looks;
};

/* Called before every sample is taken, and after. */
static void on_settle(struct method *method)
{
	struct world *w = (struct world *)method;
	const struct capture_note *note = &w->registry.notes[0];
	w->looks++;
	if (w->busy)
		w->device.stripes[0].queued_bytes += 4096;
	w->was_old |= note->distrust != 0 && note->run.incarnation == w->known;
}

static int on_missed(struct method *method, uint64_t *ret_missed)
{
	(void)method;
	*ret_missed = 0;
	return 0;
}

static const struct method_ops ops = {
	.name = "tables",
	.settle = on_settle,
	.missed = on_missed,
};

static int file_of(const char *text)
{
	int fd = memfd_create("sysfs", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

static struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	w->method.ops = &ops;
	w->method.devices = &w->device;
	w->method.slots = &w->slot;
	w->method.registry = &w->registry;
	w->tracker.method = &w->method;
	w->disk.tracker = &w->tracker;
	w->disk.disk.counted = true;
	w->disk.stat_fd = file_of("0 0 0 0 0 0 8 0 0 0 0 0 0 0\n");
	w->disk.inflight_fd = file_of("0 0\n");
	marks_plan(MIB, 12, &w->disk.marks);
	w->disk.marks.map = calloc(1, w->disk.marks.map_bytes);
	assert_non_null(w->disk.marks.map);
	w->registry.notes[0].idle_excess = TRACKER_EXCESS_UNKNOWN;
	return w;
}

static void world_free(struct world *w)
{
	close(w->disk.stat_fd);
	close(w->disk.inflight_fd);
	free(w->disk.marks.map);
	free(w);
}

static uint64_t incarnation_of(struct world *w, uint64_t holder)
{
	uint64_t incarnation = 0;
	assert_int_equal(tracker_incarnation(&w->disk, holder, &incarnation), 0);
	return incarnation;
}

static void test_marks_are_trusted_again_under_another_number_only(void **state)
{
	(void)state;
	struct world *w = world_new();
	assert_int_equal(tracker_trust_again(&w->disk, NULL), 0);
	w->known = incarnation_of(w, 7);
	assert_int_equal(incarnation_of(w, 7), w->known);
	w->registry.notes[0].distrust = TRACKER_REASON_MISSED;
	w->looks = 0;
	assert_int_equal(tracker_trust_again(&w->disk, NULL), 0);
	assert_true(w->looks > 0);
	/* Whoever comes after a death in between believes the distrust, or sees another number. */
	assert_false(w->was_old);
	assert_int_equal(w->registry.notes[0].distrust, 0);
	assert_int_not_equal(incarnation_of(w, 7), w->known);
	world_free(w);
}

static void test_another_holder_is_told_another_number(void **state)
{
	(void)state;
	struct world *w = world_new();
	uint64_t first = incarnation_of(w, 7), other = incarnation_of(w, 8);
	assert_int_not_equal(first, other);
	assert_int_equal(incarnation_of(w, 8), other);
	assert_int_not_equal(incarnation_of(w, 7), first);
	world_free(w);
}

static void expect(struct world *w, enum tracker_verdict verdict, enum tracker_reason reason)
{
	struct tracker_trust trust;
	assert_int_equal(tracker_check(&w->disk, 20, &trust), 0);
	assert_int_equal(trust.verdict, verdict);
	assert_int_equal(trust.reason, reason);
}

static void test_what_was_written_before_the_first_still_moment_is_unproven(void **state)
{
	(void)state;
	struct world *w = world_new();
	w->busy = true;
	assert_int_equal(tracker_trust_again(&w->disk, NULL), 0);
	assert_false(tracker_has_base(&w->disk));
	expect(w, TRACKER_UNPROVEN, TRACKER_REASON_BUSY);
	assert_false(tracker_has_base(&w->disk));
	w->busy = false;
	expect(w, TRACKER_UNPROVEN, TRACKER_REASON_LATE);
	assert_true(tracker_has_base(&w->disk));
	expect(w, TRACKER_UNPROVEN, TRACKER_REASON_LATE);
	tracker_compared(&w->disk);
	expect(w, TRACKER_PROVEN, TRACKER_REASON_NONE);
	world_free(w);
}

static void test_what_is_still_from_the_beginning_is_proven(void **state)
{
	(void)state;
	struct world *w = world_new();
	assert_int_equal(tracker_trust_again(&w->disk, NULL), 0);
	assert_true(tracker_has_base(&w->disk));
	expect(w, TRACKER_PROVEN, TRACKER_REASON_NONE);
	/* The kernel counts 4 KiB more, of which nothing was seen. */
	assert_int_equal(pwrite(w->disk.stat_fd, "0 0 0 0 0 0 16 0 0 0 0 0 0 0\n", 29, 0), 29);
	expect(w, TRACKER_LOST, TRACKER_REASON_BYTES);
	assert_int_equal(w->registry.notes[0].distrust, TRACKER_REASON_BYTES);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_marks_are_trusted_again_under_another_number_only),
		cmocka_unit_test(test_another_holder_is_told_another_number),
		cmocka_unit_test(test_what_was_written_before_the_first_still_moment_is_unproven),
		cmocka_unit_test(test_what_is_still_from_the_beginning_is_proven),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
