/*
 * replicator/flush_plan.c against a plain map of sectors: every changed page is in exactly one
 * piece, dirty; pieces are within their limits and rise; gaps are bridged only where local;
 * zeros stay zeros.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "replicator/flush_plan.h"

#define SECTORS (8u * 4096u)
#define PAGES (SECTORS / FLUSH_PAGE_SECTORS)

enum { UNCHANGED, DATA, ZERO };

struct model {
	uint8_t sectors[SECTORS];
	bool remote[PAGES]; /* unchanged and not known locally */
	uint32_t most;      /* sectors in one extent, so that neighbours stay apart */
};

static int next(void *context, uint64_t lba, struct extent *ret_extent)
{
	struct model *m = context;
	while (lba < SECTORS && m->sectors[lba] == UNCHANGED)
		lba++;
	if (lba >= SECTORS)
		return -ENOENT;
	uint64_t end = lba;
	while (end < SECTORS && end - lba < m->most && m->sectors[end] == m->sectors[lba])
		end++;
	*ret_extent = (struct extent){
		.lba = lba, .sectors = end - lba, .zero = m->sectors[lba] == ZERO
	};
	return 0;
}

static bool is_local(void *context, uint64_t lba, uint64_t sectors)
{
	struct model *m = context;
	for (uint64_t i = lba; i < lba + sectors; i++)
		if (m->remote[i / FLUSH_PAGE_SECTORS] && m->sectors[i] == UNCHANGED)
			return false;
	return true;
}

static void fill(struct model *m, struct rng *rng)
{
	memset(m, 0, sizeof(*m));
	m->most = 1 + (uint32_t)rng_below(rng, 3000);
	for (uint64_t i = rng_below(rng, 120); i > 0; i--) {
		uint32_t at = (uint32_t)rng_below(rng, SECTORS);
		uint32_t n = 1 + (uint32_t)rng_below(rng, rng_below(rng, 10) == 0 ? 9000 : 40);
		if (rng_below(rng, 2)) {
			at = (uint32_t)round_down(at, FLUSH_PAGE_SECTORS);
			n = (uint32_t)round_up(n, FLUSH_PAGE_SECTORS);
		}
		memset(m->sectors + at, rng_below(rng, 3) ? DATA : ZERO, MIN(n, SECTORS - at));
	}
	for (unsigned i = 0; i < PAGES; i++)
		m->remote[i] = rng_below(rng, 4) == 0;
}

static bool is_changed(const struct model *m, uint32_t page)
{
	for (unsigned i = 0; i < FLUSH_PAGE_SECTORS; i++)
		if (m->sectors[page * FLUSH_PAGE_SECTORS + i] != UNCHANGED)
			return true;
	return false;
}

static bool is_all_zero(const struct model *m, uint32_t page)
{
	for (unsigned i = 0; i < FLUSH_PAGE_SECTORS; i++)
		if (m->sectors[page * FLUSH_PAGE_SECTORS + i] != ZERO)
			return false;
	return true;
}

static unsigned check_plan(struct model *m, uint32_t gap_bytes)
{
	static uint8_t seen[PAGES];
	struct flush_changes changes = { next, is_local, m };
	struct flush_plan plan;
	struct flush_piece piece;
	uint32_t end = 0;
	unsigned pieces = 0;
	int r;
	memset(seen, 0, sizeof(seen));
	flush_plan_init(&plan, &changes, gap_bytes);
	while ((r = flush_plan_next(&plan, &piece)) == 0) {
		uint32_t gap = 0;
		assert_true(piece.count > 0 && piece.first >= end);
		assert_true(piece.zero || piece.count <= FLUSH_PIECE_PAGES);
		end = piece.first + piece.count;
		assert_true(end <= PAGES);
		pieces++;
		for (uint32_t i = 0; i < piece.count; i++) {
			uint32_t page = piece.first + i;
			if (flush_piece_is_dirty(&piece, i)) {
				assert_true(is_changed(m, page));
				assert_true(!piece.zero || is_all_zero(m, page));
				seen[page]++;
				gap = 0;
				continue;
			}
			assert_false(is_changed(m, page));
			assert_false(m->remote[page]);
			assert_true(++gap * HASHES_PAGE_BYTES <= gap_bytes);
		}
		assert_int_equal(gap, 0); /* no piece ends in unchanged pages */
	}
	assert_int_equal(r, -ENOENT);
	for (uint32_t p = 0; p < PAGES; p++)
		assert_int_equal(seen[p], is_changed(m, p));
	return pieces;
}

static void random_changes_are_covered_once(void **state)
{
	static struct model m;
	struct rng rng;
	(void)state;
	rng_seed(&rng, 5);
	for (int i = 0; i < 300; i++) {
		fill(&m, &rng);
		check_plan(&m, 0);
		check_plan(&m, 4096);
		check_plan(&m, 65536);
	}
}

static void neighbours_are_joined_and_cut(void **state)
{
	static struct model m;
	(void)state;
	memset(&m, 0, sizeof(m));
	m.most = SECTORS;
	/* every second page, all local: one piece for each 4 MiB */
	for (uint32_t p = 0; p < PAGES; p += 2)
		m.sectors[p * FLUSH_PAGE_SECTORS] = DATA;
	assert_int_equal(
		check_plan(&m, 65536), (PAGES + FLUSH_PIECE_PAGES - 1) / FLUSH_PIECE_PAGES);
	assert_int_equal(check_plan(&m, 0), PAGES / 2);
	memset(m.remote, 1, sizeof(m.remote));
	assert_int_equal(check_plan(&m, 65536), PAGES / 2);
	memset(m.sectors, DATA, sizeof(m.sectors));
	assert_int_equal(check_plan(&m, 65536), PAGES / FLUSH_PIECE_PAGES);
	memset(m.sectors, ZERO, sizeof(m.sectors));
	m.most = 1000 * FLUSH_PAGE_SECTORS;
	assert_int_equal(check_plan(&m, 65536), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_changes_are_covered_once),
		cmocka_unit_test(neighbours_are_joined_and_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
