/*
 * What the mount shows: machines and their clones, and for how long a handler may use them.
 *
 * A machine is borrowed, with its committer and history, until it is removed; removal takes it
 * out of the list, waits until no handler holds it, then makes its open files answer -EIO. See
 * mount_internal.h for the lock.
 */
#include "fs/mount_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define MACHINE_SERIALS (1u << 12)

static bool is_name(const char *name)
{
	size_t n = strlen(name);
	return n > 0 && n < MOUNT_NAME_BYTES && !strchr(name, '/') && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0;
}

/* ── machines ────────────────────────────────────────────────────────────────────────────── */

static struct machine *find_locked(struct mount *mount, uint16_t serial)
{
	struct machine *m = mount->machines;
	while (m && m->serial != serial)
		m = m->next;
	return m;
}

static struct machine *find_named_locked(struct mount *mount, const char *name)
{
	struct machine *m = mount->machines;
	while (m && strcmp(m->name, name) != 0)
		m = m->next;
	return m;
}

int machine_get(struct mount *mount, uint16_t serial, struct machine **ret_machine)
{
	SCOPED_LOCK(&mount->lock);
	struct machine *m = find_locked(mount, serial);
	if (!m)
		return -ESTALE;
	m->busy++;
	*ret_machine = m;
	return 0;
}

int machine_get_named(struct mount *mount, const char *name, struct machine **ret_machine)
{
	SCOPED_LOCK(&mount->lock);
	struct machine *m = find_named_locked(mount, name);
	if (!m)
		return -ENOENT;
	m->busy++;
	*ret_machine = m;
	return 0;
}

uint64_t machine_generation(struct mount *mount, uint16_t serial)
{
	SCOPED_LOCK(&mount->lock);
	const struct machine *m = find_locked(mount, serial);
	return m ? m->generation : 1;
}

int machine_get_next(struct mount *mount, uint16_t after, struct machine **ret_machine)
{
	SCOPED_LOCK(&mount->lock);
	struct machine *m = mount->machines;
	while (m && m->serial <= after)
		m = m->next;
	if (!m)
		return -ENOENT;
	m->busy++;
	*ret_machine = m;
	return 0;
}

void machine_put(struct mount *mount, struct machine *machine)
{
	SCOPED_LOCK(&mount->lock);
	if (--machine->busy == 0)
		pthread_cond_broadcast(&mount->changed);
}

/* The next serial that no machine has; they are used again only after 4095 others. */
static int new_serial_locked(struct mount *mount, uint16_t *ret_serial)
{
	for (unsigned i = 1; i < MACHINE_SERIALS; i++) {
		uint16_t serial = (uint16_t)((mount->last_machine + i) % MACHINE_SERIALS);
		if (serial == 0 || find_locked(mount, serial))
			continue;
		mount->rounds += serial <= mount->last_machine;
		mount->last_machine = serial;
		*ret_serial = serial;
		return 0;
	}
	return -ENOSPC;
}

int mount_add_machine(
	struct mount *mount, const char *name, struct committer *committer, bool live_writable)
{
	if (!is_name(name))
		return -EINVAL;
	CLEANUP_FREE struct machine *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	strcpy(m->name, name);
	m->committer = committer;
	m->history = committer_history(committer);
	m->writable = live_writable;
	m->seen_changes = history_changes(m->history);
	m->changed_ns = mount->started_ns;

	SCOPED_LOCK(&mount->lock);
	if (find_named_locked(mount, name))
		return -EEXIST;
	int r = new_serial_locked(mount, &m->serial);
	if (r < 0)
		return r;
	m->generation = mount->rounds + 1;
	struct machine **link = &mount->machines;
	while (*link && (*link)->serial < m->serial)
		link = &(*link)->next;
	m->gate = write_gate_take_locked(mount, committer);
	if (!m->gate)
		return -ENOMEM;
	m->next = *link;
	*link = TAKE(m);
	return 0;
}

static void free_clones(struct machine *machine)
{
	while (machine->clones) {
		struct clone_entry *c = machine->clones;
		machine->clones = c->next;
		free(c);
	}
}

/* Takes it out of the list and waits until nobody holds it. */
static int detach_machine(struct mount *mount, const char *name, struct machine **ret_machine)
{
	SCOPED_LOCK(&mount->lock);
	struct machine **link = &mount->machines;
	while (*link && strcmp((*link)->name, name) != 0)
		link = &(*link)->next;
	struct machine *m = *link;
	if (!m)
		return -ENOENT;
	*link = m->next;
	while (m->busy > 0)
		pthread_cond_wait(&mount->changed, &mount->lock);
	m->gate->machines--;
	*ret_machine = m;
	return 0;
}

int mount_remove_machine(struct mount *mount, const char *name)
{
	struct machine *m;
	int r = detach_machine(mount, name, &m);
	if (r < 0)
		return r;
	files_abandon(mount, m);
	free_clones(m);
	attributes_free(m);
	free(m);
	sessions_forget_name(mount, FUSE_ROOT_ID, name);
	return 0;
}

/* ── clones ──────────────────────────────────────────────────────────────────────────────── */

struct clone_entry *clone_find_locked(struct machine *machine, uint32_t serial)
{
	struct clone_entry *c = machine->clones;
	while (c && c->serial != serial)
		c = c->next;
	return c;
}

struct clone_entry *clone_find_named_locked(struct machine *machine, const char *name)
{
	struct clone_entry *c = machine->clones;
	while (c && strcmp(c->name, name) != 0)
		c = c->next;
	return c;
}

struct clone_entry *clone_next_locked(struct machine *machine, uint32_t after)
{
	struct clone_entry *c = machine->clones;
	while (c && c->serial <= after)
		c = c->next;
	return c;
}

/* An entry with the disks of `machine` that the clone has. */
static int make_entry(const struct machine *machine, const char *name, struct clone *clone,
	struct clone_entry **ret_entry)
{
	CLEANUP_FREE struct history_disk *infos = calloc(HISTORY_MAX_DISKS, sizeof(*infos));
	CLEANUP_FREE struct clone_entry *c =
		calloc(1, sizeof(*c) + HISTORY_MAX_DISKS * sizeof(c->disks[0]));
	if (!infos || !c)
		return -ENOMEM;
	strcpy(c->name, name);
	c->clone = clone;
	c->modified_ns = clock_realtime_ns(clock_system());
	size_t prefix = strlen(machine->name);
	unsigned n = history_disks(machine->history, infos, HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < MIN(n, (unsigned)HISTORY_MAX_DISKS); i++) {
		uint64_t bytes = view_disk_bytes(clone_view(clone), infos[i].id);
		if (bytes == 0 ||
			history_point_hides(
				machine->history, view_number(clone_view(clone)), infos[i].id) ||
			strncmp(infos[i].name, machine->name, prefix) != 0 ||
			infos[i].name[prefix] != '/')
			continue;
		struct clone_disk_entry *d = &c->disks[c->disk_count++];
		d->id = infos[i].id;
		d->bytes = bytes;
		snprintf(d->name, sizeof(d->name), "%s", infos[i].name + prefix + 1);
	}
	*ret_entry = TAKE(c);
	return 0;
}

static int insert_clone(struct mount *mount, struct machine *machine, struct clone_entry *entry)
{
	SCOPED_LOCK(&mount->lock);
	if (clone_find_named_locked(machine, entry->name))
		return -EEXIST;
	entry->serial = ++mount->last_clone;
	struct clone_entry **link = &machine->clones;
	while (*link)
		link = &(*link)->next;
	*link = entry;
	return 0;
}

int mount_add_clone(
	struct mount *mount, const char *machine, const char *clone_name, struct clone *clone)
{
	if (!is_name(clone_name))
		return -EINVAL;
	struct machine *m;
	int r = machine_get_named(mount, machine, &m);
	if (r < 0)
		return r;
	CLEANUP_FREE struct clone_entry *entry = NULL;
	r = make_entry(m, clone_name, clone, &entry);
	if (r == 0)
		r = insert_clone(mount, m, entry);
	if (r == 0)
		TAKE(entry);
	machine_put(mount, m);
	return r;
}

static int detach_clone(struct mount *mount, struct machine *machine, const char *name)
{
	SCOPED_LOCK(&mount->lock);
	struct clone_entry **link = &machine->clones;
	while (*link && strcmp((*link)->name, name) != 0)
		link = &(*link)->next;
	struct clone_entry *c = *link;
	if (!c)
		return -ENOENT;
	if (files_use_clone_locked(mount, c))
		return -EBUSY;
	*link = c->next;
	free(c);
	return 0;
}

int mount_remove_clone(struct mount *mount, const char *machine, const char *clone_name)
{
	struct machine *m;
	int r = machine_get_named(mount, machine, &m);
	if (r < 0)
		return r;
	r = detach_clone(mount, m, clone_name);
	struct node parent = { .kind = NODE_CLONES, .machine = m->serial };
	machine_put(mount, m);
	if (r == 0)
		sessions_forget_name(mount, node_ino(&parent), clone_name);
	return r;
}
