/*
 * ec2/sigv4: each rule of spelling by one request. The canonical requests are written out by hand
 * from the published rules; signatures were computed from them with another
 * implementation of SHA-256 and HMAC.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/utc.h"
#include "ec2/sigv4.h"

#define ID "AKIDEXAMPLE"
#define SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define TIME "20261122T055411Z"
#define HOST "ebs.eu-central-1.amazonaws.com"
#define URL "https://" HOST
#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HEADS "host:" HOST "\nx-amz-date:" TIME "\n\nhost;x-amz-date\n" EMPTY

struct vector {
	const char *method;
	const char *url;
	const char *headers[6][2];
	const char *body;
	const char *canonical;
	const char *signature;
};

static const struct vector vectors[] = {
	/* A path and nothing else. */
	{ "GET", URL "/snapshots/snap-1/blocks", { { NULL } }, NULL,
		"GET\n/snapshots/snap-1/blocks\n\n" HEADS,
		"e7505c371b109b08c81e04d0265f5635d82af642a878fdd7213ff15e7ae1dcd1" },
	/* No path is the root. */
	{ "GET", URL, { { NULL } }, NULL, "GET\n/\n\n" HEADS,
		"b9889bfe800adf72cc370f40335462937aae82763074d1223b9eba66af4edb56" },
	/* Parameters sorted by name. */
	{ "GET", URL "/?b=2&a=1", { { NULL } }, NULL, "GET\n/\na=1&b=2\n" HEADS,
		"11d4da27699a9e9f44e9505d085bf279bff20b0adfee9b9ca026f5f96540a90b" },
	/* By name, not by name=value: '1' and '-' are below '='. */
	{ "GET", URL "/?a=9&a1=8&a-b=7&A=6", { { NULL } }, NULL,
		"GET\n/\nA=6&a=9&a-b=7&a1=8\n" HEADS,
		"0d750bf7723e660d3f138e73da3735058eab3f88b6b47466867f2a1a3e1d6d38" },
	/* Equal names by value; nothing is dropped. */
	{ "GET", URL "/?x=b&x=a&x=&x=a", { { NULL } }, NULL, "GET\n/\nx=&x=a&x=a&x=b\n" HEADS,
		"8c433d214e658e543596d7efbd69edfe2102f1707774ded793a136dc410e7e7d" },
	/* Sorted as escaped: %C3 is below Z and ~; an escaped ~ loses its escape. */
	{ "GET", URL "/?k=~&k=%C3%A4&k=Z&%7E=1&%C3%A4=2", { { NULL } }, NULL,
		"GET\n/\n%C3%A4=2&k=%C3%A4&k=Z&k=~&~=1\n" HEADS,
		"20c058f0c66d1baf64dfa3e1e06db488148d622b7337b9e2c389aefea09a6fc1" },
	/* No value: an equals sign is added; empty parts vanish. */
	{ "GET", URL "/?b&a=&&c", { { NULL } }, NULL, "GET\n/\na=&b=&c=\n" HEADS,
		"67419a586ffd0290cc929cb8cb00816d001755b76861c92d43cb139718618450" },
	/* A blank is %20; a plus on the wire is a plus. */
	{ "GET", URL "/?q=one%20two&p=three+four", { { NULL } }, NULL,
		"GET\n/\np=three%2Bfour&q=one%20two\n" HEADS,
		"bebeae011c813dedad8fbb64254f8bc5b8fb1b6c9c97e474ac93d4ecdd5a78a7" },
	/* Escapes in upper case. */
	{ "GET", URL "/snapshots/s/blocks/7?blockToken=AAU%2BAB%2fcd%3D%3d", { { NULL } }, NULL,
		"GET\n/snapshots/s/blocks/7\nblockToken=AAU%2BAB%2Fcd%3D%3D\n" HEADS,
		"5b98824b81567e192130bd9a7947772b1053ea62f9d044a5daabe24f7425f14d" },
	/* Bare characters are escaped, the slash too. */
	{ "GET", URL "/?blockToken=A/b==&t=!*'()", { { NULL } }, NULL,
		"GET\n/\nblockToken=A%2Fb%3D%3D&t=%21%2A%27%28%29\n" HEADS,
		"d7af5e6d8ecffc322a29b646a19557779e703f932dcd1ec34193ef03e61ea5e4" },
	/* Unreserved characters are never escaped. */
	{ "GET", URL "/?-._~09azAZ=-._~%41", { { NULL } }, NULL, "GET\n/\n-._~09azAZ=-._~A\n" HEADS,
		"f9d2fb15cd3a3c092e6850cf10e6ecddaa556354f80899467c477a321fb57c25" },
	/* UTF-8, byte by byte. */
	{ "GET", URL "/?%E2%98%83=%f0%9f%92%be", { { NULL } }, NULL,
		"GET\n/\n%E2%98%83=%F0%9F%92%BE\n" HEADS,
		"2779728fec4e9959ea7b23ebd1b82b5ba27d01dbd9bce6398770c330df6fa219" },
	/* The path's escapes are escaped once more. */
	{ "GET", URL "/a%20b/%2Fc:d/%C3%A4*", { { NULL } }, NULL,
		"GET\n/a%2520b/%252Fc%3Ad/%25C3%25A4%2A\n\n" HEADS,
		"3cdd3411e86302c34ef2590414dc75e80806b35d964d54e41621f2489b81d772" },
	/* A bare byte of the path is escaped once. */
	{ "GET", URL "/\303\244", { { NULL } }, NULL, "GET\n/%C3%A4\n\n" HEADS,
		"a4d628c461914d770b9a44de7f1d5b0e1d0e7598d313cf75208d0b2d155733f4" },
	/* Slashes merged, dots resolved, the last slash stays. */
	{ "GET", URL "//a/./b/../c//d/", { { NULL } }, NULL, "GET\n/a/c/d/\n\n" HEADS,
		"53f0b99841ebe131fba25fb88226bce4f7275c748f66b371d085cac73f7a67bb" },
	/* Nothing is above the root. */
	{ "GET", URL "/../../x/.", { { NULL } }, NULL, "GET\n/x/\n\n" HEADS,
		"a757f4d79580173df3d3647c3a8a03b8d72f0f547b9b79c895e41fa1bad576af" },
	/* Ends in a folder, as RFC 3986 has it. */
	{ "GET", URL "/a/b/..", { { NULL } }, NULL, "GET\n/a/\n\n" HEADS,
		"2d1649dc1d71f636ca1814bab8da30e8a620fc771519eee18ef6951b94d314a1" },
	/* Back at the root. */
	{ "GET", URL "/a/..", { { NULL } }, NULL, "GET\n/\n\n" HEADS,
		"b9889bfe800adf72cc370f40335462937aae82763074d1223b9eba66af4edb56" },
	/* What only looks like dots stays. */
	{ "GET", URL "/...//.a/b./..c/%2E%2E", { { NULL } }, NULL,
		"GET\n/.../.a/b./..c/%252E%252E\n\n" HEADS,
		"93ad22999c893551e3a72c606dc60464f517f019a917137d4058e384368d2411" },
	/* Fields: lower case, sorted, blanks cut and folded, equal names joined. */
	{ "GET", URL "/",
		{ { "Zulu", " last \t" }, { "My-Header", "  a   b \t c  " }, { "my-header2", "x" },
			{ "MY-HEADER", "Again" }, { "Empty", "" }, { "Quoted", "\"a   b\"" } },
		NULL,
		"GET\n/\n\nempty:\nhost:" HOST
		"\nmy-header:a b c,Again\nmy-header2:x\nquoted:\"a b\"\nx-amz-date:" TIME
		"\nzulu:last\n\nempty;host;my-header;my-header2;quoted;x-amz-date;zulu\n" EMPTY,
		"ab05c69a7f51dde01c5d5f69a0df80339b56c180a5d511287b3fffae73017157" },
	/* Fields that may change on the way are left out. */
	{ "GET", URL "/",
		{ { "User-Agent", "u" }, { "Expect", "100-continue" }, { "Content-Length", "0" },
			{ "Connection", "close" }, { "Transfer-Encoding", "chunked" },
			{ "X-Amzn-Trace-Id", "t" } },
		NULL, "GET\n/\n\n" HEADS,
		"b9889bfe800adf72cc370f40335462937aae82763074d1223b9eba66af4edb56" },
	/* A Host of the caller's goes before the URL's. */
	{ "GET", URL "/", { { "HOST", "other.example:8443" } }, NULL,
		"GET\n/\n\nhost:other.example:8443\nx-amz-date:" TIME "\n\nhost;x-amz-date\n" EMPTY,
		"999035776d88e0e2737e945e8f9b5ac3a6136eba1924f131412de2b70423f4da" },
	/* A body and its hash. */
	{ "POST", URL "/",
		{ { "Content-Type", "application/x-www-form-urlencoded; charset=utf-8" } },
		"Action=DescribeInstances&Version=2016-11-15",
		"POST\n/\n\ncontent-type:application/x-www-form-urlencoded; "
		"charset=utf-8\nhost:" HOST "\nx-amz-date:" TIME "\n\ncontent-type;host;x-amz-"
		"date\n6171eb09865e32b0602af0f7957e26573a51f53caaedff02ff88883cb0275885",
		"e7941a48f58fc7d4308304da450c8cc6abd78d0dc186e8024f55c2204698c725" },
};

static const struct ec2_sigv4_target ebs = { "eu-central-1", "ebs" };
static const struct ec2_sigv4_credentials lasting = { ID, SECRET, NULL };

static int64_t now_ns(void)
{
	int64_t ns;
	assert_int_equal(utc_parse(TIME, &ns), 0);
	return ns + 999999999; /* cut, not rounded */
}

static struct ec2_sigv4_request get(const char *url)
{
	return (struct ec2_sigv4_request){ .method = "GET", .url = url };
}

static void check_vector(const struct vector *v, struct ec2_sigv4_keys *keys)
{
	CLEANUP(http_headers_free) struct http_headers headers = { 0 };
	CLEANUP(buf_free) struct buf canonical = { 0 };
	CLEANUP(buf_free) struct buf names = { 0 };
	CLEANUP(buf_free) struct buf want = { 0 };
	struct ec2_sigv4_request request = { v->method, v->url, v->body,
		v->body ? strlen(v->body) : 0 };
	for (size_t i = 0; i < ARRAY_SIZE(v->headers) && v->headers[i][0]; i++) {
		assert_int_equal(http_headers_add(&headers, v->headers[i][0], v->headers[i][1]), 0);
	}
	size_t count = headers.count;
	assert_int_equal(ec2_sigv4_sign(keys, &lasting, &ebs, &request, now_ns(), &headers), 0);
	assert_int_equal(headers.count, count + 2);
	assert_string_equal(http_headers_get(&headers, "X-Amz-Date"), TIME);
	CLEANUP_FREE char *authorization = strdup(http_headers_get(&headers, "Authorization"));
	http_headers_truncate(&headers, count + 1);
	assert_int_equal(ec2_sigv4_canonical_request(&request, &headers, &canonical, &names), 0);
	assert_string_equal(canonical.data, v->canonical);
	assert_int_equal(buf_printf(&want,
				 "AWS4-HMAC-SHA256 Credential=" ID
				 "/20261122/eu-central-1/ebs/aws4_request, "
				 "SignedHeaders=%s, Signature=%s",
				 names.data, v->signature),
		0);
	assert_string_equal(authorization, want.data);
}

static void test_vectors(void **state)
{
	(void)state;
	struct ec2_sigv4_keys keys = { 0 };
	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		check_vector(&vectors[i], NULL);
		check_vector(&vectors[i], &keys);
	}
	assert_int_equal(keys.next, 1); /* all with the one key */
}

static void test_session_token(void **state)
{
	(void)state;
	CLEANUP(http_headers_free) struct http_headers headers = { 0 };
	CLEANUP(buf_free) struct buf canonical = { 0 };
	CLEANUP(buf_free) struct buf names = { 0 };
	CLEANUP(buf_free) struct buf text = { 0 };
	const struct ec2_sigv4_target sts = { "us-east-1", "sts" };
	struct ec2_sigv4_credentials credentials = { ID, SECRET, "IQoJ//TOKEN+==" };
	struct ec2_sigv4_request request = get("https://sts.amazonaws.com");
	assert_int_equal(ec2_sigv4_sign(NULL, &credentials, &sts, &request, now_ns(), &headers), 0);
	assert_string_equal(http_headers_get(&headers, "X-Amz-Security-Token"), "IQoJ//TOKEN+==");
	assert_string_equal(http_headers_get(&headers, "Authorization"),
		"AWS4-HMAC-SHA256 Credential=" ID "/20261122/us-east-1/sts/aws4_request, "
		"SignedHeaders=host;x-amz-date;x-amz-security-token, "
		"Signature=75d9ef1c300d60b24ea78f8a8139624fc8c687b81cc93c407b7c42c66294da57");
	http_headers_truncate(&headers, 2);
	assert_int_equal(ec2_sigv4_canonical_request(&request, &headers, &canonical, &names), 0);
	assert_int_equal(ec2_sigv4_string_to_sign(canonical.data, TIME, &sts, &text), 0);
	assert_string_equal(text.data,
		"AWS4-HMAC-SHA256\n" TIME "\n20261122/us-east-1/sts/aws4_request\n"
		"a9cf2c1aec246a05fae863ff1ecd7e6eec06489890c5c48c3ec542fab315af1c");

	http_headers_clear(&headers);
	credentials.session_token = ""; /* as from an empty variable: none */
	assert_int_equal(ec2_sigv4_sign(NULL, &credentials, &sts, &request, now_ns(), &headers), 0);
	assert_null(http_headers_get(&headers, "X-Amz-Security-Token"));
}

/* Host carries a port exactly where the scheme's own does not say it. */
static void test_host_port(void **state)
{
	(void)state;
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(buf_free) struct buf names = { 0 };
	const struct http_headers none = { 0 };
	struct ec2_sigv4_request request = get("http://127.0.0.1:8443/");
	assert_int_equal(ec2_sigv4_canonical_request(&request, &none, &text, &names), 0);
	assert_string_equal(text.data, "GET\n/\n\nhost:127.0.0.1:8443\n\nhost\n" EMPTY);
	buf_clear(&text);
	request = get("https://127.0.0.1:443/");
	assert_int_equal(ec2_sigv4_canonical_request(&request, &none, &text, &names), 0);
	assert_string_equal(text.data, "GET\n/\n\nhost:127.0.0.1\n\nhost\n" EMPTY);
}

/* A refusal leaves the fields as they were. */
static void check_refused(const char *url, const char *secret, const char *region,
	const char *field, const char *value)
{
	CLEANUP(http_headers_free) struct http_headers headers = { 0 };
	const struct ec2_sigv4_credentials credentials = { ID, secret, "token" };
	const struct ec2_sigv4_target target = { region, "ebs" };
	struct ec2_sigv4_request request = get(url);
	assert_int_equal(http_headers_add(&headers, field, value), 0);
	assert_int_equal(
		ec2_sigv4_sign(NULL, &credentials, &target, &request, now_ns(), &headers), -EINVAL);
	assert_int_equal(headers.count, 1);
	assert_string_equal(http_headers_get(&headers, field), value);
}

static void test_refusals(void **state)
{
	(void)state;
	check_refused(URL "/?a=%zz", SECRET, "us-east-1", "a", "b");
	check_refused(URL "/a b", SECRET, "us-east-1", "a", "b");
	check_refused(URL, "", "us-east-1", "a", "b");
	check_refused(URL, SECRET, "", "a", "b");
	check_refused(URL, SECRET, "us/east", "a", "b");
	check_refused(URL, SECRET, "us-east-1", "authorization", "b");
	check_refused(URL, SECRET, "us-east-1", "x-amz-date", "b");
	check_refused(URL, SECRET, "us-east-1", "x-amz-security-token", "b");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_session_token),
		cmocka_unit_test(test_host_port),
		cmocka_unit_test(test_refusals),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
