/*
 * See pack.h.
 *
 * All rates are moving averages over the last pieces. While packing is off, one piece in
 * PROBE_EVERY is packed to see whether that has changed, and travels packed if it shrank; while it
 * is on, the network's rate is known from every piece. Time in which the network was not the limit
 * (it took everything at once) makes the link look fast, and packing then does not pay, which is
 * right: the processor is the scarcer thing.
 */
#include "replicator/wire/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "common/bytes.h"

#define LEVEL 1
#define PROBE_EVERY 32
#define AVERAGE_PIECES 8 /* weight of the past against one piece */
/* Packing has to win by a tenth, so that it is not turned on and off by chance. */
#define MUST_WIN 0.9
#define WORTH_RATIO 0.9       /* what shrinks less travels as it is */
#define LARGEST_WINDOW_LOG 20 /* of what is unpacked: WIRE_MAX_DATA_BYTES */

struct packer {
	struct clock_source *clock;
	ZSTD_CCtx *library;
	size_t room_bytes;
	void *room;
	unsigned since_probe;
	double pack_s_per_byte; /* 0: unknown */
	double link_s_per_byte;
	struct pack_figures figures;
};

struct unpacker {
	ZSTD_DCtx *library;
};

static void average(double *value, double sample)
{
	*value = *value == 0 ? sample : *value + (sample - *value) / AVERAGE_PIECES;
}

int packer_new(struct clock_source *clock, size_t max_bytes, struct packer **ret_packer)
{
	struct packer *packer = calloc(1, sizeof(*packer));
	if (!packer)
		return -ENOMEM;
	packer->clock = clock;
	packer->room_bytes = ZSTD_compressBound(max_bytes);
	packer->room = malloc(packer->room_bytes);
	packer->library = ZSTD_createCCtx();
	packer->since_probe = PROBE_EVERY; /* the first piece is tried */
	if (!packer->room || !packer->library) {
		packer_free(packer);
		return -ENOMEM;
	}
	*ret_packer = packer;
	return 0;
}

void packer_free(struct packer *packer)
{
	if (!packer)
		return;
	ZSTD_freeCCtx(packer->library);
	free(packer->room);
	free(packer);
}

/* Would the time that packing takes be less than the time it spares the network? */
static bool pays(const struct packer *packer)
{
	double link = packer->link_s_per_byte, ratio = packer->figures.ratio;
	if (packer->pack_s_per_byte == 0 || link == 0 || ratio > WORTH_RATIO)
		return false;
	return packer->pack_s_per_byte + ratio * link < MUST_WIN * link;
}

/* The size it has when packed; 0 if that failed. */
static size_t pack(struct packer *packer, const void *data, size_t n)
{
	int64_t start = clock_monotonic_ns(packer->clock);
	size_t size = ZSTD_compressCCtx(
		packer->library, packer->room, packer->room_bytes, data, n, LEVEL);
	int64_t ns = clock_monotonic_ns(packer->clock) - start;
	if (ZSTD_isError(size))
		return 0;
	packer->figures.pack_ns += ns;
	packer->figures.packed_bytes += n;
	packer->figures.out_bytes += size;
	average(&packer->pack_s_per_byte, (double)MAX(ns, 1) / 1e9 / (double)n);
	average(&packer->figures.ratio, (double)size / (double)n);
	return size;
}

void packer_pack(struct packer *packer, const void *data, size_t n, const void **ret_data,
	size_t *ret_n, bool *ret_zstd)
{
	*ret_data = data;
	*ret_n = n;
	*ret_zstd = false;
	packer->figures.seen_bytes += n;
	packer->figures.packing = pays(packer);
	if (n == 0 || (!packer->figures.packing && ++packer->since_probe < PROBE_EVERY))
		return;
	packer->since_probe = 0;
	size_t size = pack(packer, data, n);
	if (size == 0 || (double)size > WORTH_RATIO * (double)n)
		return;
	*ret_data = packer->room;
	*ret_n = size;
	*ret_zstd = true;
}

void packer_sent(struct packer *packer, size_t bytes, int64_t ns)
{
	if (bytes > 0)
		average(&packer->link_s_per_byte, (double)MAX(ns, 1) / 1e9 / (double)bytes);
}

void packer_figures(const struct packer *packer, struct pack_figures *ret_figures)
{
	*ret_figures = packer->figures;
	ret_figures->packing = pays(packer);
	if (packer->figures.ratio == 0)
		ret_figures->ratio = 1;
	if (packer->link_s_per_byte > 0)
		ret_figures->link_bytes_per_s = 1 / packer->link_s_per_byte;
}

/* ── the other way ───────────────────────────────────────────────────────────────────────── */

int unpacker_new(struct unpacker **ret_unpacker)
{
	struct unpacker *unpacker = calloc(1, sizeof(*unpacker));
	if (!unpacker)
		return -ENOMEM;
	unpacker->library = ZSTD_createDCtx();
	if (!unpacker->library || ZSTD_isError(ZSTD_DCtx_setParameter(unpacker->library,
					  ZSTD_d_windowLogMax, LARGEST_WINDOW_LOG))) {
		unpacker_free(unpacker);
		return -ENOMEM;
	}
	*ret_unpacker = unpacker;
	return 0;
}

void unpacker_free(struct unpacker *unpacker)
{
	if (!unpacker)
		return;
	ZSTD_freeDCtx(unpacker->library);
	free(unpacker);
}

int unpacker_unpack(struct unpacker *unpacker, const void *packed, size_t packed_bytes,
	void *ret_data, size_t n, struct error *error)
{
	/* One frame and nothing behind it: the single-call function would take several. */
	size_t frame = ZSTD_findFrameCompressedSize(packed, packed_bytes);
	if (ZSTD_isError(frame) || frame != packed_bytes)
		return error_set(error, -EBADMSG, NULL, "what came packed is no zstd frame");
	size_t size = ZSTD_decompressDCtx(unpacker->library, ret_data, n, packed, packed_bytes);
	if (ZSTD_isError(size))
		return error_set(error, -EBADMSG, NULL, "what came packed cannot be unpacked: %s",
			ZSTD_getErrorName(size));
	if (size != n)
		return error_set(error, -EBADMSG, NULL, "what came packed holds %zu bytes, not %zu",
			size, n);
	return 0;
}
