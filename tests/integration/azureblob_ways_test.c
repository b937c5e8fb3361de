/*
 * azureblob/: the ways to a service: by key, signature and each kind of token, over TLS with a CA
 * of one's own, through a proxy that wants credentials. azureblob_ways.sh starts the parties and
 * says in the environment where they are.
 */
#include "tests/integration/blob_service.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/blobs.h"
#include "azureblob/objects.h"
#include "common/cleanup.h"

static const char *env(const char *name)
{
	const char *value = getenv(name);
	if (!value)
		fail_msg("%s is not set", name);
	return value;
}

/* Everything once: a page, a list, an object. */
static int use(struct azureblob *client, struct http_error *error)
{
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	char data[512], back[512];
	struct iovec iov = { data, sizeof(data) };
	memset(data, 'w', sizeof(data));
	int r = azureblob_create(client, "ways.vhd", 4096, NULL, error);
	if (r == -EEXIST)
		r = 0;
	if (r < 0)
		return r;
	assert_int_equal(azureblob_put_pages(client, &request, "ways.vhd", 0, &iov, 1, NULL), 0);
	r = finish_one(client, &request);
	*error = request.call.error;
	if (r < 0)
		return r;
	assert_int_equal(
		azureblob_get_range(client, &request, "ways.vhd", NULL, 0, back, 512, false), 0);
	r = finish_one(client, &request);
	*error = request.call.error;
	if (r == 0)
		assert_memory_equal(data, back, 512);
	return r;
}

static int token_credential(enum azureblob_token_source source, const char *file,
	struct azureblob_credential **ret_credential, struct error *error)
{
	const struct azureblob_token_options options = {
		.source = source,
		.client_id = env("TEST_CLIENT_ID"),
		.tenant_id = env("TEST_TENANT"),
		.client_secret_file = file,
		.federated_token_file = file,
		.login_endpoint = env("TEST_LOGIN"),
		.imds_endpoint = env("TEST_LOGIN"),
		.http = { .proxy = "" },
	};
	return azureblob_credential_new_token(&options, clock_system(), ret_credential, error);
}

static void use_token(struct blob_service *s, enum azureblob_token_source source, const char *file)
{
	struct azureblob_credential *credential = NULL;
	struct http_error error = { 0 };
	assert_int_equal(token_credential(source, file, &credential, NULL), 0);
	struct azureblob *client = blob_service_client(s, credential, NULL);
	int r = use(client, &error);
	if (r < 0)
		fail_msg("%d %s %s", error.http_status, error.code, error.message);
	/* Expired before its time: a 401 each, one new token, nothing lost. */
	admin_post("/tokens/expire", "{}");
	assert_int_equal(use(client, &error), 0);
	admin_fault("GetBlob", "\"kind\": \"token_expire\"", 1);
	assert_int_equal(use(client, &error), 0);
	/* One after another. */
	admin_fault("GetBlob", "\"kind\": \"token_expire\"", 5);
	assert_int_equal(use(client, &error), 0);
	/* Whoever is always refused gives up. */
	admin_fault("GetBlob", "\"kind\": \"token_expire\"", 1000);
	assert_int_equal(use(client, &error), -EACCES);
	assert_int_equal(error.http_status, 401);
	admin_post("/rules/clear", "{}");
	azureblob_free(client);
	azureblob_credential_free(credential);
}

static void by_managed_identity(void **state)
{
	use_token(*state, AZUREBLOB_MANAGED_IDENTITY, NULL);
}

static void by_client_secret(void **state)
{
	use_token(*state, AZUREBLOB_CLIENT_SECRET, env("TEST_SECRET_FILE"));
}

static void by_workload_identity(void **state)
{
	use_token(*state, AZUREBLOB_WORKLOAD_IDENTITY, env("TEST_ASSERTION_FILE"));
}

static void the_metadata_service_is_asked_again(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_credential *credential = NULL;
	CLEANUP(buf_free) struct buf token = { 0 };
	struct http_error error = { 0 };
	assert_int_equal(token_credential(AZUREBLOB_MANAGED_IDENTITY, NULL, &credential, NULL), 0);
	(void)s;
	admin_fault("ImdsToken",
		"\"kind\": \"status\", \"status\": 429, \"code\": \"TooManyRequests\"", 1);
	admin_fault(
		"ImdsToken", "\"kind\": \"status\", \"status\": 404, \"code\": \"NotFound\"", 1);
	assert_int_equal(azureblob_credential_token(credential, NULL, &token, &error), 0);
	assert_true(token.len > 20);
	azureblob_credential_free(credential);
}

/* Two clients, each with a stop of its own: the one that fetches, and the one that waits for it. */
static atomic_bool stops[2];
static unsigned next_stop;

static void with_stop(struct azureblob_options *options)
{
	options->http.stop[0] = &stops[next_stop++];
}

static void *use_it(void *argument)
{
	struct http_error error = { 0 };
	return use(argument, &error) == -ECANCELED ? argument : NULL;
}

static void a_token_that_hangs_is_not_waited_for(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_credential *credential = NULL;
	struct azureblob *clients[2];
	pthread_t threads[2];
	void *canceled;
	assert_int_equal(token_credential(AZUREBLOB_MANAGED_IDENTITY, NULL, &credential, NULL), 0);
	admin_fault("ImdsToken", "\"kind\": \"hang\"", 1000);
	next_stop = 0;
	for (unsigned i = 0; i < 2; i++) {
		atomic_store(&stops[i], false);
		clients[i] = blob_service_client(s, credential, with_stop);
		assert_int_equal(pthread_create(&threads[i], NULL, use_it, clients[i]), 0);
	}
	int64_t begun_ns = clock_monotonic_ns(clock_system());
	while (admin_stat("in_flight_max") == 0)
		clock_sleep_ns(clock_system(), 10 * NS_PER_MS);
	for (unsigned i = 0; i < 2; i++) {
		atomic_store(&stops[i], true);
		assert_int_equal(pthread_join(threads[i], &canceled), 0);
		assert_ptr_equal(canceled, clients[i]);
		azureblob_free(clients[i]);
	}
	/* An attempt takes ten seconds, and there are several. */
	assert_true(clock_monotonic_ns(clock_system()) - begun_ns < 5 * NS_PER_S);
	azureblob_credential_free(credential);
}

static void a_wrong_secret_is_told(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_credential *credential = NULL;
	struct http_error error = { 0 };
	assert_int_equal(token_credential(AZUREBLOB_CLIENT_SECRET, env("TEST_ASSERTION_FILE"),
				 &credential, NULL),
		0);
	struct azureblob *client = blob_service_client(s, credential, NULL);
	assert_int_equal(use(client, &error), -EACCES);
	assert_non_null(strstr(error.message, "AADSTS7000215"));
	assert_string_equal(error.code, "invalid_client");
	assert_false(error.ambiguous);
	azureblob_free(client);
	azureblob_credential_free(credential);
	assert_int_equal(
		token_credential(AZUREBLOB_CLIENT_SECRET, "/nonexistent/secret", &credential, NULL),
		0);
	client = blob_service_client(s, credential, NULL);
	assert_int_equal(use(client, &error), -EACCES);
	assert_non_null(strstr(error.message, "/nonexistent/secret"));
	azureblob_free(client);
	azureblob_credential_free(credential);
}

struct user {
	struct blob_service *service;
	struct azureblob_credential *credential;
	int result;
	uint64_t retries;
};

static void *use_in_thread(void *context)
{
	struct user *user = context;
	struct http_error error;
	struct azureblob *client = blob_service_client(user->service, user->credential, NULL);
	user->result = 0;
	int64_t end_ns = clock_monotonic_ns(clock_system()) + 2500 * NS_PER_MS;
	struct http_calls_stats stats;
	while (user->result == 0 && clock_monotonic_ns(clock_system()) < end_ns)
		user->result = azureblob_container_check(client, &error);
	azureblob_get_stats(client, &stats);
	user->retries = stats.retries;
	azureblob_free(client);
	return NULL;
}

static void threads_share_a_credential(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_credential *credential = NULL;
	pthread_t threads[4];
	struct user users[4];
	/* Tokens that live for two seconds are renewed ahead, by one thread at a time. */
	admin_post("/settings", "{\"token_ttl_s\": 2}");
	assert_int_equal(token_credential(AZUREBLOB_MANAGED_IDENTITY, NULL, &credential, NULL), 0);
	for (int i = 0; i < 4; i++) {
		users[i] = (struct user){ s, credential, -1, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, use_in_thread, &users[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(users[i].result, 0);
		/* Ahead: no request was refused for an old token. */
		assert_int_equal(users[i].retries, 0);
	}
	admin_post("/settings", "{\"token_ttl_s\": 3600}");
	azureblob_credential_free(credential);
}

static void by_signature(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_credential *credential = NULL;
	struct http_error error = { 0 };
	char snapshot[AZUREBLOB_SNAPSHOT_BYTES];
	assert_int_equal(azureblob_credential_new_sas(env("TEST_SAS"), &credential, NULL), 0);
	struct azureblob *client = blob_service_client(s, credential, NULL);
	int r = use(client, &error);
	if (r < 0)
		fail_msg("%d %s %s", error.http_status, error.code, error.message);
	/* The source of a copy is read by the service, with the signature in its URL. */
	assert_int_equal(azureblob_snapshot(client, "ways.vhd", NULL, NULL, &error, snapshot), 0);
	assert_int_equal(azureblob_copy(client, "ways.vhd", snapshot, "ways-copy.vhd", &error), 0);
	azureblob_free(client);
	azureblob_credential_free(credential);
}

static void no_ca(struct azureblob_options *options)
{
	options->http.ca_file = NULL;
}

static void with_ca(struct azureblob_options *options)
{
	options->http.ca_file = env("TEST_CA");
}

static void through_proxy(struct azureblob_options *options)
{
	options->http.proxy = env("TEST_PROXY");
	options->http.proxy_credentials_file = env("TEST_PROXY_CREDENTIALS");
	options->http.no_proxy = "";
}

static void through_proxy_by_tls(struct azureblob_options *options)
{
	through_proxy(options);
	with_ca(options);
}

static void through_proxy_mistaken(struct azureblob_options *options)
{
	through_proxy(options);
	options->http.proxy_credentials_file = env("TEST_PROXY_CREDENTIALS_WRONG");
}

static void through_proxy_mistaken_by_tls(struct azureblob_options *options)
{
	through_proxy_mistaken(options);
	with_ca(options);
}

static void through_proxy_unknown(struct azureblob_options *options)
{
	through_proxy_by_tls(options);
	options->http.proxy_credentials_file = NULL;
}

static void past_the_proxy(struct azureblob_options *options)
{
	through_proxy_unknown(options);
	options->http.no_proxy = "localhost,127.0.0.1";
}

/* A service of its own, at the TLS server. */
static void open_tls(struct blob_service *s)
{
	*s = (struct blob_service){ .container = "tls" };
	assert_int_equal(azureblob_account_parse(env("TEST_TLS_CONNECTION"), &s->account, NULL), 0);
	assert_int_equal(azureblob_credential_new_account(&s->account, &s->credential, NULL), 0);
}

static void close_tls(struct blob_service *s)
{
	azureblob_credential_free(s->credential);
	azureblob_account_free(&s->account);
}

static int try_tls(struct blob_service *s, void (*adjust)(struct azureblob_options *),
	struct http_error *error)
{
	struct azureblob *client = blob_service_client(s, s->credential, adjust);
	int r = azureblob_container_create(client, error);
	if (r == 0 || r == -EEXIST)
		r = use(client, error);
	azureblob_free(client);
	return r;
}

static void over_tls(void **state)
{
	struct blob_service s;
	struct http_error error = { 0 };
	(void)state;
	open_tls(&s);
	assert_int_equal(try_tls(&s, with_ca, &error), 0);
	/* Without the CA: certain, said, and not tried again for minutes. */
	assert_int_equal(try_tls(&s, no_ca, &error), -EKEYREJECTED);
	assert_false(error.ambiguous);
	close_tls(&s);
}

static void past_a_proxy(void **state)
{
	struct blob_service *plain = *state;
	struct blob_service s;
	struct http_error error = { 0 };
	struct azureblob *client = blob_service_client(plain, plain->credential, through_proxy);
	assert_int_equal(use(client, &error), 0);
	azureblob_free(client);
	open_tls(&s);
	assert_int_equal(try_tls(&s, through_proxy_by_tls, &error), 0);
	assert_int_equal(try_tls(&s, past_the_proxy, &error), 0);
	/* Refused by the proxy: nothing reached the service. */
	assert_int_equal(try_tls(&s, through_proxy_unknown, &error), -EACCES);
	assert_false(error.ambiguous);
	assert_non_null(strstr(error.message, "the proxy wants credentials"));
	assert_int_equal(try_tls(&s, through_proxy_mistaken_by_tls, &error), -EACCES);
	assert_false(error.ambiguous);
	assert_non_null(strstr(error.message, "the proxy refuses the credentials"));
	close_tls(&s);
	client = blob_service_client(plain, plain->credential, through_proxy_mistaken);
	/* Ambiguous: what goes to a proxy in the clear more than once may have gone further. */
	assert_int_equal(use(client, &error), -EACCES);
	assert_non_null(strstr(error.message, "the proxy refuses the credentials"));
	azureblob_free(client);
}

#define TEST(function) cmocka_unit_test_setup(function, blob_service_reset)

/* With a word: the tests of that name only. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(by_managed_identity),
		TEST(by_client_secret),
		TEST(by_workload_identity),
		TEST(the_metadata_service_is_asked_again),
		TEST(a_token_that_hangs_is_not_waited_for),
		TEST(a_wrong_secret_is_told),
		TEST(threads_share_a_credential),
		TEST(by_signature),
		TEST(over_tls),
		TEST(past_a_proxy),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, blob_service_open, blob_service_close);
}
