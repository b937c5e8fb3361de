/*
 * Sectors that are known in part: see parts.h for what they are for.
 *
 * A part is entered in the table for a sector that somebody wants to complete (`users`), or of
 * which acknowledged bytes are known. The rule that all stands on: while a part is in the table,
 * nobody has written its sector below. Whoever does write it takes the part out after
 * (`gone`), and before it lets go of the stripe. So what was read from below since the part was
 * entered is right as long as the part is there.
 *
 * Locks: one for each stripe of the disk, taken by rising index: writes of whole sectors share
 * them, those that merge have them alone, so that known bytes neither come nor go under them.
 * They are held across writing below, never across reading or waiting for room: a seal, which is
 * what makes room, settles parts and waits for them. `lock` is for the table, taken last, for
 * memory work only. Reads take stripes only if parts come and go so fast that they would never end.
 */
#include "fs/parts.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define STRIPE_BYTES (4 * MIB)
#define STRIPES 16u
#define MAX_PARTS 256u                /* beyond, no new ones are kept */
#define NEIGHBOUR_NS (25 * NS_PER_MS) /* how long to wait for the other half before reading it */
#define LAST_NS NS_PER_S              /* and once it cannot be read, when all else is an error */
#define MAX_READ_TURNS 8

struct part {
	struct part *next;
	uint64_t number; /* rising, by when it was entered */
	uint64_t sector; /* its offset in bytes */
	unsigned users;  /* calls that look at it; it is not freed under them */
	unsigned coming; /* of them those that will make bytes known unless they fail */
	bool gone;       /* its sector was written: not in the table any more */
	unsigned known_bytes;
	uint8_t known[SECTOR_BYTES]; /* 1: acknowledged, and in `data` */
	uint8_t data[SECTOR_BYTES];
};

struct parts {
	struct store *disk; /* owned */
	uint64_t cut_bytes;
	atomic_uint refs;
	pthread_rwlock_t stripes[STRIPES];

	pthread_mutex_t lock;
	pthread_cond_t changed; /* some part became more, or gone */
	struct part *first;
	atomic_uint count; /* of parts in the table */
	uint64_t last_number;
	uint64_t known_drops; /* parts with known bytes that went */
};

/* ── stripes ─────────────────────────────────────────────────────────────────────────────── */

/* The stripes that [offset, offset + n) touches, as a bit set. */
static uint32_t stripes_of(uint64_t offset, uint64_t n)
{
	uint64_t first = offset / STRIPE_BYTES;
	uint64_t last = (offset + n - 1) / STRIPE_BYTES;
	if (last - first >= STRIPES - 1)
		return (1u << STRIPES) - 1;
	uint32_t set = 0;
	for (uint64_t i = first; i <= last; i++)
		set |= 1u << (i % STRIPES);
	return set;
}

static void lock_stripes(struct parts *parts, uint32_t set, bool alone)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		if (!(set & 1u << i))
			continue;
		if (alone)
			pthread_rwlock_wrlock(&parts->stripes[i]);
		else
			pthread_rwlock_rdlock(&parts->stripes[i]);
	}
}

static void unlock_stripes(struct parts *parts, uint32_t set)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		if (set & 1u << i)
			pthread_rwlock_unlock(&parts->stripes[i]);
	}
}

/* ── the table ───────────────────────────────────────────────────────────────────────────── */

static struct part *find_locked(struct parts *parts, uint64_t sector)
{
	struct part *part = parts->first;
	while (part && part->sector != sector)
		part = part->next;
	return part;
}

static void take_out_locked(struct parts *parts, struct part *part)
{
	struct part **link = &parts->first;
	while (*link != part)
		link = &(*link)->next;
	*link = part->next;
	part->gone = true;
	parts->known_drops += part->known_bytes > 0;
	atomic_fetch_sub(&parts->count, 1);
	if (part->users == 0)
		free(part);
}

/* The sector's part, entered if there is none; used until put_locked. NULL without memory. */
static struct part *use(struct parts *parts, uint64_t sector)
{
	SCOPED_LOCK(&parts->lock);
	struct part *part = find_locked(parts, sector);
	if (!part) {
		part = calloc(1, sizeof(*part));
		if (!part)
			return NULL;
		part->sector = sector;
		part->number = ++parts->last_number;
		part->next = parts->first;
		parts->first = part;
		atomic_fetch_add(&parts->count, 1);
	}
	part->users++;
	return part;
}

static void put_locked(struct parts *parts, struct part *part)
{
	part->users--;
	if (part->gone && part->users == 0)
		free(part);
	else if (!part->gone && part->users == 0 && part->known_bytes == 0)
		take_out_locked(parts, part);
}

/* The sectors in [offset, offset + n) were written whole: what was known of them is history. */
static void drop_range_locked(struct parts *parts, uint64_t offset, uint64_t n)
{
	struct part *next;
	for (struct part *part = parts->first; part; part = next) {
		next = part->next;
		if (part->sector >= offset && part->sector - offset < n)
			take_out_locked(parts, part);
	}
	pthread_cond_broadcast(&parts->changed);
}

static void learn_locked(
	struct parts *parts, struct part *part, unsigned from, const uint8_t *data, unsigned n)
{
	memcpy(part->data + from, data, n);
	for (unsigned i = from; i < from + n; i++) {
		part->known_bytes += !part->known[i];
		part->known[i] = 1;
	}
	pthread_cond_broadcast(&parts->changed);
}

/* True if the part's bytes and [from, to) of the sector are all of it. */
static bool completes(const struct part *part, unsigned from, unsigned to)
{
	return !memchr(part->known, 0, from) && !memchr(part->known + to, 0, SECTOR_BYTES - to);
}

/* ── the rest of a sector ────────────────────────────────────────────────────────────────── */

/* A sector that a write fills from `from` to `to`. */
struct edge {
	struct part *part; /* used; NULL: there is no such edge */
	unsigned from, to;
	bool have_below;
	uint8_t below[SECTOR_BYTES];
};

/* True if nothing has to be read for it (any more). */
static bool is_settled_locked(const struct edge *edge)
{
	return edge->part->gone || completes(edge->part, edge->from, edge->to);
}

static bool is_settled(struct parts *parts, const struct edge *edge)
{
	SCOPED_LOCK(&parts->lock);
	return is_settled_locked(edge);
}

enum patience {
	NO_PATIENCE, /* the other half is not to be expected */
	A_MOMENT,
	AS_LONG_AS_IT_TAKES /* if whoever has the other half is here, else a moment */
};

/* Waits for who has the other half, `ns` if nobody here has. Those who are here may wait in turn,
 * but for a sector of the disk before this one. */
static bool await_neighbour(
	struct parts *parts, const struct edge *edge, enum patience patience, int64_t ns)
{
	bool patient = patience == AS_LONG_AS_IT_TAKES;
	if (patience == NO_PATIENCE)
		return is_settled(parts, edge);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t nsec = until.tv_nsec + ns;
	until.tv_sec += nsec / NS_PER_S;
	until.tv_nsec = (long)(nsec % NS_PER_S);
	SCOPED_LOCK(&parts->lock);
	int r = 0;
	while (!is_settled_locked(edge) && (r == 0 || (patient && edge->part->coming > 0))) {
		if (patient && edge->part->coming > 0)
			pthread_cond_wait(&parts->changed, &parts->lock);
		else
			r = pthread_cond_timedwait(&parts->changed, &parts->lock, &until);
	}
	return is_settled_locked(edge);
}

/* Reads what the edge misses, if it misses anything. No lock held. */
static int fetch(struct parts *parts, struct edge *edge, enum patience patience)
{
	const struct part *part = edge->part;
	if (!part || is_settled(parts, edge))
		return 0;
	struct store *disk = parts->disk;
	int r = -EAGAIN;
	if (disk->ops->read_near)
		r = disk->ops->read_near(disk, part->sector, edge->below, SECTOR_BYTES);
	if (r == -EAGAIN && disk->ops->read_near &&
		await_neighbour(parts, edge, patience, NEIGHBOUR_NS))
		return 0;
	if (r == -EAGAIN)
		r = store_read(disk, part->sector, edge->below, SECTOR_BYTES);
	edge->have_below = r == 0;
	/* It may have come meanwhile, or be late on a busy machine. */
	return r < 0 && await_neighbour(parts, edge, patience, LAST_NS) ? 0 : r;
}

/* Its stripe is held alone: true if the sector can be made of what is there. */
static bool is_ready(struct parts *parts, const struct edge *edge)
{
	if (!edge->part)
		return true;
	SCOPED_LOCK(&parts->lock);
	return !edge->part->gone &&
	       (edge->have_below || completes(edge->part, edge->from, edge->to));
}

/* The sector as it is below, with what is known of it over that. */
static void compose(const struct edge *edge, uint8_t *ret_sector)
{
	memcpy(ret_sector, edge->below, SECTOR_BYTES);
	for (unsigned i = 0; i < SECTOR_BYTES; i++)
		if (edge->part->known[i])
			ret_sector[i] = edge->part->data[i];
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

/* A write that does not fill its sectors. */
struct merge {
	uint64_t offset;
	const uint8_t *data;
	size_t n;
	uint64_t start, end; /* whole sectors that are written */
	struct edge head, tail;
	struct part *kept; /* of the last sector, which is not written but kept; NULL: none */
};

static void put_merge(struct parts *parts, struct merge *m)
{
	SCOPED_LOCK(&parts->lock);
	if (m->kept) {
		m->kept->coming--;
		pthread_cond_broadcast(&parts->changed);
	}
	struct part *used[] = { m->head.part, m->tail.part, m->kept };
	for (unsigned i = 0; i < ARRAY_SIZE(used); i++)
		if (used[i])
			put_locked(parts, used[i]);
	m->head.part = m->tail.part = m->kept = NULL;
}

/* Whether the bytes behind the last whole sector are to be kept as a part; then they are coming. */
static bool keeps_tail(struct parts *parts, const struct merge *m, struct part *part)
{
	if (parts->cut_bytes == 0 || m->n <= parts->cut_bytes)
		return false;
	SCOPED_LOCK(&parts->lock);
	if (completes(part, 0, m->tail.to) ||
		(part->known_bytes == 0 && atomic_load(&parts->count) > MAX_PARTS))
		return false;
	part->coming++;
	return true;
}

/* Enters the parts that the write has to do with. */
static int begin_merge(struct parts *parts, struct merge *m)
{
	uint64_t end = m->offset + m->n, last = round_down(end, SECTOR_BYTES);
	m->start = round_down(m->offset, SECTOR_BYTES);
	m->end = round_up(end, SECTOR_BYTES);
	m->head.have_below = m->tail.have_below = false;
	if (m->offset > m->start || m->end - m->start == SECTOR_BYTES) {
		m->head.from = (unsigned)(m->offset - m->start);
		m->head.to = (unsigned)MIN(end - m->start, (uint64_t)SECTOR_BYTES);
		m->head.part = use(parts, m->start);
		if (!m->head.part)
			return -ENOMEM;
	}
	if (last == end || last <= m->offset)
		return 0;
	m->tail.from = 0;
	m->tail.to = (unsigned)(end - last);
	m->tail.part = use(parts, last);
	if (!m->tail.part)
		return -ENOMEM;
	if (last > m->start && keeps_tail(parts, m, m->tail.part)) {
		m->kept = TAKE(m->tail.part);
		m->end = last;
	}
	return 0;
}

static int fetch_edges(struct parts *parts, struct merge *m)
{
	bool head = m->head.part && !is_settled(parts, &m->head);
	bool tail = m->tail.part && !is_settled(parts, &m->tail);
	if (!head && !tail)
		return 0;
	/* A full journal is told as that, and not as the vault out of reach that the reading may
	 * need. */
	int r = store_room(parts->disk, 0);
	if (r == 0 && head)
		r = fetch(
			parts, &m->head, m->offset > m->start ? AS_LONG_AS_IT_TAKES : NO_PATIENCE);
	if (r == 0 && tail)
		r = fetch(parts, &m->tail, NO_PATIENCE);
	return r;
}

/* Writes in one write of whole sectors, so that it fails or succeeds as one. The stripes are held
 * alone and the edges are ready. */
static int write_merge(struct parts *parts, struct merge *m)
{
	size_t span_n = (size_t)(m->end - m->start);
	CLEANUP_FREE uint8_t *span = malloc(span_n);
	if (!span)
		return -ENOMEM;
	if (m->head.part)
		compose(&m->head, span);
	if (m->tail.part)
		compose(&m->tail, span + span_n - SECTOR_BYTES);
	size_t skip = (size_t)(m->offset - m->start), n = MIN(m->n, span_n - skip);
	memcpy(span + skip, m->data, n);
	int r = store_write(parts->disk, m->start, span, span_n);
	if (r < 0)
		return r;
	SCOPED_LOCK(&parts->lock);
	drop_range_locked(parts, m->start, span_n);
	if (m->kept)
		learn_locked(parts, m->kept, 0, m->data + n, (unsigned)(m->n - n));
	return 0;
}

/* -ESTALE: what it counted on was written meanwhile. */
static int try_merge(struct parts *parts, struct merge *m)
{
	int r = begin_merge(parts, m);
	if (r == 0)
		r = fetch_edges(parts, m);
	if (r == 0) {
		uint32_t set = stripes_of(m->offset, m->n);
		lock_stripes(parts, set, true);
		bool ready = is_ready(parts, &m->head) && is_ready(parts, &m->tail);
		pthread_mutex_lock(&parts->lock);
		ready &= !m->kept || !m->kept->gone;
		pthread_mutex_unlock(&parts->lock);
		r = ready ? write_merge(parts, m) : -ESTALE;
		unlock_stripes(parts, set);
	}
	put_merge(parts, m);
	return r;
}

/* A write of `n` bytes that there was no room for. Waits, and so holds nothing. */
static bool may_try_again(struct parts *parts, int r, uint64_t n, unsigned *tries)
{
	return r == -ENOSPC && (*tries)++ < STORE_ROOM_TRIES &&
	       store_wait_for_room(parts->disk, n) == 0;
}

static int write_parts(struct parts *parts, uint64_t offset, const uint8_t *data, size_t n)
{
	/* What was kept and never completed gives way, if it can. */
	if (parts->cut_bytes > 0 && n > parts->cut_bytes && atomic_load(&parts->count) >= MAX_PARTS)
		(void)parts_settle(parts);
	struct merge m = { .offset = offset, .data = data, .n = n };
	unsigned tries = 0;
	int r = store_room(parts->disk, n);
	if (r < 0)
		return r;
	do
		r = try_merge(parts, &m);
	while (r == -ESTALE || may_try_again(parts, r, n, &tries));
	return r;
}

/* Whole sectors; NULL: zeros. */
static int try_whole(struct parts *parts, uint64_t offset, const void *data, uint64_t n)
{
	uint32_t set = stripes_of(offset, n);
	lock_stripes(parts, set, false);
	int r = data ? store_write(parts->disk, offset, data, (size_t)n)
		     : store_zero(parts->disk, offset, n);
	/* A part that is entered from here on has its sector read from here on. */
	if (r == 0 && atomic_load(&parts->count) > 0) {
		SCOPED_LOCK(&parts->lock);
		drop_range_locked(parts, offset, n);
	}
	unlock_stripes(parts, set);
	return r;
}

static int write_whole(struct parts *parts, uint64_t offset, const void *data, uint64_t n)
{
	uint64_t taken = data ? n : SECTOR_BYTES; /* of the journal, about */
	unsigned tries = 0;
	int r = store_room(parts->disk, taken);
	if (r < 0)
		return r;
	do
		r = try_whole(parts, offset, data, n);
	while (may_try_again(parts, r, taken, &tries));
	return r;
}

int parts_write(struct parts *parts, uint64_t offset, const void *data, size_t n)
{
	if (offset % SECTOR_BYTES == 0 && n % SECTOR_BYTES == 0)
		return write_whole(parts, offset, data, n);
	return write_parts(parts, offset, data, n);
}

int parts_zero(struct parts *parts, uint64_t offset, uint64_t n)
{
	static const uint8_t zeros[SECTOR_BYTES];
	uint64_t end = offset + n;
	uint64_t low = round_up(offset, SECTOR_BYTES), high = round_down(end, SECTOR_BYTES);
	if (low > high) /* inside one sector */
		return write_parts(parts, offset, zeros, (size_t)n);
	int r = high > low ? write_whole(parts, low, NULL, high - low) : 0;
	if (r == 0 && low > offset)
		r = write_parts(parts, offset, zeros, (size_t)(low - offset));
	if (r == 0 && end > high)
		r = write_parts(parts, high, zeros, (size_t)(end - high));
	return r;
}

/* ── settling ────────────────────────────────────────────────────────────────────────────── */

/* Its stripe is held alone, and the edge is ready. */
static int write_part(struct parts *parts, const struct edge *edge)
{
	uint8_t sector[SECTOR_BYTES];
	struct store *disk = parts->disk;
	uint64_t at = edge->part->sector;
	compose(edge, sector);
	int r = disk->ops->write_late ? disk->ops->write_late(disk, at, sector, sizeof(sector))
				      : store_write(disk, at, sector, sizeof(sector));
	if (r < 0)
		return r;
	SCOPED_LOCK(&parts->lock);
	drop_range_locked(parts, at, SECTOR_BYTES);
	return 0;
}

static int settle_part(struct parts *parts, struct part *part)
{
	struct edge edge = { .part = part };
	int r = fetch(parts, &edge, A_MOMENT);
	if (r < 0)
		return r;
	uint32_t set = stripes_of(part->sector, SECTOR_BYTES);
	lock_stripes(parts, set, true);
	/* If it is not ready it is gone, and its sector written. */
	r = is_ready(parts, &edge) ? write_part(parts, &edge) : 0;
	unlock_stripes(parts, set);
	return r;
}

/* The part with acknowledged bytes whose number is the lowest above `after` and not above `last`,
 * used; NULL if there is none. */
static struct part *next_known(struct parts *parts, uint64_t after, uint64_t last)
{
	SCOPED_LOCK(&parts->lock);
	struct part *found = NULL;
	for (struct part *p = parts->first; p; p = p->next)
		if (p->known_bytes > 0 && p->number > after && p->number <= last &&
			(!found || p->number < found->number))
			found = p;
	if (found)
		found->users++;
	return found;
}

int parts_settle(struct parts *parts)
{
	if (parts->cut_bytes == 0 || atomic_load(&parts->count) == 0)
		return 0;
	pthread_mutex_lock(&parts->lock);
	uint64_t last = parts->last_number;
	pthread_mutex_unlock(&parts->lock);
	struct part *part;
	int first_error = 0;
	for (uint64_t at = 0; (part = next_known(parts, at, last));) {
		int r = settle_part(parts, part);
		if (r < 0 && first_error == 0)
			first_error = r;
		at = part->number;
		SCOPED_LOCK(&parts->lock);
		put_locked(parts, part);
	}
	return first_error;
}

int parts_flush(struct parts *parts)
{
	int r = parts_settle(parts);
	int flushed = store_flush(parts->disk); /* the rest has a right to it whatever happened */
	return r < 0 ? r : flushed;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

/* Reads n bytes inside one sector of the disk. */
static int read_piece(struct parts *parts, uint64_t offset, void *data, size_t n)
{
	uint8_t sector[SECTOR_BYTES];
	uint64_t start = round_down(offset, SECTOR_BYTES);
	int r = store_read(parts->disk, start, sector, sizeof(sector));
	if (r < 0)
		return r;
	memcpy(data, sector + (offset - start), n);
	return 0;
}

/* Reads n bytes of the disk below, of any alignment. */
static int read_below(struct parts *parts, uint64_t offset, uint8_t *data, size_t n)
{
	uint64_t inside = offset % SECTOR_BYTES;
	if (inside != 0) {
		size_t head = (size_t)MIN((uint64_t)n, SECTOR_BYTES - inside);
		int r = read_piece(parts, offset, data, head);
		if (r < 0)
			return r;
		offset += head, data += head, n -= head;
	}
	size_t whole = (size_t)round_down(n, SECTOR_BYTES);
	if (whole > 0) {
		int r = store_read(parts->disk, offset, data, whole);
		if (r < 0)
			return r;
	}
	if (n == whole)
		return 0;
	return read_piece(parts, offset + whole, data + whole, n - whole);
}

static bool touches(const struct part *part, uint64_t offset, size_t n)
{
	return part->known_bytes > 0 && part->sector < offset + n &&
	       part->sector + SECTOR_BYTES > offset;
}

/* How many parts have something to say about the range, and how many ever went. */
static bool is_touched(struct parts *parts, uint64_t offset, size_t n, uint64_t *ret_drops)
{
	SCOPED_LOCK(&parts->lock);
	*ret_drops = parts->known_drops;
	for (const struct part *p = parts->first; p; p = p->next)
		if (touches(p, offset, n))
			return true;
	return false;
}

/* Lays what is known over what was read; false if a part went since `drops` was counted. */
static bool lay_parts(struct parts *parts, uint64_t offset, uint8_t *data, size_t n, uint64_t drops)
{
	SCOPED_LOCK(&parts->lock);
	if (parts->known_drops != drops)
		return false;
	for (const struct part *p = parts->first; p; p = p->next) {
		if (!touches(p, offset, n))
			continue;
		for (unsigned i = 0; i < SECTOR_BYTES; i++)
			if (p->known[i] && p->sector + i >= offset && p->sector + i - offset < n)
				data[p->sector + i - offset] = p->data[i];
	}
	return true;
}

int parts_read(struct parts *parts, uint64_t offset, void *data, size_t n)
{
	uint64_t drops;
	/* A part that comes from here on belongs to a write that had not returned. */
	if (parts->cut_bytes == 0 || atomic_load(&parts->count) == 0)
		return read_below(parts, offset, data, n);
	for (int turn = 0; turn < MAX_READ_TURNS; turn++) {
		bool touched = is_touched(parts, offset, n, &drops);
		int r = read_below(parts, offset, data, n);
		if (r < 0 || !touched || lay_parts(parts, offset, data, n, drops))
			return r;
	}
	uint32_t set = stripes_of(offset, n);
	lock_stripes(parts, set, true);
	int r = read_below(parts, offset, data, n);
	if (r == 0) {
		(void)is_touched(parts, offset, n, &drops);
		while (!lay_parts(parts, offset, data, n, drops))
			(void)is_touched(parts, offset, n, &drops);
	}
	unlock_stripes(parts, set);
	return r;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

int parts_new(struct store *disk, uint64_t cut_bytes, struct parts **ret_parts)
{
	struct parts *parts = calloc(1, sizeof(*parts));
	if (!parts)
		return -ENOMEM;
	parts->disk = disk;
	parts->cut_bytes = cut_bytes;
	atomic_init(&parts->refs, 1);
	pthread_mutex_init(&parts->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&parts->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	/* Merging writes are rare; a stream of aligned ones must not keep them out. */
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_rwlock_init(&parts->stripes[i], &attr);
	pthread_rwlockattr_destroy(&attr);
	*ret_parts = parts;
	return 0;
}

void parts_abandon(struct parts *parts)
{
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_rwlock_destroy(&parts->stripes[i]);
	pthread_cond_destroy(&parts->changed);
	pthread_mutex_destroy(&parts->lock);
	free(parts);
}

struct parts *parts_ref(struct parts *parts)
{
	atomic_fetch_add(&parts->refs, 1);
	return parts;
}

void parts_unref(struct parts *parts)
{
	if (!parts || atomic_fetch_sub(&parts->refs, 1) != 1)
		return;
	while (parts->first)
		take_out_locked(parts, parts->first);
	struct store *disk = parts->disk;
	parts_abandon(parts);
	store_free(disk);
}
