/*
 * Fuzz target: manifests and hashes objects as the vault may hand them back. What is read must be
 * within its limits, and what is accepted as a manifest must survive being written again. The
 * checksum is mended first, or nothing behind it would ever be reached.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "replicator/hashes.h"
#include "replicator/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct bytes {
	const uint8_t *data;
	size_t n;
};

static int read_bytes(
	void *context, uint64_t offset, void *data, size_t n, struct error *error, size_t *ret_n)
{
	const struct bytes *b = context;
	(void)error;
	*ret_n = offset < b->n ? MIN(n, b->n - offset) : 0;
	if (*ret_n > 0)
		memcpy(data, b->data + offset, *ret_n);
	return 0;
}

static void fuzz_hashes(const uint8_t *data, size_t n)
{
	/* A right header and a right checksum for the first block; the rest is the fuzzer's. */
	struct hashes_header header = { .magic = HASHES_MAGIC,
		.version = HASHES_VERSION,
		.header_bytes = sizeof(header),
		.number = 1 };
	CLEANUP(buf_free) struct buf all = { 0 };
	struct hashes_block *block;
	header.checksum = checksum64(&header, offsetof(struct hashes_header, checksum));
	if (n < sizeof(*block) || buf_append(&all, &header, sizeof(header)) < 0 ||
		buf_append(&all, data, n) < 0)
		return;
	struct hashes_block head;
	memcpy(&head, all.data + sizeof(header), sizeof(head));
	head.magic = HASHES_BLOCK_MAGIC;
	head.index = 0;
	head.checksum = 0;
	memcpy(all.data + sizeof(header), &head, sizeof(head));
	uint64_t bytes =
		sizeof(head) + round_up(head.ranges_bytes, 8) + (uint64_t)head.hash_count * 8;
	if (bytes <= n)
		head.checksum = checksum64(all.data + sizeof(header), bytes);
	memcpy(all.data + sizeof(header), &head, sizeof(head));
	struct bytes b = { (const uint8_t *)all.data, all.len };
	struct hashes_source source = { read_bytes, &b, "fuzz" };
	struct hashes_reader *reader;
	struct hashes_run run;
	uint64_t sum = 0;
	if (hashes_reader_new(&source, NULL, &reader) < 0)
		abort();
	while (hashes_reader_next(reader, NULL, &run) == 0)
		for (uint32_t i = 0; run.hashes && i < run.count; i++)
			sum += run.hashes[i];
	hashes_reader_free(reader);
	volatile uint64_t read = sum; /* so that the hashes are really read */
	(void)read;
}

static void fuzz_manifest(const uint8_t *data, size_t n)
{
	CLEANUP(buf_free) struct buf text = { 0 }, again = { 0 };
	struct manifest m, back;
	struct hash128 hash = checksum128(data, n);
	if (buf_append(&text, data, n) < 0 ||
		buf_printf(&text, ",\"checksum\":\"%016llx%016llx\"}\n",
			(unsigned long long)hash.high, (unsigned long long)hash.low) < 0)
		return;
	if (manifest_parse("fuzz", text.data, text.len, NULL, &m) < 0)
		return;
	if (manifest_format(&m, &again) < 0 ||
		manifest_parse("again", again.data, again.len, NULL, &back) < 0 ||
		back.number != m.number || back.disk_count != m.disk_count)
		abort();
	manifest_free(&back);
	manifest_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	if (data[0] == '{')
		fuzz_manifest(data, n);
	else
		fuzz_hashes(data + 1, n - 1);
	return 0;
}
