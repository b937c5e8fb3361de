/*
 * Requests and answers of EBS direct. A block is believed only if its length and its checksum are
 * right; the engine asks again for one that is not.
 */
#include "ec2/blocks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base64.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/hmac.h"
#include "common/json.h"
#include "common/url.h"
#include "ec2/call.h"

#define PAGE_BLOCKS 5000u
#define BLOCKS_PER_PAGE_MAX 10000u

void ec2_block_page_free(struct ec2_block_page *page)
{
	free(page->items);
	free(page->next);
	buf_free(&page->tokens);
	*page = (struct ec2_block_page){ 0 };
}

/* "/snapshots/<id><rest>". */
static int append_path(struct buf *path, const char *snapshot, const char *rest)
{
	int r = buf_append_text(path, "/snapshots/");
	if (r == 0)
		r = url_escape(path, snapshot, NULL);
	return r < 0 ? r : buf_append_text(path, rest);
}

static int add_block(
	struct ec2_block_page *page, const struct json *item, bool changed, struct error *error)
{
	struct ec2_block *block = &page->items[page->count];
	const char *token = NULL;
	const char *first = NULL;
	uint64_t index = 0;
	int r = json_get_u64(item, "BlockIndex", &index, error);
	if (r == 0)
		r = json_find_text(
			item, changed ? "SecondBlockToken" : "BlockToken", &token, error);
	if (r >= 0 && changed)
		r = json_find_text(item, "FirstBlockToken", &first, error);
	if (r < 0)
		return r;
	if (index > UINT32_MAX || (page->count > 0 && index <= block[-1].index))
		return json_error(item, -EBADMSG, error, "the indexes do not rise");
	if (!token && !first)
		return json_error(item, -EBADMSG, error, "a block without a token");
	*block = (struct ec2_block){
		.index = (uint32_t)index, .gone = !token, .token_at = page->tokens.len
	};
	page->count++;
	/* The NUL is kept: it ends the token. */
	return token ? buf_append(&page->tokens, token, strlen(token) + 1) : 0;
}

static int read_page(const struct json *root, struct ec2_block_page *page, struct error *error)
{
	struct json list;
	uint64_t size = 0;
	const char *next = NULL;
	int changed = json_find_array(root, "ChangedBlocks", &list, error);
	if (changed < 0)
		return changed;
	int r = changed ? 0 : json_find_array(root, "Blocks", &list, error);
	/* An empty list may be left out. */
	bool has_list = changed || r > 0;
	if (r >= 0)
		r = json_find_u64(root, "BlockSize", &size, error);
	if (r >= 0 && size != 0 && size != EC2_BLOCK_BYTES)
		r = json_error(
			root, -EBADMSG, error, "blocks of %llu bytes", (unsigned long long)size);
	if (r >= 0)
		r = json_find_text(root, "NextToken", &next, error);
	if (r < 0)
		return r;
	page->items = calloc(BLOCKS_PER_PAGE_MAX, sizeof(page->items[0]));
	if (!page->items)
		return -ENOMEM;
	for (struct json item = { 0 }; has_list && json_each(&list, &item);) {
		if (page->count == BLOCKS_PER_PAGE_MAX)
			return json_error(root, -EBADMSG, error, "more blocks than were asked for");
		r = add_block(page, &item, changed > 0, error);
		if (r < 0)
			return r;
	}
	if (next && *next && !(page->next = strdup(next)))
		return -ENOMEM;
	return 0;
}

static int check_page(struct ec2_request *request)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP(ec2_block_page_free) struct ec2_block_page page = { 0 };
	struct error why = { 0 };
	struct json root;
	const struct buf *body = &request->call.http.ret_body;
	int r = json_parse(body->data ? body->data : "", body->len, NULL, &json, &why);
	if (r == 0) {
		json_root(json, "listing", &root);
		r = read_page(&root, &page, &why);
	}
	if (r == -ENOMEM)
		return http_error_set(&request->call.error, r, "out of memory");
	if (r < 0)
		return http_call_bad_answer(&request->call, &request->call.error, why.message);
	*request->page = page;
	page = (struct ec2_block_page){ 0 };
	return 0;
}

int ec2_list_blocks(struct ec2 *client, struct ec2_request *request,
	const struct ec2_listing *listing, struct ec2_block_page *ret_page)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = append_path(&path, listing->snapshot, listing->base ? "/changedblocks" : "/blocks");
	if (r < 0)
		return r;
	ec2_call_begin_get(client, request, path.data, EC2_LIMIT_LISTS);
	http_call_query(&request->call, "firstSnapshotId", listing->base);
	ec2_call_query_u64(
		request, "maxResults", listing->page_blocks ? listing->page_blocks : PAGE_BLOCKS);
	if (listing->page)
		http_call_query(&request->call, "pageToken", listing->page);
	else if (listing->from_index > 0)
		ec2_call_query_u64(request, "startingBlockIndex", listing->from_index);
	request->page = ret_page;
	request->check = check_page;
	return http_call_submit(&request->call);
}

static int check_block(struct ec2_request *request)
{
	const struct http_request *http = &request->call.http;
	const char *algorithm = http_headers_get(&http->ret_headers, "x-amz-Checksum-Algorithm");
	const char *checksum = http_headers_get(&http->ret_headers, "x-amz-Checksum");
	const char *length = http_headers_get(&http->ret_headers, "x-amz-Data-Length");
	uint8_t hash[SHA256_BYTES];
	char text[BASE64_TEXT_BYTES(SHA256_BYTES)];
	char expected[16];
	snprintf(expected, sizeof(expected), "%u", EC2_BLOCK_BYTES);
	if (http->received_bytes != EC2_BLOCK_BYTES)
		return http_call_bad_answer(
			&request->call, &request->call.error, "the block is short");
	if (length && strcmp(length, expected) != 0)
		return http_call_bad_answer(&request->call, &request->call.error,
			"the block is not as long as it says");
	if (!checksum || (algorithm && strcmp(algorithm, "SHA256") != 0))
		return http_call_bad_answer(
			&request->call, &request->call.error, "the block came without its SHA-256");
	if (sha256(http->into, EC2_BLOCK_BYTES, hash) < 0)
		return http_error_set(&request->call.error, -EIO, "SHA-256 is not to be had");
	base64_encode(hash, sizeof(hash), text);
	if (strcmp(text, checksum) != 0)
		return http_call_bad_answer(&request->call, &request->call.error,
			"the block does not match its checksum");
	return 0;
}

int ec2_get_block(struct ec2 *client, struct ec2_request *request, const char *snapshot,
	uint32_t index, const char *token, void *data)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	char rest[32];
	snprintf(rest, sizeof(rest), "/blocks/%u", index);
	int r = append_path(&path, snapshot, rest);
	if (r < 0)
		return r;
	ec2_call_begin_get(client, request, path.data, EC2_LIMIT_BLOCKS);
	http_call_query(&request->call, "blockToken", token);
	request->call.http.into = data;
	request->call.http.into_bytes = EC2_BLOCK_BYTES;
	request->check = check_block;
	return http_call_submit(&request->call);
}
