/*
 * Any bytes as a service's XML answer: read within small limits, then walked all over.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t walk(const struct xml_node *node, unsigned depth)
{
	size_t count = 1;
	uint64_t value;
	if (depth > 16)
		abort();
	for (const struct xml_attribute *a = node->attributes; a; a = a->next) {
		if (!xml_attribute(node, a->name))
			abort();
		count++;
	}
	(void)xml_u64(node, NULL, &value);
	for (const struct xml_node *child = node->children; child; child = child->next) {
		if (child->parent != node)
			abort();
		/* A name with a slash cannot be asked for by path; XML has none. */
		const struct xml_node *first = xml_find(node, child->name);
		if (!first || strcmp(first->name, child->name) != 0)
			abort();
		count += walk(child, depth + 1);
	}
	return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct xml_limits limits = { .bytes = 64 * 1024, .nodes = 500, .depth = 16 };
	CLEANUP(xml_freep) struct xml *xml = NULL;
	struct error error = { 0 };
	if (xml_parse(data, size, &limits, &xml, &error) == 0) {
		if (walk(xml_root(xml), 1) > limits.nodes)
			abort();
	} else if (xml || !error.message[0]) {
		abort();
	}
	return 0;
}
