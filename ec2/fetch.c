/*
 * A ring of slots, one a block, in the listing's order. `first` is the next to be handed over,
 * `used` how many are taken from there on. Two requests for pages at most: the page being taken
 * from, and the one after it.
 *
 * States of a slot:
 *	FETCHING  its request is under way, with a buffer of its own
 *	READY     its bytes are here and proved
 *	ZERO      gone in the snapshot: nothing to fetch
 *	STALE     its token was refused; waits for a listing that brings another
 *
 * Listing again: pages are thrown away and asked for from the lowest STALE slot's index on. What
 * the new pages name that the ring has already is matched by its index: a STALE slot gets its
 * token and is fetched, any other is passed over. Invariant: slots rise by index, `listed` is one
 * more than the highest index that was ever taken, so an item below it is in the ring or was
 * handed over.
 *
 * One thread, the client's owner's.
 */
#include "ec2/fetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define WINDOW 48u
/* Listings thrown away in a row without a block handed over in between. */
#define RELISTINGS_MAX 8u
#define REACHED_EVERY 64u

static const char lacking[] = "a new listing lacks a block that an older one had";

enum slot_state { SLOT_FETCHING, SLOT_READY, SLOT_ZERO, SLOT_STALE };

struct slot {
	struct ec2_request request;
	enum slot_state state;
	uint32_t index;
	void *data; /* owned; made when first needed */
};

struct fetch {
	struct ec2 *client;
	const struct ec2_fetch_options *options;
	const struct ec2_fetch_ops *ops;
	void *context;
	struct http_error *error;
	struct ec2_fetch_stats stats;
	uint64_t blocks; /* of the volume */

	struct slot *slots;
	unsigned window;
	unsigned first;
	unsigned used;
	unsigned stale;
	unsigned fetching;

	struct ec2_request listing;
	struct ec2_block_page coming; /* where it goes */
	bool is_listing;
	bool discard_listing; /* what comes is of no use any more */
	bool relist;          /* begin anew, once nothing is being listed */
	bool listed_all;
	struct ec2_block_page page; /* being taken from */
	size_t at;
	struct ec2_block_page next;
	bool has_next;
	char *next_token; /* of the page after the last one we have; NULL: from `from` */
	uint32_t from;
	uint64_t listed;
	unsigned relistings;

	uint64_t delivered; /* everything below was handed over */
	uint64_t told;
};

static struct slot *slot_at(struct fetch *f, unsigned i)
{
	return &f->slots[(f->first + i) % f->window];
}

static int fail(struct fetch *f, int code, const char *what)
{
	return http_error_set(f->error, code, "%s", what);
}

/* Throws the pages away; the listing begins again at `from`. */
static int begin_again(struct fetch *f, uint32_t from)
{
	if (++f->relistings > RELISTINGS_MAX)
		return fail(f, -EBADMSG, "every listing's tokens are refused");
	f->stats.relistings++;
	ec2_block_page_free(&f->page);
	ec2_block_page_free(&f->next);
	f->at = 0;
	f->has_next = false;
	free(TAKE(f->next_token));
	f->listed_all = false;
	f->from = from;
	f->relist = false;
	f->discard_listing = f->is_listing;
	return 0;
}

static uint64_t lowest_stale(struct fetch *f)
{
	for (unsigned i = 0; i < f->used; i++) {
		struct slot *slot = slot_at(f, i);
		if (slot->state == SLOT_STALE)
			return slot->index;
	}
	return UINT64_MAX;
}

/* Asks for the page after the last one, if there is one and room for it. */
static int list_ahead(struct fetch *f)
{
	if (f->is_listing || f->has_next || f->listed_all)
		return 0;
	const struct ec2_listing listing = { .snapshot = f->options->snapshot,
		.base = f->options->base,
		.from_index = f->from,
		.page = f->next_token,
		.page_blocks = f->options->page_blocks };
	int r = ec2_list_blocks(f->client, &f->listing, &listing, &f->coming);
	if (r < 0)
		return fail(f, r, "a page could not be asked for");
	f->is_listing = true;
	f->stats.pages++;
	return 0;
}

static int take_page(struct fetch *f)
{
	int r = f->listing.call.result;
	f->is_listing = false;
	if (f->discard_listing) {
		f->discard_listing = false;
		ec2_block_page_free(&f->coming);
		return 0;
	}
	/* A page token that is too old: on from the first index that was not listed. */
	if (r == -ESTALE && f->next_token) {
		uint64_t from = MAX(f->listed, (uint64_t)f->from);
		if (f->page.count > f->at)
			from = f->page.items[f->at].index;
		return begin_again(f, (uint32_t)MIN(from, lowest_stale(f)));
	}
	if (r < 0) {
		if (f->error)
			*f->error = f->listing.call.error;
		return r;
	}
	f->next = f->coming;
	f->coming = (struct ec2_block_page){ 0 };
	free(f->next_token);
	f->next_token = TAKE(f->next.next);
	f->listed_all = !f->next_token;
	f->has_next = true;
	return 0;
}

static int submit(struct fetch *f, struct slot *slot, const char *token)
{
	if (!slot->data && !(slot->data = aligned_alloc(4096, EC2_BLOCK_BYTES)))
		return fail(f, -ENOMEM, "out of memory");
	slot->request.context = slot;
	int r = ec2_get_block(
		f->client, &slot->request, f->options->snapshot, slot->index, token, slot->data);
	if (r < 0)
		return fail(f, r, "a block could not be asked for");
	slot->state = SLOT_FETCHING;
	f->fetching++;
	return 0;
}

/* An item of an index the ring knows already. */
static int match(struct fetch *f, const struct ec2_block *item, const char *token)
{
	for (unsigned i = 0; f->stale > 0 && i < f->used; i++) {
		struct slot *slot = slot_at(f, i);
		if (slot->index != item->index || slot->state != SLOT_STALE)
			continue;
		if (item->gone)
			return fail(f, -EBADMSG, "a block was there and is gone in a new listing");
		f->stale--;
		return submit(f, slot, token);
	}
	return 0;
}

static int append(struct fetch *f, const struct ec2_block *item, const char *token)
{
	struct slot *slot = slot_at(f, f->used);
	if (item->index >= f->blocks)
		return fail(f, -EBADMSG, "a block beyond the volume's end is listed");
	slot->index = item->index;
	f->used++;
	f->listed = (uint64_t)item->index + 1;
	slot->state = SLOT_ZERO;
	return item->gone ? 0 : submit(f, slot, token);
}

/* Takes items from the pages as long as there is room. */
static int fill(struct fetch *f)
{
	int r = 0;
	while (r == 0 && !f->relist) {
		if (f->at == f->page.count) {
			if (!f->has_next)
				break;
			ec2_block_page_free(&f->page);
			f->page = f->next;
			f->next = (struct ec2_block_page){ 0 };
			f->has_next = false;
			f->at = 0;
			r = list_ahead(f);
			continue;
		}
		const struct ec2_block *item = &f->page.items[f->at];
		const char *token = ec2_block_token(&f->page, item);
		bool known = item->index < f->listed;
		if (item->index < f->options->from_index)
			return fail(f, -EBADMSG, "a block below the first index is listed");
		if (!known && f->stale > 0)
			return fail(f, -EBADMSG, lacking);
		if (!known && f->used == f->window)
			break;
		f->at++;
		r = known ? match(f, item, token) : append(f, item, token);
	}
	return r;
}

static int tell_reached(struct fetch *f, bool now)
{
	if (!f->ops->reached || f->told == f->delivered ||
		(!now && f->delivered - f->told < REACHED_EVERY))
		return 0;
	f->told = f->delivered;
	return f->ops->reached(f->context, (uint32_t)f->delivered);
}

/* Without a base, what lies between two listed blocks was never written. */
static int deliver_gap(struct fetch *f, uint64_t end)
{
	if (end <= f->delivered)
		return 0;
	uint64_t begin = f->delivered;
	f->delivered = end;
	if (f->options->base)
		return 0;
	return f->ops->zero(f->context, begin * EC2_BLOCK_BYTES, (end - begin) * EC2_BLOCK_BYTES);
}

static int deliver(struct fetch *f)
{
	while (f->used > 0) {
		struct slot *slot = slot_at(f, 0);
		uint64_t offset = (uint64_t)slot->index * EC2_BLOCK_BYTES;
		if (slot->state == SLOT_FETCHING || slot->state == SLOT_STALE)
			return 0;
		int r = deliver_gap(f, slot->index);
		if (r != 0)
			return r;
		if (slot->state == SLOT_ZERO) {
			f->stats.gone_blocks++;
			r = f->ops->zero(f->context, offset, EC2_BLOCK_BYTES);
		} else if (is_zero(slot->data, EC2_BLOCK_BYTES)) {
			f->stats.zero_blocks++;
			r = f->ops->zero(f->context, offset, EC2_BLOCK_BYTES);
		} else {
			r = f->ops->data(f->context, offset, slot->data, EC2_BLOCK_BYTES);
		}
		if (r != 0)
			return r;
		f->first = (f->first + 1) % f->window;
		f->used--;
		f->delivered = (uint64_t)slot->index + 1;
		f->relistings = 0;
		r = tell_reached(f, false);
		if (r != 0)
			return r;
	}
	return 0;
}

static int take_block(struct fetch *f, struct slot *slot)
{
	f->fetching--;
	if (slot->request.call.result == 0) {
		slot->state = SLOT_READY;
		f->stats.blocks++;
		return 0;
	}
	if (slot->request.call.result == -ESTALE) {
		slot->state = SLOT_STALE;
		f->stale++;
		f->relist = true;
		return 0;
	}
	if (f->error)
		*f->error = slot->request.call.error;
	return slot->request.call.result;
}

/* Stale tokens: once all that bear tokens of the old listing are back, list again from the lowest
 * block that lacks one. */
static int relist(struct fetch *f)
{
	if (!f->relist || f->fetching > 0)
		return 0;
	return begin_again(f, (uint32_t)lowest_stale(f));
}

static bool is_finished(const struct fetch *f)
{
	return f->listed_all && !f->has_next && f->at == f->page.count && f->used == 0 &&
	       !f->is_listing;
}

static int step(struct fetch *f)
{
	struct ec2_request *done = NULL;
	int r = ec2_wait(f->client, -1, &done);
	if (r == -EINTR)
		return ec2_is_stopped(f->client) ? fail(f, -ECANCELED, "told to stop") : 0;
	if (r < 0)
		return fail(f, r, "waiting failed");
	if (done == &f->listing)
		return take_page(f);
	return take_block(f, done->context);
}

static int run(struct fetch *f)
{
	for (;;) {
		int r = relist(f);
		if (r == 0)
			r = list_ahead(f);
		if (r == 0)
			r = fill(f);
		if (r == 0)
			r = deliver(f);
		if (r == 0 && !f->relist)
			r = fill(f);
		if (r != 0)
			return r;
		if (is_finished(f))
			break;
		if (!f->is_listing && f->fetching == 0 && !f->relist) {
			if (f->stale > 0 && f->listed_all && !f->has_next && f->at == f->page.count)
				return fail(f, -EBADMSG, lacking);
			/* Room was made, or a page is to be asked for: go round again. */
			continue;
		}
		if (f->relist && f->fetching == 0)
			continue;
		r = step(f);
		if (r != 0)
			return r;
	}
	int r = deliver_gap(f, f->blocks);
	return r != 0 ? r : tell_reached(f, true);
}

/* Nothing of ours stays with the client. */
static void take_back(struct fetch *f)
{
	for (unsigned i = 0; i < f->used; i++) {
		struct slot *slot = slot_at(f, i);
		if (slot->state == SLOT_FETCHING)
			ec2_cancel(f->client, &slot->request);
	}
	if (f->is_listing)
		ec2_cancel(f->client, &f->listing);
	while (f->fetching > 0 || f->is_listing) {
		struct ec2_request *done = NULL;
		if (ec2_wait(f->client, -1, &done) < 0)
			continue;
		if (done == &f->listing)
			f->is_listing = false;
		else
			f->fetching--;
	}
}

static void fetch_free(struct fetch *f)
{
	for (unsigned i = 0; f->slots && i < f->window; i++) {
		ec2_request_free(&f->slots[i].request);
		free(f->slots[i].data);
	}
	free(f->slots);
	ec2_request_free(&f->listing);
	ec2_block_page_free(&f->page);
	ec2_block_page_free(&f->next);
	ec2_block_page_free(&f->coming);
	free(f->next_token);
}

int ec2_fetch(struct ec2 *client, const struct ec2_fetch_options *options,
	const struct ec2_fetch_ops *ops, void *context, struct ec2_fetch_stats *ret_stats,
	struct http_error *error)
{
	CLEANUP(fetch_free)
	struct fetch f = { .client = client,
		.options = options,
		.ops = ops,
		.context = context,
		.error = error,
		.blocks = (options->volume_bytes + EC2_BLOCK_BYTES - 1) / EC2_BLOCK_BYTES,
		.window = options->window ? options->window : WINDOW,
		.from = options->from_index,
		.delivered = options->from_index,
		.told = options->from_index };
	if (error)
		*error = (struct http_error){ 0 };
	if (f.blocks == 0 || f.blocks > UINT32_MAX || options->from_index > f.blocks ||
		!is_aligned(options->volume_bytes, EC2_BLOCK_BYTES))
		return fail(&f, -EINVAL, "not a volume's size or an index in it");
	f.listed = options->from_index;
	f.slots = calloc(f.window, sizeof(f.slots[0]));
	if (!f.slots)
		return fail(&f, -ENOMEM, "out of memory");
	int r = options->from_index < f.blocks ? run(&f) : 0;
	if (r != 0)
		take_back(&f);
	if (ret_stats)
		*ret_stats = f.stats;
	return r;
}
