/*
 * The lock of `renewal` guards `keys`, `turn` and what is said of them; whoever fetches owns
 * `http`, `rng`, `source`, `files` and `next` meanwhile.
 */
#include "ec2/credential.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/renewal.h"
#include "ec2/source.h"

struct ec2_credential {
	struct clock_source *clock;
	const struct ec2_settings *settings;
	char *role_arn, *external_id;
	struct ec2_source *source;
	uint64_t files;     /* the shared ones' stamp, as `source` has them */
	uint64_t bad_files; /* the same, as they could not be taken up */
	struct http *http;
	struct rng rng;
	struct renewal renewal;
	struct ec2_keys keys;
	struct ec2_keys next; /* put by: fetched, and not in force yet */
	unsigned turn;        /* of `keys`: how many there were before */
	bool is_static;       /* `keys`: there will be no others */
	bool is_of_file;      /* `keys`: others once the files change */
	uint64_t keys_files;  /* the files' stamp that they are of */
};

/* The files may lead to other keys by now. If they cannot be read, as in the middle of being
 * written, what they said before holds. */
static void look_at_files(struct ec2_credential *c)
{
	const struct ec2_settings_options options = {
		.profile = c->settings->profile_was_named ? c->settings->profile : NULL,
		.region = c->settings->region
	};
	uint64_t stamp = ec2_settings_stamp();
	struct ec2_settings *settings;
	struct ec2_source *source;
	struct error error = { 0 };
	if (stamp == c->files || stamp == c->bad_files)
		return;
	int r = ec2_settings_load(&options, &settings, &error);
	if (r == 0) {
		r = ec2_source_new(settings, c->role_arn, c->external_id, &source, &error);
		ec2_settings_free(settings);
	}
	if (r < 0) {
		log_warning(
			"AWS's shared files have changed and are not taken up: %s", error.message);
		c->bad_files = stamp;
		return;
	}
	ec2_source_free(c->source);
	c->source = source;
	c->files = stamp;
}

static int fetch(void *owner, const struct http *behalf, bool patient, int64_t *ret_expires_ns,
	struct http_error *ret_error)
{
	struct ec2_credential *c = owner;
	struct ec2_asker asker = { c->http, c->clock, &c->rng, c->settings, patient };
	(void)behalf;
	look_at_files(c);
	int r = ec2_source_fetch(c->source, &asker, &c->next, ret_error);
	if (r == 0)
		*ret_expires_ns = c->next.expires_ns;
	return r;
}

static void replace(void *owner)
{
	struct ec2_credential *c = owner;
	ec2_keys_free(&c->keys);
	c->keys = c->next;
	c->next = (struct ec2_keys){ 0 };
	c->turn++;
	c->is_static = ec2_source_is_static(c->source);
	c->is_of_file = ec2_source_is_of_file(c->source);
	c->keys_files = c->files;
}

static const struct renewal_ops keys_ops = { fetch, replace };

void ec2_credential_free(struct ec2_credential *c)
{
	if (!c)
		return;
	ec2_keys_free(&c->keys);
	ec2_source_free(c->source);
	free(c->role_arn);
	free(c->external_id);
	http_free(c->http);
	renewal_destroy(&c->renewal);
	free(c);
}

static void credential_freep(struct ec2_credential **c)
{
	ec2_credential_free(*c);
}

int ec2_credential_new(const struct ec2_credential_options *options, struct clock_source *clock,
	struct ec2_credential **ret_credential, struct error *error)
{
	CLEANUP(credential_freep) struct ec2_credential *c = calloc(1, sizeof(*c));
	struct http_options http = options->http;
	if (!c)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	renewal_init(&c->renewal, &keys_ops, c, clock);
	c->clock = clock;
	c->settings = options->settings;
	if (!http.ca_file)
		http.ca_file = options->settings->ca_file;
	if ((options->role_arn && !(c->role_arn = strdup(options->role_arn))) ||
		(options->external_id && !(c->external_id = strdup(options->external_id))))
		return error_set(error, -ENOMEM, NULL, "out of memory");
	/* The stamp is older than what the settings have, if the files change just now: then they
	 * are read once more. */
	c->files = options->settings->stamp;
	int r = ec2_source_new(
		options->settings, options->role_arn, options->external_id, &c->source, error);
	if (r == 0)
		r = http_new(&http, &c->http, error);
	if (r == 0 && (r = rng_seed_randomly(&c->rng)) < 0)
		error_set(error, r, NULL, "no randomness");
	if (r == 0)
		*ret_credential = TAKE(c);
	return r;
}

/* A copy of keys that are valid now. */
static int get_keys(struct ec2_credential *c, struct ec2_keys *ret_keys, unsigned *ret_turn,
	struct http_error *ret_error)
{
	SCOPED_LOCK(&c->renewal.lock);
	int r = renewal_make_valid(&c->renewal, NULL, ret_error);
	/* Nobody has credentials for us: not to be taken for "there is no such snapshot". */
	if (r == -ENOENT && ret_error) {
		ret_error->error = -EACCES;
		snprintf(ret_error->code, sizeof(ret_error->code), EC2_NO_CREDENTIALS);
	}
	if (r < 0)
		return r == -ENOENT ? -EACCES : r;
	r = ec2_keys_make(c->keys.access_key_id, c->keys.secret_access_key, c->keys.session_token,
		c->keys.expires_ns, ret_keys);
	if (r == 0)
		*ret_turn = c->turn;
	return r < 0 ? http_error_set(ret_error, r, "out of memory") : 0;
}

int ec2_credential_sign(struct ec2_credential *c, struct ec2_sigv4_keys *keys,
	const struct ec2_sigv4_target *target, const struct ec2_sigv4_request *request,
	struct http_headers *headers, unsigned *ret_turn, struct http_error *ret_error)
{
	CLEANUP(ec2_keys_free) struct ec2_keys mine = { 0 };
	int r = get_keys(c, &mine, ret_turn, ret_error);
	if (r < 0)
		return r;
	struct ec2_sigv4_credentials credentials = { mine.access_key_id, mine.secret_access_key,
		mine.session_token };
	r = ec2_sigv4_sign(
		keys, &credentials, target, request, clock_realtime_ns(c->clock), headers);
	if (r < 0)
		return http_error_set(ret_error, r, "the request could not be signed");
	return 0;
}

enum http_refusal ec2_credential_refused(struct ec2_credential *c, unsigned turn)
{
	uint64_t files = ec2_settings_stamp();
	SCOPED_LOCK(&c->renewal.lock);
	if (!c->renewal.held || c->turn != turn)
		return HTTP_REFUSED_OLD;
	if (c->is_static || (c->is_of_file && c->keys_files == files))
		return HTTP_REFUSED_FOR_GOOD;
	ec2_keys_free(&c->keys);
	c->renewal.held = false;
	return HTTP_REFUSED_CURRENT;
}
