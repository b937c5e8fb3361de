/*
 * Looked up once, in one order; then nothing here changes.
 */
#include "ec2/settings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/url.h"
#include "ec2/imds.h"

static const char *variable(const char *name)
{
	const char *value = getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
	return value && *value ? value : NULL;
}

static const char *first_of(const char *a, const char *b, const char *c)
{
	if (a && *a)
		return a;
	return b && *b ? b : c;
}

static int keep(char **slot, const char *value)
{
	if (!value)
		return 0;
	*slot = strdup(value);
	return *slot ? 0 : -ENOMEM;
}

void ec2_settings_free(struct ec2_settings *s)
{
	if (!s)
		return;
	free(s->profile);
	free(s->region);
	for (unsigned i = 0; i < EC2_SERVICES; i++)
		free(s->endpoints[i]);
	free(s->ca_file);
	ec2_profiles_free(s->profiles);
	free(s);
}

static void settings_freep(struct ec2_settings **s)
{
	ec2_settings_free(*s);
}

static const struct shared_file {
	const char *variable, *name;
} shared_files[] = {
	[EC2_PROFILE_CONFIG] = { "AWS_CONFIG_FILE", "config" },
	[EC2_PROFILE_CREDENTIALS] = { "AWS_SHARED_CREDENTIALS_FILE", "credentials" },
};

/* Where a shared file is; empty: nobody says. 0 or -ENOMEM. */
static int find_file(enum ec2_profile_file file, struct buf *path)
{
	const char *given = variable(shared_files[file].variable);
	const char *home = variable("HOME");
	if (given && strncmp(given, "~/", 2) != 0)
		return buf_append_text(path, given);
	if (!home)
		return 0;
	return given ? buf_printf(path, "%s%s", home, given + 1)
		     : buf_printf(path, "%s/.aws/%s", home, shared_files[file].name);
}

static int load_file(struct ec2_settings *s, enum ec2_profile_file file, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	if (find_file(file, &path) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	return path.len > 0 ? ec2_profiles_load(s->profiles, file, path.data, error) : 0;
}

uint64_t ec2_settings_stamp(void)
{
	uint64_t seen[ARRAY_SIZE(shared_files)][4] = { 0 };
	for (unsigned i = 0; i < ARRAY_SIZE(shared_files); i++) {
		CLEANUP(buf_free) struct buf path = { 0 };
		struct stat st;
		if (find_file((enum ec2_profile_file)i, &path) < 0 || path.len == 0 ||
			stat(path.data, &st) < 0)
			continue;
		seen[i][0] = (uint64_t)st.st_mtim.tv_sec;
		seen[i][1] = (uint64_t)st.st_mtim.tv_nsec;
		seen[i][2] = (uint64_t)st.st_size;
		seen[i][3] = st.st_ino;
	}
	return checksum64(seen, sizeof(seen));
}

static bool is_true(const char *text)
{
	return text && strcasecmp(text, "true") == 0;
}

static const char *of_profile(const struct ec2_settings *s, const char *key)
{
	return ec2_profile_get(s->profiles, s->profile, key);
}

/* An address that nobody but the environment and the files name. */
static const char *configured_endpoint(const struct ec2_settings *s, enum ec2_service service)
{
	static const char *const variables[] = { "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_EBS",
		"AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_SERVICE_ENDPOINT" };
	const char *value = variable(variables[service]);
	if (service == EC2_SERVICE_IMDS) {
		const char *mode = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
		mode = first_of(mode, of_profile(s, "ec2_metadata_service_endpoint_mode"), "IPv4");
		value = first_of(value, of_profile(s, "ec2_metadata_service_endpoint"), NULL);
		return first_of(value, NULL,
			strcasecmp(mode, "IPv6") == 0 ? "http://[fd00:ec2::254]"
						      : "http://169.254.169.254");
	}
	if (is_true(first_of(variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
		    of_profile(s, "ignore_configured_endpoint_urls"), NULL)))
		return NULL;
	const char *services = of_profile(s, "services");
	value = first_of(value, variable("AWS_ENDPOINT_URL"), NULL);
	if (!value && services)
		value = ec2_profile_get_service(
			s->profiles, services, ec2_service_name(service), "endpoint_url");
	return first_of(value, of_profile(s, "endpoint_url"), NULL);
}

static int choose_endpoint(
	struct ec2_settings *s, enum ec2_service service, const char *given, struct error *error)
{
	CLEANUP(url_free) struct url url = { 0 };
	const char *value = first_of(given, configured_endpoint(s, service), NULL);
	if (!value)
		return 0;
	if (url_parse(value, &url) < 0)
		return error_set(error, -EINVAL, "it begins with http:// or https://",
			"the endpoint of AWS's %s is no URL: %.200s", ec2_service_name(service),
			value);
	size_t n = strlen(value);
	while (n > 0 && value[n - 1] == '/')
		n--;
	s->endpoints[service] = strndup(value, n);
	return s->endpoints[service] ? 0 : error_set(error, -ENOMEM, NULL, "out of memory");
}

static int choose(struct ec2_settings *s, const struct ec2_settings_options *o, struct error *error)
{
	const char *region = first_of(o->region, variable("AWS_REGION"), NULL);
	region = first_of(region, variable("AWS_DEFAULT_REGION"), of_profile(s, "region"));
	int r = keep(&s->region, region);
	if (r == 0)
		r = keep(&s->ca_file,
			first_of(variable("AWS_CA_BUNDLE"), of_profile(s, "ca_bundle"), NULL));
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	/* Requests are signed for it, whatever the endpoint. */
	r = s->region ? ec2_check_region(s->region, error) : 0;
	if (r < 0)
		return r;
	s->fips = is_true(first_of(
		variable("AWS_USE_FIPS_ENDPOINT"), of_profile(s, "use_fips_endpoint"), NULL));
	s->dual_stack = is_true(first_of(variable("AWS_USE_DUALSTACK_ENDPOINT"),
		of_profile(s, "use_dualstack_endpoint"), NULL));
	s->imds_disabled = is_true(variable("AWS_EC2_METADATA_DISABLED"));
	for (unsigned i = 0; r == 0 && i < EC2_SERVICES; i++)
		r = choose_endpoint(s, (enum ec2_service)i, o->endpoints[i], error);
	return r;
}

int ec2_settings_load(const struct ec2_settings_options *options,
	struct ec2_settings **ret_settings, struct error *error)
{
	CLEANUP(settings_freep) struct ec2_settings *s = calloc(1, sizeof(*s));
	const char *named = first_of(
		options->profile, variable("AWS_PROFILE"), variable("AWS_DEFAULT_PROFILE"));
	if (!s || keep(&s->profile, named ? named : "default") < 0 ||
		ec2_profiles_new(&s->profiles) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	s->profile_was_named = options->profile != NULL;
	s->stamp = ec2_settings_stamp();
	int r = load_file(s, EC2_PROFILE_CONFIG, error);
	if (r == 0)
		r = load_file(s, EC2_PROFILE_CREDENTIALS, error);
	if (r == 0 && named && !ec2_profiles_have(s->profiles, named))
		r = error_set(error, -EINVAL,
			"add it to ~/.aws/config or ~/.aws/credentials, or name another",
			"there is no AWS profile %.100s", named);
	if (r == 0)
		r = choose(s, options, error);
	if (r == 0)
		*ret_settings = TAKE(s);
	return r;
}

int ec2_settings_find_region(
	struct ec2_settings *s, const struct http_options *http, struct error *error)
{
	if (s->region)
		return 0;
	int r = s->imds_disabled ? -ENOENT : ec2_imds_find_region(s, http, &s->region, error);
	if (r == -ENOENT)
		r = error_set(error, -EINVAL, "set [aws] region, or AWS_REGION",
			"nobody says which region of AWS to use");
	return r;
}

int ec2_settings_endpoint(const struct ec2_settings *s, enum ec2_service service, struct buf *url,
	struct error *error)
{
	if (s->endpoints[service]) {
		int r = buf_append_text(url, s->endpoints[service]);
		return r < 0 ? error_set(error, r, NULL, "out of memory") : 0;
	}
	if (!s->region)
		return error_set(error, -EINVAL, "set [aws] region, or AWS_REGION",
			"nobody says which region of AWS to use");
	return ec2_endpoint(service, s->region, s->fips, s->dual_stack, url, error);
}
