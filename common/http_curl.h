/*
 * Inside of http.c: one request as libcurl sees it: its options, its callbacks, and what its end
 * means. Not for others.
 */
#pragma once

#include <curl/curl.h>
#include <stdint.h>

#include "common/http.h"

enum http_state { HTTP_STATE_IDLE, HTTP_STATE_QUEUED, HTTP_STATE_RUNNING, HTTP_STATE_DONE };

/* The options with their defaults filled in; strings owned. */
struct http_settings {
	unsigned connections;
	unsigned connections_per_host; /* 0: no limit of its own */
	uint32_t connect_timeout_ms;
	uint32_t stall_timeout_ms;
	uint32_t read_stall_timeout_ms;
	uint32_t total_timeout_ms;
	char *ca_file;
	char *proxy;
	char *proxy_credentials;
	char *no_proxy;
	char *user_agent;
};

/* Sets up `request->easy` and `request->header_list`. 0, -EINVAL or -ENOMEM. */
int http_curl_prepare(struct http_request *request, const struct http_settings *settings);

/* Fills outcome, status, error and error_text from how libcurl ended. */
void http_curl_judge(struct http_request *request, CURLcode code);
