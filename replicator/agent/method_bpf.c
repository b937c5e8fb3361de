/*
 * Marking by programs in the kernel (capture.bpf.c), which libbpf fits to the kernel at hand.
 *
 * What is pinned in the directory: the maps, by their names; the attached programs, as link_0 and
 * so on. A link that is pinned goes on running with no process alive. Opening finds them again and
 * takes them as they are if the registry has this layout and this boot, and the programs behind
 * the links are those it names; else all of it is unpinned and built anew. The directory is
 * locked (flock) as long as the tracker is open.
 *
 * Maps of marks live in the outer map `marks` only: it holds them, whoever maps them into memory
 * does as well, and dropping the element lets go of the kernel's hold.
 */
#include "replicator/agent/tracker_internal.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define BPF_FS_MAGIC_NUMBER 0xcafe4a11u

/* The compiled programs; the build makes them. */
extern const unsigned char capture_bpf_object[];
extern const size_t capture_bpf_object_bytes;

enum map_index {
	MAP_DEVICE_OF,
	MAP_DEVICES,
	MAP_SLOTS,
	MAP_REGISTRY,
	MAP_MARKS,
	MAP_INFLIGHT,
	MAPS
};

static const char *const map_names[MAPS] = { "device_of", "devices", "slots", "registry", "marks",
	"inflight" };

enum program { QUEUE, COMPLETE, BIO_COMPLETE, BIO_COMPLETE_AGAIN, UPDATE, END_BIO, PROGRAMS };

static const char *const program_names[PROGRAMS] = { "bio_queue", "rq_complete", "bio_complete",
	"bio_complete_again", "update_request", "end_bio" };

/* Where kernels cannot attach to the entry of functions, tracepoints have to do. */
static bool is_optional(unsigned program)
{
	return program == UPDATE || program == END_BIO;
}

struct method_bpf {
	struct method base;
	char *pin_dir; /* NULL: nothing is pinned */
	int lock_fd;
	int maps[MAPS];
	uint64_t *index;        /* [CAPTURE_INDEX] */
	int programs[PROGRAMS]; /* negative: not attached; the optional ones only */
	int links[PROGRAMS];
};

static size_t page_up(size_t n)
{
	return round_up(n, (size_t)sysconf(_SC_PAGESIZE));
}

/* libbpf's own messages say too much when nothing is wrong: its last words are kept instead. */
static __thread char last_words[200];

__attribute__((format(printf, 2, 0))) static int keep_words(
	enum libbpf_print_level level, const char *format, va_list args)
{
	if (level == LIBBPF_WARN)
		vsnprintf(last_words, sizeof(last_words), format, args);
	last_words[strcspn(last_words, "\n")] = '\0';
	return 0;
}

static int map_memory(int fd, size_t bytes, void **ret_memory)
{
	void *p = mmap(NULL, page_up(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	*ret_memory = p;
	return 0;
}

static int map_tables(struct method_bpf *m)
{
	void *index, *devices, *slots, *registry;
	int r = map_memory(m->maps[MAP_DEVICE_OF], sizeof(uint64_t) * CAPTURE_INDEX, &index);
	if (r < 0)
		return r;
	m->index = index;
	r = map_memory(
		m->maps[MAP_DEVICES], sizeof(struct capture_device) * CAPTURE_DEVICES, &devices);
	if (r < 0)
		return r;
	m->base.devices = devices;
	r = map_memory(m->maps[MAP_SLOTS], sizeof(struct capture_slot) * CAPTURE_SLOTS, &slots);
	if (r < 0)
		return r;
	m->base.slots = slots;
	r = map_memory(m->maps[MAP_REGISTRY], sizeof(struct capture_registry), &registry);
	if (r < 0)
		return r;
	m->base.registry = registry;
	return 0;
}

static void pin_path(const struct method_bpf *m, const char *name, char ret_path[static 256])
{
	snprintf(ret_path, 256, "%s/%s", m->pin_dir, name);
}

static void link_path(const struct method_bpf *m, unsigned program, char ret_path[static 256])
{
	snprintf(ret_path, 256, "%s/link_%u", m->pin_dir, program);
}

/* Removes all pins, links first: nothing marks any more when the maps go. */
static void unpin(const struct method_bpf *m)
{
	char path[256];
	for (unsigned i = 0; i < PROGRAMS; i++) {
		link_path(m, i, path);
		unlink(path);
	}
	for (unsigned i = 0; i < MAPS; i++) {
		pin_path(m, map_names[i], path);
		unlink(path);
	}
}

static void unmap(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, page_up(bytes));
}

/* Lets go of everything this process holds. */
static void release(struct method_bpf *m)
{
	unmap(m->index, sizeof(uint64_t) * CAPTURE_INDEX);
	unmap(m->base.devices, sizeof(struct capture_device) * CAPTURE_DEVICES);
	unmap(m->base.slots, sizeof(struct capture_slot) * CAPTURE_SLOTS);
	unmap(m->base.registry, sizeof(struct capture_registry));
	m->index = NULL;
	m->base.devices = NULL;
	m->base.slots = NULL;
	m->base.registry = NULL;
	for (unsigned i = 0; i < PROGRAMS; i++) {
		if (m->links[i] >= 0)
			close(m->links[i]);
		if (m->programs[i] >= 0)
			close(m->programs[i]);
		m->links[i] = m->programs[i] = -1;
	}
	for (unsigned i = 0; i < MAPS; i++) {
		if (m->maps[i] >= 0)
			close(m->maps[i]);
		m->maps[i] = -1;
	}
}

static void bpf_close(struct method *method, bool forget)
{
	struct method_bpf *m = (struct method_bpf *)method;
	release(m);
	if (m->pin_dir && forget)
		unpin(m);
	if (m->lock_fd >= 0)
		close(m->lock_fd);
	free(m->pin_dir);
	free(m);
}

/* Before Linux 5.11 maps were charged to what may be locked. */
static void raise_memlock(void)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
}

/* How many arguments the tracepoint passes on: two with the queue first, until Linux 5.10. */
static int queue_arguments(const struct btf *btf)
{
	int id = btf__find_by_name_kind(btf, "btf_trace_block_bio_queue", BTF_KIND_TYPEDEF);
	if (id < 0)
		return -EOPNOTSUPP;
	const struct btf_type *t = btf__type_by_id(btf, btf__type_by_id(btf, id)->type);
	if (t && btf_is_ptr(t))
		t = btf__type_by_id(btf, t->type);
	if (!t || !btf_is_func_proto(t))
		return -EOPNOTSUPP;
	return btf_vlen(t) - 1; /* the first is the tracer's */
}

/* Leaves out the queue program of the other prototype, and the optional ones unless wanted. */
static int select_programs(struct bpf_object *object, bool optional)
{
	struct btf *btf = btf__load_vmlinux_btf();
	if (!btf)
		return -EOPNOTSUPP;
	int arguments = queue_arguments(btf);
	btf__free(btf);
	if (arguments < 0)
		return arguments;
	struct bpf_program *newer = bpf_object__find_program_by_name(object, "bio_queue");
	struct bpf_program *older = bpf_object__find_program_by_name(object, "bio_queue_old");
	if (!newer || !older)
		return -EINVAL;
	bpf_program__set_autoload(newer, arguments == 1);
	bpf_program__set_autoload(older, arguments == 2);
	for (unsigned i = 0; i < PROGRAMS; i++) {
		struct bpf_program *p = bpf_object__find_program_by_name(object, program_names[i]);
		if (p && is_optional(i))
			bpf_program__set_autoload(p, optional);
	}
	return 0;
}

static int keep_descriptor(int fd)
{
	int kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return kept < 0 ? -errno : kept;
}

/* Attaches one program and keeps descriptors of it and of the link. */
static int attach_one(struct method_bpf *m, struct bpf_object *object, unsigned which)
{
	struct bpf_program *p = bpf_object__find_program_by_name(object, program_names[which]);
	if (p && which == QUEUE && !bpf_program__autoload(p))
		p = bpf_object__find_program_by_name(object, "bio_queue_old");
	if (!p)
		return -EINVAL;
	struct bpf_link *link = bpf_program__attach(p);
	if (!link)
		return -errno;
	int r = keep_descriptor(bpf_link__fd(link));
	if (r >= 0) {
		m->links[which] = r;
		r = keep_descriptor(bpf_program__fd(p));
	}
	if (r >= 0) {
		m->programs[which] = r;
		struct bpf_prog_info info = { 0 };
		uint32_t bytes = sizeof(info);
		r = bpf_obj_get_info_by_fd(r, &info, &bytes);
		m->base.registry->programs_id[which] = info.id;
	}
	bpf_link__destroy(link);
	return r < 0 ? r : 0;
}

static int pin_all(const struct method_bpf *m)
{
	char path[256];
	for (unsigned i = 0; i < MAPS; i++) {
		pin_path(m, map_names[i], path);
		if (bpf_obj_pin(m->maps[i], path) < 0)
			return -errno;
	}
	for (unsigned i = 0; i < PROGRAMS; i++) {
		if (m->links[i] < 0)
			continue;
		link_path(m, i, path);
		if (bpf_obj_pin(m->links[i], path) < 0)
			return -errno;
	}
	return 0;
}

/* The registry becomes valid with its magic, written last: by then all else is pinned. */
static int fill_registry(struct method_bpf *m)
{
	struct capture_registry *registry = m->base.registry;
	registry->layout = CAPTURE_LAYOUT;
	int r = tracker_boot_id(registry->boot_id);
	if (r == 0 && m->pin_dir)
		r = pin_all(m);
	if (r < 0)
		return r;
	__atomic_store_n(&registry->magic, CAPTURE_MAGIC, __ATOMIC_SEQ_CST);
	return 0;
}

static int build_from(struct method_bpf *m, struct bpf_object *object, bool optional)
{
	int r = select_programs(object, optional);
	if (r == 0)
		r = bpf_object__load(object);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < MAPS; i++) {
		const struct bpf_map *map = bpf_object__find_map_by_name(object, map_names[i]);
		r = map ? keep_descriptor(bpf_map__fd(map)) : -EINVAL;
		if (r < 0)
			return r;
		m->maps[i] = r;
	}
	r = map_tables(m);
	for (unsigned i = 0; r == 0 && i < PROGRAMS; i++) {
		if (optional || !is_optional(i))
			r = attach_one(m, object, i);
	}
	if (r < 0)
		return r;
	m->base.registry->has_other = optional;
	return fill_registry(m);
}

static int build(struct method_bpf *m, bool optional)
{
	const struct bpf_object_open_opts opts = { .sz = sizeof(opts), .object_name = "landfall" };
	raise_memlock();
	struct bpf_object *object =
		bpf_object__open_mem(capture_bpf_object, capture_bpf_object_bytes, &opts);
	if (!object)
		return -errno;
	int r = build_from(m, object, optional);
	bpf_object__close(object);
	return r;
}

static int find_link(struct method_bpf *m, unsigned which)
{
	char path[256];
	struct bpf_link_info link = { 0 };
	uint32_t bytes = sizeof(link);

	if (m->base.registry->programs_id[which] == 0 && is_optional(which))
		return 0;
	link_path(m, which, path);
	m->links[which] = bpf_obj_get(path);
	if (m->links[which] < 0)
		return -errno;
	int r = bpf_obj_get_info_by_fd(m->links[which], &link, &bytes);
	if (r < 0)
		return r;
	if (link.prog_id != m->base.registry->programs_id[which])
		return -ESTALE;
	m->programs[which] = bpf_prog_get_fd_by_id(link.prog_id);
	return m->programs[which] < 0 ? -errno : 0;
}

static int check_map(int fd, uint32_t value_bytes, uint32_t entries)
{
	struct bpf_map_info info = { 0 };
	uint32_t bytes = sizeof(info);
	int r = bpf_obj_get_info_by_fd(fd, &info, &bytes);
	if (r < 0)
		return r;
	return info.value_size == value_bytes && info.max_entries == entries ? 0 : -ESTALE;
}

/* Takes over what an earlier process pinned. -ESTALE or another error: it is not usable. */
static int find(struct method_bpf *m)
{
	char path[256], boot_id[40] = "";
	int r = tracker_boot_id(boot_id);

	for (unsigned i = 0; r == 0 && i < MAPS; i++) {
		pin_path(m, map_names[i], path);
		m->maps[i] = bpf_obj_get(path);
		r = m->maps[i] < 0 ? -errno : 0;
	}
	if (r == 0)
		r = check_map(m->maps[MAP_REGISTRY], sizeof(struct capture_registry), 1);
	if (r == 0)
		r = check_map(m->maps[MAP_DEVICE_OF], sizeof(uint64_t), CAPTURE_INDEX);
	if (r == 0)
		r = check_map(m->maps[MAP_DEVICES], sizeof(struct capture_device), CAPTURE_DEVICES);
	if (r == 0)
		r = check_map(m->maps[MAP_SLOTS], sizeof(struct capture_slot), CAPTURE_SLOTS);
	if (r == 0)
		r = map_tables(m);
	if (r < 0)
		return r;
	const struct capture_registry *registry = m->base.registry;
	if (__atomic_load_n(&registry->magic, __ATOMIC_SEQ_CST) != CAPTURE_MAGIC ||
		registry->layout != CAPTURE_LAYOUT ||
		memcmp(registry->boot_id, boot_id, sizeof(boot_id)) != 0)
		return -ESTALE;
	for (unsigned i = 0; r == 0 && i < PROGRAMS; i++)
		r = find_link(m, i);
	return r;
}

static int open_pin_dir(
	struct method_bpf *m, const struct tracker_options *options, struct error *error)
{
	struct statfs fs;
	if (!options->pin_dir)
		return 0;
	if (mkdir(options->pin_dir, 0700) < 0 && errno != EEXIST)
		return error_set(error, -errno, "mount a bpffs: mount -t bpf bpf /sys/fs/bpf",
			"%s: cannot make the directory for the marks", options->pin_dir);
	if (statfs(options->pin_dir, &fs) < 0 || (uint32_t)fs.f_type != BPF_FS_MAGIC_NUMBER)
		return error_set(error, -EOPNOTSUPP, "mount -t bpf bpf /sys/fs/bpf",
			"%s is not on a bpffs", options->pin_dir);
	m->pin_dir = strdup(options->pin_dir);
	m->lock_fd = open(options->pin_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!m->pin_dir || m->lock_fd < 0)
		return error_set(error, m->pin_dir ? -errno : -ENOMEM, NULL, "%s: cannot open it",
			options->pin_dir);
	if (flock(m->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return error_set(error, -EBUSY, "stop the other agent",
			"%s is in use by another process", options->pin_dir);
	return 0;
}

static int bpf_map_find(struct method *method, unsigned slot, uint64_t bytes, uint8_t **ret_map)
{
	struct method_bpf *m = (struct method_bpf *)method;
	uint32_t key = slot, id = 0;
	void *memory = NULL;

	if (bpf_map_lookup_elem(m->maps[MAP_MARKS], &key, &id) < 0)
		return -errno;
	CLEANUP_CLOSE int fd = bpf_map_get_fd_by_id(id);
	if (fd < 0)
		return -errno;
	int r = check_map(fd, CAPTURE_PAGE_BYTES, (uint32_t)(bytes / CAPTURE_PAGE_BYTES));
	if (r == 0)
		r = map_memory(fd, bytes, &memory);
	if (r == 0)
		*ret_map = memory;
	return r;
}

static int bpf_map_make(struct method *method, unsigned slot, uint64_t bytes, uint8_t **ret_map)
{
	struct method_bpf *m = (struct method_bpf *)method;
	const struct bpf_map_create_opts opts = { .sz = sizeof(opts),
		.map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP };
	uint32_t key = slot;
	void *memory = NULL;

	CLEANUP_CLOSE int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "lf_marks", sizeof(uint32_t),
		CAPTURE_PAGE_BYTES, (uint32_t)(bytes / CAPTURE_PAGE_BYTES), &opts);
	if (fd < 0)
		return -errno;
	int r = map_memory(fd, bytes, &memory);
	if (r < 0)
		return r;
	/* The kernel returns when no program uses what was there before. */
	if (bpf_map_update_elem(m->maps[MAP_MARKS], &key, &fd, BPF_ANY) < 0) {
		r = -errno;
		munmap(memory, bytes);
		return r;
	}
	*ret_map = memory;
	return 0;
}

static void bpf_map_close(
	struct method *method, unsigned slot, uint64_t bytes, uint8_t *map, bool drop)
{
	struct method_bpf *m = (struct method_bpf *)method;
	uint32_t key = slot;

	if (map)
		munmap(map, bytes);
	if (drop)
		bpf_map_delete_elem(m->maps[MAP_MARKS], &key);
}

static int bpf_device_put(struct method *method, uint32_t kernel_dev, unsigned index)
{
	const struct method_bpf *m = (const struct method_bpf *)method;
	uint64_t *place = NULL;

	for (uint32_t probe = 0; probe < CAPTURE_PROBES; probe++) {
		uint64_t *entry = &m->index[capture_index_of(kernel_dev, probe)];
		if (*entry >> 32 == kernel_dev && *entry != 0) {
			place = entry;
			break;
		}
		if ((uint32_t)*entry == 0 && !place)
			place = entry;
	}
	if (!place)
		return -ENOSPC;
	__atomic_store_n(place, (uint64_t)kernel_dev << 32 | (index + 1), __ATOMIC_SEQ_CST);
	return 0;
}

static void bpf_device_drop(struct method *method, uint32_t kernel_dev)
{
	const struct method_bpf *m = (const struct method_bpf *)method;
	for (uint32_t probe = 0; probe < CAPTURE_PROBES; probe++) {
		uint64_t *entry = &m->index[capture_index_of(kernel_dev, probe)];
		if (*entry >> 32 == kernel_dev)
			__atomic_store_n(entry, (uint64_t)kernel_dev << 32, __ATOMIC_SEQ_CST);
	}
}

static int program_info(const struct method_bpf *m, unsigned which, struct bpf_prog_info *ret_info)
{
	struct bpf_prog_info info = { 0 };
	uint32_t bytes = sizeof(info);
	int r = bpf_obj_get_info_by_fd(m->programs[which], &info, &bytes);
	if (r < 0)
		return r;
	*ret_info = info;
	return 0;
}

/* A completion was lost only if both ways were left out; the smaller number bounds that. The kernel
 * tells since 5.12, and leaves none out before 6.1. */
static int bpf_missed(struct method *method, uint64_t *ret_missed)
{
	const struct method_bpf *m = (const struct method_bpf *)method;
	uint64_t missed[PROGRAMS];

	for (unsigned i = 0; i < PROGRAMS; i++) {
		struct bpf_prog_info info;
		missed[i] = UINT64_MAX;
		if (m->programs[i] < 0)
			continue;
		int r = program_info(m, i, &info);
		if (r < 0)
			return r;
		missed[i] = info.recursion_misses;
	}
	uint64_t other = m->programs[UPDATE] < 0 ? UINT64_MAX : missed[UPDATE] + missed[END_BIO];
	*ret_missed = MIN(missed[COMPLETE], other) +
		      MIN(missed[BIO_COMPLETE], missed[BIO_COMPLETE_AGAIN]);
	return 0;
}

static int bpf_cost(struct method *method, struct tracker_cost *ret_cost)
{
	const struct method_bpf *m = (const struct method_bpf *)method;
	struct tracker_cost cost = { 0 };

	for (unsigned i = 0; i < PROGRAMS; i++) {
		struct bpf_prog_info info;
		if (m->programs[i] < 0)
			continue;
		int r = program_info(m, i, &info);
		if (r < 0)
			return r;
		cost.calls += info.run_cnt;
		cost.run_ns += info.run_time_ns;
		cost.missed += info.recursion_misses;
	}
	*ret_cost = cost;
	return 0;
}

static const struct method_ops bpf_ops = {
	.name = "bpf",
	.bio_based = true,
	.close = bpf_close,
	.map_make = bpf_map_make,
	.map_find = bpf_map_find,
	.map_close = bpf_map_close,
	.device_put = bpf_device_put,
	.device_drop = bpf_device_drop,
	.missed = bpf_missed,
	.cost = bpf_cost,
};

int method_bpf_open(
	const struct tracker_options *options, struct method **ret_method, struct error *error)
{
	struct method_bpf *m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(error, -ENOMEM, NULL, "no memory");
	m->base.ops = &bpf_ops;
	m->lock_fd = -1;
	memset(m->maps, -1, sizeof(m->maps));
	memset(m->programs, -1, sizeof(m->programs));
	memset(m->links, -1, sizeof(m->links));
	last_words[0] = '\0';
	libbpf_set_print(keep_words);
	int r = open_pin_dir(m, options, error);
	if (r < 0) {
		bpf_close(&m->base, false);
		return r;
	}
	r = m->pin_dir ? find(m) : -ENOENT;
	if (r < 0) {
		release(m);
		if (m->pin_dir)
			unpin(m);
		r = build(m, true);
		if (r < 0) {
			release(m);
			if (m->pin_dir)
				unpin(m);
			r = build(m, false);
		}
	}
	if (r < 0) {
		int code = r == -ENOENT || r == -ENOTSUP || r == -EINVAL ? -EOPNOTSUPP : r;
		error_fill(error, code, NULL, "BPF programs cannot run here: %s",
			last_words[0] ? last_words : strerror(-r));
		bpf_close(&m->base, true);
		return code;
	}
	snprintf(m->base.reason, sizeof(m->base.reason),
		"BPF programs at tracepoints%s, which mark with no process alive",
		m->base.registry->has_other ? " and at the entry of functions" : "");
	*ret_method = &m->base;
	return 0;
}
