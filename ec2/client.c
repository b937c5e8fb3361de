/*
 * The client: what AWS adds to the engine of common/http_calls.h. Signatures with keys that are
 * renewed, the account's request rates, and a count of attempts by what they cost.
 */
#include "ec2/ec2.h"

#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/xml.h"
#include "ec2/blocks.h"
#include "ec2/client_internal.h"

/* A fetch's window, a listing and some to spare. */
#define CONNECTIONS 64u

static struct ec2 *client_of(const struct http_call *call)
{
	return http_calls_context(call->calls);
}

static struct ec2_request *request_of(struct http_call *call)
{
	return CONTAINER_OF(call, struct ec2_request, call);
}

static int prepare(struct http_call *call)
{
	struct ec2_request *request = request_of(call);
	struct ec2 *client = client_of(call);
	struct http_request *http = &call->http;
	request->body = (struct iovec){ request->form.data, request->form.len };
	http->url = call->url.data;
	http->body = &request->body;
	http->body_count = request->form.len > 0;
	const struct ec2_sigv4_target target = { client->settings->region,
		ec2_service_name(request->service) };
	const struct ec2_sigv4_request what = { http->method, http->url, request->form.data,
		request->form.len };
	int r = ec2_credential_sign(client->credential, &client->keys, &target, &what,
		&http->headers, &request->turn, &call->error);
	client->attempts[request->limit] += r == 0;
	return r;
}

static int check(struct http_call *call)
{
	struct ec2_request *request = request_of(call);
	return request->check ? request->check(request) : 0;
}

static enum http_refusal give_up(struct http_call *call)
{
	return ec2_credential_refused(client_of(call)->credential, request_of(call)->turn);
}

static int64_t reserve_ns(struct http_call *call)
{
	struct ec2 *client = client_of(call);
	const enum ec2_limit limit = request_of(call)->limit;
	int64_t wait = client->limiter ? ec2_limiter_reserve(client->limiter, limit) : 0;
	if (limit != EC2_LIMIT_BLOCKS || !client->pace)
		return wait;
	int64_t paced = client->pace(client->pace_context, EC2_BLOCK_BYTES);
	return MAX(wait, paced);
}

static void throttled(struct http_call *call)
{
	struct ec2_limiter *limiter = client_of(call)->limiter;
	if (limiter)
		ec2_limiter_throttled(limiter, request_of(call)->limit);
}

static const struct http_service aws = {
	.name = "AWS",
	.prepare = prepare,
	.check = check,
	.read_error = ec2_error_read,
	.give_up = give_up,
	.reserve_ns = reserve_ns,
	.throttled = throttled,
};

static void ec2_freep(struct ec2 **client)
{
	ec2_free(*client);
}

static int find_endpoints(struct ec2 *client, struct error *error)
{
	static const enum ec2_service services[] = { EC2_SERVICE_EC2, EC2_SERVICE_EBS };
	for (unsigned i = 0; i < ARRAY_SIZE(services); i++) {
		CLEANUP(buf_free) struct buf url = { 0 };
		int r = ec2_settings_endpoint(client->settings, services[i], &url, error);
		if (r < 0)
			return r;
		client->endpoints[services[i]] = TAKE(url.data);
	}
	return 0;
}

int ec2_new(const struct ec2_options *options, struct ec2 **ret_client, struct error *error)
{
	const struct retry_policy policy = { .attempts = 8,
		.first_ns = 200 * NS_PER_MS,
		.longest_ns = 10 * NS_PER_S,
		.total_ns = 300 * NS_PER_S };
	struct http_options http = options->http;
	if (!options->settings->region)
		return error_set(error, -EINVAL, "set [aws] region, or AWS_REGION",
			"nobody says which region of AWS to use");
	CLEANUP(ec2_freep) struct ec2 *client = calloc(1, sizeof(*client));
	if (!client)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	client->settings = options->settings;
	client->credential = options->credential;
	client->limiter = options->limiter;
	client->pace = options->pace;
	client->pace_context = options->pace_context;
	if (!http.ca_file)
		http.ca_file = options->settings->ca_file;
	if (http.connections == 0)
		http.connections = CONNECTIONS;
	int r = find_endpoints(client, error);
	if (r == 0)
		r = http_calls_new(&aws, client, &http,
			options->retry.attempts > 0 ? &options->retry : &policy, &client->calls,
			error);
	if (r == 0)
		*ret_client = TAKE(client);
	return r;
}

void ec2_free(struct ec2 *client)
{
	if (!client)
		return;
	http_calls_free(client->calls);
	for (unsigned i = 0; i < EC2_SERVICES; i++)
		free(client->endpoints[i]);
	ec2_sigv4_keys_wipe(&client->keys);
	free(client);
}

const char *ec2_region(const struct ec2 *client)
{
	return client->settings->region;
}

size_t ec2_pending(const struct ec2 *client)
{
	return http_calls_pending(client->calls);
}

bool ec2_is_stopped(const struct ec2 *client)
{
	return http_calls_is_stopped(client->calls);
}

void ec2_get_stats(const struct ec2 *client, struct ec2_stats *ret_stats)
{
	http_calls_get_stats(client->calls, &ret_stats->calls);
	for (unsigned i = 0; i < EC2_LIMITS; i++)
		ret_stats->attempts[i] = client->attempts[i];
}

void ec2_request_free(struct ec2_request *request)
{
	buf_free(&request->form);
	xml_free(request->answer);
	http_call_free(&request->call);
}

int ec2_wait(struct ec2 *client, int timeout_ms, struct ec2_request **ret_done)
{
	struct http_call *call;
	int r = http_calls_wait(client->calls, timeout_ms, &call);
	if (r == 0)
		*ret_done = request_of(call);
	return r;
}

void ec2_cancel(struct ec2 *client, struct ec2_request *request)
{
	http_calls_cancel(client->calls, &request->call);
}

void ec2_wakeup(struct ec2 *client)
{
	http_calls_wakeup(client->calls);
}

void ec2_rest(struct ec2 *client)
{
	http_calls_rest(client->calls);
}
