/*
 * common/static: what stands in for shared libraries answers as they do.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/checksum.h"
#include "common/static/hash_avx2.h"

/* Beside the library's, under names of their own. */
#define cJSON_Delete tree_Delete
#define cJSON_free tree_free
#define cJSON_CreateObject tree_CreateObject
#define cJSON_CreateArray tree_CreateArray
#define cJSON_CreateBool tree_CreateBool
#define cJSON_CreateNumber tree_CreateNumber
#define cJSON_CreateString tree_CreateString
#define cJSON_AddItemToArray tree_AddItemToArray
#define cJSON_AddItemToObject tree_AddItemToObject
#define cJSON_AddNullToObject tree_AddNullToObject
#define cJSON_AddNumberToObject tree_AddNumberToObject
#define cJSON_GetObjectItemCaseSensitive tree_GetObjectItemCaseSensitive
#define cJSON_IsObject tree_IsObject
#define cJSON_IsArray tree_IsArray
#define cJSON_IsString tree_IsString
#define cJSON_IsNumber tree_IsNumber
#define cJSON_IsNull tree_IsNull
#define cJSON_IsTrue tree_IsTrue
#define cJSON_IsBool tree_IsBool
#define cJSON_ParseWithLength tree_ParseWithLength
#define cJSON_Print tree_Print
#define cJSON_PrintUnformatted tree_PrintUnformatted
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#include "common/static/json_tree.c"
#pragma GCC diagnostic pop
#undef cJSON_Delete
#undef cJSON_free
#undef cJSON_ParseWithLength
#undef cJSON_Print
#undef cJSON_PrintUnformatted
#undef cJSON_IsBool
#undef cJSON_IsTrue
#undef cJSON_IsNull
#undef cJSON_IsNumber

static void same_print(
	const char *text, char *(*left)(const cJSON *), char *(*right)(const cJSON *))
{
	cJSON *a = tree_ParseWithLength(text, strlen(text));
	cJSON *b = cJSON_ParseWithLength(text, strlen(text));
	assert_non_null(a);
	assert_non_null(b);
	char *ours = left(a), *theirs = right(b);
	assert_string_equal(ours, theirs);
	free(ours);
	free(theirs);
	tree_Delete(a);
	cJSON_Delete(b);
}

static void trees_print_as_the_library_does(void **state)
{
	static const char *const texts[] = { "{}", "[]", "null", "true", " false ", "0", "-1",
		"1.5", "1e300", "-2.5e-7", "123456789012", "0.1", "3.141592653589793", "\"\"",
		"\"a\\\"b\\\\c\\/d\\b\\f\\n\\r\\t\\u0001\\u00e4\\u20ac\\ud83d\\ude00\"",
		"[1, [2, [3, {}]], {\"a\": [], \"b\": {\"c\": null, \"d\": true}}]",
		"{\"type\":\"disks\",\"disks\":[{\"id\":\"sda\",\"size_bytes\":4096,"
		"\"capture\":\"bpf\"},{\"id\":\"sdb\"}],\"n\":18014398509481984}" };
	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		same_print(texts[i], tree_Print, cJSON_Print);
		same_print(texts[i], tree_PrintUnformatted, cJSON_PrintUnformatted);
	}
}

static void trees_refuse_what_is_no_json(void **state)
{
	static const char *const texts[] = { "", "{", "[", "[1", "[1,", "{\"a\"",
		"{\"a\":", "{a:1}", "\"", "\"\\", "\"\\u12", "\"\\ud800\"", "\"\\ud800\\u0041\"",
		"\"\\udc00\"", "\"\\x\"", "tru", "-", "--1", "1e", "}" };
	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		/* Of its exact length, so that a look past the end is seen. */
		size_t n = strlen(texts[i]);
		char *exact = malloc(n ? n : 1);
		memcpy(exact, texts[i], n);
		assert_null(tree_ParseWithLength(exact, n));
		free(exact);
	}
	char deep[3000];
	memset(deep, '[', sizeof(deep));
	assert_null(tree_ParseWithLength(deep, sizeof(deep)));
}

static void trees_are_built(void **state)
{
	cJSON *root = tree_CreateObject(), *list = tree_CreateArray();
	(void)state;
	assert_true(tree_AddItemToArray(list, tree_CreateNumber(7)));
	assert_true(tree_AddItemToArray(list, tree_CreateBool(true)));
	assert_true(tree_AddItemToArray(list, tree_CreateString("x")));
	assert_true(tree_AddItemToObject(root, "list", list));
	assert_non_null(tree_AddNullToObject(root, "none"));
	assert_non_null(tree_AddNumberToObject(root, "n", 1e10));
	assert_int_equal(tree_GetObjectItemCaseSensitive(root, "n")->valueint, INT_MAX);
	assert_null(tree_GetObjectItemCaseSensitive(root, "N"));
	assert_false(tree_AddItemToArray(list, list));
	char *text = tree_PrintUnformatted(root);
	assert_string_equal(text, "{\"list\":[7,true,\"x\"],\"none\":null,\"n\":10000000000}");
	free(text);
	assert_true(tree_IsArray(list) && tree_IsString(list->child->prev));
	assert_false(tree_IsObject(NULL));
	tree_Delete(root);
}

static void hashes_are_the_same_in_wider_vectors(void **state)
{
#if defined(__x86_64__)
	static uint8_t data[1 << 16];
	(void)state;
	if (!__builtin_cpu_supports("avx2"))
		skip();
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 7);
	for (size_t n = 0; n <= sizeof(data); n = n < 600 ? n + 1 : n * 2 - 5) {
		struct hash128 wanted = checksum128(data, n);
		XXH128_hash_t found = hash_avx2_128(data, n);
		assert_int_equal(hash_avx2_64(data, n), checksum64(data, n));
		assert_int_equal(found.low64, wanted.low);
		assert_int_equal(found.high64, wanted.high);
	}
#else
	(void)state;
	skip();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trees_print_as_the_library_does),
		cmocka_unit_test(trees_refuse_what_is_no_json),
		cmocka_unit_test(trees_are_built),
		cmocka_unit_test(hashes_are_the_same_in_wider_vectors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
