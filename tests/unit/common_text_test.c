/*
 * common/base64, hmac, human, url, xml, json, http_headers: what is read from and written to
 * services.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/base64.h"
#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/hmac.h"
#include "common/http_headers.h"
#include "common/human.h"
#include "common/json.h"
#include "common/rng.h"
#include "common/url.h"
#include "common/xml.h"

static void base64_has_one_spelling(void **state)
{
	(void)state;
	/* RFC 4648, section 10. */
	static const char *const pairs[][2] = { { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" },
		{ "foo", "Zm9v" }, { "foob", "Zm9vYg==" }, { "fooba", "Zm9vYmE=" },
		{ "foobar", "Zm9vYmFy" } };
	char text[16];
	uint8_t data[32];
	size_t n;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		size_t length = base64_encode(pairs[i][0], strlen(pairs[i][0]), text);
		assert_string_equal(text, pairs[i][1]);
		assert_int_equal(length, strlen(text));
		assert_int_equal(base64_decode(text, length, data, &n), 0);
		assert_int_equal(n, strlen(pairs[i][0]));
		assert_memory_equal(data, pairs[i][0], n);
	}
	static const char *const bad[] = { "Zg=", "Zg",
		"Z===", "====", "Zh==", "Zm9=", "Zm 9v===", "Zm9v\n", "Zg==Zg==", "Z-9v",
		"\n\n\n\n", "=Zg=" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		n = 99;
		assert_int_equal(base64_decode(bad[i], strlen(bad[i]), data, &n), -EINVAL);
		assert_int_equal(n, 99);
	}
	struct rng rng;
	rng_seed(&rng, 4);
	for (size_t length = 0; length < 200; length++) {
		uint8_t raw[200], back[BASE64_DATA_BYTES(BASE64_TEXT_BYTES(200))];
		char long_text[BASE64_TEXT_BYTES(200)];
		rng_fill(&rng, raw, length);
		size_t t = base64_encode(raw, length, long_text);
		assert_int_equal(base64_decode(long_text, t, back, &n), 0);
		assert_int_equal(n, length);
		assert_memory_equal(raw, back, n);
	}
}

static void hashes_match_published_vectors(void **state)
{
	(void)state;
	char text[SHA256_HEX_BYTES];
	uint8_t mac[SHA256_BYTES];
	assert_int_equal(sha256_hex("abc", 3, text), 0); /* FIPS 180-2, B.1 */
	assert_string_equal(
		text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_int_equal(sha256_hex("", 0, text), 0);
	assert_string_equal(
		text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	/* RFC 4231, case 2. */
	const char *say = "what do ya want for nothing?";
	assert_int_equal(hmac_sha256("Jefe", 4, say, strlen(say), mac), 0);
	hex_encode(mac, sizeof(mac), text);
	assert_string_equal(
		text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	/* RFC 1321, A.5. */
	const struct iovec iov[] = { { (void *)"message ", 8 }, { NULL, 0 },
		{ (void *)"digest", 6 } };
	uint8_t md5[MD5_BYTES];
	assert_int_equal(md5_iov(iov, 3, md5), 0);
	hex_encode(md5, sizeof(md5), text);
	assert_string_equal(text, "f96b697d7cb7938d525a2f31aaf161d0");
}

static int join_pair(void *context, const char *name, const char *value)
{
	return buf_printf(context, "[%s=%s]", name, value);
}

static void urls_come_apart_and_together(void **state)
{
	(void)state;
	CLEANUP(url_free) struct url url = { 0 };
	CLEANUP(buf_free) struct buf b = { 0 };
	assert_int_equal(url_parse("HTTP://127.0.0.1:10000/devstore/c%20d?a=1&b", &url), 0);
	assert_string_equal(url.scheme, "http");
	assert_string_equal(url.host, "127.0.0.1");
	assert_int_equal(url.port, 10000);
	assert_true(url.port_given);
	assert_string_equal(url.path, "/devstore/c%20d");
	assert_string_equal(url.query, "a=1&b");
	assert_int_equal(url_append_authority(&b, &url), 0);
	assert_string_equal(b.data, "127.0.0.1:10000");
	url_free(&url);
	assert_int_equal(url_parse("https://[::1]", &url), 0);
	assert_string_equal(url.host, "::1");
	assert_int_equal(url.port, 443);
	assert_string_equal(url.path, "/");
	buf_clear(&b);
	assert_int_equal(url_append_authority(&b, &url), 0);
	assert_string_equal(b.data, "[::1]");

	static const char *const bad[] = { "", "ftp://x", "http://", "http://:80/", "http://a:0/",
		"http://a:70000/", "http://a:8x/", "http://u@a/", "http://a b/", "http://a/#f",
		"http://[::1/", "http://[::1]x/", "//a", "http://a:/" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(url_parse(bad[i], &url), -EINVAL);

	buf_clear(&b);
	assert_int_equal(buf_append_text(&b, "http://a/"), 0);
	assert_int_equal(url_escape(&b, "m/a b+c~\xc3\xa4", "/"), 0);
	assert_int_equal(url_add_query(&b, "comp", "list"), 0);
	assert_int_equal(url_add_query(&b, "token", "a+/="), 0);
	assert_int_equal(url_add_query(&b, "flag", NULL), 0);
	assert_string_equal(b.data, "http://a/m/a%20b%2Bc~%C3%A4?comp=list&token=a%2B%2F%3D&flag");

	buf_clear(&b);
	assert_int_equal(url_each_query("a=1&&b=x%2Fy+z&c&d=%3D=", join_pair, &b), 0);
	assert_string_equal(b.data, "[a=1][b=x/y+z][c=][d===]");
	assert_int_equal(url_each_query("a=%4", join_pair, &b), -EINVAL);
	assert_int_equal(url_each_query("a=%00", join_pair, &b), -EINVAL);
	assert_int_equal(url_each_query("a=%zz", join_pair, &b), -EINVAL);
}

static void xml_becomes_a_tree(void **state)
{
	(void)state;
	const char *text =
		"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"
		"<EnumerationResults ServiceEndpoint=\"http://x/\">\n <Blobs>\n"
		"  <Blob><Name>a &amp; b</Name><Size>18446744073709551615</Size></Blob>\n"
		"  <BlobPrefix><Name>p/</Name></BlobPrefix>\n"
		"  <Blob><Name>c</Name><Size>1x</Size><Empty/></Blob>\n"
		" </Blobs><NextMarker />\n</EnumerationResults>";
	CLEANUP(xml_freep) struct xml *xml = NULL;
	struct error error = { 0 };
	assert_int_equal(xml_parse(text, strlen(text), NULL, &xml, &error), 0);
	const struct xml_node *root = xml_root(xml);
	assert_string_equal(root->name, "EnumerationResults");
	assert_string_equal(root->text, "");
	assert_string_equal(xml_attribute(root, "ServiceEndpoint"), "http://x/");
	assert_null(xml_attribute(root, "Nothing"));
	const struct xml_node *blob = xml_find(root, "Blobs/Blob");
	assert_string_equal(xml_text(blob, "Name"), "a & b");
	uint64_t size = 0;
	assert_int_equal(xml_u64(blob, "Size", &size), 0);
	assert_true(size == UINT64_MAX);
	blob = xml_next(blob);
	assert_string_equal(xml_text(blob, "Name"), "c");
	assert_int_equal(xml_u64(blob, "Size", &size), -EBADMSG);
	assert_int_equal(xml_u64(blob, "Nothing", &size), -ENOENT);
	assert_string_equal(xml_text(blob, "Empty"), "");
	assert_null(xml_next(blob));
	assert_string_equal(xml_text(root, "NextMarker"), "");
	assert_null(xml_text(root, "Blobs/None/Name"));
	assert_null(xml_find(NULL, "x"));
}

static int try_xml(const char *text, const struct xml_limits *limits, struct error *error)
{
	CLEANUP(xml_freep) struct xml *xml = NULL;
	int r = xml_parse(text, strlen(text), limits, &xml, error);
	assert_true((r == 0) == (xml != NULL));
	return r;
}

static void xml_refuses_bombs_and_limits(void **state)
{
	(void)state;
	struct error error = { 0 };
	const char *bomb = "<!DOCTYPE lolz [<!ENTITY lol \"lol\"><!ENTITY lol2 \"&lol;&lol;\">]>"
			   "<lolz>&lol2;</lolz>";
	assert_int_equal(try_xml(bomb, NULL, &error), -EBADMSG);
	assert_non_null(strstr(error.message, "document type"));
	assert_int_equal(
		try_xml("<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>", NULL, &error), -EBADMSG);
	static const char *const bad[] = { "", "<a>", "<a></b>", "text", "<a/><b/>",
		"<a>&nope;</a>", "<a b=1/>", "\xff\xfe", "<a>\x01</a>" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(try_xml(bad[i], NULL, &error), -EBADMSG);
		assert_non_null(strstr(error.message, "line "));
	}
	const struct xml_limits small = { .bytes = 100, .nodes = 5, .depth = 3 };
	assert_int_equal(try_xml("<a><b><c/></b></a>", &small, &error), 0);
	assert_int_equal(try_xml("<a><b><c><d/></c></b></a>", &small, &error), -E2BIG);
	assert_int_equal(try_xml("<a><b/><b/><b/><b/></a>", &small, &error), 0);
	assert_int_equal(try_xml("<a><b/><b/><b/><b/><b/></a>", &small, &error), -E2BIG);
	assert_int_equal(try_xml("<a x='1' y='2' z='3'><b/></a>", &small, &error), 0);
	assert_int_equal(try_xml("<a x='1' y='2' z='3' w='4'><b/></a>", &small, &error), -E2BIG);
	char big[200];
	snprintf(big, sizeof(big), "<a>%0150d</a>", 0);
	assert_int_equal(try_xml(big, &small, &error), -E2BIG);
	/* Deeper than any limit may allow. */
	const struct xml_limits deep = { .bytes = 1 << 20, .nodes = 1 << 20, .depth = 100000 };
	CLEANUP(buf_free) struct buf b = { 0 };
	for (int i = 0; i < 1000; i++)
		assert_int_equal(buf_append_text(&b, "<a>"), 0);
	assert_int_equal(try_xml(b.data, &deep, &error), -E2BIG);
}

static void json_reads_and_names_the_field(void **state)
{
	(void)state;
	const char *text =
		"{\"id\":\"v\", \"size\":\"18446744073709551615\", \"n\":9007199254740992,"
		"\"neg\":-5, \"on\":true, \"nil\":null, \"half\":1.5, \"twice\":1,"
		" \"twice\":2, \"disks\":[{\"size\":1},{\"size\":\"x\"}], \"Id\":0}";
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct error error = { 0 };
	assert_int_equal(json_parse(text, strlen(text), NULL, &json, &error), 0);
	struct json root, disks;
	json_root(json, "vault.json", &root);
	const char *id = NULL;
	uint64_t u = 7;
	int64_t i = 7;
	bool on = false;
	assert_int_equal(json_get_text(&root, "id", &id, &error), 0);
	assert_string_equal(id, "v");
	assert_int_equal(json_get_u64(&root, "size", &u, &error), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(json_get_u64(&root, "n", &u, &error), 0);
	assert_true(u == 9007199254740992ull);
	assert_int_equal(json_get_i64(&root, "neg", &i, &error), 0);
	assert_int_equal(i, -5);
	assert_int_equal(json_get_bool(&root, "on", &on, &error), 0);
	assert_true(on);

	u = 7;
	assert_int_equal(json_find_u64(&root, "nil", &u, &error), 0);
	assert_int_equal(json_find_u64(&root, "none", &u, &error), 0);
	assert_true(u == 7);
	assert_int_equal(json_find_u64(&root, "n", &u, &error), 1);
	assert_int_equal(json_get_u64(&root, "nil", &u, &error), -ENOENT);
	assert_string_equal(error.message, "vault.json: nil: is missing");
	assert_int_equal(json_get_u64(&root, "neg", &u, &error), -EBADMSG);
	assert_int_equal(json_get_u64(&root, "half", &u, &error), -EBADMSG);
	assert_int_equal(json_get_text(&root, "on", &id, &error), -EBADMSG);
	assert_int_equal(json_get_u64(&root, "twice", &u, &error), -EBADMSG);
	assert_string_equal(error.message, "vault.json: twice: stands there twice");
	assert_int_equal(json_get_object(&root, "disks", &disks, &error), -EBADMSG);

	assert_int_equal(json_get_array(&root, "disks", &disks, &error), 0);
	int seen = 0;
	int r = 0;
	for (struct json disk = { 0 }; json_each(&disks, &disk); seen++)
		r = json_get_u64(&disk, "size", &u, &error);
	assert_int_equal(seen, 2);
	assert_int_equal(r, -EBADMSG);
	assert_string_equal(error.message,
		"vault.json: disks[1].size: must be an unsigned whole number of 64 bits");
	static const char *const known[] = { "id", "size", "n", NULL };
	assert_int_equal(json_only(&root, known, &error), -EBADMSG);
	assert_string_equal(error.message, "vault.json: neg: is not known here");
}

static void json_is_strict(void **state)
{
	(void)state;
	static const char *const good[] = { "0", "-0", "1e5", "-1.5E-3", "\"\"", "[]", "{}", "null",
		" [ 1 , {\"a\" : [ ] } ] ", "\"\\u00e4\\ud83d\\ude00\"", "\"\xc3\xa4\"" };
	static const char *const bad[] = { "", " ", "01", "1.", ".5", "+1", "1e", "--1", "nul",
		"NaN", "[1,]", "[,1]", "{\"a\":1,}", "{\"a\"}", "{a:1}", "{\"a\":1 \"b\":2}",
		"[1 2]", "[1]]", "[1", "{\"a\":", "\"abc", "\"\x01\"", "\"\\x\"", "\"\\u12\"",
		"\"\\u0000\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\xff\"",
		"\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xc3\"", "1 2",
		"// c\n1", "'a'", "[1}", "{\"a\":1]", "truefalse" };
	struct error error = { 0 };
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		CLEANUP(json_freep) struct cJSON *json = NULL;
		assert_int_equal(json_parse(good[i], strlen(good[i]), NULL, &json, &error), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CLEANUP(json_freep) struct cJSON *json = NULL;
		assert_int_equal(json_parse(bad[i], strlen(bad[i]), NULL, &json, &error), -EBADMSG);
		assert_null(json);
		assert_non_null(strstr(error.message, "line 1"));
	}
	const struct json_limits small = { .bytes = 20, .depth = 2 };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	assert_int_equal(json_parse("[[[1]]]", 7, &small, &json, &error), -E2BIG);
	assert_int_equal(json_parse("[                   ]", 21, &small, &json, &error), -E2BIG);
	assert_int_equal(json_parse("[[1]]", 5, &small, &json, &error), 0);
	/* The end is where the caller says. */
	CLEANUP(json_freep) struct cJSON *cut = NULL;
	assert_int_equal(json_parse("12345", 2, NULL, &cut, &error), 0);
	struct json root;
	uint64_t u = 0;
	json_root(cut, NULL, &root);
	assert_int_equal(json_as_u64(&root, &u, &error), 0);
	assert_int_equal(u, 12);
}

static void json_integers_survive_writing(void **state)
{
	(void)state;
	struct rng rng;
	rng_seed(&rng, 12);
	for (int k = 0; k < 20000; k++) {
		uint64_t u = rng_next(&rng) >> rng_below(&rng, 64);
		int64_t i = (int64_t)(rng_next(&rng)) >> rng_below(&rng, 64);
		CLEANUP(json_freep) struct cJSON *json = NULL;
		CLEANUP(json_freep) struct cJSON *back = NULL;
		CLEANUP(buf_free) struct buf b = { 0 };
		assert_int_equal(json_new_object(&json), 0);
		assert_int_equal(json_add_u64(json, "u", u), 0);
		assert_int_equal(json_add_i64(json, "i", i), 0);
		assert_int_equal(json_print(json, false, &b), 0);
		assert_int_equal(json_parse(b.data, b.len, NULL, &back, NULL), 0);
		struct json root;
		uint64_t u2;
		int64_t i2;
		json_root(back, NULL, &root);
		assert_int_equal(json_get_u64(&root, "u", &u2, NULL), 0);
		assert_int_equal(json_get_i64(&root, "i", &i2, NULL), 0);
		assert_true(u == u2);
		assert_true(i == i2);
	}
}

static void headers_are_found_without_case(void **state)
{
	(void)state;
	CLEANUP(http_headers_free) struct http_headers h = { 0 };
	static const char *const lines[] = { "HTTP/1.1 100 Continue\r\n", "X: old\r\n", "\r\n",
		"HTTP/1.1 201 Created\r\n", "ETag:  \"0x1\" \r\n", "x-ms-request-id:abc\n",
		"Empty:\r\n", "ETag: second\r\n", "\r\n" };
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_int_equal(http_headers_parse_line(&h, lines[i], strlen(lines[i])), 0);
	assert_int_equal(h.count, 4);
	assert_string_equal(http_headers_get(&h, "etag"), "\"0x1\"");
	assert_string_equal(http_headers_get(&h, "X-MS-Request-Id"), "abc");
	assert_string_equal(http_headers_get(&h, "empty"), "");
	assert_null(http_headers_get(&h, "X"));
	static const char *const bad[] = { "no colon", ": value", "a b: c", " folded: x",
		"a\x01: b", "a: b\x01", "a: b\rc" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(http_headers_parse_line(&h, bad[i], strlen(bad[i])), -EBADMSG);
	assert_int_equal(http_headers_parse_line(&h, "a: b\0c", 6), -EBADMSG);
	assert_int_equal(http_headers_add(&h, "a", "b\r\nInjected: c"), -EINVAL);
	assert_int_equal(http_headers_add(&h, "a:b", "c"), -EINVAL);
	assert_int_equal(h.count, 4);
	int r = 0;
	for (unsigned i = 0; i < 2 * HTTP_HEADERS_MAX && r == 0; i++)
		r = http_headers_addf(&h, "n", "%u", i);
	assert_int_equal(r, -E2BIG);
	assert_int_equal(h.count, HTTP_HEADERS_MAX);
	http_headers_clear(&h);
	assert_null(http_headers_get(&h, "ETag"));
}

static void sizes_and_times_are_rounded_for_people(void **state)
{
	(void)state;
	static const struct {
		double value;
		const char *size, *time;
	} cases[] = {
		{ 0, "0 B", "0 s" },
		{ 119, "119 B", "119 s" },
		{ 1023, "1023 B", "17 min" },
		{ 1024, "1.0 KiB", "17 min" },
		{ 7200, "7.0 KiB", "2.0 h" },
		{ 172800, "168.8 KiB", "2.0 days" },
		{ 1.5 * (double)GIB, "1.5 GiB", "18641.4 days" },
	};
	char text[HUMAN_TEXT_BYTES];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_string_equal(human_size(cases[i].value, text), cases[i].size);
		assert_string_equal(human_time(cases[i].value, text), cases[i].time);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base64_has_one_spelling),
		cmocka_unit_test(hashes_match_published_vectors),
		cmocka_unit_test(urls_come_apart_and_together),
		cmocka_unit_test(xml_becomes_a_tree),
		cmocka_unit_test(xml_refuses_bombs_and_limits),
		cmocka_unit_test(json_reads_and_names_the_field),
		cmocka_unit_test(json_is_strict),
		cmocka_unit_test(json_integers_survive_writing),
		cmocka_unit_test(headers_are_found_without_case),
		cmocka_unit_test(sizes_and_times_are_rounded_for_people),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
