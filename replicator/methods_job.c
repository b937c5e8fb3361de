/*
 * Jobs as the control socket shows them.
 *
 * A watch made by job.watch lives until its job has ended, its peer is gone or the jobs end. Its
 * context has three holders: the method, until it has answered; the watch; and the peer's
 * farewell, until it was told or taken back. Whoever ends the watch first (`ended`, under the
 * context's lock) lets go for the watch and takes the farewell back. Lock order: the context's
 * lock, then whatever jobs.c and the peer take.
 */
#include "replicator/methods_job.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "replicator/control.h"
#include "replicator/jobs.h"

struct watcher {
	struct control_farewell farewell;
	struct jobs *jobs;
	struct control_peer *peer; /* held */
	atomic_uint references;
	pthread_mutex_t lock;
	uint64_t watch;
	bool ended;
};

static int read_id(const cJSON *parameters, struct error *error, uint64_t *ret_id)
{
	static const char *const names[] = { "id", NULL };
	int r = control_only(parameters, names, error);
	if (r < 0)
		return r;
	struct json root;
	json_root(parameters, "params", &root);
	r = json_get_u64(&root, "id", ret_id, error);
	if (r < 0)
		return error_set(
			error, -EINVAL, "see landfall job list", "give the job's number as id");
	return 0;
}

static int wrap(const char *name, cJSON *value, cJSON **ret_result)
{
	cJSON *result = cJSON_CreateObject();
	if (!result || !cJSON_AddItemToObject(result, name, value)) {
		cJSON_Delete(result);
		cJSON_Delete(value);
		return -ENOMEM;
	}
	*ret_result = result;
	return 0;
}

static int show_job(struct jobs *jobs, uint64_t id, struct error *error, cJSON **ret_result)
{
	cJSON *job;
	int r = jobs_show(jobs, id, &job);
	if (r == -ENOENT)
		return error_set(error, r, "see landfall job list", "there is no job %" PRIu64, id);
	if (r < 0)
		return r;
	return wrap("job", job, ret_result);
}

static int method_list(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r < 0)
		return r;
	cJSON *list;
	r = jobs_list(context, &list);
	return r < 0 ? r : wrap("jobs", list, ret_result);
}

static int method_show(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	uint64_t id;
	(void)peer;
	int r = read_id(parameters, error, &id);
	return r < 0 ? r : show_job(context, id, error, ret_result);
}

static int method_cancel(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	uint64_t id;
	(void)peer;
	int r = read_id(parameters, error, &id);
	if (r == 0)
		r = jobs_cancel(context, id, error);
	return r < 0 ? r : show_job(context, id, error, ret_result);
}

static void watcher_release(struct watcher *watcher)
{
	if (atomic_fetch_sub(&watcher->references, 1) != 1)
		return;
	control_peer_release(watcher->peer);
	pthread_mutex_destroy(&watcher->lock);
	free(watcher);
}

/* Ends the watch unless that is done; `watcher` may be freed by this. */
static void watcher_end(struct watcher *watcher, bool unwatch)
{
	uint64_t watch;
	{
		SCOPED_LOCK(&watcher->lock);
		if (watcher->ended)
			return;
		watcher->ended = true;
		watch = watcher->watch;
	}
	if (unwatch)
		jobs_unwatch(watcher->jobs, watch);
	if (control_peer_forget(watcher->peer, &watcher->farewell))
		watcher_release(watcher);
	watcher_release(watcher);
}

/* The watch's call under way, if there is one, sends without waiting: it has soon returned. */
static void peer_gone(struct control_farewell *farewell)
{
	struct watcher *watcher = CONTAINER_OF(farewell, struct watcher, farewell);
	watcher_end(watcher, true);
	watcher_release(watcher);
}

static bool is_final(const cJSON *job)
{
	const cJSON *state = cJSON_GetObjectItemCaseSensitive(job, "state");
	return cJSON_IsString(state) && strcmp(state->valuestring, "queued") != 0 &&
	       strcmp(state->valuestring, "running") != 0;
}

static void job_changed(void *context, const cJSON *job)
{
	struct watcher *watcher = context;
	if (!job) {
		watcher_end(watcher, false);
		return;
	}
	cJSON *copy = cJSON_Duplicate(job, true);
	cJSON *parameters = NULL;
	int r = copy ? wrap("job", copy, &parameters) : -ENOMEM;
	if (r == 0)
		r = control_notify(watcher->peer, "job.progress", parameters);
	cJSON_Delete(parameters);
	if (r == -EPIPE || is_final(job))
		watcher_end(watcher, true);
}

static int watcher_new(
	struct jobs *jobs, struct control_peer *peer, uint64_t id, struct watcher **ret_watcher)
{
	struct watcher *watcher = calloc(1, sizeof(*watcher));
	if (!watcher)
		return -ENOMEM;
	watcher->jobs = jobs;
	watcher->peer = control_peer_hold(peer);
	watcher->farewell.gone = peer_gone;
	atomic_init(&watcher->references, 1);
	pthread_mutex_init(&watcher->lock, NULL);
	int r;
	{
		/* A call that comes at once waits until the watch's number is known. */
		SCOPED_LOCK(&watcher->lock);
		r = control_peer_on_end(peer, &watcher->farewell);
		if (r == 0) {
			atomic_fetch_add(&watcher->references, 1);
			r = jobs_watch(jobs, id, job_changed, watcher, &watcher->watch);
		}
		if (r == 0)
			atomic_fetch_add(&watcher->references, 1);
		watcher->ended = r < 0;
	}
	if (r < 0) {
		if (control_peer_forget(peer, &watcher->farewell))
			watcher_release(watcher);
		watcher_release(watcher);
		return r;
	}
	*ret_watcher = watcher;
	return 0;
}

static int method_watch(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	uint64_t id;
	int r = read_id(parameters, error, &id);
	if (r < 0)
		return r;
	struct watcher *watcher;
	r = watcher_new(context, peer, id, &watcher);
	if (r == -ENOENT)
		return error_set(error, r, "see landfall job list", "there is no job %" PRIu64, id);
	if (r < 0)
		return r;
	/* Shown after the watch was set, so no change lies between the two. */
	r = show_job(context, id, error, ret_result);
	if (r < 0 || is_final(cJSON_GetObjectItemCaseSensitive(*ret_result, "job")))
		watcher_end(watcher, true);
	watcher_release(watcher);
	return r;
}

int methods_job_register(struct control *control, struct jobs *jobs)
{
	int r = control_register(control, "job.list", method_list, jobs);
	if (r == 0)
		r = control_register(control, "job.show", method_show, jobs);
	if (r == 0)
		r = control_register(control, "job.watch", method_watch, jobs);
	if (r == 0)
		r = control_register(control, "job.cancel", method_cancel, jobs);
	return r;
}
