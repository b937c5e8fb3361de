/*
 * A list of what the files say, in their order; looking up walks it. A file has a few dozen lines,
 * and is read once.
 *
 * Each entry ranks by where it stood, so that of two that say the same key the higher rank wins,
 * and of equal ranks the later.
 */
#include "ec2/profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"

#define FILE_BYTES_MAX (1 * MIB)

enum section { SECTION_OTHER, SECTION_PROFILE, SECTION_SERVICES };

struct entry {
	enum section section;
	int rank;
	char *name;  /* of the section */
	char *key;   /* NULL: the section itself */
	char *inner; /* the nested key; NULL: none */
	char *value; /* NULL with `key` */
};

struct ec2_profiles {
	struct entry *items; /* owned */
	size_t count;
	size_t capacity;
};

int ec2_profiles_new(struct ec2_profiles **ret_profiles)
{
	struct ec2_profiles *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	*ret_profiles = p;
	return 0;
}

static void entry_free(struct entry *e)
{
	if (e->value)
		explicit_bzero(e->value, strlen(e->value));
	free(e->name);
	free(e->key);
	free(e->inner);
	free(e->value);
}

void ec2_profiles_free(struct ec2_profiles *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->count; i++)
		entry_free(&p->items[i]);
	free(p->items);
	free(p);
}

/* Where the reader is. */
struct reader {
	struct ec2_profiles *profiles;
	enum ec2_profile_file file;
	const char *path;
	struct error *error;
	unsigned line;
	bool in_section;
	enum section section;
	int rank;
	char *name; /* of the section; owned */
	char *key;  /* the last that stood at the left; owned */
	bool key_is_empty;
};

static void reader_free(struct reader *r)
{
	free(r->name);
	free(r->key);
}

static int complain(struct reader *r, const char *what)
{
	return error_set(r->error, -EINVAL, NULL, "%s:%u: %s", r->path, r->line, what);
}

static int add(struct reader *r, const char *key, const char *inner, const char *value)
{
	struct ec2_profiles *p = r->profiles;
	if (p->count == p->capacity) {
		size_t capacity = MAX(p->capacity * 2, (size_t)32);
		struct entry *items = reallocarray(p->items, capacity, sizeof(*items));
		if (!items)
			return -ENOMEM;
		p->items = items;
		p->capacity = capacity;
	}
	struct entry e = { .section = r->section, .rank = r->rank, .name = strdup(r->name) };
	e.key = key ? strdup(key) : NULL;
	e.inner = inner ? strdup(inner) : NULL;
	e.value = value ? strdup(value) : NULL;
	if (!e.name || (key && !e.key) || (inner && !e.inner) || (value && !e.value)) {
		entry_free(&e);
		return -ENOMEM;
	}
	p->items[p->count++] = e;
	return 0;
}

static char *trim(char *text)
{
	text += strspn(text, " \t");
	size_t n = strlen(text);
	while (n > 0 && strchr(" \t\r", text[n - 1]))
		text[--n] = '\0';
	return text;
}

/* Begins a section: "[name]", "[profile name]", "[services name]". */
static int read_section(struct reader *r, char *text)
{
	char *end = strchr(text, ']');
	if (!end)
		return complain(r, "a section's name ends with ]");
	*end = '\0';
	char *name = trim(text + 1);
	size_t word = strcspn(name, " \t");
	r->in_section = true;
	r->section = SECTION_OTHER;
	r->rank = 0;
	free(TAKE(r->key));
	if (r->file == EC2_PROFILE_CREDENTIALS) {
		r->section = SECTION_PROFILE;
		r->rank = 2;
	} else if (strcmp(name, "default") == 0) {
		r->section = SECTION_PROFILE;
	} else if (name[word] != '\0' && strncmp(name, "profile", word) == 0 && word == 7) {
		r->section = SECTION_PROFILE;
		r->rank = 1;
		name = trim(name + word);
	} else if (name[word] != '\0' && strncmp(name, "services", word) == 0 && word == 8) {
		r->section = SECTION_SERVICES;
		name = trim(name + word);
	}
	size_t n = strlen(name);
	if (n >= 2 && (name[0] == '"' || name[0] == '\'') && name[n - 1] == name[0]) {
		name[n - 1] = '\0';
		name++;
	}
	free(TAKE(r->name));
	r->name = strdup(name);
	if (!r->name)
		return -ENOMEM;
	return r->section == SECTION_OTHER ? 0 : add(r, NULL, NULL, NULL);
}

/* Cuts a comment that has a blank in front. */
static void cut_comment(char *value)
{
	for (char *c = value; *c; c++) {
		if ((*c == '#' || *c == ';') && (c == value || c[-1] == ' ' || c[-1] == '\t')) {
			*c = '\0';
			return;
		}
	}
}

/* "key = value", at the left or indented below `r->key`. */
static int read_property(struct reader *r, char *text, bool nested)
{
	char *equals = strchr(text, '=');
	if (!equals)
		return complain(r, "neither a section, nor key = value, nor a comment");
	*equals = '\0';
	char *key = trim(text);
	if (!*key)
		return complain(r, "a value without a key");
	cut_comment(equals + 1);
	char *value = trim(equals + 1);
	if (r->section == SECTION_OTHER)
		return 0;
	if (nested)
		return add(r, r->key, key, value);
	free(TAKE(r->key));
	r->key = strdup(key);
	if (!r->key)
		return -ENOMEM;
	r->key_is_empty = *value == '\0';
	return r->key_is_empty ? 0 : add(r, key, NULL, value);
}

static int read_line(struct reader *r, char *line)
{
	bool indented = *line == ' ' || *line == '\t';
	char *text = trim(line);
	if (*text == '\0' || *text == '#' || *text == ';')
		return 0;
	if (*text == '[' && !indented)
		return read_section(r, text);
	if (!r->in_section)
		return complain(r, "a line before the first section");
	if (!indented)
		return read_property(r, text, false);
	/* What goes on a value of several lines is of no use to us. */
	if (r->section == SECTION_OTHER || (r->key && !r->key_is_empty))
		return 0;
	return r->key ? read_property(r, text, true) : complain(r, "an indented line below no key");
}

int ec2_profiles_parse(struct ec2_profiles *profiles, enum ec2_profile_file file, const char *name,
	const char *text, size_t n, struct error *error)
{
	CLEANUP(reader_free)
	struct reader r = { .profiles = profiles, .file = file, .path = name, .error = error };
	CLEANUP_FREE char *copy = strndup(text, n);
	if (!copy)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int result = 0;
	char *next = copy;
	while (result == 0 && next) {
		char *line = next;
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		r.line++;
		result = read_line(&r, line);
	}
	explicit_bzero(copy, n);
	return result == -ENOMEM ? error_set(error, result, NULL, "out of memory") : result;
}

int ec2_profiles_load(struct ec2_profiles *profiles, enum ec2_profile_file file, const char *path,
	struct error *error)
{
	char *text = NULL;
	size_t n = 0;
	int r = io_load_file(io_posix(), path, FILE_BYTES_MAX, &text, &n);
	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r < 0)
		return error_set(error, r, NULL, "%s: %s", path, strerrordesc_np(-r));
	r = ec2_profiles_parse(profiles, file, path, text, n, error);
	explicit_bzero(text, n);
	free(text);
	return r;
}

bool ec2_profiles_have(const struct ec2_profiles *profiles, const char *profile)
{
	for (size_t i = 0; i < profiles->count; i++) {
		const struct entry *e = &profiles->items[i];
		if (e->section == SECTION_PROFILE && strcmp(e->name, profile) == 0)
			return true;
	}
	return false;
}

/* `inner` NULL: only what is not nested. */
static const char *look_up(const struct ec2_profiles *profiles, enum section section,
	const char *name, const char *key, const char *inner)
{
	const struct entry *found = NULL;
	for (size_t i = 0; i < profiles->count; i++) {
		const struct entry *e = &profiles->items[i];
		if (e->section != section || !e->key || strcmp(e->name, name) != 0 ||
			strcasecmp(e->key, key) != 0 || !e->inner != !inner)
			continue;
		if (inner && strcasecmp(e->inner, inner) != 0)
			continue;
		if (!found || e->rank >= found->rank)
			found = e;
	}
	return found ? found->value : NULL;
}

const char *ec2_profile_get(
	const struct ec2_profiles *profiles, const char *profile, const char *key)
{
	return look_up(profiles, SECTION_PROFILE, profile, key, NULL);
}

const char *ec2_profile_get_service(
	const struct ec2_profiles *profiles, const char *name, const char *service, const char *key)
{
	return look_up(profiles, SECTION_SERVICES, name, service, key);
}
