/*
 * The VHD footer's parser: any 512 bytes. What it accepts must be a size the format can have, and
 * be accepted again when it is made from what was read.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "fs/vhd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint8_t footer[VHD_FOOTER_BYTES] = { 0 };
	uint64_t bytes, again;
	struct uuid id, same;
	memcpy(footer, data, MIN(n, sizeof(footer)));
	if (n > sizeof(footer)) {
		/* The rest asks for a checksum that is right, which is hard to find by chance. */
		uint32_t sum = 0;
		memset(footer + 64, 0, 4);
		for (size_t i = 0; i < sizeof(footer); i++)
			sum += footer[i];
		store_be32(footer + 64, ~sum);
	}
	if (vhd_footer_parse(footer, &bytes, &id) < 0)
		return 0;
	if (vhd_check_size(bytes) < 0 || vhd_footer_format(bytes, &id, 0, footer) < 0 ||
		vhd_footer_parse(footer, &again, &same) < 0 || again != bytes ||
		memcmp(&id, &same, sizeof(id)) != 0)
		abort();
	return 0;
}
