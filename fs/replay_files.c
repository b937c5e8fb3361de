/*
 * What replay finds in the directory: which segment files there are, and what each says about the
 * one before it. Leftovers are put on a list, to be removed when no checkpoint names them; what a
 * crash kept from getting its name is removed at once, and so are spares.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "fs/history_internal.h"

void replay_fault(struct replay *replay, const char *format, ...)
{
	char text[sizeof(replay->report->first_fault)];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	log_warning("%s", text);
	if (replay->report->faults++ == 0)
		memcpy(replay->report->first_fault, text, sizeof(text));
}

struct listing {
	struct history *history;
	uint64_t *seqs;
	unsigned count;
};

static int list_each(void *context, const char *name)
{
	struct listing *l = context;
	size_t n = strlen(name);
	if (n > 4 && (strcmp(name + n - 4, ".new") == 0 || strcmp(name + n - 4, ".spr") == 0)) {
		/* A file that a crash kept from getting its name, or a spare (see spare.c). The
		 * directory is synced before anything new is written. */
		char path[SEGMENT_PATH_BYTES(l->history)];
		if (n > 28)
			return 0;
		snprintf(path, sizeof(path), "%s/%s", l->history->directory, name);
		return io_unlink(l->history->io, path);
	}
	if (strlen(name) != 16 + 4 || strspn(name, "0123456789abcdef") != 16)
		return 0;
	if (strcmp(name + 16, ".seg") != 0)
		return 0;
	uint64_t *grown = realloc(l->seqs, (l->count + 1) * sizeof(*l->seqs));
	if (!grown)
		return -ENOMEM;
	l->seqs = grown;
	l->seqs[l->count++] = strtoull(name, NULL, 16);
	return 0;
}

static int compare_seqs(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

int replay_read_fault(struct history *history, struct replay *replay, uint64_t seq, int code)
{
	return error_set(replay->error, code, "see the kernel's log for the disk's trouble",
		"%s/%016" PRIx64 ".seg: reading it failed: %s", history->directory, seq,
		strerror(-code));
}

/* What a segment says about the one before it: from its header, or else its first record. */
static int read_link(
	struct history *history, struct replay *replay, uint64_t seq, struct replay_link *ret_link)
{
	struct scan scan;
	struct replay_link link = { .seq = seq };
	int r = scan_open(history, seq, &scan);
	if (r < 0)
		return replay_read_fault(history, replay, seq, r);
	scan.window_next = 2 * JOURNAL_PAGE_BYTES;
	const void *page;
	const struct journal_record *record = NULL;
	r = scan_page(&scan, 0, &page);
	const struct journal_segment *header = page;
	if (r == 0 && header && segment_header_check(history, header, seq)) {
		link.usable = link.header_good = true;
		link.incarnation = header->incarnation;
		link.first_lsn = header->first_lsn;
		link.prev_lsn = header->prev_lsn;
		link.prev_hash = header->prev_hash;
		if (header->version > JOURNAL_VERSION)
			r = error_set(replay->error, -EPROTONOSUPPORT, "install the newer version",
				"%s/%016" PRIx64 ".seg was written by a newer version",
				history->directory, seq);
		if (!replay->have_checkpoint)
			history->segment_bytes = header->segment_bytes;
	} else if (r == 0 && header && header->magic == JOURNAL_SEGMENT_MAGIC &&
		   memcmp(&header->group, &history->group, sizeof(header->group)) != 0) {
		struct history other = { .group = header->group };
		if (segment_header_check(&other, header, header->seq))
			r = error_set(replay->error, -EPERM,
				"give it the directory of its own group",
				"%s belongs to another group", history->directory);
	}
	if (r == 0 && !link.usable) {
		r = scan_record(&scan, JOURNAL_PAGE_BYTES, &record);
		if (r < 0)
			r = replay_read_fault(history, replay, seq, r);
	}
	if (record) {
		link.usable = true;
		link.incarnation = record->incarnation;
		link.first_lsn = record->lsn;
		link.prev_lsn = record->lsn - 1;
		link.prev_hash = record->prev_hash;
	}
	scan_close(&scan);
	if (r == 0)
		*ret_link = link;
	return r;
}

int replay_add_leftover(struct history *history, uint64_t seq)
{
	uint64_t *grown = realloc(
		history->leftovers, (history->leftover_count + 1) * sizeof(*history->leftovers));
	if (!grown)
		return -ENOMEM;
	history->leftovers = grown;
	history->leftovers[history->leftover_count++] = seq;
	return 0;
}

static bool is_listed(const struct replay *replay, uint64_t seq)
{
	for (unsigned i = 0; i < replay->listed_count; i++)
		if (replay->listed[i].seq == seq)
			return true;
	return false;
}

int replay_collect_links(struct history *history, struct replay *replay)
{
	struct listing listing = { .history = history };
	int r = io_list(history->io, history->directory, list_each, &listing);
	CLEANUP_FREE uint64_t *seqs = listing.seqs;
	if (r < 0)
		return error_set(replay->error, r, NULL, "%s: listing it failed: %s",
			history->directory, strerror(-r));
	if (listing.count > 0)
		qsort(seqs, listing.count, sizeof(*seqs), compare_seqs);
	replay->links = calloc(listing.count + 1, sizeof(*replay->links));
	if (!replay->links)
		return -ENOMEM;
	uint64_t first = replay->listed_count > 0 ? replay->listed[0].seq : replay->tail_seq;
	for (unsigned i = 0; r == 0 && i < listing.count; i++) {
		history->next_seq = MAX(history->next_seq, seqs[i] + 1);
		if (seqs[i] < first || (seqs[i] < replay->tail_seq && !is_listed(replay, seqs[i])))
			r = replay_add_leftover(history, seqs[i]);
		else
			r = read_link(
				history, replay, seqs[i], &replay->links[replay->link_count++]);
	}
	return r;
}
