/*
 * fs/overlay.c against an array with one state a sector.
 */
#include "tests/unit/cmocka_common.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "fs/overlay.h"

#define SECTORS (2048u * 5 + 700)
#define PAGES ((SECTORS + 7) / 8)

static void check_runs(const struct overlay *overlay, const uint8_t *model)
{
	uint64_t lba = 0;
	while (lba < SECTORS) {
		uint64_t run = 0;
		enum overlay_state state = overlay_run(overlay, lba, SECTORS - lba, &run);
		assert_in_range(run, 1, SECTORS - lba);
		for (uint64_t i = 0; i < run; i++)
			assert_int_equal(model[lba + i], state);
		/* A run ends where the state changes, or at the end of a chunk at the earliest. */
		if (lba + run < SECTORS && (lba + run) % 2048 != 0)
			assert_int_not_equal(model[lba + run], state);
		lba += run;
	}
}

static void behaves_as_an_array(void **state)
{
	(void)state;
	struct rng rng;
	rng_seed(&rng, 11);
	for (int round = 0; round < 60; round++) {
		struct overlay *overlay;
		uint8_t *model = calloc(1, SECTORS);
		bool page_taken[PAGES] = { false };
		assert_int_equal(overlay_new(SECTORS, &overlay), 0);
		for (int i = 0; i < 60; i++) {
			uint64_t lba = rng_below(&rng, SECTORS);
			uint64_t most = rng_below(&rng, 3) ? 40 : SECTORS;
			uint64_t n = MIN(1 + rng_below(&rng, most), SECTORS - lba);
			if (rng_below(&rng, 4) == 0)
				lba = round_down(lba, 2048), n = MIN(4096ull, SECTORS - lba);
			if (rng_below(&rng, 2)) {
				uint64_t pages = 0;
				for (uint64_t p = lba / 8; p * 8 < lba + n; p++) {
					pages += !page_taken[p];
					page_taken[p] = true;
				}
				uint64_t cost = overlay_data_cost(overlay, lba, n);
				assert_int_equal(round_down(cost, 4096), pages * 4096);
				assert_int_equal(overlay_reserve(overlay, lba, n), 0);
				assert_int_equal(overlay_data_cost(overlay, lba, n), pages * 4096);
				assert_int_equal(overlay_set_data(overlay, lba, n), 0);
				assert_int_equal(overlay_data_cost(overlay, lba, n), 0);
				memset(model + lba, OVERLAY_DATA, n);
			} else {
				assert_true(overlay_zero_cost(overlay, lba, n) <= 7 * 512);
				assert_int_equal(overlay_set_zero(overlay, lba, n), 0);
				assert_int_equal(overlay_zero_cost(overlay, lba, n), 0);
				for (uint64_t s = lba; s < lba + n; s++)
					model[s] = model[s] == OVERLAY_DATA ||
								   model[s] == OVERLAY_ZERO_TAKEN
							   ? OVERLAY_ZERO_TAKEN
							   : OVERLAY_ZERO;
			}
			check_runs(overlay, model);
		}
		overlay_free(overlay);
		free(model);
	}
}

static void zeroing_a_huge_disk_is_cheap(void **state)
{
	(void)state;
	const uint64_t sectors = 8 * TIB / SECTOR_BYTES;
	struct overlay *overlay;
	uint64_t run;
	assert_int_equal(overlay_new(sectors, &overlay), 0);
	assert_int_equal(overlay_zero_cost(overlay, 0, sectors), 0);
	assert_int_equal(overlay_set_zero(overlay, 0, sectors), 0);
	assert_int_equal(overlay_run(overlay, 0, sectors, &run), OVERLAY_ZERO);
	assert_int_equal(run, sectors);
	overlay_free(overlay);
}

/* A chunk of which a part is zeros needs states of its own, which a quota pays for. */
static void zeroing_a_part_costs(void **state)
{
	(void)state;
	struct overlay *overlay;
	assert_int_equal(overlay_new(SECTORS, &overlay), 0);
	uint64_t one = overlay_zero_cost(overlay, 0, 8);
	assert_true(one > 0);
	assert_int_equal(overlay_zero_cost(overlay, 2040, 16), 2 * one);
	assert_int_equal(overlay_zero_cost(overlay, 0, 2048), 0);
	assert_int_equal(overlay_set_zero(overlay, 0, 8), 0);
	assert_int_equal(overlay_zero_cost(overlay, 8, 8), 0);
	assert_int_equal(overlay_zero_cost(overlay, 2040, 16), one);
	assert_int_equal(overlay_data_cost(overlay, 16, 8), 4096);
	overlay_free(overlay);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(behaves_as_an_array),
		cmocka_unit_test(zeroing_a_huge_disk_is_cheap),
		cmocka_unit_test(zeroing_a_part_costs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
