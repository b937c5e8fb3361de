/*
 * Marking by records of tracepoints: for kernels without BTF, where the programs of method_bpf.c
 * cannot be fitted.
 *
 * One ring a processor (perf_event_open(2)) takes both tracepoints, block_bio_queue and
 * block_rq_complete; a thread reads the rings and marks. It also happens in method_ops.settle,
 * so that whoever takes marks has all that completed before. The format of a record is read from
 * tracefs. Of operations a record has only letters, in which WRITE_ZEROES cannot be told from
 * others: everything but reads is taken.
 *
 * A full ring loses records and says so, at the next record that fits; what is lost at the very
 * end shows only in the bytes that the kernel counts. Marks live in this process and end with it.
 *
 * `lock` guards the rings and what is read from them; marks are set under it.
 */
#include "replicator/agent/tracker_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"

#define RING_BYTES (512 * KIB) /* a power of two */
#define RECORD_MAX 512u
#define WAIT_MS 50

enum event { BIO_QUEUE, RQ_COMPLETE, EVENTS };

static const char *const event_names[EVENTS] = { "block_bio_queue", "block_rq_complete" };

/* Where the fields of a record lie. */
struct layout {
	uint64_t id;
	unsigned dev;
	unsigned sector;
	unsigned sectors;
	unsigned letters;
	unsigned letters_bytes;
};

struct ring {
	int fds[EVENTS];
	struct perf_event_mmap_page *head; /* the ring's bytes follow its page */
};

struct method_perf {
	struct method base;
	struct layout layouts[EVENTS];
	struct ring *rings;
	unsigned ring_count;
	pthread_mutex_t lock;
	pthread_t thread;
	bool running;
	int stop_fd;
	_Atomic uint64_t lost;
	uint32_t devs[CAPTURE_DEVICES]; /* kernel numbers; 0: free */
	uint8_t *maps[CAPTURE_SLOTS];
	struct capture_device devices[CAPTURE_DEVICES];
	struct capture_slot slots[CAPTURE_SLOTS];
	struct capture_registry registry;
};

static size_t page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* The directory of events, wherever tracefs is mounted; else a mount that nobody else sees. */
static int open_events(void)
{
	static const char *const places[] = { "/sys/kernel/tracing/events/block",
		"/sys/kernel/debug/tracing/events/block" };
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		int fd = open(places[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
#if defined(SYS_fsopen) && defined(SYS_fsconfig) && defined(SYS_fsmount)
	CLEANUP_CLOSE int fs = (int)syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC);
	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	CLEANUP_CLOSE int mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	if (mount < 0)
		return -errno;
	int fd = openat(mount, "events/block", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
#else
	return -ENOENT;
#endif
}

static int read_text(int dir, const char *path, char *ret_text, size_t bytes)
{
	CLEANUP_CLOSE int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, ret_text, bytes - 1);
	if (n < 0)
		return -errno;
	ret_text[n] = '\0';
	return 0;
}

/* "field:dev_t dev;	offset:8;	size:4;	signed:0;" */
static int find_field(
	const char *format, const char *name, unsigned *ret_offset, unsigned *ret_bytes)
{
	char word[40];
	snprintf(word, sizeof(word), " %s", name);
	for (const char *p = format; (p = strstr(p, word)); p++) {
		char after = p[strlen(word)];
		if (after != ';' && after != '[')
			continue;
		p += strcspn(p, ";");
		if (sscanf(p, ";\toffset:%u;\tsize:%u;", ret_offset, ret_bytes) == 2)
			return 0;
	}
	return -ENOENT;
}

static int find_layout(int events, const char *event, struct layout *ret_layout)
{
	char path[64], text[4096];
	struct layout l = { 0 };
	unsigned dev, sector, sectors;

	snprintf(path, sizeof(path), "%s/id", event);
	int r = read_text(events, path, text, sizeof(text));
	if (r < 0)
		return r;
	l.id = strtoull(text, NULL, 10);
	snprintf(path, sizeof(path), "%s/format", event);
	r = read_text(events, path, text, sizeof(text));
	if (r < 0)
		return r;
	if (find_field(text, "dev", &l.dev, &dev) < 0 ||
		find_field(text, "sector", &l.sector, &sector) < 0 ||
		find_field(text, "nr_sector", &l.sectors, &sectors) < 0 ||
		find_field(text, "rwbs", &l.letters, &l.letters_bytes) < 0 || dev != 4 ||
		sector != 8 || sectors != 4 || l.letters_bytes == 0)
		return -EPROTO;
	*ret_layout = l;
	return 0;
}

/* Marks what one record tells; the caller holds the lock. */
static void take_record(struct method_perf *m, const uint8_t *raw, uint32_t bytes)
{
	uint16_t type;
	uint32_t dev, sectors;
	uint64_t sector;
	char letters[16] = "";

	if (bytes < sizeof(type))
		return;
	memcpy(&type, raw, sizeof(type));
	const struct layout *l = NULL;
	unsigned event;
	for (event = 0; event < EVENTS && !l; event++) {
		if (m->layouts[event].id == type)
			l = &m->layouts[event];
	}
	if (!l || l->sector + 8 > bytes || l->dev + 4 > bytes || l->sectors + 4 > bytes ||
		l->letters + l->letters_bytes > bytes)
		return;
	memcpy(&dev, raw + l->dev, 4);
	memcpy(&sector, raw + l->sector, 8);
	memcpy(&sectors, raw + l->sectors, 4);
	memcpy(letters, raw + l->letters, MIN(l->letters_bytes, sizeof(letters) - 1));
	if (sectors == 0 || letters[strspn(letters, "F")] == 'R')
		return;
	for (unsigned i = 0; i < CAPTURE_DEVICES; i++) {
		if (m->devs[i] != dev || dev == 0)
			continue;
		struct capture_counters *counters = &m->devices[i].stripes[0];
		bool ended = l == &m->layouts[RQ_COMPLETE];
		/* As the programs do: what begins is counted, then marked; what ends the other way
		 * round. */
		if (!ended)
			__atomic_fetch_add(&counters->queued_bytes,
				(uint64_t)sectors * SECTOR_BYTES, __ATOMIC_SEQ_CST);
		uint32_t next = __atomic_load_n(&m->devices[i].first, __ATOMIC_ACQUIRE);
		for (; next; next = __atomic_load_n(&m->slots[next - 1].next, __ATOMIC_ACQUIRE)) {
			const struct capture_slot *slot = &m->slots[next - 1];
			uint64_t begin = MAX(sector, slot->first_sector);
			uint64_t end = MIN(sector + sectors, slot->first_sector + slot->sectors);
			struct marks marks;
			if (begin >= end || !m->maps[next - 1])
				continue;
			marks_plan(slot->sectors * SECTOR_BYTES, slot->shift + 9, &marks);
			marks.map = m->maps[next - 1];
			marks_set(&marks, (begin - slot->first_sector) * SECTOR_BYTES,
				(end - begin) * SECTOR_BYTES);
		}
		if (ended)
			__atomic_fetch_add(&counters->seen_bytes, (uint64_t)sectors * SECTOR_BYTES,
				__ATOMIC_RELEASE);
	}
}

/* A record that may lie across the ring's end, in one piece. */
static const void *whole(const uint8_t *ring, uint64_t at, size_t bytes, uint8_t *scratch)
{
	size_t offset = at & (RING_BYTES - 1);
	if (offset + bytes <= RING_BYTES)
		return ring + offset;
	size_t first = RING_BYTES - offset;
	memcpy(scratch, ring + offset, first);
	memcpy(scratch + first, ring, bytes - first);
	return scratch;
}

static void drain_ring(struct method_perf *m, struct ring *r)
{
	const uint8_t *bytes = (const uint8_t *)r->head + page_bytes();
	uint64_t head = __atomic_load_n(&r->head->data_head, __ATOMIC_ACQUIRE);
	uint64_t tail = r->head->data_tail;
	uint8_t scratch[RECORD_MAX];

	while (tail < head) {
		struct perf_event_header h;
		memcpy(&h, whole(bytes, tail, sizeof(h), scratch), sizeof(h));
		if (h.size < sizeof(h))
			break;
		if (h.size <= RECORD_MAX) {
			const uint8_t *record = whole(bytes, tail, h.size, scratch);
			uint32_t raw;
			uint64_t lost[2];
			if (h.type == PERF_RECORD_SAMPLE && h.size >= sizeof(h) + sizeof(raw)) {
				memcpy(&raw, record + sizeof(h), sizeof(raw));
				if (sizeof(h) + sizeof(raw) + raw <= h.size)
					take_record(m, record + sizeof(h) + sizeof(raw), raw);
			} else if (h.type == PERF_RECORD_LOST &&
				   h.size >= sizeof(h) + sizeof(lost)) {
				memcpy(lost, record + sizeof(h), sizeof(lost));
				atomic_fetch_add(&m->lost, lost[1]);
			}
		}
		tail += h.size;
	}
	__atomic_store_n(&r->head->data_tail, tail, __ATOMIC_RELEASE);
}

static void perf_settle(struct method *method)
{
	struct method_perf *m = (struct method_perf *)method;
	SCOPED_LOCK(&m->lock);
	for (unsigned i = 0; i < m->ring_count; i++)
		drain_ring(m, &m->rings[i]);
}

static void *read_rings(void *context)
{
	struct method_perf *m = context;
	struct pollfd *polled = calloc(m->ring_count + 1, sizeof(*polled));
	if (!polled) {
		/* Without a reader the rings fill and lose, which is counted. */
		log_error("the reader of tracepoint rings has no memory");
		return NULL;
	}
	polled[0] = (struct pollfd){ .fd = m->stop_fd, .events = POLLIN };
	for (unsigned i = 0; i < m->ring_count; i++)
		polled[i + 1] = (struct pollfd){ .fd = m->rings[i].fds[0], .events = POLLIN };
	while (poll(polled, m->ring_count + 1, WAIT_MS) >= 0 || errno == EINTR) {
		if (polled[0].revents)
			break;
		perf_settle(&m->base);
	}
	free(polled);
	return NULL;
}

/* Reads need no records; whose disk it is, the reader tells. The kernel takes one filter in the
 * life of an event, so there is none that names disks. Older kernels know no "!~": then all comes.
 */
static void set_filter(int fd)
{
	ioctl(fd, PERF_EVENT_IOC_SET_FILTER, "nr_sector > 0 && rwbs !~ \"R*\"");
}

static int open_ring(struct method_perf *m, int cpu, struct ring *ring)
{
	for (unsigned e = 0; e < EVENTS; e++) {
		struct perf_event_attr attr = {
			.type = PERF_TYPE_TRACEPOINT,
			.size = sizeof(attr),
			.config = m->layouts[e].id,
			.sample_period = 1,
			.sample_type = PERF_SAMPLE_RAW,
			.watermark = 1,
			.wakeup_watermark = RING_BYTES / 4,
		};
		int fd =
			(int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
		if (fd < 0)
			return -errno;
		ring->fds[e] = fd;
		set_filter(fd);
		if (e > 0) {
			if (ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, ring->fds[0]) < 0)
				return -errno;
			continue;
		}
		void *p = mmap(
			NULL, page_bytes() + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			return -errno;
		ring->head = p;
	}
	return 0;
}

/* A ring for every processor that is there now. */
static int open_rings(struct method_perf *m)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	m->rings = calloc((size_t)MAX(cpus, 1l), sizeof(*m->rings));
	if (!m->rings)
		return -ENOMEM;
	for (int cpu = 0; cpu < cpus; cpu++) {
		struct ring *ring = &m->rings[m->ring_count];
		memset(ring->fds, -1, sizeof(ring->fds));
		m->ring_count++;
		int r = open_ring(m, cpu, ring);
		if (r == -ENODEV && ring->fds[0] < 0) {
			m->ring_count--; /* not online */
			continue;
		}
		if (r < 0)
			return r;
	}
	return m->ring_count ? 0 : -ENODEV;
}

static void perf_close(struct method *method, bool forget)
{
	struct method_perf *m = (struct method_perf *)method;
	(void)forget;
	if (m->running) {
		eventfd_write(m->stop_fd, 1);
		pthread_join(m->thread, NULL);
	}
	for (unsigned i = 0; i < m->ring_count; i++) {
		if (m->rings[i].head)
			munmap(m->rings[i].head, page_bytes() + RING_BYTES);
		for (unsigned e = 0; e < EVENTS; e++) {
			if (m->rings[i].fds[e] >= 0)
				close(m->rings[i].fds[e]);
		}
	}
	if (m->stop_fd >= 0)
		close(m->stop_fd);
	pthread_mutex_destroy(&m->lock);
	free(m->rings);
	free(m);
}

static int perf_map_make(struct method *method, unsigned slot, uint64_t bytes, uint8_t **ret_map)
{
	struct method_perf *m = (struct method_perf *)method;
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	SCOPED_LOCK(&m->lock);
	m->maps[slot] = map;
	*ret_map = map;
	return 0;
}

static int perf_map_find(struct method *method, unsigned slot, uint64_t bytes, uint8_t **ret_map)
{
	(void)method, (void)slot, (void)bytes, (void)ret_map;
	return -ENOENT;
}

static void perf_map_close(
	struct method *method, unsigned slot, uint64_t bytes, uint8_t *map, bool drop)
{
	struct method_perf *m = (struct method_perf *)method;
	(void)drop;
	pthread_mutex_lock(&m->lock);
	m->maps[slot] = NULL;
	pthread_mutex_unlock(&m->lock);
	if (map)
		munmap(map, bytes);
}

static int perf_device_put(struct method *method, uint32_t kernel_dev, unsigned index)
{
	struct method_perf *m = (struct method_perf *)method;
	SCOPED_LOCK(&m->lock);
	m->devs[index] = kernel_dev;
	return 0;
}

static void perf_device_drop(struct method *method, uint32_t kernel_dev)
{
	struct method_perf *m = (struct method_perf *)method;
	SCOPED_LOCK(&m->lock);
	for (unsigned i = 0; i < CAPTURE_DEVICES; i++) {
		if (m->devs[i] == kernel_dev)
			m->devs[i] = 0;
	}
}

static int perf_missed(struct method *method, uint64_t *ret_missed)
{
	struct method_perf *m = (struct method_perf *)method;
	*ret_missed = atomic_load(&m->lost);
	return 0;
}

static const struct method_ops perf_ops = {
	.name = "perf",
	.close = perf_close,
	.map_make = perf_map_make,
	.map_find = perf_map_find,
	.map_close = perf_map_close,
	.device_put = perf_device_put,
	.device_drop = perf_device_drop,
	.settle = perf_settle,
	.missed = perf_missed,
};

static int start(struct method_perf *m)
{
	CLEANUP_CLOSE int events = open_events();
	if (events < 0)
		return events;
	int r = 0;
	for (unsigned e = 0; r == 0 && e < EVENTS; e++)
		r = find_layout(events, event_names[e], &m->layouts[e]);
	if (r == 0)
		r = open_rings(m);
	if (r < 0)
		return r;
	m->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (m->stop_fd < 0)
		return -errno;
	r = -pthread_create(&m->thread, NULL, read_rings, m);
	m->running = r == 0;
	return r;
}

int method_perf_open(
	const struct tracker_options *options, struct method **ret_method, struct error *error)
{
	(void)options;
	struct method_perf *m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(error, -ENOMEM, NULL, "no memory");
	m->base.ops = &perf_ops;
	m->base.devices = m->devices;
	m->base.slots = m->slots;
	m->base.registry = &m->registry;
	m->stop_fd = -1;
	pthread_mutex_init(&m->lock, NULL);
	int r = start(m);
	if (r < 0) {
		perf_close(&m->base, true);
		return error_set(error, r == -ENOENT ? -EOPNOTSUPP : r, NULL,
			"tracepoint rings cannot be opened: %s", strerror(-r));
	}
	snprintf(m->base.reason, sizeof(m->base.reason), "tracepoint rings, read by this process");
	*ret_method = &m->base;
	return 0;
}
