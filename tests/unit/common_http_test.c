/*
 * common/http: how a request ends, told from a server that plays a script.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/http.h"
#include "tests/unit/scripted_server.h"

struct fixture {
	struct scripted_server *server;
	struct http *http;
	struct http_request request;
	char url[64];
};

static void start(struct fixture *f, scripted_play *play, void *context)
{
	*f = (struct fixture){ 0 };
	f->server = scripted_server_start(play, context);
	const struct http_options options = { .proxy = "", .stall_timeout_ms = 1000 };
	assert_int_equal(http_new(&options, &f->http, NULL), 0);
	snprintf(f->url, sizeof(f->url), "http://127.0.0.1:%u/x", scripted_server_port(f->server));
	f->request.method = "GET";
	f->request.url = f->url;
}

static void stop(struct fixture *f)
{
	http_request_free(&f->request);
	http_free(f->http);
	scripted_server_stop(f->server);
}

static void play_twice_kept(int fd, unsigned index, void *context)
{
	char head[4096];
	atomic_int *requests = context;
	(void)index;
	while (scripted_read_request(fd, head, sizeof(head)) >= 0) {
		++*requests;
		scripted_write(fd, "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello");
	}
}

static void answers_and_keeps_the_connection(void **state)
{
	(void)state;
	struct fixture f;
	atomic_int requests = 0;
	start(&f, play_twice_kept, &requests);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(http_perform(f.http, &f.request), 0);
		assert_int_equal(f.request.outcome, HTTP_ANSWERED);
		assert_int_equal(f.request.status, 200);
		assert_int_equal(f.request.error, 0);
		assert_string_equal(f.request.ret_body.data, "hello");
		assert_string_equal(http_headers_get(&f.request.ret_headers, "x-a"), "b");
		assert_int_equal(f.request.sent_times, 1);
	}
	assert_int_equal(requests, 3);
	assert_int_equal(http_pending(f.http), 0);
	stop(&f);
}

static void play_dead_after_first(int fd, unsigned index, void *context)
{
	char head[4096];
	char body[16] = { 0 };
	char *bodies = context;
	if (scripted_read_request_body(fd, head, sizeof(head), body, sizeof(body)) < 0)
		return;
	memcpy(bodies + 16 * index, body, 16);
	scripted_write(fd, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
	if (index > 0)
		return;
	/* The next request is swallowed: nobody can tell whether it was carried out. */
	if (scripted_read_request(fd, head, sizeof(head)) >= 0)
		scripted_reset(fd);
}

static void resends_on_a_dead_kept_connection_only(void **state)
{
	(void)state;
	struct fixture f;
	char bodies[3][16] = { { 0 } };
	start(&f, play_dead_after_first, bodies);
	struct iovec body[] = { { (void *)"abc", 3 }, { (void *)"", 0 }, { (void *)"defgh", 5 } };
	f.request.method = "PUT";
	f.request.body = body;
	f.request.body_count = 3;
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.status, 201);
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_ANSWERED);
	assert_int_equal(f.request.sent_times, 2);
	assert_string_equal(bodies[0], "abcdefgh");
	assert_string_equal(bodies[1], "abcdefgh");
	stop(&f);
}

static void fresh_connection_is_never_resent(void **state)
{
	(void)state;
	struct fixture f;
	char bodies[3][16] = { { 0 } };
	start(&f, play_dead_after_first, bodies);
	f.request.method = "PUT";
	assert_int_equal(http_perform(f.http, &f.request), 0);
	f.request.fresh_connection = true;
	http_free(f.http);
	/* One connection at a time at the server: let go of the kept one first. */
	const struct http_options options = { .proxy = "" };
	assert_int_equal(http_new(&options, &f.http, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(http_perform(f.http, &f.request), 0);
		assert_int_equal(f.request.sent_times, 1);
	}
	stop(&f);
}

static void play_reset_after_request(int fd, unsigned index, void *context)
{
	char head[4096];
	(void)index;
	(void)context;
	scripted_read_request(fd, head, sizeof(head));
	scripted_reset(fd);
}

static void reset_is_unknown(void **state)
{
	(void)state;
	struct fixture f;
	start(&f, play_reset_after_request, NULL);
	f.request.method = "PUT";
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_UNKNOWN);
	assert_int_equal(f.request.error, -ECONNRESET);
	assert_int_equal(f.request.status, 0);
	assert_true(f.request.error_text[0] != '\0');
	stop(&f);
}

static void refused_is_not_sent(void **state)
{
	(void)state;
	struct fixture f;
	start(&f, play_reset_after_request, NULL);
	f.request.url = "http://127.0.0.1:1/";
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_NOT_SENT);
	assert_int_equal(f.request.error, -ECONNREFUSED);
	f.request.url = "http://no-such-host.invalid/";
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_NOT_SENT);
	assert_int_equal(f.request.error, -EHOSTUNREACH);
	f.request.url = "gopher://127.0.0.1/";
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_NOT_SENT);
	assert_int_equal(f.request.error, -EINVAL);
	stop(&f);
}

static void play_no_tls(int fd, unsigned index, void *context)
{
	char byte[64];
	(void)index;
	(void)context;
	if (recv(fd, byte, sizeof(byte), 0) > 0)
		scripted_write(fd, "HTTP/1.1 400 Bad Request\r\n\r\n");
}

static void failed_tls_is_not_sent(void **state)
{
	(void)state;
	struct fixture f;
	start(&f, play_no_tls, NULL);
	snprintf(f.url, sizeof(f.url), "https://127.0.0.1:%u/", scripted_server_port(f.server));
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_NOT_SENT);
	assert_int_equal(f.request.error, -EPROTO);
	stop(&f);
}

static void play_truncated(int fd, unsigned index, void *context)
{
	char head[4096];
	(void)index;
	(void)context;
	if (scripted_read_request(fd, head, sizeof(head)) >= 0)
		scripted_write(fd, "HTTP/1.1 206 Partial\r\nContent-Length: 1000\r\n\r\nshort");
}

static void truncated_is_unknown(void **state)
{
	(void)state;
	struct fixture f;
	char into[1000];
	start(&f, play_truncated, NULL);
	f.request.into = into;
	f.request.into_bytes = sizeof(into);
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_UNKNOWN);
	assert_int_equal(f.request.status, 206);
	assert_int_equal(f.request.error, -ECONNRESET);
	assert_int_equal(f.request.received_bytes, 5);
	stop(&f);
}

static void play_silence(int fd, unsigned index, void *context)
{
	char head[4096];
	(void)index;
	(void)context;
	if (scripted_read_request(fd, head, sizeof(head)) >= 0)
		scripted_read_request(fd, head, sizeof(head));
}

static void silence_times_out(void **state)
{
	(void)state;
	struct fixture f;
	start(&f, play_silence, NULL);
	f.request.total_timeout_ms = 200;
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_UNKNOWN);
	assert_int_equal(f.request.error, -ETIMEDOUT);
	/* And by stalling, which the options set to a second. */
	f.request.total_timeout_ms = 0;
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.outcome, HTTP_UNKNOWN);
	assert_int_equal(f.request.error, -ETIMEDOUT);
	stop(&f);
}

static void reads_have_a_limit_of_their_own(void **state)
{
	(void)state;
	struct fixture f;
	start(&f, play_silence, NULL);
	http_free(f.http);
	const struct http_options options = { .proxy = "", .read_stall_timeout_ms = 1000 };
	assert_int_equal(http_new(&options, &f.http, NULL), 0);
	int64_t begun_ns = clock_monotonic_ns(clock_system());
	assert_int_equal(http_perform(f.http, &f.request), 0);
	assert_int_equal(f.request.error, -ETIMEDOUT);
	assert_true(clock_monotonic_ns(clock_system()) - begun_ns < 30 * NS_PER_S);
	stop(&f);
}

static void play_by_index(int fd, unsigned index, void *context)
{
	char head[4096];
	(void)context;
	static const char *const answers[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n12345678",
		"HTTP/1.1 404 No\r\nContent-Length: 8\r\nConnection: close\r\n\r\nno such!",
		"HTTP/1.1 302 There\r\nLocation: /y\r\nContent-Length: 0\r\n"
		"Connection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\nConnection: close\r\n\r\n",
	};
	if (scripted_read_request(fd, head, sizeof(head)) >= 0)
		scripted_write(fd, answers[index % ARRAY_SIZE(answers)]);
}

static void bodies_go_where_they_belong(void **state)
{
	(void)state;
	struct fixture f;
	char into[8];
	start(&f, play_by_index, NULL);
	struct http_request *r = &f.request;
	r->into = into;
	r->into_bytes = sizeof(into);
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->status, 200);
	assert_memory_equal(into, "12345678", 8);
	assert_int_equal(r->ret_body.len, 0);
	/* An error document does not overwrite data. */
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->status, 404);
	assert_memory_equal(into, "12345678", 8);
	assert_string_equal(r->ret_body.data, "no such!");
	/* Redirects are answers. */
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->status, 302);
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->outcome, HTTP_UNKNOWN);
	assert_int_equal(r->error, -EPROTO);
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->status, 204);
	/* More than there is room for. */
	r->into_bytes = 4;
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->outcome, HTTP_UNKNOWN);
	assert_int_equal(r->error, -EMSGSIZE);
	assert_string_equal(r->error_text, "more came than was asked for");
	r->into = NULL;
	r->body_limit = 4;
	assert_int_equal(http_perform(f.http, r), 0);
	assert_int_equal(r->status, 404);
	assert_int_equal(r->error, -EMSGSIZE);
	stop(&f);
}

static void play_show_head(int fd, unsigned index, void *context)
{
	(void)index;
	if (scripted_read_request(fd, context, 4096) >= 0)
		scripted_write(fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
				   "Connection: close\r\n\r\n");
}

static void sends_what_it_was_given(void **state)
{
	(void)state;
	struct fixture f;
	char head[4096];
	start(&f, play_show_head, head);
	static const char *const methods[] = { "PUT", "POST", "DELETE", "HEAD" };
	assert_int_equal(http_headers_add(&f.request.headers, "x-ms-date", "now"), 0);
	assert_int_equal(http_headers_add(&f.request.headers, "x-empty", ""), 0);
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		f.request.method = methods[i];
		assert_int_equal(http_perform(f.http, &f.request), 0);
		assert_int_equal(f.request.status, 200);
		assert_memory_equal(head, methods[i], strlen(methods[i]));
		assert_non_null(strstr(head, " /x HTTP/1.1\r\n"));
		assert_non_null(strstr(head, "\r\nx-ms-date: now\r\n"));
		assert_non_null(strstr(head, "\r\nx-empty:"));
		assert_null(strcasestr(head, "\r\nexpect:"));
		assert_null(strcasestr(head, "\r\ncontent-type:"));
		assert_null(strcasestr(head, "\r\ntransfer-encoding:"));
		assert_int_equal(strcasestr(head, "\r\ncontent-length: 0\r\n") != NULL, i < 2);
	}
	stop(&f);
}

static void many_wait_for_few_connections(void **state)
{
	(void)state;
	struct fixture f;
	atomic_int served = 0;
	start(&f, play_twice_kept, &served);
	http_free(f.http);
	/* The server plays one connection at a time: more than one would hang. */
	const struct http_options options = { .proxy = "", .connections = 1 };
	assert_int_equal(http_new(&options, &f.http, NULL), 0);
	struct http_request requests[20] = { 0 };
	bool seen[20] = { false };
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		requests[i].method = "GET";
		requests[i].url = f.url;
		requests[i].context = &seen[i];
		assert_int_equal(http_submit(f.http, &requests[i]), 0);
		assert_int_equal(http_submit(f.http, &requests[i]), -EINVAL);
	}
	http_cancel(f.http, &requests[19]);
	assert_int_equal(http_pending(f.http), 20);
	/* A synchronous one in between leaves the others for http_wait. */
	assert_int_equal(http_perform(f.http, &f.request), 0);
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		struct http_request *done = NULL;
		assert_int_equal(http_wait(f.http, 5000, &done), 0);
		assert_false(*(bool *)done->context);
		*(bool *)done->context = true;
		if (done == &requests[19]) {
			assert_int_equal(done->error, -ECANCELED);
			assert_int_equal(done->outcome, HTTP_NOT_SENT);
		} else {
			assert_int_equal(done->status, 200);
		}
	}
	struct http_request *none = NULL;
	assert_int_equal(http_wait(f.http, 0, &none), -ETIMEDOUT);
	assert_null(none);
	assert_int_equal(served, 20);
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		http_request_free(&requests[i]);
	stop(&f);
}

static void rest_lets_go_of_connections(void **state)
{
	(void)state;
	struct fixture f;
	atomic_int served = 0;
	start(&f, play_twice_kept, &served);
	struct http *other = NULL;
	const struct http_options options = { .proxy = "" };
	assert_int_equal(http_new(&options, &other, NULL), 0);
	/* The server plays one connection at a time: the second client waits for the first. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(http_perform(f.http, &f.request), 0);
		assert_int_equal(f.request.status, 200);
		http_rest(f.http);
		assert_int_equal(http_perform(other, &f.request), 0);
		assert_int_equal(f.request.status, 200);
		http_rest(other);
	}
	/* Not while something is under way. */
	assert_int_equal(http_submit(f.http, &f.request), 0);
	http_rest(f.http);
	struct http_request *done = NULL;
	assert_int_equal(http_wait(f.http, 5000, &done), 0);
	assert_int_equal(done->status, 200);
	http_free(other);
	stop(&f);
}

static void *wake(void *http)
{
	struct timespec t = { .tv_nsec = 50 * 1000 * 1000 };
	nanosleep(&t, NULL);
	http_wakeup(http);
	return NULL;
}

static void another_thread_wakes_it(void **state)
{
	(void)state;
	struct http *http = NULL;
	const struct http_options options = { .proxy = "" };
	assert_int_equal(http_new(&options, &http, NULL), 0);
	struct http_request *none;
	http_wakeup(http);
	assert_int_equal(http_wait(http, -1, &none), -EINTR);
	pthread_t thread;
	int64_t before_ns = clock_monotonic_ns(clock_system());
	assert_int_equal(pthread_create(&thread, NULL, wake, http), 0);
	assert_int_equal(http_wait(http, 10000, &none), -EINTR);
	assert_true(clock_monotonic_ns(clock_system()) - before_ns < 5 * NS_PER_S);
	pthread_join(thread, NULL);
	http_free(http);
}

static void cancelled_under_way_is_unknown(void **state)
{
	(void)state;
	struct fixture f;
	start(&f, play_silence, NULL);
	assert_int_equal(http_submit(f.http, &f.request), 0);
	struct http_request *done = NULL;
	while (f.request.sent_times == 0)
		assert_int_equal(http_wait(f.http, 10, &done), -ETIMEDOUT);
	http_cancel(f.http, &f.request);
	assert_int_equal(http_wait(f.http, 0, &done), 0);
	assert_ptr_equal(done, &f.request);
	assert_int_equal(done->outcome, HTTP_UNKNOWN);
	assert_int_equal(done->error, -ECANCELED);
	/* One still under way when the client goes. */
	assert_int_equal(http_submit(f.http, &f.request), 0);
	http_free(f.http);
	f.http = NULL;
	stop(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_and_keeps_the_connection),
		cmocka_unit_test(resends_on_a_dead_kept_connection_only),
		cmocka_unit_test(fresh_connection_is_never_resent),
		cmocka_unit_test(reset_is_unknown),
		cmocka_unit_test(refused_is_not_sent),
		cmocka_unit_test(failed_tls_is_not_sent),
		cmocka_unit_test(truncated_is_unknown),
		cmocka_unit_test(silence_times_out),
		cmocka_unit_test(reads_have_a_limit_of_their_own),
		cmocka_unit_test(bodies_go_where_they_belong),
		cmocka_unit_test(sends_what_it_was_given),
		cmocka_unit_test(many_wait_for_few_connections),
		cmocka_unit_test(rest_lets_go_of_connections),
		cmocka_unit_test(another_thread_wakes_it),
		cmocka_unit_test(cancelled_under_way_is_unknown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
