/*
 * Over libcurl's multi interface.
 *
 * A request is in exactly one of these states, and in the list of that name:
 *	IDLE      the caller has it
 *	QUEUED    no connection to spare yet; libcurl has not seen it, so no time-out runs
 *	RUNNING   libcurl has its easy handle
 *	DONE      finished, not yet handed back; its easy handle is back in the pool
 * `running` never exceeds `connections`.
 *
 * Whether a request was sent is not guessed from libcurl's error: its pre-request callback is
 * called for every sending, after connection, proxy and TLS are there and before the first byte.
 *
 * Easy handles are pooled (a reset keeps nothing of the last request but its memory); kept
 * connections belong to the multi handle. Threads: see the header; another thread touches only
 * `woken`, and `multi` under `wakeup_lock`, which the owner takes where it replaces that.
 */
#include "common/http.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/http_curl.h"
#include "common/io.h"

#define CONNECTIONS_DEFAULT 32u
#define POLL_MS 1000
#define POLL_STOP_MS 250 /* how long a wish to stop may go unheard */

struct list {
	struct http_request *first;
	struct http_request *last;
	size_t count;
};

struct http {
	CURLM *multi;
	struct http_settings settings;
	CURL **pool; /* idle easy handles */
	size_t pool_count;
	struct list queued;
	struct list running;
	struct list done;
	const atomic_bool *stop[2]; /* NULL: never */
	atomic_bool woken;
	pthread_mutex_t wakeup_lock;
};

static void list_append(struct list *list, struct http_request *request)
{
	request->next = NULL;
	request->previous = list->last;
	if (list->last)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
	list->count++;
}

static void list_remove(struct list *list, struct http_request *request)
{
	if (request->previous)
		request->previous->next = request->next;
	else
		list->first = request->next;
	if (request->next)
		request->next->previous = request->previous;
	else
		list->last = request->previous;
	request->previous = request->next = NULL;
	list->count--;
}

static void init_curl(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

static int copy_text(const char *text, char **slot)
{
	if (!text)
		return 0;
	*slot = strdup(text);
	return *slot ? 0 : -ENOMEM;
}

static int load_proxy_credentials(const char *path, char **ret, struct error *error)
{
	CLEANUP_FREE char *data = NULL;
	size_t n;
	int r = io_load_file(io_posix(), path, 4096, &data, &n);
	if (r < 0)
		return error_set(error, r, "give a readable file", "proxy credentials %s: %s", path,
			strerrordesc_np(-r));
	data[strcspn(data, "\r\n")] = '\0';
	if (!strchr(data, ':'))
		return error_set(error, -EINVAL, "write user:password on its first line",
			"proxy credentials %s: no colon in the first line", path);
	*ret = TAKE(data);
	return 0;
}

static int settings_init(struct http_settings *s, const struct http_options *o, struct error *error)
{
	s->connections = o->connections ? o->connections : CONNECTIONS_DEFAULT;
	s->connections_per_host = o->connections_per_host ? o->connections_per_host : 0;
	s->connect_timeout_ms = o->connect_timeout_ms ? o->connect_timeout_ms : 15000;
	s->stall_timeout_ms = o->stall_timeout_ms ? o->stall_timeout_ms : 60000;
	s->read_stall_timeout_ms =
		o->read_stall_timeout_ms ? o->read_stall_timeout_ms : s->stall_timeout_ms;
	s->total_timeout_ms = o->total_timeout_ms;
	int r = copy_text(o->ca_file, &s->ca_file);
	if (r == 0)
		r = copy_text(o->proxy, &s->proxy);
	if (r == 0)
		r = copy_text(o->no_proxy, &s->no_proxy);
	if (r == 0)
		r = copy_text(o->user_agent ? o->user_agent : "landfall/" LANDFALL_VERSION,
			&s->user_agent);
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	if (s->ca_file && access(s->ca_file, R_OK) < 0)
		return error_set(error, -errno, "give a readable PEM file", "CA bundle %s: %s",
			s->ca_file, strerrordesc_np(errno));
	if (o->proxy_credentials_file)
		return load_proxy_credentials(
			o->proxy_credentials_file, &s->proxy_credentials, error);
	return 0;
}

static void settings_free(struct http_settings *s)
{
	free(s->ca_file);
	free(s->proxy);
	if (s->proxy_credentials)
		explicit_bzero(s->proxy_credentials, strlen(s->proxy_credentials));
	free(s->proxy_credentials);
	free(s->no_proxy);
	free(s->user_agent);
}

static void http_freep(struct http **http)
{
	http_free(*http);
}

static CURLM *new_multi(const struct http_settings *settings)
{
	CURLM *multi = curl_multi_init();
	if (!multi)
		return NULL;
	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)settings->connections);
	curl_multi_setopt(
		multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)settings->connections_per_host);
	return multi;
}

int http_new(const struct http_options *options, struct http **ret_http, struct error *error)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, init_curl);
	CLEANUP(http_freep) struct http *http = calloc(1, sizeof(*http));
	if (!http)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	pthread_mutex_init(&http->wakeup_lock, NULL);
	int r = settings_init(&http->settings, options, error);
	if (r < 0)
		return r;
	http->stop[0] = options->stop[0];
	http->stop[1] = options->stop[1];
	http->pool = calloc(http->settings.connections, sizeof(*http->pool));
	http->multi = new_multi(&http->settings);
	if (!http->multi || !http->pool)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	*ret_http = TAKE(http);
	return 0;
}

static void empty_pool(struct http *http)
{
	while (http->pool_count > 0)
		curl_easy_cleanup(http->pool[--http->pool_count]);
}

/* Takes the request's easy handle away from it and into the pool. */
static void release_easy(struct http *http, struct http_request *request)
{
	curl_slist_free_all(request->header_list);
	request->header_list = NULL;
	if (!request->easy)
		return;
	if (http->pool_count < http->settings.connections) {
		curl_easy_reset(request->easy);
		http->pool[http->pool_count++] = request->easy;
	} else {
		curl_easy_cleanup(request->easy);
	}
	request->easy = NULL;
}

static void set_idle(struct http_request *request)
{
	request->state = HTTP_STATE_IDLE;
	request->http = NULL;
}

static void drop_all(struct http *http, struct list *list)
{
	while (list->first) {
		struct http_request *request = list->first;
		if (request->state == HTTP_STATE_RUNNING)
			curl_multi_remove_handle(http->multi, request->easy);
		list_remove(list, request);
		release_easy(http, request);
		set_idle(request);
	}
}

void http_free(struct http *http)
{
	if (!http)
		return;
	drop_all(http, &http->running);
	drop_all(http, &http->queued);
	drop_all(http, &http->done);
	empty_pool(http);
	if (http->multi)
		curl_multi_cleanup(http->multi);
	settings_free(&http->settings);
	pthread_mutex_destroy(&http->wakeup_lock);
	free(http->pool);
	free(http);
}

static void finish(struct http *http, struct http_request *request)
{
	release_easy(http, request);
	request->state = HTTP_STATE_DONE;
	list_append(&http->done, request);
}

static void finish_unsent(
	struct http *http, struct http_request *request, int error, const char *text)
{
	request->outcome = HTTP_NOT_SENT;
	request->error = error;
	snprintf(request->error_text, sizeof(request->error_text), "%s", text);
	finish(http, request);
}

/* Hands queued requests to libcurl while connections are to spare. */
static void start_queued(struct http *http)
{
	while (http->queued.first && http->running.count < http->settings.connections &&
		!http_is_stopped(http)) {
		struct http_request *request = http->queued.first;
		list_remove(&http->queued, request);
		request->easy =
			http->pool_count > 0 ? http->pool[--http->pool_count] : curl_easy_init();
		int r = request->easy ? http_curl_prepare(request, &http->settings) : -ENOMEM;
		if (r == 0 && curl_multi_add_handle(http->multi, request->easy) != CURLM_OK)
			r = -ENOMEM;
		if (r < 0) {
			finish_unsent(http, request, r,
				r == -ENOMEM ? "out of memory" : "not a usable request");
			continue;
		}
		request->state = HTTP_STATE_RUNNING;
		list_append(&http->running, request);
	}
}

int http_submit(struct http *http, struct http_request *request)
{
	if (!request->method || !request->url || request->state != HTTP_STATE_IDLE ||
		request->body_count < 0)
		return -EINVAL;
	request->outcome = HTTP_NOT_SENT;
	request->status = 0;
	request->error = 0;
	request->error_text[0] = '\0';
	request->refusal = NULL;
	request->received_bytes = 0;
	request->sent_times = 0;
	request->body_bytes = 0;
	for (int i = 0; i < request->body_count; i++)
		request->body_bytes += request->body[i].iov_len;
	http_headers_clear(&request->ret_headers);
	buf_clear(&request->ret_body);
	request->http = http;
	request->state = HTTP_STATE_QUEUED;
	list_append(&http->queued, request);
	start_queued(http);
	return 0;
}

static void collect_finished(struct http *http)
{
	CURLMsg *message;
	int left;
	while ((message = curl_multi_info_read(http->multi, &left))) {
		if (message->msg != CURLMSG_DONE)
			continue;
		struct http_request *request = NULL;
		CURLcode code = message->data.result;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&request);
		http_curl_judge(request, code);
		/* `message` dies with the removal. */
		curl_multi_remove_handle(http->multi, request->easy);
		list_remove(&http->running, request);
		finish(http, request);
	}
}

/* What libcurl can do without waiting; then whatever that made room for. */
static void drive(struct http *http)
{
	int running;
	size_t before;
	do {
		curl_multi_perform(http->multi, &running);
		before = http->done.count;
		collect_finished(http);
		start_queued(http);
	} while (http->done.count != before && http->queued.count > 0);
	/* Each holds half a MiB of buffers: keep them for as long as there is work only. */
	if (http->running.count == 0)
		empty_pool(http);
}

bool http_is_stopped(const struct http *http)
{
	return (http->stop[0] && atomic_load(http->stop[0])) ||
	       (http->stop[1] && atomic_load(http->stop[1]));
}

/* A name that is being resolved is left to its thread: its end may be long in coming. */
static void end_early(struct http *http, struct http_request *request)
{
	if (request->state == HTTP_STATE_RUNNING)
		curl_easy_setopt(request->easy, CURLOPT_QUICK_EXIT, 1L);
	http_cancel(http, request);
}

/* Ends all that is under way, once that is wished. */
static void heed_stop(struct http *http)
{
	if (!http_is_stopped(http))
		return;
	while (http->running.first)
		end_early(http, http->running.first);
	while (http->queued.first)
		http_cancel(http, http->queued.first);
}

static int poll_ms(const struct http *http)
{
	return http->stop[0] || http->stop[1] ? POLL_STOP_MS : POLL_MS;
}

static struct http_request *take_done(struct http *http, struct http_request *request)
{
	list_remove(&http->done, request);
	set_idle(request);
	return request;
}

int http_wait(struct http *http, int timeout_ms, struct http_request **ret_done)
{
	struct clock_source *clock = clock_system();
	int64_t end_ns = clock_monotonic_ns(clock) + timeout_ms * NS_PER_MS;
	for (;;) {
		if (http->done.first) {
			*ret_done = take_done(http, http->done.first);
			return 0;
		}
		drive(http);
		heed_stop(http);
		if (http->done.first)
			continue;
		if (atomic_exchange(&http->woken, false) || http_is_stopped(http))
			return -EINTR;
		int wait_ms = poll_ms(http);
		if (timeout_ms >= 0) {
			int64_t left_ns = end_ns - clock_monotonic_ns(clock);
			if (left_ns <= 0)
				return -ETIMEDOUT;
			wait_ms = (int)MIN((left_ns + NS_PER_MS - 1) / NS_PER_MS, (int64_t)wait_ms);
		}
		/* libcurl shortens the wait to its own next time-out. */
		curl_multi_poll(http->multi, NULL, 0, wait_ms, NULL);
	}
}

int http_perform(struct http *http, struct http_request *request)
{
	int r = http_submit(http, request);
	if (r < 0)
		return r;
	const struct http *patient = request->behalf ? request->behalf : http;
	while (request->state != HTTP_STATE_DONE) {
		drive(http);
		heed_stop(http);
		if (http_is_stopped(patient))
			end_early(http, request);
		int wait_ms = MIN(poll_ms(http), poll_ms(patient));
		if (request->state != HTTP_STATE_DONE)
			curl_multi_poll(http->multi, NULL, 0, wait_ms, NULL);
	}
	take_done(http, request);
	return 0;
}

void http_cancel(struct http *http, struct http_request *request)
{
	if (request->http != http)
		return;
	if (request->state == HTTP_STATE_QUEUED) {
		list_remove(&http->queued, request);
	} else if (request->state == HTTP_STATE_RUNNING) {
		curl_multi_remove_handle(http->multi, request->easy);
		list_remove(&http->running, request);
	} else {
		return;
	}
	request->outcome = request->sent_times > 0 ? HTTP_UNKNOWN : HTTP_NOT_SENT;
	request->error = -ECANCELED;
	snprintf(request->error_text, sizeof(request->error_text), "cancelled");
	finish(http, request);
	start_queued(http);
}

size_t http_pending(const struct http *http)
{
	return http->queued.count + http->running.count + http->done.count;
}

void http_wakeup(struct http *http)
{
	SCOPED_LOCK(&http->wakeup_lock);
	atomic_store(&http->woken, true);
	curl_multi_wakeup(http->multi);
}

void http_rest(struct http *http)
{
	if (http->running.count > 0 || http->queued.count > 0)
		return;
	empty_pool(http);
	CURLM *fresh = new_multi(&http->settings);
	if (!fresh)
		return; /* then the kept connections stay */
	CURLM *old = http->multi;
	{
		SCOPED_LOCK(&http->wakeup_lock);
		http->multi = fresh;
	}
	curl_multi_cleanup(old);
}

void http_request_reset(struct http_request *request)
{
	struct http_headers headers = request->headers;
	struct http_headers ret_headers = request->ret_headers;
	struct buf ret_body = request->ret_body;
	http_headers_clear(&headers);
	http_headers_clear(&ret_headers);
	buf_clear(&ret_body);
	*request = (struct http_request){
		.headers = headers,
		.ret_headers = ret_headers,
		.ret_body = ret_body,
	};
}

void http_request_free(struct http_request *request)
{
	http_headers_free(&request->headers);
	http_headers_free(&request->ret_headers);
	buf_free(&request->ret_body);
	*request = (struct http_request){ 0 };
}
