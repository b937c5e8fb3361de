/*
 * See the header. A client a request: tests ask seldom.
 */
#include "tests/integration/service_admin.h"

#include "tests/unit/cmocka_common.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/http.h"
#include "common/json.h"

void service_admin_ask(const char *variable, const char *method, const char *path, const char *json,
	struct buf *answer)
{
	CLEANUP(http_request_free) struct http_request request = { 0 };
	CLEANUP(buf_free) struct buf url = { 0 };
	struct http *http = NULL;
	const struct http_options options = { .proxy = "" };
	struct iovec body = { (void *)json, json ? strlen(json) : 0 };
	assert_int_equal(http_new(&options, &http, NULL), 0);
	assert_int_equal(buf_printf(&url, "%s%s", getenv(variable), path), 0);
	request.method = method;
	request.url = url.data;
	request.body = &body;
	request.body_count = json != NULL;
	assert_int_equal(http_perform(http, &request), 0);
	if (request.status != 200)
		fail_msg("admin %s: %d %s", path, request.status,
			request.ret_body.data ? request.ret_body.data : request.error_text);
	if (answer)
		assert_int_equal(
			buf_append(answer, request.ret_body.data, request.ret_body.len), 0);
	http_free(http);
}

uint64_t service_admin_number(
	const char *variable, const char *path, const char *object, const char *name)
{
	CLEANUP(buf_free) struct buf answer = { 0 };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json at, inner;
	uint64_t value = 0;
	service_admin_ask(variable, "GET", path, NULL, &answer);
	assert_int_equal(json_parse(answer.data, answer.len, NULL, &json, NULL), 0);
	json_root(json, path, &at);
	if (object) {
		assert_int_equal(json_get_object(&at, object, &inner, NULL), 0);
		json_find_u64(&inner, name, &value, NULL);
	} else {
		assert_int_equal(json_get_u64(&at, name, &value, NULL), 0);
	}
	return value;
}
