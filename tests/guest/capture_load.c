/*
 * Load for guests that have no fio, and what scripts cannot do.
 *
 *	capture_load direct|buffered|mmap|punch FILE SECONDS [MS]   random writes to 16 MiB,
 *	                                    milliseconds of pause after each
 *	capture_load swap MIB SECONDS       memory that goes out to swap and comes back
 *	capture_load sgwrite DEVICE         one WRITE(10) past the block layer's eyes (SG_IO)
 */
#include <errno.h>
#include <fcntl.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"

#define FILE_BYTES (16 * MIB)
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static uint64_t seed = 88172645463325252ull;

static uint64_t draw(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

static void fill(uint8_t *data, size_t n)
{
	for (size_t i = 0; i + 8 <= n; i += 8) {
		uint64_t v = draw(UINT64_MAX);
		memcpy(data + i, &v, 8);
	}
}

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void write_file(const char *how, int fd)
{
	static uint8_t *data;
	if (!data)
		data = aligned_alloc(4096, 65536);
	size_t n = 4096 * (1 + draw(8));
	fill(data, n);
	uint64_t at = draw((FILE_BYTES - n) / 4096) * 4096;
	if (strcmp(how, "punch") == 0 && draw(3) == 0) {
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
		return;
	}
	bool direct = strcmp(how, "direct") == 0;
	if (!direct)
		at += draw(4096);
	if (pwrite(fd, data, n, (off_t)at) != (ssize_t)n)
		die("pwrite");
	if (!direct && draw(32) == 0 && fdatasync(fd) < 0)
		die("fdatasync");
}

static void write_map(uint8_t *map)
{
	fill(map + draw(FILE_BYTES - 8192), 4096);
	if (draw(64) == 0 && msync(map, FILE_BYTES, MS_SYNC) < 0)
		die("msync");
}

static void load_file(const char *how, const char *path, time_t end, unsigned pause_us)
{
	int fd = open(path, O_RDWR | O_CREAT | (strcmp(how, "direct") == 0 ? O_DIRECT : 0), 0600);
	if (fd < 0 || ftruncate(fd, FILE_BYTES) < 0)
		die(path);
	uint8_t *map = NULL;
	if (strcmp(how, "mmap") == 0) {
		map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			die("mmap");
	}
	while (time(NULL) < end) {
		if (map)
			write_map(map);
		else
			write_file(how, fd);
		usleep(pause_us);
	}
}

static void load_swap(size_t bytes, time_t end)
{
	uint8_t *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	while (time(NULL) < end) {
		fill(memory, bytes);
		if (madvise(memory, bytes, MADV_PAGEOUT) < 0)
			die("madvise");
		usleep(100000);
	}
}

static void write_raw(const char *path)
{
	uint8_t data[512], sense[32];
	uint8_t command[10] = { 0x2a, 0, 0, 0, 0, 8, 0, 0, 1, 0 };
	int fd = open(path, O_RDWR);
	fill(data, sizeof(data));
	struct sg_io_hdr io = { .interface_id = 'S',
		.dxfer_direction = SG_DXFER_TO_DEV,
		.cmd_len = sizeof(command),
		.mx_sb_len = sizeof(sense),
		.dxfer_len = sizeof(data),
		.dxferp = data,
		.cmdp = command,
		.sbp = sense,
		.timeout = 10000 };
	if (fd < 0 || ioctl(fd, SG_IO, &io) < 0)
		die(path);
	if (io.status != 0) {
		fprintf(stderr, "WRITE(10): status %d\n", io.status);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "sgwrite") == 0) {
		write_raw(argv[2]);
		return 0;
	}
	if (argc != 4 && argc != 5)
		return 2;
	time_t end = time(NULL) + atoi(argv[3]);
	seed += (uint64_t)getpid() * 2654435761u;
	if (strcmp(argv[1], "swap") == 0)
		load_swap((size_t)atoi(argv[2]) << 20, end);
	else
		load_file(argv[1], argv[2], end, argc == 5 ? 1000 * (unsigned)atoi(argv[4]) : 0);
	return 0;
}
