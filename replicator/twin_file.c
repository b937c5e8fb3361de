/*
 * See twin_file.h. What is read may be secret, so it is wiped before it is freed. No state; the
 * caller sees to it that a file has one writer at a time.
 */
#include "replicator/twin_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/cleanup.h"
#include "common/log.h"

struct text {
	char *data;
	size_t n;
};

static void text_free(struct text *text)
{
	if (text->data)
		explicit_bzero(text->data, text->n);
	free(text->data);
}

static int load(struct io *io, const char *path, size_t limit, twin_check *check, void *context,
	struct error *error, struct text *ret_text)
{
	int r = io_load_file(io, path, limit, &ret_text->data, &ret_text->n);
	if (r < 0)
		return error_set(error, r, "check the appliance's disk and the directory's rights",
			"%s: cannot be read: %s", path, strerrordesc_np(-r));
	r = check(context, ret_text->data, ret_text->n, error);
	if (r < 0 && !strstr(error->message, path))
		error_prefix(error, "%s", path);
	return r == 0 || r == -ENOMEM ? r : -EUCLEAN;
}

int twin_save(struct io *io, const char *path, const void *data, size_t n)
{
	CLEANUP(buf_free) struct buf copy = { 0 };
	int r = buf_printf(&copy, "%s.copy", path);
	if (r == 0)
		r = io_replace_file(io, copy.data, data, n);
	return r == 0 ? io_replace_file(io, path, data, n) : r;
}

int twin_remove(struct io *io, const char *path)
{
	CLEANUP(buf_free) struct buf copy = { 0 };
	int r = buf_printf(&copy, "%s.copy", path);
	if (r == 0)
		r = io_unlink(io, copy.data);
	if (r == 0 || r == -ENOENT)
		r = io_unlink(io, path);
	return r == -ENOENT ? 0 : r;
}

/* The file is sound: the copy shall be, too. */
static void mend_copy(struct io *io, const char *copy, size_t limit, const struct text *right)
{
	CLEANUP(text_free) struct text there = { 0 };
	int r = io_load_file(io, copy, limit, &there.data, &there.n);
	if (r == 0 && there.n == right->n && memcmp(there.data, right->data, right->n) == 0)
		return;
	if (r != -ENOENT)
		log_warning("%s: differs from what it is the copy of, and is written anew", copy);
	r = io_replace_file(io, copy, right->data, right->n);
	if (r < 0)
		log_warning("%s: cannot be written: %s", copy, strerrordesc_np(-r));
}

static void tell(const struct error *why, struct error *ret_fault)
{
	error_set(ret_fault, -EUCLEAN,
		"nothing is lost; look at the disk that it lies on (dmesg, smartctl) and replace "
		"it "
		"if it fails",
		"%s; its copy is sound and was put in its place", why->message);
	log_error("%s", ret_fault->message);
}

int twin_load(struct io *io, const char *path, size_t limit, twin_check *check, void *context,
	struct error *error, struct error *ret_fault, char **ret_text, size_t *ret_n)
{
	CLEANUP(buf_free) struct buf copy = { 0 };
	CLEANUP(text_free) struct text main = { 0 }, other = { 0 };
	struct error why = { 0 }, ignored = { 0 };
	*ret_fault = (struct error){ 0 };
	int r = buf_printf(&copy, "%s.copy", path);
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	r = load(io, path, limit, check, context, &why, &main);
	struct text *right = &main;
	if (r == 0) {
		mend_copy(io, copy.data, limit, right);
	} else if (r != -ENOMEM) {
		int r2 = load(io, copy.data, limit, check, context, &ignored, &other);
		if (r2 < 0)
			return error_set(error, r == -ENOENT ? r2 : r, why.mend, "%s",
				r == -ENOENT ? ignored.message : why.message);
		right = &other;
		tell(&why, ret_fault);
		r = io_replace_file(io, path, right->data, right->n);
		if (r < 0)
			log_warning("%s: cannot be written: %s", path, strerrordesc_np(-r));
		r = 0;
	}
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	*ret_text = TAKE(right->data);
	*ret_n = right->n;
	return 0;
}
