/*
 * XML answers of services as a small tree, in bounded memory. A document type declaration is
 * refused (no service sends one; entity bombs need one), and so is whatever is deeper, longer or
 * more than the limits allow.
 *
 *	CLEANUP(xml_freep) struct xml *xml = NULL;
 *	int r = xml_parse(data, n, NULL, &xml, error);
 *	for (const struct xml_node *blob = xml_find(xml_root(xml), "Blobs/Blob"); blob;
 *			blob = xml_next(blob))
 *		name = xml_text(blob, "Name");
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct xml;

struct xml_attribute {
	const char *name;
	const char *value;
	struct xml_attribute *next;
};

/* Everything in it belongs to the document. */
struct xml_node {
	const char *name; /* with its prefix, as written */
	const char *text; /* the element's characters if it has no elements in it, else "" */
	struct xml_attribute *attributes;
	struct xml_node *parent;   /* NULL at the root */
	struct xml_node *children; /* the first one */
	struct xml_node *next;     /* the next of the same parent */
};

struct xml_limits {
	size_t bytes;   /* of the document, and of what it unfolds to */
	size_t nodes;   /* elements and attributes together */
	unsigned depth; /* the root is 1 */
};

/* What NULL limits stand for: 32 MiB, a million nodes, a depth of 32. */
extern const struct xml_limits xml_limits_default;

/* Reads a whole document; encodings: UTF-8, UTF-16, Latin-1, ASCII; a byte-order mark may stand
 * in front. 0, -EBADMSG for what is no XML or has a DTD, -E2BIG beyond a limit, -ENOMEM; `error`
 * (may be NULL) says where. Any thread; no state is shared. */
int xml_parse(const void *data, size_t n, const struct xml_limits *limits, struct xml **ret_xml,
	struct error *error);
/* With all nodes; NULL is fine. */
void xml_free(struct xml *xml);

static inline void xml_freep(struct xml **xml)
{
	xml_free(*xml);
}

/* The outermost element, never NULL. Reading a document: any thread, several at once. */
const struct xml_node *xml_root(const struct xml *xml);

/* The first element at `path` ("Blobs/Blob") below `node`; NULL if there is none, or if `node`
 * is NULL. */
const struct xml_node *xml_find(const struct xml_node *node, const char *path);
/* The next sibling of the same name; NULL at the end. */
const struct xml_node *xml_next(const struct xml_node *node);
/* The text at `path` (NULL: of `node` itself), NULL if there is no such element. */
const char *xml_text(const struct xml_node *node, const char *path);
/* NULL if there is no such attribute. */
const char *xml_attribute(const struct xml_node *node, const char *name);
/* The text at `path` as an unsigned decimal number. 0, -ENOENT, or -EBADMSG. */
int xml_u64(const struct xml_node *node, const char *path, uint64_t *ret_value);
