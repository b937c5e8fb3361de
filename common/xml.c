/*
 * expat tells of elements as they come; they are strung into a tree whose memory is one chain
 * of chunks, freed at once.
 *
 * Invariants: what is kept never exceeds the limits, since every node and every byte is counted
 * before it is taken; character data is gathered in `text` and given to an element only at its
 * end, if no element stood in it, so whitespace between elements costs nothing. The first
 * failure stops the parser and is the one that is told.
 */
#include "common/xml.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <expat.h>

#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"

#define CHUNK_BYTES (64 * KIB)

const struct xml_limits xml_limits_default = {
	.bytes = 32 * MIB,
	.nodes = 1000000,
	.depth = 32,
};

struct chunk {
	struct chunk *next;
	size_t used;
	size_t capacity;
	char data[] __attribute__((aligned(16)));
};

struct xml {
	struct chunk *chunks;
	struct xml_node *root;
};

struct builder {
	struct xml *xml;
	const struct xml_limits *limits;
	XML_Parser parser;
	struct xml_node *open;       /* the innermost element that has begun */
	struct xml_node **last[256]; /* by depth: where the next child is hung */
	unsigned depth;
	size_t nodes;
	size_t bytes;
	struct buf text;
	int failed; /* -errno */
	const char *why;
};

static void *take(struct xml *xml, size_t n)
{
	n = round_up(n, 16);
	struct chunk *chunk = xml->chunks;
	if (!chunk || chunk->capacity - chunk->used < n) {
		size_t capacity = MAX((size_t)CHUNK_BYTES, n);
		chunk = malloc(sizeof(*chunk) + capacity);
		if (!chunk)
			return NULL;
		*chunk = (struct chunk){ .next = xml->chunks, .capacity = capacity };
		xml->chunks = chunk;
	}
	void *p = chunk->data + chunk->used;
	chunk->used += n;
	return p;
}

static char *take_text(struct xml *xml, const char *text, size_t n)
{
	char *copy = take(xml, n + 1);
	if (copy) {
		memcpy(copy, text, n);
		copy[n] = '\0';
	}
	return copy;
}

static void fail(struct builder *b, int code, const char *why)
{
	if (b->failed == 0) {
		b->failed = code;
		b->why = why;
	}
	XML_StopParser(b->parser, XML_FALSE);
}

/* Counts before anything is kept. */
static bool afford(struct builder *b, size_t nodes, size_t bytes)
{
	b->nodes += nodes;
	b->bytes += bytes;
	if (b->nodes <= b->limits->nodes && b->bytes <= b->limits->bytes)
		return true;
	fail(b, -E2BIG, "it is larger than allowed");
	return false;
}

static bool add_attributes(struct builder *b, struct xml_node *node, const char **pairs)
{
	struct xml_attribute **slot = &node->attributes;
	for (; pairs[0]; pairs += 2) {
		size_t name_bytes = strlen(pairs[0]);
		size_t value_bytes = strlen(pairs[1]);
		if (!afford(b, 1, name_bytes + value_bytes))
			return false;
		struct xml_attribute *attribute = take(b->xml, sizeof(*attribute));
		if (!attribute)
			goto no_memory;
		*attribute = (struct xml_attribute){
			.name = take_text(b->xml, pairs[0], name_bytes),
			.value = take_text(b->xml, pairs[1], value_bytes),
		};
		if (!attribute->name || !attribute->value)
			goto no_memory;
		*slot = attribute;
		slot = &attribute->next;
	}
	return true;
no_memory:
	fail(b, -ENOMEM, "out of memory");
	return false;
}

static void on_start(void *context, const char *name, const char **pairs)
{
	struct builder *b = context;
	if (b->failed)
		return;
	if (b->depth >= b->limits->depth || b->depth + 1 >= ARRAY_SIZE(b->last)) {
		fail(b, -E2BIG, "it is nested deeper than allowed");
		return;
	}
	size_t name_bytes = strlen(name);
	if (!afford(b, 1, name_bytes))
		return;
	struct xml_node *node = take(b->xml, sizeof(*node));
	char *copy = take_text(b->xml, name, name_bytes);
	if (!node || !copy) {
		fail(b, -ENOMEM, "out of memory");
		return;
	}
	*node = (struct xml_node){ .name = copy, .text = "", .parent = b->open };
	if (!add_attributes(b, node, pairs))
		return;
	*b->last[b->depth] = node;
	b->last[b->depth] = &node->next;
	b->depth++;
	b->last[b->depth] = &node->children;
	b->open = node;
	buf_clear(&b->text);
}

static void on_end(void *context, const char *name)
{
	struct builder *b = context;
	(void)name;
	if (b->failed)
		return;
	struct xml_node *node = b->open;
	if (!node->children && b->text.len > 0) {
		char *copy = take_text(b->xml, b->text.data, b->text.len);
		if (!copy) {
			fail(b, -ENOMEM, "out of memory");
			return;
		}
		node->text = copy;
	}
	buf_clear(&b->text);
	b->open = node->parent;
	b->depth--;
}

static void on_text(void *context, const char *text, int n)
{
	struct builder *b = context;
	if (b->failed || !b->open || b->open->children)
		return;
	if (!afford(b, 0, (size_t)n))
		return;
	if (buf_append(&b->text, text, (size_t)n) < 0)
		fail(b, -ENOMEM, "out of memory");
}

static void on_doctype(
	void *context, const char *name, const char *system, const char *public, int has_internal)
{
	(void)name;
	(void)system;
	(void)public;
	(void)has_internal;
	fail(context, -EBADMSG, "it has a document type declaration, which is not accepted");
}

static int parse(struct builder *b, const void *data, size_t n, struct error *error)
{
	uint64_t salt = 0;
	int r = random_bytes(&salt, sizeof(salt));
	if (r < 0)
		return error_set(error, r, NULL, "no randomness for the XML parser");
	XML_SetHashSalt(b->parser, (unsigned long)(salt | 1));
	XML_SetUserData(b->parser, b);
	XML_SetElementHandler(b->parser, on_start, on_end);
	XML_SetCharacterDataHandler(b->parser, on_text);
	XML_SetStartDoctypeDeclHandler(b->parser, on_doctype);
	if (XML_Parse(b->parser, data, (int)n, 1) == XML_STATUS_OK && !b->failed)
		return 0;
	enum XML_Error code = XML_GetErrorCode(b->parser);
	if (code == XML_ERROR_NO_MEMORY)
		b->failed = -ENOMEM;
	return error_set(error, b->failed ? b->failed : -EBADMSG, NULL,
		"the XML is not usable: line %lu, column %lu: %s",
		(unsigned long)XML_GetCurrentLineNumber(b->parser),
		(unsigned long)XML_GetCurrentColumnNumber(b->parser),
		b->why ? b->why : XML_ErrorString(code));
}

int xml_parse(const void *data, size_t n, const struct xml_limits *limits, struct xml **ret_xml,
	struct error *error)
{
	if (!limits)
		limits = &xml_limits_default;
	if (n > limits->bytes || n > INT32_MAX)
		return error_set(error, -E2BIG, NULL, "%zu bytes of XML are more than allowed", n);
	CLEANUP(xml_freep) struct xml *xml = calloc(1, sizeof(*xml));
	XML_Parser parser = XML_ParserCreate(NULL);
	struct builder b = { .xml = xml, .limits = limits, .parser = parser };
	int r;
	if (xml && parser) {
		b.last[0] = &xml->root;
		r = parse(&b, data, n, error);
	} else {
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	}
	if (parser)
		XML_ParserFree(parser);
	buf_free(&b.text);
	if (r < 0)
		return r;
	*ret_xml = TAKE(xml);
	return 0;
}

void xml_free(struct xml *xml)
{
	if (!xml)
		return;
	for (struct chunk *chunk = xml->chunks; chunk;) {
		struct chunk *next = chunk->next;
		free(chunk);
		chunk = next;
	}
	free(xml);
}

const struct xml_node *xml_root(const struct xml *xml)
{
	return xml->root;
}

static bool is_named(const struct xml_node *node, const char *name, size_t n)
{
	return strncmp(node->name, name, n) == 0 && node->name[n] == '\0';
}

const struct xml_node *xml_find(const struct xml_node *node, const char *path)
{
	while (node) {
		size_t n = strcspn(path, "/");
		node = node->children;
		while (node && !is_named(node, path, n))
			node = node->next;
		if (path[n] == '\0')
			break;
		path += n + 1;
	}
	return node;
}

const struct xml_node *xml_next(const struct xml_node *node)
{
	const char *name = node->name;
	do
		node = node->next;
	while (node && strcmp(node->name, name) != 0);
	return node;
}

const char *xml_text(const struct xml_node *node, const char *path)
{
	if (path)
		node = xml_find(node, path);
	return node ? node->text : NULL;
}

const char *xml_attribute(const struct xml_node *node, const char *name)
{
	for (const struct xml_attribute *a = node->attributes; a; a = a->next) {
		if (strcmp(a->name, name) == 0)
			return a->value;
	}
	return NULL;
}

int xml_u64(const struct xml_node *node, const char *path, uint64_t *ret_value)
{
	const char *text = xml_text(node, path);
	if (!text)
		return -ENOENT;
	size_t digits = strspn(text, "0123456789");
	if (digits == 0 || text[digits] != '\0')
		return -EBADMSG;
	errno = 0;
	unsigned long long value = strtoull(text, NULL, 10);
	if (errno != 0)
		return -EBADMSG;
	*ret_value = value;
	return 0;
}
