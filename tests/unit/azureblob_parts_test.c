/*
 * azureblob/: the pure parts: signatures, connection strings, the CRC, what
 * errors mean.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "azureblob/account.h"
#include "azureblob/crc64.h"
#include "azureblob/credential.h"
#include "azureblob/error.h"
#include "azureblob/sign.h"
#include "common/base64.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"

#define KEY \
	"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#define DATE "Sun, 22 Nov 2026 05:54:11 GMT"

/* The strings to sign are written out from the published rules; the signatures were computed
 * from them with another implementation of HMAC-SHA-256. */
struct vector {
	const char *account;
	const char *method;
	const char *url;
	const char *headers[9][2];
	uint64_t length;
	const char *text;
	const char *signature;
};

static const struct vector vectors[] = {
	/* The example of the service's reference. */
	{ "myaccount", "GET",
		"https://myaccount.blob.core.windows.net/"
		"mycontainer?comp=metadata&restype=container&timeout=20",
		{ { "x-ms-version", "2015-02-21" },
			{ "x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT" } },
		0,
		"GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n"
		"x-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\n"
		"restype:container\ntimeout:20",
		"1u9lui2jDxj0+fpbHjQ5m5NnastJRSYM+PSmfi8TXx4=" },
	/* Path-style: the account stands twice. The path is signed as it is sent. */
	{ "devstoreaccount1", "PUT",
		"http://127.0.0.1:10000/devstoreaccount1/vault/machines/web%201/root.vhd?comp=page",
		{ { "x-ms-page-write", "update" }, { "x-ms-range", "bytes=0-4095" },
			{ "x-ms-lease-id", "11111111-2222-3333-4444-555555555555" },
			{ "x-ms-if-sequence-number-eq", "7" }, { "x-ms-version", "2021-12-02" },
			{ "x-ms-date", DATE } },
		4096,
		"PUT\n\n\n4096\n\n\n\n\n\n\n\n\nx-ms-date:" DATE "\nx-ms-if-sequence-number-eq:7\n"
		"x-ms-lease-id:11111111-2222-3333-4444-555555555555\nx-ms-page-write:update\n"
		"x-ms-range:bytes=0-4095\nx-ms-version:2021-12-02\n"
		"/devstoreaccount1/devstoreaccount1/vault/machines/web%201/root.vhd\ncomp:page",
		"tmfwYKAZ38SxSTGSMAn/aVjWhgzCknU3ksF9anBDclw=" },
	/* A length of 0 is the empty string; standard headers have their lines; blanks around a
	 * value go; header names are lower case. */
	{ "acc", "PUT", "https://acc.blob.core.windows.net/c/vault.json",
		{ { "X-MS-Meta-K", " 7 8\t" }, { "x-ms-blob-type", "BlockBlob" },
			{ "If-None-Match", "*" }, { "Content-MD5", "Q2hlY2s=" },
			{ "Content-Type", "application/json" }, { "x-ms-version", "2021-12-02" },
			{ "x-ms-date", DATE } },
		0,
		"PUT\n\n\n\nQ2hlY2s=\napplication/json\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\n"
		"x-ms-date:" DATE "\nx-ms-meta-k:7 8\nx-ms-version:2021-12-02\n/acc/c/vault.json",
		"BhMxhaOlHchykmbSHV60SnfPqIbg6sWpBR80JT3epKM=" },
	/* Query values are signed unescaped, sorted by name, equal names joined. */
	{ "acc", "GET",
		"https://acc.blob.core.windows.net/c?RESTYPE=container&prefix=machines%2F&"
		"include=snapshots&comp=list&marker=a%2Fb%20c%3D%2B&include=metadata",
		{ { "x-ms-date", "d" }, { "x-ms-version", "v" } }, 0,
		"GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:d\nx-ms-version:v\n/acc/c\ncomp:list\n"
		"include:metadata,snapshots\nmarker:a/b c=+\nprefix:machines/\nrestype:container",
		"QnBrnat5Z5loap9gAzpCjU2WG1fEQaXJsmVW4WrXFRg=" },
};

static void signatures_follow_the_rules(void **state)
{
	(void)state;
	uint8_t key[BASE64_DATA_BYTES(sizeof(KEY))];
	size_t key_bytes;
	assert_int_equal(base64_decode(KEY, strlen(KEY), key, &key_bytes), 0);
	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		const struct vector *v = &vectors[i];
		CLEANUP(http_headers_free) struct http_headers headers = { 0 };
		CLEANUP(buf_free) struct buf text = { 0 };
		CLEANUP(buf_free) struct buf value = { 0 };
		CLEANUP(buf_free) struct buf want = { 0 };
		for (size_t k = 0; k < ARRAY_SIZE(v->headers) && v->headers[k][0]; k++)
			assert_int_equal(
				http_headers_add(&headers, v->headers[k][0], v->headers[k][1]), 0);
		assert_int_equal(azureblob_string_to_sign(
					 v->account, v->method, v->url, &headers, v->length, &text),
			0);
		assert_string_equal(text.data, v->text);
		assert_int_equal(azureblob_sign(v->account, key, key_bytes, v->method, v->url,
					 &headers, v->length, &value),
			0);
		buf_printf(&want, "SharedKey %s:%s", v->account, v->signature);
		assert_string_equal(value.data, want.data);
	}
}

struct reading {
	const char *text;
	const char *name, *endpoint, *key, *sas;
	bool path_style;
};

static const struct reading readings[] = {
	{ "DefaultEndpointsProtocol=https;AccountName=myacc;AccountKey=" KEY
	  ";EndpointSuffix=core.windows.net",
		"myacc", "https://myacc.blob.core.windows.net", KEY, NULL, false },
	{ "accountkey=" KEY ";ACCOUNTNAME=myacc", "myacc", "https://myacc.blob.core.windows.net",
		KEY, NULL, false },
	{ "AccountName=myacc;AccountKey=" KEY
	  ";EndpointSuffix=core.chinacloudapi.cn;DefaultEndpointsProtocol=http;Other=x=y;;",
		"myacc", "http://myacc.blob.core.chinacloudapi.cn", KEY, NULL, false },
	{ "UseDevelopmentStorage=true", "devstoreaccount1",
		"http://127.0.0.1:10000/devstoreaccount1", KEY, NULL, true },
	{ "UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://emulator",
		"devstoreaccount1", "http://emulator:10000/devstoreaccount1", KEY, NULL, true },
	{ "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=" KEY
	  ";BlobEndpoint=http://127.0.0.1:40123/devstoreaccount1/;",
		"devstoreaccount1", "http://127.0.0.1:40123/devstoreaccount1", KEY, NULL, true },
	{ "BlobEndpoint=https://myacc.blob.core.windows.net/;SharedAccessSignature=?sv=1&sig=a%3D",
		"myacc", "https://myacc.blob.core.windows.net", NULL, "sv=1&sig=a%3D", false },
	{ "BlobEndpoint=https://myacc.blob.core.windows.net?sv=1&sig=b;AccountName=myacc", "myacc",
		"https://myacc.blob.core.windows.net", NULL, "sv=1&sig=b", false },
	{ "BlobEndpoint=http://localhost:10000;AccountName=one", "one",
		"http://localhost:10000/one", NULL, NULL, true },
	{ "BlobEndpoint=http://[::1]:10000/one", "one", "http://[::1]:10000/one", NULL, NULL,
		true },
	{ " AccountName=myacc ;\n AccountKey=" KEY "\n", "myacc",
		"https://myacc.blob.core.windows.net", KEY, NULL, false },
};

static void same_text(const char *a, const char *b)
{
	if (!a || !b)
		assert_ptr_equal(a, b);
	else
		assert_string_equal(a, b);
}

static void connection_strings_are_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(readings); i++) {
		const struct reading *want = &readings[i];
		CLEANUP(azureblob_account_free) struct azureblob_account a = { 0 };
		struct error error = { 0 };
		int r = azureblob_account_parse(want->text, &a, &error);
		if (r < 0)
			print_error("%s: %s\n", want->text, error.message);
		assert_int_equal(r, 0);
		same_text(a.name, want->name);
		same_text(a.endpoint, want->endpoint);
		same_text(a.key, want->key);
		same_text(a.sas, want->sas);
		assert_int_equal(a.path_style, want->path_style);
	}
}

static void bad_connection_strings_are_named(void **state)
{
	(void)state;
	static const char *const bad[][2] = {
		{ "", "neither AccountName" },
		{ "AccountKey=" KEY, "neither AccountName" },
		{ "AccountName", "part 1 is not" },
		{ "AccountName=a;=b", "part 2 is not" },
		{ "AccountName=acc;accountname=acc", "twice" },
		{ "AccountName=acc;AccountKey=secret!", "AccountKey is not base64" },
		{ "AccountName=acc;AccountKey=" KEY "=", "AccountKey is not base64" },
		{ "AccountName=acc;DefaultEndpointsProtocol=ftp", "DefaultEndpointsProtocol" },
		{ "AccountName=Not_A_Name", "Not_A_Name" },
		{ "BlobEndpoint=acc.blob.core.windows.net", "no http" },
		{ "BlobEndpoint=http://127.0.0.1:10000", "does not tell the account" },
		{ "BlobEndpoint=https://acc.blob.core.windows.net/a/b", "more than an account" },
		{ "UseDevelopmentStorage=true;DevelopmentStorageProxyUri=nowhere", "no URL" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CLEANUP(azureblob_account_free) struct azureblob_account a = { 0 };
		struct error error = { 0 };
		assert_int_equal(azureblob_account_parse(bad[i][0], &a, &error), -EINVAL);
		if (!strstr(error.message, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], error.message);
		assert_null(strstr(error.message, "secret"));
		assert_null(strstr(error.message, KEY));
		assert_null(a.name);
	}
	CLEANUP(azureblob_account_free) struct azureblob_account a = { 0 };
	assert_int_equal(azureblob_account_make("myacc", NULL, &a, NULL), 0);
	assert_string_equal(a.endpoint, "https://myacc.blob.core.windows.net");
	azureblob_account_free(&a);
	assert_int_equal(azureblob_account_make("one", "http://127.0.0.1:5", &a, NULL), 0);
	assert_string_equal(a.endpoint, "http://127.0.0.1:5/one");
	azureblob_account_free(&a);
	assert_int_equal(azureblob_account_make(NULL, NULL, &a, NULL), -EINVAL);
}

static void credentials_are_checked(void **state)
{
	(void)state;
	struct azureblob_credential *c = NULL;
	struct error error = { 0 };
	assert_int_equal(azureblob_credential_new_key("acc", "not base64", &c, &error), -EINVAL);
	assert_int_equal(azureblob_credential_new_sas("sv=1&se=2", &c, &error), -EINVAL);
	const struct azureblob_token_options options = {
		.source = AZUREBLOB_CLIENT_SECRET, .tenant_id = "t", .client_id = "c"
	};
	assert_int_equal(
		azureblob_credential_new_token(&options, clock_system(), &c, &error), -EINVAL);
	assert_non_null(strstr(error.message, "client secret"));
	assert_null(c);
	/* A signature goes to the end of the URL, each time anew. */
	assert_int_equal(azureblob_credential_new_sas("?sv=1&sig=x", &c, &error), 0);
	CLEANUP(buf_free) struct buf url = { 0 };
	CLEANUP(http_headers_free) struct http_headers headers = { 0 };
	struct http_error e;
	buf_append_text(&url, "http://a/c/b?comp=page");
	assert_int_equal(azureblob_credential_authorize(c, NULL, "PUT", &url, &headers, 0, &e), 0);
	assert_string_equal(url.data, "http://a/c/b?comp=page&sv=1&sig=x");
	assert_non_null(http_headers_get(&headers, "x-ms-date"));
	assert_null(http_headers_get(&headers, "Authorization"));
	assert_int_equal(azureblob_credential_refused(c, &headers), HTTP_REFUSED_FOR_GOOD);
	azureblob_credential_free(c);
}

static uint64_t crc_bit_by_bit(const unsigned char *p, size_t n)
{
	uint64_t crc = ~0ull;
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x9A6C9329AC4BC9B5ull : 0);
	}
	return ~crc;
}

static void crc_matches_its_check_value(void **state)
{
	(void)state;
	char text[AZUREBLOB_CRC64_TEXT_BYTES];
	assert_true(azureblob_crc64(0, "123456789", 9) == 0xAE8B14860A799888ull);
	azureblob_crc64_format(0xAE8B14860A799888ull, text);
	assert_string_equal(text, "iJh5CoYUi64=");
	unsigned char data[1500];
	struct rng rng;
	rng_seed(&rng, 1);
	rng_fill(&rng, data, sizeof(data));
	for (size_t n = 0; n <= sizeof(data) - 16; n += n < 300 ? 1 : 37) {
		size_t at = n % 16;
		size_t cut = n ? rng_below(&rng, n) : 0;
		uint64_t want = crc_bit_by_bit(data + at, n);
		assert_true(azureblob_crc64(0, data + at, n) == want);
		uint64_t crc = azureblob_crc64(0, data + at, cut);
		assert_true(azureblob_crc64(crc, data + at + cut, n - cut) == want);
	}
}

static void errors_are_told_apart(void **state)
{
	(void)state;
	static const struct {
		enum http_outcome outcome;
		int status, transport;
		const char *code;
		int error;
		enum http_verdict verdict;
	} cases[] = {
		{ HTTP_ANSWERED, 404, 0, "BlobNotFound", -ENOENT, HTTP_REFUSED },
		{ HTTP_ANSWERED, 409, 0, "BlobAlreadyExists", -EEXIST, HTTP_REFUSED },
		{ HTTP_ANSWERED, 409, 0, "LeaseAlreadyPresent", -EBUSY, HTTP_REFUSED },
		{ HTTP_ANSWERED, 409, 0, "LeaseNotPresentWithLeaseOperation", -ESTALE,
			HTTP_REFUSED },
		{ HTTP_ANSWERED, 409, 0, "SnapshotsPresent", -ENOTEMPTY, HTTP_REFUSED },
		{ HTTP_ANSWERED, 409, 0, "SnapshotOperationRateExceeded", -EAGAIN, HTTP_TRY_AGAIN },
		{ HTTP_ANSWERED, 409, 0, "Whatever", -EBUSY, HTTP_REFUSED },
		{ HTTP_ANSWERED, 412, 0, "SequenceNumberConditionNotMet", -ESTALE, HTTP_REFUSED },
		{ HTTP_ANSWERED, 412, 0, "LeaseLost", -ESTALE, HTTP_REFUSED },
		{ HTTP_ANSWERED, 400, 0, "InvalidInput", -EINVAL, HTTP_REFUSED },
		{ HTTP_ANSWERED, 413, 0, "RequestBodyTooLarge", -EINVAL, HTTP_REFUSED },
		{ HTTP_ANSWERED, 403, 0, "AuthenticationFailed", -EACCES, HTTP_REFUSED },
		{ HTTP_ANSWERED, 401, 0, "", -EACCES, HTTP_EXPIRED },
		{ HTTP_ANSWERED, 416, 0, "InvalidRange", -ERANGE, HTTP_REFUSED },
		{ HTTP_ANSWERED, 408, 0, "", -ETIMEDOUT, HTTP_TRY_AGAIN },
		{ HTTP_ANSWERED, 429, 0, "", -EAGAIN, HTTP_TRY_AGAIN },
		{ HTTP_ANSWERED, 503, 0, "ServerBusy", -EAGAIN, HTTP_TRY_AGAIN },
		{ HTTP_ANSWERED, 500, 0, "InternalError", -ETIMEDOUT, HTTP_MAYBE },
		{ HTTP_ANSWERED, 501, 0, "", -EOPNOTSUPP, HTTP_REFUSED },
		{ HTTP_ANSWERED, 502, 0, "", -ETIMEDOUT, HTTP_MAYBE },
		{ HTTP_ANSWERED, 504, 0, "", -ETIMEDOUT, HTTP_MAYBE },
		{ HTTP_ANSWERED, 507, 0, "", -ETIMEDOUT, HTTP_MAYBE },
		{ HTTP_ANSWERED, 301, 0, "", -EBADMSG, HTTP_REFUSED },
		{ HTTP_UNKNOWN, 0, -ECONNRESET, "", -ECONNRESET, HTTP_MAYBE },
		{ HTTP_UNKNOWN, 201, -ETIMEDOUT, "", -ETIMEDOUT, HTTP_MAYBE },
		{ HTTP_NOT_SENT, 0, -ECONNREFUSED, "", -ECONNREFUSED, HTTP_TRY_AGAIN },
		{ HTTP_NOT_SENT, 0, -EHOSTUNREACH, "", -EHOSTUNREACH, HTTP_TRY_AGAIN },
		{ HTTP_NOT_SENT, 0, -EKEYREJECTED, "", -EKEYREJECTED, HTTP_REFUSED },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(http_request_free)
		struct http_request http = {
			.outcome = cases[i].outcome,
			.status = cases[i].status,
			.error = cases[i].transport,
		};
		struct http_error e;
		if (cases[i].code[0])
			http_headers_add(&http.ret_headers, "x-ms-error-code", cases[i].code);
		assert_int_equal(azureblob_error_read(&http, &e), cases[i].verdict);
		assert_int_equal(e.error, cases[i].error);
		assert_int_equal(e.http_status, cases[i].status);
	}
}

static void errors_are_told_in_words(void **state)
{
	(void)state;
	CLEANUP(http_request_free)
	struct http_request http = { .outcome = HTTP_ANSWERED, .status = 412 };
	struct http_error e;
	struct error told = { 0 };
	http_headers_add(&http.ret_headers, "x-ms-request-id", "1234-abcd");
	buf_append_text(&http.ret_body,
		"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>LeaseIdMissing"
		"</Code><Message>There is currently a "
		"lease.\nRequestId:1\nTime:2</Message></Error>");
	azureblob_error_read(&http, &e);
	assert_int_equal(azureblob_error_tell(&e, "vault/machines/a/b.vhd", &told), -ESTALE);
	assert_string_equal(told.message, "vault/machines/a/b.vhd: 412 LeaseIdMissing: "
					  "There is currently a lease. (request 1234-abcd)");
	assert_true(told.mend[0] != '\0');
	/* No answer: our own id, by which the service's log can be searched. */
	http_request_reset(&http);
	http.outcome = HTTP_UNKNOWN;
	http.error = -ETIMEDOUT;
	http_headers_add(&http.headers, "x-ms-client-request-id", "00ff");
	azureblob_error_read(&http, &e);
	e.ambiguous = true;
	azureblob_error_tell(&e, "put", &told);
	assert_string_equal(told.message,
		"put: Connection timed out (it may have happened) (request client 00ff)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signatures_follow_the_rules),
		cmocka_unit_test(connection_strings_are_read),
		cmocka_unit_test(bad_connection_strings_are_named),
		cmocka_unit_test(credentials_are_checked),
		cmocka_unit_test(crc_matches_its_check_value),
		cmocka_unit_test(errors_are_told_apart),
		cmocka_unit_test(errors_are_told_in_words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
