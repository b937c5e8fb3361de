/*
 * Each link keeps the keys it got from the next one while they are good for another while, so that
 * renewing the last role does not walk the whole chain. A link whose keys are refused as expired
 * drops them and asks once more.
 */
#include "ec2/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "ec2/imds.h"
#include "ec2/sts.h"

#define DEPTH_MAX 8u
#define SPARE_NS (60 * NS_PER_S)
#define FILE_LIFE_NS (20 * NS_PER_S) /* then it is looked at again */
#define SESSION_NAME "landfall"

enum kind { KIND_STATIC, KIND_MACHINE, KIND_ROLE, KIND_WEB_IDENTITY };

struct ec2_source {
	enum kind kind;
	bool of_file;         /* static */
	struct ec2_keys keys; /* static: its own; a role: those of `next`, kept */
	char *imds_token;
	char *role_arn, *session_name, *external_id, *web_identity_file;
	unsigned duration_s;
	struct ec2_source *next; /* owned; of a role */
};

void ec2_source_free(struct ec2_source *s)
{
	if (!s)
		return;
	ec2_source_free(s->next);
	ec2_keys_free(&s->keys);
	free(s->imds_token);
	free(s->role_arn);
	free(s->session_name);
	free(s->external_id);
	free(s->web_identity_file);
	free(s);
}

static void source_freep(struct ec2_source **s)
{
	ec2_source_free(*s);
}

bool ec2_source_is_static(const struct ec2_source *source)
{
	return source->kind == KIND_STATIC && !source->of_file;
}

bool ec2_source_is_of_file(const struct ec2_source *source)
{
	return source->kind == KIND_STATIC && source->of_file;
}

static const char *variable(const char *name)
{
	const char *value = getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
	return value && *value ? value : NULL;
}

static int no_memory(struct error *error)
{
	return error_set(error, -ENOMEM, NULL, "out of memory");
}

static int new_static(const char *id, const char *secret, const char *token, const char *where,
	struct ec2_source **ret_source, struct error *error)
{
	if (!id || !secret)
		return error_set(
			error, -EINVAL, NULL, "%s has only one half of an access key", where);
	struct ec2_source *s = calloc(1, sizeof(*s));
	if (!s || ec2_keys_make(id, secret, token, INT64_MAX, &s->keys) < 0) {
		free(s);
		return no_memory(error);
	}
	s->kind = KIND_STATIC;
	*ret_source = s;
	return 0;
}

static int new_environment(struct ec2_source **ret_source, struct error *error)
{
	return new_static(variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"),
		variable("AWS_SESSION_TOKEN"), "the environment", ret_source, error);
}

static int new_machine(
	const struct ec2_settings *settings, struct ec2_source **ret_source, struct error *error)
{
	if (settings->imds_disabled)
		return error_set(error, -EINVAL,
			"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
			"no AWS credentials are given, and the metadata service is not to be "
			"asked");
	struct ec2_source *s = calloc(1, sizeof(*s));
	if (!s)
		return no_memory(error);
	s->kind = KIND_MACHINE;
	*ret_source = s;
	return 0;
}

static bool copy(char **slot, const char *value)
{
	*slot = value ? strdup(value) : NULL;
	return !value || *slot;
}

/* Takes `*next` over; NULL for a web identity. */
static int new_role(const struct ec2_role *role, struct ec2_source **next,
	struct ec2_source **ret_source, struct error *error)
{
	CLEANUP(source_freep) struct ec2_source *s = calloc(1, sizeof(*s));
	const char *name =
		role->session_name ? role->session_name : variable("AWS_ROLE_SESSION_NAME");
	if (!s || !copy(&s->role_arn, role->arn) ||
		!copy(&s->session_name, name ? name : SESSION_NAME) ||
		!copy(&s->external_id, role->external_id) ||
		!copy(&s->web_identity_file, role->web_identity_file))
		return no_memory(error);
	s->kind = role->web_identity_file ? KIND_WEB_IDENTITY : KIND_ROLE;
	s->duration_s = role->duration_s;
	if (next)
		s->next = TAKE(*next);
	*ret_source = TAKE(s);
	return 0;
}

static int resolve_profile(const struct ec2_settings *settings, const char *profile,
	bool keys_first, unsigned depth, struct ec2_source **ret_source, struct error *error);

static int unknown_way(const char *profile, const char *key, struct error *error)
{
	return error_set(error, -EOPNOTSUPP,
		"use access keys, role_arn, a web identity or the machine's role",
		"AWS profile %.100s: %s is not supported", profile, key);
}

static int resolve_role(const struct ec2_settings *settings, const char *profile,
	const struct ec2_role *role, unsigned depth, struct ec2_source **ret_source,
	struct error *error)
{
	CLEANUP(source_freep) struct ec2_source *next = NULL;
	const struct ec2_profiles *p = settings->profiles;
	const char *from = ec2_profile_get(p, profile, "source_profile");
	const char *way = ec2_profile_get(p, profile, "credential_source");
	int r;
	if (role->web_identity_file)
		return new_role(role, NULL, ret_source, error);
	if (ec2_profile_get(p, profile, "mfa_serial"))
		return unknown_way(profile, "mfa_serial", error);
	if (from && !ec2_profiles_have(p, from))
		r = error_set(error, -EINVAL, NULL,
			"AWS profile %.100s: there is no source_profile %.100s", profile, from);
	else if (from)
		/* A profile that is its own source gives its own keys. */
		r = resolve_profile(
			settings, from, strcmp(from, profile) == 0, depth + 1, &next, error);
	else if (way && strcmp(way, "Environment") == 0)
		r = new_environment(&next, error);
	else if (way && strcmp(way, "Ec2InstanceMetadata") == 0)
		r = new_machine(settings, &next, error);
	else if (way)
		r = unknown_way(profile, way, error);
	else
		r = error_set(error, -EINVAL,
			"give it source_profile, credential_source or web_identity_token_file",
			"AWS profile %.100s: nothing says with which credentials to assume %s",
			profile, role->arn);
	return r < 0 ? r : new_role(role, &next, ret_source, error);
}

/* -ENOENT, with nothing told, if the profile has no credentials. */
static int resolve_profile(const struct ec2_settings *settings, const char *profile,
	bool keys_first, unsigned depth, struct ec2_source **ret_source, struct error *error)
{
	static const char *const unknown[] = { "credential_process", "sso_session", "sso_start_url",
		NULL };
	const struct ec2_profiles *p = settings->profiles;
	const char *id = ec2_profile_get(p, profile, "aws_access_key_id");
	const char *secret = ec2_profile_get(p, profile, "aws_secret_access_key");
	const char *duration = ec2_profile_get(p, profile, "duration_seconds");
	struct ec2_role role = { .arn = ec2_profile_get(p, profile, "role_arn"),
		.session_name = ec2_profile_get(p, profile, "role_session_name"),
		.external_id = ec2_profile_get(p, profile, "external_id"),
		.web_identity_file = ec2_profile_get(p, profile, "web_identity_token_file"),
		.duration_s = duration ? (unsigned)strtoul(duration, NULL, 10) : 0 };
	if (depth > DEPTH_MAX)
		return error_set(error, -EINVAL, NULL,
			"AWS profile %.100s: the source_profiles run in a circle", profile);
	if (role.arn && !(keys_first && id))
		return resolve_role(settings, profile, &role, depth, ret_source, error);
	if (id || secret) {
		char where[160];
		snprintf(where, sizeof(where), "AWS profile %.100s", profile);
		int r = new_static(id, secret, ec2_profile_get(p, profile, "aws_session_token"),
			where, ret_source, error);
		if (r == 0)
			(*ret_source)->of_file = true;
		return r;
	}
	for (unsigned i = 0; unknown[i]; i++) {
		if (ec2_profile_get(p, profile, unknown[i]))
			return unknown_way(profile, unknown[i], error);
	}
	if (depth > 0)
		return error_set(error, -EINVAL, NULL,
			"AWS profile %.100s, a source_profile, has no credentials", profile);
	return -ENOENT;
}

static int resolve(
	const struct ec2_settings *settings, struct ec2_source **ret_source, struct error *error)
{
	struct ec2_role role = { .arn = variable("AWS_ROLE_ARN"),
		.web_identity_file = variable("AWS_WEB_IDENTITY_TOKEN_FILE") };
	if (!settings->profile_was_named &&
		(variable("AWS_ACCESS_KEY_ID") || variable("AWS_SECRET_ACCESS_KEY")))
		return new_environment(ret_source, error);
	int r = resolve_profile(settings, settings->profile, false, 0, ret_source, error);
	if (r != -ENOENT)
		return r;
	if (role.arn && role.web_identity_file)
		return new_role(&role, NULL, ret_source, error);
	return new_machine(settings, ret_source, error);
}

int ec2_source_new(const struct ec2_settings *settings, const char *role_arn,
	const char *external_id, struct ec2_source **ret_source, struct error *error)
{
	CLEANUP(source_freep) struct ec2_source *s = NULL;
	int r = resolve(settings, &s, error);
	if (r == 0 && role_arn) {
		struct ec2_role role = { .arn = role_arn, .external_id = external_id };
		struct ec2_source *outer;
		r = new_role(&role, &s, &outer, error);
		if (r == 0)
			s = outer;
	}
	if (r == 0)
		*ret_source = TAKE(s);
	return r;
}

static int fetch_role(struct ec2_source *s, struct ec2_asker *asker, struct ec2_keys *ret_keys,
	struct http_error *ret_error)
{
	const struct ec2_role role = { s->role_arn, s->session_name, s->external_id,
		s->web_identity_file, s->duration_s };
	if (s->kind == KIND_WEB_IDENTITY)
		return ec2_sts_assume(asker, &role, NULL, ret_keys, ret_error);
	for (unsigned renewed = 0;; renewed++) {
		int64_t now_ns = clock_monotonic_ns(asker->clock);
		int r = 0;
		if (!s->keys.access_key_id || s->keys.expires_ns - now_ns < SPARE_NS) {
			ec2_keys_free(&s->keys);
			r = ec2_source_fetch(s->next, asker, &s->keys, ret_error);
		}
		if (r == 0)
			r = ec2_sts_assume(asker, &role, &s->keys, ret_keys, ret_error);
		if (r == 0 || renewed > 0 || r != -EKEYEXPIRED)
			return r;
		ec2_keys_free(&s->keys);
	}
}

int ec2_source_fetch(struct ec2_source *s, struct ec2_asker *asker, struct ec2_keys *ret_keys,
	struct http_error *ret_error)
{
	int r;
	switch (s->kind) {
	case KIND_STATIC:
		r = ec2_keys_make(s->keys.access_key_id, s->keys.secret_access_key,
			s->keys.session_token,
			s->of_file ? clock_monotonic_ns(asker->clock) + FILE_LIFE_NS : INT64_MAX,
			ret_keys);
		return r < 0 ? http_error_set(ret_error, r, "out of memory") : 0;
	case KIND_MACHINE:
		return ec2_imds_get_keys(asker, &s->imds_token, ret_keys, ret_error);
	default:
		return fetch_role(s, asker, ret_keys, ret_error);
	}
}
