/*
 * Answering what an agent compares with: hashes of chunks, and of the pages of those that differ.
 *
 * A thread of the session's does it, so that data go on being received meanwhile. Questions are
 * answered in their order, chunks in frames of a few, so that the agent reads and compares the
 * first while the next are looked up.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"

#define CHUNKS_A_FRAME 128u

int ingest_ask(
	struct ingest_link *link, bool pages, const struct json *message, struct error *error)
{
	struct ingest_session *session = link->session;
	uint64_t disk, first, count = 0;
	int r = json_get_u64(message, "disk", &disk, error);
	if (r == 0)
		r = json_get_u64(message, pages ? "chunk" : "first_chunk", &first, error);
	if (r == 0 && !pages)
		r = json_get_u64(message, "count", &count, error);
	if (r < 0)
		return r;
	if (!pages && (count == 0 || count > WIRE_MAX_CHUNK_HASHES))
		return json_error(message, -EBADMSG, error, "asks for an impossible count");
	SCOPED_LOCK(&link->ingest->lock);
	const struct ingest_disk *d =
		disk <= UINT16_MAX ? ingest_find_number(session->machine, (uint16_t)disk) : NULL;
	if (!d)
		return error_set(
			error, -EPERM, NULL, "disk %" PRIu64 " is none of this machine's", disk);
	uint64_t chunks = d->bytes / WIRE_CHUNK_BYTES;
	if (first >= chunks || count > chunks - first)
		return json_error(message, -EBADMSG, error, "asks for chunks beyond the disk");
	if (session->asked_count == INGEST_ASKED_MAX)
		return json_error(message, -EBADMSG, error, "asks for more than may be open");
	session->asked[session->asked_count++] =
		(struct ingest_asked){ (uint16_t)disk, (uint32_t)count, first };
	pthread_cond_broadcast(&link->ingest->changed);
	return 0;
}

/* The next question; false at the session's end. */
static bool next_question(struct ingest_session *session, struct ingest_asked *ret_asked)
{
	SCOPED_LOCK(&session->ingest->lock);
	while (session->asked_count == 0 && !session->ending)
		ingest_wait(session->ingest, NS_PER_S);
	if (session->ending)
		return false;
	*ret_asked = session->asked[0];
	session->asked_count--;
	memmove(session->asked, session->asked + 1,
		session->asked_count * sizeof(session->asked[0]));
	return true;
}

/* One disk's at a time is kept: comparisons of several disks go on one after another. */
struct answering {
	struct ingest_session *session;
	struct ingest_link *link; /* the first: outlives the thread */
	struct head_hashes *hashes;
	uint16_t disk;
};

static int open_hashes(struct answering *a, uint16_t disk, struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group vault = { 0 };
	struct group *group = a->link->hold.group;
	if (a->hashes && a->disk == disk)
		return 0;
	head_hashes_free(a->hashes);
	a->hashes = NULL;
	a->disk = disk;
	int claimed = group_vault_copy(group, &vault);
	return head_hashes_new(group_history(group), a->session->ingest->registry->service,
		claimed == 0 ? &vault : NULL, disk, error, &a->hashes);
}

static int answer_chunks(struct answering *a, const struct ingest_asked *asked, struct error *error)
{
	struct hash128 hashes[CHUNKS_A_FRAME];
	int r = 0;
	for (uint32_t done = 0; r == 0 && done < asked->count;) {
		uint32_t n = MIN(asked->count - done, CHUNKS_A_FRAME);
		r = head_hashes_chunks(a->hashes, asked->first + done, n, error, hashes);
		if (r == 0)
			r = connection_send_hashes(a->link->connection, asked->disk,
				asked->first + done, n, &hashes[0].low, error);
		done += n;
	}
	return r;
}

static int answer(struct answering *a, const struct ingest_asked *asked, struct error *error)
{
	uint64_t pages[HEAD_CHUNK_PAGES];
	int r = open_hashes(a, asked->disk, error);
	if (r == 0 && asked->count > 0)
		return answer_chunks(a, asked, error);
	if (r == 0)
		r = head_hashes_pages(a->hashes, asked->first, error, pages);
	if (r == 0)
		r = connection_send_pages(a->link->connection, asked->disk, asked->first,
			HEAD_CHUNK_PAGES, pages, error);
	return r;
}

void *ingest_comparer_main(void *argument)
{
	struct ingest_session *session = argument;
	struct ingest_asked asked;
	struct answering a = { .session = session };
	pthread_mutex_lock(&session->ingest->lock);
	a.link = session->links[0];
	pthread_mutex_unlock(&session->ingest->lock);
	while (next_question(session, &asked)) {
		struct error error = { 0 };
		if (answer(&a, &asked, &error) == 0)
			continue;
		/* Without an answer the agent would wait for ever: the next session asks again. */
		log_warning("machine %s: a comparison stops: %s", session->machine->name,
			error.message);
		(void)connection_send_error(
			a.link->connection, "unavailable", error.message, error.mend);
		SCOPED_LOCK(&session->ingest->lock);
		ingest_end_session(session);
		break;
	}
	head_hashes_free(a.hashes);
	return NULL;
}
