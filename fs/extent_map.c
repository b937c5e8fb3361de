/*
 * A B+tree of packed extents.
 *
 * Nodes are 2 KiB: leaves hold 127 extents of 16 bytes, inner nodes 127 pairs of key and child.
 * key[i] is a lower bound of what child i holds and an upper bound (exclusive) of what child i-1
 * holds; key[0] is never looked at. So removing or shortening an extent never touches a key, and
 * the only care is that an extent's start never moves up past the next leaf's key (the last of a
 * leaf is taken out and put in again instead).
 *
 * A full leaf first evens out with a sibling; only two full ones are split, into three. That keeps
 * leaves at two thirds at worst and some 80 % on average under random filling. A leaf that is
 * appended to at the right edge of the tree is left full and a new one begun. A leaf below a third
 * is merged with a sibling if both fit into three quarters.
 *
 * Nothing fails half-way: each change first takes the nodes that it could need at most into a
 * small reserve.
 *
 * Not thread-safe.
 */
#include "fs/extent_map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"

#define NODE_BYTES 2048u
#define NODE_MALLOC_BYTES (NODE_BYTES + 16u) /* with the allocator's own */
#define NODE_SLOTS 127u
#define MAX_HEIGHT 8
#define DATA_MAX_SECTORS 128u

/* a: lba (34 bits), sectors − 1 (29), zero (1); b: segment (24), header (17), index (8), skip (8).
 */
struct packed {
	uint64_t a, b;
};

struct node {
	uint16_t count;
	uint16_t level; /* 0: leaf */
	uint32_t unused;
	struct node *next_free;
	union {
		struct packed extents[NODE_SLOTS];
		struct {
			uint64_t key;
			struct node *child;
		} children[NODE_SLOTS];
	};
};

static_assert(sizeof(struct packed) == 16, "an extent is 16 bytes");
static_assert(sizeof(struct node) == NODE_BYTES, "nodes fill their memory");

struct extent_map {
	struct node *root; /* NULL: empty */
	struct node *reserve;
	unsigned reserve_count;
	uint64_t nodes; /* the reserve included */
	uint64_t count;
};

/* The way from the root to an entry: node[0] is the leaf. */
struct cursor {
	struct node *node[MAX_HEIGHT];
	unsigned at[MAX_HEIGHT];
};

static struct packed pack(const struct extent *e)
{
	return (struct packed){
		.a = e->lba | (e->sectors - 1) << 34 | (uint64_t)e->zero << 63,
		.b = (uint64_t)(e->segment & 0xffffff) | (uint64_t)(e->header & 0x1ffff) << 24 |
		     (uint64_t)e->index << 41 | (uint64_t)e->skip << 49,
	};
}

static struct extent unpack(struct packed p)
{
	return (struct extent){
		.lba = p.a & ((1ull << 34) - 1),
		.sectors = (p.a >> 34 & ((1ull << 29) - 1)) + 1,
		.zero = p.a >> 63,
		.segment = (uint32_t)(p.b & 0xffffff),
		.header = (uint32_t)(p.b >> 24 & 0x1ffff),
		.index = (uint8_t)(p.b >> 41),
		.skip = (uint8_t)(p.b >> 49),
	};
}

static uint64_t packed_lba(struct packed p)
{
	return p.a & ((1ull << 34) - 1);
}

static uint64_t extent_end(const struct extent *e)
{
	return e->lba + e->sectors;
}

/* ── nodes ───────────────────────────────────────────────────────────────────────────────── */

static int reserve_nodes(struct extent_map *map, unsigned n)
{
	while (map->reserve_count < n) {
		struct node *node = malloc(sizeof(*node));
		if (!node)
			return -ENOMEM;
		node->next_free = map->reserve;
		map->reserve = node;
		map->reserve_count++;
		map->nodes++;
	}
	return 0;
}

/* Enough for two insertions. */
static int reserve_for_change(struct extent_map *map)
{
	unsigned height = map->root ? map->root->level + 1u : 1u;
	return reserve_nodes(map, 2 * height + 3);
}

static struct node *take_node(struct extent_map *map, unsigned level)
{
	struct node *node = map->reserve;
	assert(node);
	map->reserve = node->next_free;
	map->reserve_count--;
	node->count = 0;
	node->level = (uint16_t)level;
	return node;
}

static void give_node(struct extent_map *map, struct node *node)
{
	free(node);
	map->nodes--;
}

static void free_tree(struct node *node)
{
	if (!node)
		return;
	if (node->level > 0)
		for (unsigned i = 0; i < node->count; i++)
			free_tree(node->children[i].child);
	free(node);
}

int extent_map_new(struct extent_map **ret_map)
{
	struct extent_map *map = calloc(1, sizeof(*map));
	if (!map)
		return -ENOMEM;
	*ret_map = map;
	return 0;
}

void extent_map_free(struct extent_map *map)
{
	if (!map)
		return;
	free_tree(map->root);
	while (map->reserve) {
		struct node *next = map->reserve->next_free;
		free(map->reserve);
		map->reserve = next;
	}
	free(map);
}

uint64_t extent_map_count(const struct extent_map *map)
{
	return map->count;
}

uint64_t extent_map_memory_bytes(const struct extent_map *map)
{
	return sizeof(*map) + map->nodes * NODE_MALLOC_BYTES;
}

/* ── finding ─────────────────────────────────────────────────────────────────────────────── */

/* Number of entries of the leaf whose lba is ≤ `lba`. */
static unsigned leaf_rank(const struct node *leaf, uint64_t lba)
{
	unsigned low = 0, high = leaf->count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (packed_lba(leaf->extents[middle]) <= lba)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static unsigned child_for(const struct node *inner, uint64_t lba)
{
	unsigned low = 1, high = inner->count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (inner->children[middle].key <= lba)
			low = middle + 1;
		else
			high = middle;
	}
	return low - 1;
}

/* Goes to the leaf where `lba` belongs; at[0] is the rank there. */
static void descend(const struct extent_map *map, uint64_t lba, struct cursor *c)
{
	struct node *node = map->root;
	while (node->level > 0) {
		unsigned i = child_for(node, lba);
		c->node[node->level] = node;
		c->at[node->level] = i;
		node = node->children[i].child;
	}
	c->node[0] = node;
	c->at[0] = leaf_rank(node, lba);
}

void extent_map_prefetch(const struct extent_map *map, uint64_t lba)
{
	const struct node *node = map->root;
	if (!node || node->level == 0)
		return;
	while (node->level > 1)
		node = node->children[child_for(node, lba)].child;
	const struct node *leaf = node->children[child_for(node, lba)].child;
	__builtin_prefetch(leaf);
	/* Where the first steps of the search in a leaf of usual filling will look. */
	for (unsigned i = 6; i < NODE_SLOTS; i += 12)
		__builtin_prefetch(&leaf->extents[i], 1);
}

/* Moves to the neighbouring leaf; false at the edge of the tree (the cursor is then unchanged). */
static bool step_leaf(const struct extent_map *map, struct cursor *c, bool forward)
{
	unsigned top = map->root->level, level = 1;
	while (level <= top &&
		(forward ? c->at[level] + 1u >= c->node[level]->count : c->at[level] == 0))
		level++;
	if (level > top)
		return false;
	c->at[level] += forward ? 1u : -1u;
	struct node *node = c->node[level]->children[c->at[level]].child;
	for (; node->level > 0; node = node->children[c->at[node->level]].child) {
		c->node[node->level] = node;
		c->at[node->level] = forward ? 0 : node->count - 1u;
	}
	c->node[0] = node;
	c->at[0] = forward ? 0 : node->count - 1u;
	return true;
}

/* Leaves the cursor on the first extent that ends after `lba`. */
static bool seek(const struct extent_map *map, uint64_t lba, struct cursor *c)
{
	if (!map->root)
		return false;
	descend(map, lba, c);
	if (c->at[0] > 0) {
		struct extent e = unpack(c->node[0]->extents[c->at[0] - 1]);
		if (extent_end(&e) > lba) {
			c->at[0]--;
			return true;
		}
	} else {
		struct cursor before = *c;
		if (step_leaf(map, &before, false)) {
			struct extent e = unpack(before.node[0]->extents[before.at[0]]);
			if (extent_end(&e) > lba) {
				*c = before;
				return true;
			}
		}
	}
	if (c->at[0] < c->node[0]->count)
		return true;
	return step_leaf(map, c, true);
}

static struct extent at(const struct cursor *c)
{
	return unpack(c->node[0]->extents[c->at[0]]);
}

static void set_at(struct cursor *c, const struct extent *e)
{
	c->node[0]->extents[c->at[0]] = pack(e);
}

int extent_map_find(const struct extent_map *map, uint64_t lba, struct extent *ret_extent)
{
	struct cursor c;
	if (!seek(map, lba, &c))
		return -ENOENT;
	*ret_extent = at(&c);
	return 0;
}

/* ── growing ─────────────────────────────────────────────────────────────────────────────── */

static void inner_insert_at(struct node *inner, unsigned i, uint64_t key, struct node *child)
{
	memmove(&inner->children[i + 1], &inner->children[i],
		(inner->count - i) * sizeof(inner->children[0]));
	inner->children[i].key = key;
	inner->children[i].child = child;
	inner->count++;
}

/* Puts `child` right of the child the cursor is on at `level`, splitting upwards as needed. The
 * cursor is not valid afterwards above `level` - 1. */
static void add_child(
	struct extent_map *map, struct cursor *c, unsigned level, uint64_t key, struct node *child)
{
	if (level > map->root->level) {
		struct node *root = take_node(map, level);
		inner_insert_at(root, 0, 0, map->root);
		inner_insert_at(root, 1, key, child);
		map->root = root;
		return;
	}
	struct node *node = c->node[level];
	unsigned i = c->at[level] + 1;
	if (node->count < NODE_SLOTS) {
		inner_insert_at(node, i, key, child);
		return;
	}
	/* At the right edge leave it full, so that ascending filling is dense. */
	unsigned keep = i == NODE_SLOTS ? NODE_SLOTS : NODE_SLOTS / 2;
	struct node *right = take_node(map, level);
	right->count = (uint16_t)(NODE_SLOTS - keep);
	memcpy(right->children, &node->children[keep], right->count * sizeof(node->children[0]));
	node->count = (uint16_t)keep;
	if (i < keep || (i == keep && right->count > 0))
		inner_insert_at(node, i, key, child);
	else
		inner_insert_at(right, i - keep, key, child);
	add_child(map, c, level + 1, right->children[0].key, right);
}

/* Lays the entries of `from`, in order, into n leaves as evenly as can be. */
static void deal_entries(
	struct node **leaves, unsigned n, const struct packed *from, unsigned total)
{
	unsigned done = 0;
	for (unsigned i = 0; i < n; i++) {
		unsigned share = (total - done) / (n - i);
		memcpy(leaves[i]->extents, from + done, share * sizeof(*from));
		leaves[i]->count = (uint16_t)share;
		done += share;
	}
}

/* The cursor's leaf is full: places `p` among it and a sibling, or among more leaves. */
static void insert_into_full(struct extent_map *map, struct cursor *c, struct packed p)
{
	struct packed all[2 * NODE_SLOTS + 1];
	struct node *leaves[3] = { c->node[0] };
	unsigned total = 0, n = 1, rank = c->at[0];
	struct node *parent = map->root->level > 0 ? c->node[1] : NULL;
	bool right_edge = rank == NODE_SLOTS && (!parent || c->at[1] + 1u == parent->count);

	if (right_edge) {
		struct node *leaf = take_node(map, 0);
		leaf->extents[0] = p;
		leaf->count = 1;
		add_child(map, c, 1, packed_lba(p), leaf);
		return;
	}
	if (parent) {
		unsigned i = c->at[1];
		struct node *left = i > 0 ? parent->children[i - 1].child : NULL;
		struct node *right = i + 1u < parent->count ? parent->children[i + 1].child : NULL;
		bool use_left = left && (!right || left->count < right->count);
		if (use_left) {
			leaves[0] = left;
			leaves[1] = c->node[0];
			rank += left->count;
			c->at[1]--;
			n = 2;
		} else if (right) {
			leaves[1] = right;
			n = 2;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		memcpy(&all[total], leaves[i]->extents, leaves[i]->count * sizeof(p));
		total += leaves[i]->count;
	}
	memmove(&all[rank + 1], &all[rank], (total - rank) * sizeof(p));
	all[rank] = p;
	total++;
	bool split = total > n * (NODE_SLOTS - NODE_SLOTS / 16);
	if (split)
		leaves[n++] = take_node(map, 0);
	deal_entries(leaves, n, all, total);
	/* The cursor stands on leaves[0]; all others lie right of it. */
	unsigned old = split ? n - 1 : n;
	for (unsigned i = 1; i < old; i++)
		parent->children[c->at[1] + i].key = packed_lba(leaves[i]->extents[0]);
	if (split) {
		if (parent)
			c->at[1] += old - 1;
		add_child(map, c, 1, packed_lba(leaves[n - 1]->extents[0]), leaves[n - 1]);
	}
}

/* Adds an extent that overlaps nothing. The nodes must be reserved. */
static void add_extent(struct extent_map *map, const struct extent *e)
{
	struct packed p = pack(e);
	map->count++;
	if (!map->root)
		map->root = take_node(map, 0);
	struct cursor c;
	descend(map, e->lba, &c);
	struct node *leaf = c.node[0];
	if (leaf->count == NODE_SLOTS) {
		insert_into_full(map, &c, p);
		return;
	}
	memmove(&leaf->extents[c.at[0] + 1], &leaf->extents[c.at[0]],
		(leaf->count - c.at[0]) * sizeof(p));
	leaf->extents[c.at[0]] = p;
	leaf->count++;
}

/* ── shrinking ───────────────────────────────────────────────────────────────────────────── */

/* Takes the child the cursor is on at `level` out of its parent, and empty parents with it. */
static void remove_child(struct extent_map *map, struct cursor *c, unsigned level)
{
	struct node *node = c->node[level];
	unsigned i = c->at[level];
	memmove(&node->children[i], &node->children[i + 1],
		(node->count - i - 1u) * sizeof(node->children[0]));
	node->count--;
	if (node->count > 0)
		return;
	if (level == map->root->level)
		map->root = NULL;
	else
		remove_child(map, c, level + 1);
	give_node(map, node);
}

static void lower_root(struct extent_map *map)
{
	while (map->root && map->root->level > 0 && map->root->count == 1) {
		struct node *old = map->root;
		map->root = old->children[0].child;
		give_node(map, old);
	}
}

/* Joins children i and i + 1 of `level` if they fit well into one. */
static bool merge_children(struct extent_map *map, struct cursor *c, unsigned level, unsigned i)
{
	struct node *parent = c->node[level];
	struct node *a = parent->children[i].child, *b = parent->children[i + 1].child;
	if (a->count + b->count > NODE_SLOTS * 3 / 4)
		return false;
	if (a->level == 0) {
		memcpy(&a->extents[a->count], b->extents, b->count * sizeof(b->extents[0]));
	} else {
		memcpy(&a->children[a->count], b->children, b->count * sizeof(b->children[0]));
		a->children[a->count].key = parent->children[i + 1].key;
	}
	a->count = (uint16_t)(a->count + b->count);
	give_node(map, b);
	c->at[level] = i + 1;
	remove_child(map, c, level);
	return true;
}

/* After entries were taken out of the cursor's leaf. The cursor is not valid afterwards. */
static void shrink(struct extent_map *map, struct cursor *c)
{
	struct node *leaf = c->node[0];
	if (leaf->count == 0) {
		if (map->root == leaf)
			map->root = NULL;
		else
			remove_child(map, c, 1);
		give_node(map, leaf);
		lower_root(map);
		return;
	}
	if (map->root == leaf)
		return;
	for (unsigned level = 1; level <= map->root->level; level++) {
		struct node *parent = c->node[level];
		unsigned i = c->at[level];
		if (parent->children[i].child->count >= NODE_SLOTS / 3)
			break;
		if (!(i + 1u < parent->count && merge_children(map, c, level, i)) &&
			!(i > 0 && merge_children(map, c, level, i - 1)))
			break;
	}
	lower_root(map);
}

/* Takes out n entries of one leaf from the cursor on. */
static void remove_run(struct extent_map *map, struct cursor *c, unsigned n)
{
	struct node *leaf = c->node[0];
	memmove(&leaf->extents[c->at[0]], &leaf->extents[c->at[0] + n],
		(leaf->count - c->at[0] - n) * sizeof(leaf->extents[0]));
	leaf->count = (uint16_t)(leaf->count - n);
	map->count -= n;
	shrink(map, c);
}

/* ── cutting ─────────────────────────────────────────────────────────────────────────────── */

/* The part of e from `lba` on. */
static struct extent tail_from(struct extent e, uint64_t lba)
{
	uint64_t by = lba - e.lba;
	e.lba = lba;
	e.sectors -= by;
	if (!e.zero)
		e.skip = (uint8_t)(e.skip + by);
	return e;
}

/* Cuts [lba, end) out of the extent under the cursor, which overlaps it. The cursor is not valid
 * afterwards. Needs nodes for at most one insertion. */
static void cut_one(struct extent_map *map, struct cursor *c, uint64_t lba, uint64_t end)
{
	struct extent e = at(c);
	if (e.lba < lba) {
		struct extent head = e;
		head.sectors = lba - e.lba;
		set_at(c, &head);
		if (extent_end(&e) > end) {
			struct extent tail = tail_from(e, end);
			add_extent(map, &tail);
		}
		return;
	}
	if (extent_end(&e) > end) {
		struct extent tail = tail_from(e, end);
		if (c->at[0] + 1u < c->node[0]->count) {
			set_at(c, &tail);
			return;
		}
		remove_run(map, c, 1);
		add_extent(map, &tail);
		return;
	}
	remove_run(map, c, 1);
}

/* How many entries of the leaf, from the cursor on, lie wholly in [lba, end). */
static unsigned covered_run(const struct cursor *c, uint64_t lba, uint64_t end)
{
	const struct node *leaf = c->node[0];
	unsigned n = 0;
	for (unsigned i = c->at[0]; i < leaf->count; i++, n++) {
		struct extent e = unpack(leaf->extents[i]);
		if (e.lba < lba || extent_end(&e) > end)
			break;
	}
	return n;
}

static void clear_range(struct extent_map *map, uint64_t lba, uint64_t end)
{
	struct cursor c;
	while (seek(map, lba, &c)) {
		if (at(&c).lba >= end)
			return;
		unsigned n = covered_run(&c, lba, end);
		if (n > 0)
			remove_run(map, &c, n);
		else
			cut_one(map, &c, lba, end);
	}
}

/* ── the rest of the interface ───────────────────────────────────────────────────────────── */

/* True if b goes on where a ends, in place and on disk. */
static bool continues(const struct extent *a, const struct extent *b)
{
	if (extent_end(a) != b->lba || a->zero != b->zero || a->segment != b->segment)
		return false;
	if (a->zero)
		return a->sectors + b->sectors <= EXTENT_MAX_ZERO_SECTORS;
	return a->header == b->header && a->index == b->index && a->skip + a->sectors == b->skip &&
	       a->skip + a->sectors + b->sectors <= DATA_MAX_SECTORS;
}

/* The two common cases at the price of one search: nothing is there and nothing adjoins, or one
 * extent lies there that is just as long and nothing adjoins. False: it is neither. */
static bool insert_simply(struct extent_map *map, const struct extent *e)
{
	struct cursor c;
	/* What ends before e's first sector cannot adjoin it. */
	if (!seek(map, e->lba > 0 ? e->lba - 1 : 0, &c)) {
		add_extent(map, e);
		return true;
	}
	struct extent there = at(&c);
	if (there.lba > extent_end(e)) {
		add_extent(map, e);
		return true;
	}
	if (there.lba != e->lba || there.sectors != e->sectors)
		return false;
	if (c.at[0] + 1u == c.node[0]->count) /* what comes next is in another leaf */
		return false;
	struct extent after = unpack(c.node[0]->extents[c.at[0] + 1]);
	if (after.lba == extent_end(e))
		return false;
	set_at(&c, e);
	return true;
}

int extent_map_insert(struct extent_map *map, const struct extent *e)
{
	assert(e->sectors > 0 && e->lba + e->sectors <= EXTENT_MAX_LBA);
	assert(e->zero ? e->sectors <= EXTENT_MAX_ZERO_SECTORS
		       : e->skip + e->sectors <= DATA_MAX_SECTORS);
	int r = reserve_for_change(map);
	if (r < 0)
		return r;
	struct extent whole = *e;
	whole.segment &= 0xffffff;
	if (whole.zero) {
		whole.header = 0;
		whole.index = 0;
		whole.skip = 0;
	}
	if (insert_simply(map, &whole))
		return 0;
	clear_range(map, e->lba, extent_end(e));

	struct cursor c;
	if (seek(map, extent_end(&whole), &c)) {
		struct extent after = at(&c);
		if (continues(&whole, &after)) {
			whole.sectors += after.sectors;
			remove_run(map, &c, 1);
		}
	}
	if (whole.lba > 0 && seek(map, whole.lba - 1, &c)) {
		struct extent before = at(&c);
		if (continues(&before, &whole)) {
			before.sectors += whole.sectors;
			set_at(&c, &before);
			return 0;
		}
	}
	add_extent(map, &whole);
	return 0;
}

int extent_map_forget(struct extent_map *map, uint64_t lba, uint64_t sectors, uint32_t segment)
{
	uint64_t end = lba + sectors;
	int r = reserve_for_change(map);
	if (r < 0)
		return r;
	struct cursor c;
	while (lba < end && seek(map, lba, &c)) {
		struct extent e = at(&c);
		if (e.lba >= end)
			break;
		if (e.segment == (segment & 0xffffff))
			cut_one(map, &c, lba, end);
		lba = MAX(lba, extent_end(&e));
	}
	return 0;
}

/* ── checking ────────────────────────────────────────────────────────────────────────────── */

struct check {
	uint64_t nodes, extents;
	bool any;
	struct extent last;
};

static int check_leaf(const struct node *leaf, uint64_t low, uint64_t high, struct check *check)
{
	for (unsigned i = 0; i < leaf->count; i++) {
		struct extent e = unpack(leaf->extents[i]);
		if (e.lba < low || e.lba >= high) {
			log_error("extent map: an extent lies outside its leaf's keys");
			return -EUCLEAN;
		}
		if (check->any && extent_end(&check->last) > e.lba) {
			log_error("extent map: extents overlap or are out of order");
			return -EUCLEAN;
		}
		check->any = true;
		check->last = e;
		check->extents++;
	}
	return 0;
}

static int check_node(
	const struct node *node, unsigned level, uint64_t low, uint64_t high, struct check *check)
{
	check->nodes++;
	if (node->level != level || node->count == 0 || node->count > NODE_SLOTS) {
		log_error("extent map: a node has the wrong level or count");
		return -EUCLEAN;
	}
	if (level == 0)
		return check_leaf(node, low, high, check);
	for (unsigned i = 0; i < node->count; i++) {
		uint64_t from = i == 0 ? low : node->children[i].key;
		uint64_t to = i + 1u < node->count ? node->children[i + 1].key : high;
		if (from < low || to > high || from >= to) {
			log_error("extent map: keys are out of order");
			return -EUCLEAN;
		}
		int r = check_node(node->children[i].child, level - 1, from, to, check);
		if (r < 0)
			return r;
	}
	return 0;
}

int extent_map_check(const struct extent_map *map)
{
	struct check check = { 0 };
	if (map->root) {
		int r = check_node(map->root, map->root->level, 0, EXTENT_MAX_LBA, &check);
		if (r < 0)
			return r;
	}
	if (check.extents != map->count || check.nodes + map->reserve_count != map->nodes) {
		log_error("extent map: what is counted is not what is there");
		return -EUCLEAN;
	}
	return 0;
}
