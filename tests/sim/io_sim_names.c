/*
 * The names of the simulated disk: what is seen, what is durable, and the log between. See
 * io_sim.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/io_sim_node.h"

struct node *names_new_node(struct io_sim *sim, bool is_directory)
{
	struct node *node = sim_alloc(sizeof(*node));
	memset(node, 0, sizeof(*node));
	node->is_directory = is_directory;
	node->changes_end = &node->changes;
	node->next = sim->nodes;
	sim->nodes = node;
	return node;
}

static struct entry **entry_find(struct entry **names, const char *name)
{
	while (*names && strcmp((*names)->name, name) != 0)
		names = &(*names)->next;
	return names;
}

static void entry_remove(struct entry **names, const char *name, const struct node *only)
{
	struct entry **at = entry_find(names, name);
	struct entry *e = *at;
	if (!e || (only && e->node != only))
		return;
	*at = e->next;
	free(e->name);
	free(e);
}

void names_set(struct entry **names, const char *name, struct node *node)
{
	struct entry **at = entry_find(names, name);
	if (*at) {
		(*at)->node = node;
		return;
	}
	struct entry *e = sim_alloc(sizeof(*e));
	e->next = NULL;
	e->name = strdup(name);
	e->node = node;
	*at = e;
}

void names_free(struct entry **names)
{
	while (*names)
		entry_remove(names, (*names)->name, NULL);
}

static void name_change_apply(const struct name_change *c, bool durable)
{
	if (c->from_directory)
		entry_remove(
			durable ? &c->from_directory->durable_names : &c->from_directory->names,
			c->from, durable ? c->node : NULL);
	if (c->to_directory)
		names_set(durable ? &c->to_directory->durable_names : &c->to_directory->names,
			c->to, c->node);
}

static void name_change_free(struct name_change *c)
{
	free(c->from);
	free(c->to);
	free(c);
}

/* Logs the change and shows it. */
void names_change(struct io_sim *sim, struct node *from_directory, const char *from,
	struct node *to_directory, const char *to, struct node *node)
{
	struct name_change *c = sim_alloc(sizeof(*c));
	memset(c, 0, sizeof(*c));
	c->sequence = ++sim->sequence;
	c->from_directory = from_directory;
	c->to_directory = to_directory;
	c->from = from ? strdup(from) : NULL;
	c->to = to ? strdup(to) : NULL;
	c->node = node;
	*sim->name_changes_end = c;
	sim->name_changes_end = &c->next;
	name_change_apply(c, false);
}

/* Ends the log of the directory, or of all (NULL); what `keeps` says survives is durable. */
void names_settle(struct io_sim *sim, const struct node *directory,
	bool (*keeps)(void *context, const struct name_change *c), void *context)
{
	struct name_change **link = &sim->name_changes;
	while (*link) {
		struct name_change *c = *link;
		if (directory && c->from_directory != directory && c->to_directory != directory) {
			link = &c->next;
			continue;
		}
		if (!keeps || keeps(context, c))
			name_change_apply(c, true);
		*link = c->next;
		name_change_free(c);
	}
	sim->name_changes_end = link;
}

/* Walks to the directory that holds the last part of the path, which becomes *ret_last (it
 * points into path; empty for the root). 0, -ENOENT, -ENOTDIR. */
int names_walk(struct io_sim *sim, const char *path, struct node **ret_directory,
	char ret_last[static 256])
{
	struct node *at = sim->root;
	char part[256] = "";
	const char *p = path;
	for (;;) {
		while (*p == '/')
			p++;
		size_t n = strcspn(p, "/");
		if (n == 0)
			break;
		if (n >= sizeof(part))
			return -ENAMETOOLONG;
		if (n == 1 && *p == '.') {
			p += n;
			continue;
		}
		if (part[0]) {
			struct entry *e = *entry_find(&at->names, part);
			if (!e)
				return -ENOENT;
			if (!e->node->is_directory)
				return -ENOTDIR;
			at = e->node;
		}
		memcpy(part, p, n);
		part[n] = '\0';
		p += n;
	}
	*ret_directory = at;
	strcpy(ret_last, part);
	return 0;
}

int names_look_up(struct io_sim *sim, const char *path, struct node **ret_node)
{
	char last[256];
	struct node *directory;
	int r = names_walk(sim, path, &directory, last);
	if (r < 0)
		return r;
	if (!last[0]) {
		*ret_node = directory;
		return 0;
	}
	struct entry *e = *entry_find(&directory->names, last);
	if (!e)
		return -ENOENT;
	*ret_node = e->node;
	return 0;
}
