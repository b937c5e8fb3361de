/*
 * Inside the simulated disk: contents and names, seen and durable. Only io_sim*.c use it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "tests/sim/io_sim.h"

#define PAGE_BYTES 4096u
#define PAGE_SECTORS (PAGE_BYTES / SECTOR_BYTES)

/* Shared between what is seen and what is durable until one of them is changed. */
struct page {
	unsigned refs;
	uint64_t stamp[PAGE_SECTORS];
	unsigned char data[PAGE_BYTES];
};

/* One of the two contents of a file; a missing page is zeros. */
struct content {
	struct page **pages;
	uint64_t count; /* of slots */
	uint64_t bytes;
};

enum change_kind { CHANGE_DATA, CHANGE_RESIZE };

/* A change of content that is not durable yet. */
struct change {
	struct change *next;
	uint64_t sequence; /* among all changes of the disk */
	enum change_kind kind;
	uint64_t offset; /* CHANGE_RESIZE: the new size */
	uint64_t n;
	uint64_t stamp;
	unsigned char data[];
};

struct entry {
	struct entry *next;
	char *name;
	struct node *node;
};

struct node {
	struct node *next; /* of all nodes */
	bool is_directory;
	bool marked;
	uint64_t reserved_bytes; /* by allocate */
	struct content seen;
	struct content durable;
	struct change *changes, **changes_end;
	struct entry *names;         /* of a directory, as seen */
	struct entry *durable_names; /* and what a crash keeps for sure */
	/* The last datasync's first page, for the lie about a lost sector. */
	uint64_t synced_offset, synced_n;
	struct page *synced_before;
};

/* What chance decides when the power comes back. */
struct settlement {
	struct rng *rng;
	enum io_sim_keep keep;
	uint64_t cut;       /* PREFIX, SUFFIX, TORN: the change that is torn */
	unsigned percent;   /* SUBSET: how likely each is kept */
	bool ordered_names; /* names by prefix even where sectors are by subset */
	uint64_t names_cut;
};

void content_copy(struct content *to, const struct content *from);
void content_free(struct content *content);
void content_write(
	struct content *content, uint64_t offset, const void *data, uint64_t n, uint64_t stamp);
void content_read(const struct content *content, uint64_t offset, void *data, uint64_t n);
void content_resize(struct content *content, uint64_t bytes);
struct page *content_page(const struct content *content, uint64_t offset);

void node_log(struct node *node, enum change_kind kind, uint64_t sequence, uint64_t offset,
	const void *data, uint64_t n, uint64_t stamp);
/* The log becomes durable. */
void node_sync(struct node *node);
/* What survives becomes durable and the log ends; `seen` is the caller's to renew. */
void node_settle(struct node *node, const struct settlement *settlement);
void node_free(struct node *node);

/* Whether a change with that sequence number is kept whole (1), torn (2) or lost (0). */
int settlement_of(const struct settlement *settlement, uint64_t sequence);

/* Memory, or the end of the program: a simulation has no answer to its absence. */
void *sim_alloc(uint64_t n);
/* A line to where io_sim_trace says. */
struct io_sim;
void sim_trace(struct io_sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ── names ───────────────────────────────────────────────────────────────────────────────── */

struct name_change {
	struct name_change *next;
	uint64_t sequence;
	struct node *from_directory; /* NULL: nothing is taken away */
	struct node *to_directory;   /* NULL: nothing is put anywhere */
	char *from, *to;
	struct node *node;
};

struct io_sim {
	struct io io;
	struct rng rng;
	struct node *nodes;
	struct node *root;
	struct name_change *name_changes, **name_changes_end;
	uint64_t sequence;
	uint64_t last_write; /* its sequence number */
	uint64_t ops;
	uint64_t crash_at;
	uint64_t epoch;
	uint64_t stamp;
	uint64_t room;
	bool off;
	enum io_sim_lie lie;
	struct node *synced_last;
	FILE *trace;
	struct {
		unsigned ops;
		uint64_t after;
		int error;
		bool cached;
		bool done;
	} fault;
};

struct node *names_new_node(struct io_sim *sim, bool is_directory);
/* Lets the name lead to the node. */
void names_set(struct entry **names, const char *name, struct node *node);
void names_free(struct entry **names);
/* Logs a change of names and shows it; either side may be missing. */
void names_change(struct io_sim *sim, struct node *from_directory, const char *from,
	struct node *to_directory, const char *to, struct node *node);
/* Ends the log of the directory, or of all (NULL); what `keeps` (NULL: all) says is durable. */
void names_settle(struct io_sim *sim, const struct node *directory,
	bool (*keeps)(void *context, const struct name_change *c), void *context);
/* Walks to the directory that holds the last part of the path; the part is copied, empty for the
 * root. 0, -ENOENT, -ENOTDIR, -ENAMETOOLONG. */
int names_walk(struct io_sim *sim, const char *path, struct node **ret_directory,
	char ret_last[static 256]);
int names_look_up(struct io_sim *sim, const char *path, struct node **ret_node);
