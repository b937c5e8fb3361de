/*
 * The footer of a fixed VHD, made and checked.
 *
 * The size of a VHD stands in its footer twice: as bytes and as a geometry, which can only
 * express some sizes. Readers differ in what they believe. QEMU believes the bytes if the creator
 * is one that is known to mean them, Hyper-V's "win " among them, and the geometry otherwise; so
 * "win " is the creator here, and the geometry is what the specification's appendix makes of the
 * size. Azure believes the bytes.
 *
 * Pure functions; any thread.
 */
#include "fs/vhd.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/clock.h"
#include "fs/vhd_format.h"

#define VHD_EPOCH_S 946684800ll /* 2000-01-01T00:00:00Z */
#define VHD_FEATURE_RESERVED 2u
#define VHD_VERSION 0x00010000u
#define VHD_CREATOR_VERSION 0x00060003u
#define VHD_TYPE_FIXED 2u
#define VHD_NO_OFFSET UINT64_MAX

int vhd_check_size(uint64_t disk_bytes)
{
	if (disk_bytes == 0 || disk_bytes % MIB != 0)
		return -EINVAL;
	if (disk_bytes > VHD_MAX_BYTES - VHD_FOOTER_BYTES)
		return -EINVAL;
	return 0;
}

struct geometry {
	uint16_t cylinders;
	uint8_t heads;
	uint8_t sectors_per_track;
};

/* The specification's appendix "CHS Calculation". */
static struct geometry geometry_of(uint64_t disk_bytes)
{
	const uint64_t most = 65535ull * 16 * 255;
	uint64_t sectors = MIN(disk_bytes / SECTOR_BYTES, most);
	uint64_t per_track, heads, cylinders_times_heads;
	if (sectors >= 65535ull * 16 * 63) {
		per_track = 255;
		heads = 16;
		cylinders_times_heads = sectors / per_track;
	} else {
		per_track = 17;
		cylinders_times_heads = sectors / per_track;
		heads = MAX((cylinders_times_heads + 1023) / 1024, 4ull);
		if (cylinders_times_heads >= heads * 1024 || heads > 16) {
			per_track = 31;
			heads = 16;
			cylinders_times_heads = sectors / per_track;
		}
		if (cylinders_times_heads >= heads * 1024) {
			per_track = 63;
			heads = 16;
			cylinders_times_heads = sectors / per_track;
		}
	}
	return (struct geometry){
		.cylinders = (uint16_t)(cylinders_times_heads / heads),
		.heads = (uint8_t)heads,
		.sectors_per_track = (uint8_t)per_track,
	};
}

static uint32_t footer_checksum(const struct vhd_footer *footer)
{
	const uint8_t *bytes = (const uint8_t *)footer;
	uint32_t sum = 0;
	for (size_t i = 0; i < sizeof(*footer); i++)
		sum += bytes[i];
	for (size_t i = 0; i < sizeof(footer->checksum); i++)
		sum -= footer->checksum[i];
	return ~sum;
}

void vhd_disk_id(const struct uuid *group, const char *disk_name, struct uuid *ret_id)
{
	static const char space[] = "landfall.vhd/";
	char text[sizeof(space) + sizeof(*group) + 256] = { 0 };
	size_t n = strnlen(disk_name, 255), at = sizeof(space) - 1;
	memcpy(text, space, at);
	memcpy(text + at, group, sizeof(*group));
	memcpy(text + at + sizeof(*group), disk_name, n);
	struct hash128 hash = checksum128(text, at + sizeof(*group) + n);
	store_be64(ret_id->bytes, hash.high);
	store_be64(ret_id->bytes + 8, hash.low);
	/* RFC 9562, version 8: an identifier of the maker's own making. */
	ret_id->bytes[6] = (uint8_t)((ret_id->bytes[6] & 0x0f) | 0x80);
	ret_id->bytes[8] = (uint8_t)((ret_id->bytes[8] & 0x3f) | 0x80);
}

int vhd_footer_format(uint64_t disk_bytes, const struct uuid *id, int64_t time_ns,
	uint8_t ret_footer[static VHD_FOOTER_BYTES])
{
	int r = vhd_check_size(disk_bytes);
	if (r < 0)
		return r;
	int64_t since = time_ns / NS_PER_S - VHD_EPOCH_S;
	since = MIN(MAX(since, (int64_t)0), (int64_t)UINT32_MAX);
	struct geometry geometry = geometry_of(disk_bytes);

	struct vhd_footer footer = { 0 };
	memcpy(footer.cookie, "conectix", 8);
	store_be32(footer.features, VHD_FEATURE_RESERVED);
	store_be32(footer.version, VHD_VERSION);
	store_be64(footer.data_offset, VHD_NO_OFFSET);
	store_be32(footer.timestamp, (uint32_t)since);
	memcpy(footer.creator_app, "win ", 4);
	store_be32(footer.creator_version, VHD_CREATOR_VERSION);
	memcpy(footer.creator_host, "Wi2k", 4);
	store_be64(footer.original_size, disk_bytes);
	store_be64(footer.current_size, disk_bytes);
	store_be16(footer.cylinders, geometry.cylinders);
	footer.heads = geometry.heads;
	footer.sectors_per_track = geometry.sectors_per_track;
	store_be32(footer.disk_type, VHD_TYPE_FIXED);
	memcpy(footer.unique_id, id->bytes, sizeof(footer.unique_id));
	store_be32(footer.checksum, footer_checksum(&footer));
	memcpy(ret_footer, &footer, sizeof(footer));
	return 0;
}

int vhd_footer_parse(const uint8_t footer[static VHD_FOOTER_BYTES], uint64_t *ret_disk_bytes,
	struct uuid *ret_id)
{
	struct vhd_footer f;
	memcpy(&f, footer, sizeof(f));
	if (memcmp(f.cookie, "conectix", 8) != 0 || load_be32(f.checksum) != footer_checksum(&f))
		return -EINVAL;
	/* The low half of the version is a minor number, which readers have to ignore. */
	if (load_be32(f.version) >> 16 != VHD_VERSION >> 16)
		return -EINVAL;
	if (load_be32(f.disk_type) != VHD_TYPE_FIXED || load_be64(f.data_offset) != VHD_NO_OFFSET)
		return -EINVAL;
	uint64_t disk_bytes = load_be64(f.current_size);
	if (vhd_check_size(disk_bytes) < 0)
		return -EINVAL;
	*ret_disk_bytes = disk_bytes;
	memcpy(ret_id->bytes, f.unique_id, sizeof(ret_id->bytes));
	return 0;
}
