/*
 * ec2/endpoint, profile, settings, source, error, limiter: what needs no service. The endpoints are
 * those that AWS's endpoint rules give.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "ec2/credential.h"
#include "ec2/endpoint.h"
#include "ec2/error.h"
#include "ec2/limiter.h"
#include "ec2/profile.h"
#include "ec2/settings.h"

static void endpoints(void **state)
{
	static const struct {
		enum ec2_service service;
		const char *region;
		bool fips, dual_stack;
		const char *url;
	} cases[] = {
		{ EC2_SERVICE_EC2, "eu-central-1", 0, 0, "https://ec2.eu-central-1.amazonaws.com" },
		{ EC2_SERVICE_EC2, "us-east-1", 1, 0, "https://ec2-fips.us-east-1.amazonaws.com" },
		{ EC2_SERVICE_EBS, "us-east-1", 0, 1, "https://ebs.us-east-1.api.aws" },
		{ EC2_SERVICE_STS, "us-east-1", 1, 1, "https://sts-fips.us-east-1.api.aws" },
		{ EC2_SERVICE_EBS, "cn-north-1", 0, 0, "https://ebs.cn-north-1.amazonaws.com.cn" },
		{ EC2_SERVICE_EC2, "cn-north-1", 0, 1,
			"https://ec2.cn-north-1.api.amazonwebservices.com.cn" },
		{ EC2_SERVICE_EC2, "us-gov-west-1", 1, 0,
			"https://ec2.us-gov-west-1.amazonaws.com" },
		{ EC2_SERVICE_STS, "us-gov-west-1", 1, 0,
			"https://sts.us-gov-west-1.amazonaws.com" },
		{ EC2_SERVICE_EBS, "us-gov-west-1", 1, 0,
			"https://ebs-fips.us-gov-west-1.amazonaws.com" },
		{ EC2_SERVICE_EC2, "us-gov-west-1", 1, 1,
			"https://ec2-fips.us-gov-west-1.api.aws" },
		{ EC2_SERVICE_EC2, "us-iso-east-1", 0, 0, "https://ec2.us-iso-east-1.c2s.ic.gov" },
		{ EC2_SERVICE_EBS, "us-isob-east-1", 1, 0,
			"https://ebs-fips.us-isob-east-1.sc2s.sgov.gov" },
		{ EC2_SERVICE_EC2, "eu-isoe-west-1", 0, 1,
			"https://ec2.eu-isoe-west-1.api.cloud-aws.adc-e.uk" },
		{ EC2_SERVICE_EC2, "us-isof-south-1", 0, 0,
			"https://ec2.us-isof-south-1.csp.hci.ic.gov" },
		{ EC2_SERVICE_EBS, "eusc-de-east-1", 0, 0,
			"https://ebs.eusc-de-east-1.amazonaws.eu" },
		{ EC2_SERVICE_EC2, "xx-new-7", 0, 0, "https://ec2.xx-new-7.amazonaws.com" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(buf_free) struct buf url = { 0 };
		assert_int_equal(ec2_endpoint(cases[i].service, cases[i].region, cases[i].fips,
					 cases[i].dual_stack, &url, NULL),
			0);
		assert_string_equal(url.data, cases[i].url);
	}
	static const char *const wrong[] = { "", "eu central", "EU-central-1", "evil.example/",
		"-x", "a@b" };
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		CLEANUP(buf_free) struct buf url = { 0 };
		assert_int_equal(
			ec2_endpoint(EC2_SERVICE_EC2, wrong[i], false, false, &url, NULL), -EINVAL);
	}
	assert_string_equal(ec2_partition("us-gov-east-1"), "aws-us-gov");
	assert_string_equal(ec2_partition("us-isob-east-1"), "aws-iso-b");
	assert_string_equal(ec2_partition("us-west-2"), "aws");
}

static struct ec2_profiles *profiles_of(const char *config, const char *credentials)
{
	struct ec2_profiles *p = NULL;
	struct error error = { 0 };
	assert_int_equal(ec2_profiles_new(&p), 0);
	if (ec2_profiles_parse(p, EC2_PROFILE_CONFIG, "config", config, strlen(config), &error) <
			0 ||
		ec2_profiles_parse(p, EC2_PROFILE_CREDENTIALS, "credentials", credentials,
			strlen(credentials), &error) < 0)
		fail_msg("%s", error.message);
	return p;
}

static void profiles(void **state)
{
	(void)state;
	struct ec2_profiles *p = profiles_of(
		"# comment\n; another\n\n[default]\r\nregion = a\r\nOUTPUT=json\n"
		"[profile default]\nregion=b # why\n"
		"[ profile  \"two words\" ]\nregion = c;d\nrole_arn = x=y\n"
		"[plain]\nregion = never\n"
		"[profile s]\ns3 =\n  max = 1\n  url = u\nregion = e\n  continued\n"
		"[services mine]\nec2 =\n\tendpoint_url = http://one/\nebs=\n  endpoint_url = two\n"
		"[sso-session q]\nwhat = ever\n[profile default]\nretry = 9",
		"[default]\naws_access_key_id=AK\nregion = z\n[plain]\nregion = f\n");
	assert_string_equal(ec2_profile_get(p, "default", "region"), "z");
	assert_string_equal(ec2_profile_get(p, "default", "output"), "json");
	assert_string_equal(ec2_profile_get(p, "default", "AWS_Access_Key_Id"), "AK");
	assert_string_equal(ec2_profile_get(p, "default", "retry"), "9");
	assert_string_equal(ec2_profile_get(p, "two words", "region"), "c;d");
	assert_string_equal(ec2_profile_get(p, "two words", "role_arn"), "x=y");
	assert_string_equal(ec2_profile_get(p, "plain", "region"), "f");
	assert_string_equal(ec2_profile_get(p, "s", "region"), "e");
	assert_null(ec2_profile_get(p, "s", "max"));
	assert_null(ec2_profile_get(p, "s", "s3"));
	assert_null(ec2_profile_get(p, "q", "what"));
	assert_string_equal(
		ec2_profile_get_service(p, "mine", "ec2", "endpoint_url"), "http://one/");
	assert_string_equal(ec2_profile_get_service(p, "mine", "EBS", "endpoint_url"), "two");
	assert_null(ec2_profile_get_service(p, "mine", "sts", "endpoint_url"));
	assert_true(ec2_profiles_have(p, "plain"));
	assert_false(ec2_profiles_have(p, "mine"));
	ec2_profiles_free(p);
	static const struct {
		const char *text;
		const char *where;
	} wrong[] = { { "region = a\n", "f:1:" }, { "[a\nx=1\n", "f:1:" },
		{ "[default]\n\nnonsense\n", "f:3:" }, { "[default]\n = 1\n", "f:2:" },
		{ "[default]\n  x = 1\n", "f:2:" } };
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct error error = { 0 };
		assert_int_equal(ec2_profiles_new(&p), 0);
		assert_int_equal(ec2_profiles_parse(p, EC2_PROFILE_CONFIG, "f", wrong[i].text,
					 strlen(wrong[i].text), &error),
			-EINVAL);
		assert_int_equal(strncmp(error.message, wrong[i].where, 4), 0);
		ec2_profiles_free(p);
	}
}

/* A home with these two files; the environment has nothing else of AWS's. */
static char home[] = "/tmp/landfall-test-XXXXXX";

static void write_file(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/%s", home, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void bare_environment(void)
{
	extern char **environ;
	for (char **e = environ; *e;) {
		char name[128];
		size_t n = strcspn(*e, "=");
		if (strncmp(*e, "AWS_", 4) != 0 || n >= sizeof(name)) {
			e++;
			continue;
		}
		memcpy(name, *e, n);
		name[n] = '\0';
		unsetenv(name);
		e = environ;
	}
	setenv("HOME", home, 1);
	setenv("AWS_CONFIG_FILE", "~/config", 1);
	setenv("AWS_SHARED_CREDENTIALS_FILE", "~/credentials", 1);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(home, "/tmp/landfall-test-XXXXXX");
	assert_non_null(mkdtemp(home));
	bare_environment();
	return 0;
}

static int tear_down(void **state)
{
	char path[128];
	(void)state;
	snprintf(path, sizeof(path), "%s/config", home);
	unlink(path);
	snprintf(path, sizeof(path), "%s/credentials", home);
	unlink(path);
	return rmdir(home);
}

static struct ec2_settings *load(const struct ec2_settings_options *options)
{
	static const struct ec2_settings_options none = { 0 };
	struct ec2_settings *settings = NULL;
	struct error error = { 0 };
	if (ec2_settings_load(options ? options : &none, &settings, &error) < 0)
		fail_msg("%s", error.message);
	return settings;
}

static void assert_endpoint(
	const struct ec2_settings *settings, enum ec2_service service, const char *expected)
{
	CLEANUP(buf_free) struct buf url = { 0 };
	assert_int_equal(ec2_settings_endpoint(settings, service, &url, NULL), 0);
	assert_string_equal(url.data, expected);
}

static void settings_come_in_order(void **state)
{
	(void)state;
	struct ec2_settings *s = load(NULL);
	assert_null(s->region);
	assert_string_equal(s->profile, "default");
	assert_endpoint(s, EC2_SERVICE_IMDS, "http://169.254.169.254");
	CLEANUP(buf_free) struct buf url = { 0 };
	assert_int_equal(ec2_settings_endpoint(s, EC2_SERVICE_EC2, &url, NULL), -EINVAL);
	ec2_settings_free(s);
	write_file("config",
		"[default]\nregion = eu-west-1\nuse_dualstack_endpoint = true\n"
		"[profile p]\nregion = eu-west-2\nservices = mine\nendpoint_url = http://all\n"
		"ca_bundle = /ca\n"
		"[services mine]\nebs =\n  endpoint_url = http://blocks/\n");
	s = load(NULL);
	assert_endpoint(s, EC2_SERVICE_EC2, "https://ec2.eu-west-1.api.aws");
	ec2_settings_free(s);
	setenv("AWS_PROFILE", "p", 1);
	s = load(NULL);
	assert_string_equal(s->region, "eu-west-2");
	assert_string_equal(s->ca_file, "/ca");
	assert_endpoint(s, EC2_SERVICE_EBS, "http://blocks");
	assert_endpoint(s, EC2_SERVICE_STS, "http://all");
	ec2_settings_free(s);
	setenv("AWS_DEFAULT_REGION", "us-east-1", 1);
	setenv("AWS_ENDPOINT_URL", "http://env:1/x/", 1);
	setenv("AWS_ENDPOINT_URL_STS", "http://sts", 1);
	setenv("AWS_USE_FIPS_ENDPOINT", "True", 1);
	setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6", 1);
	s = load(NULL);
	assert_string_equal(s->region, "us-east-1");
	assert_endpoint(s, EC2_SERVICE_EBS, "http://env:1/x");
	assert_endpoint(s, EC2_SERVICE_STS, "http://sts");
	assert_endpoint(s, EC2_SERVICE_IMDS, "http://[fd00:ec2::254]");
	ec2_settings_free(s);
	setenv("AWS_REGION", "us-west-2", 1);
	setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true", 1);
	s = load(NULL);
	assert_endpoint(s, EC2_SERVICE_EC2, "https://ec2-fips.us-west-2.amazonaws.com");
	ec2_settings_free(s);
	const struct ec2_settings_options options = { .region = "cn-north-1",
		.profile = "default",
		.endpoints = { [EC2_SERVICE_EC2] = "https://mine/" } };
	s = load(&options);
	assert_string_equal(s->region, "cn-north-1");
	assert_endpoint(s, EC2_SERVICE_EC2, "https://mine");
	ec2_settings_free(s);
	struct error error = { 0 };
	setenv("AWS_PROFILE", "nobody", 1);
	assert_int_equal(
		ec2_settings_load(&(struct ec2_settings_options){ 0 }, &s, &error), -EINVAL);
	assert_non_null(strstr(error.message, "nobody"));
	/* A region that is none, though endpoints are given. */
	const struct ec2_settings_options nonsense = { .region = "nonsense region",
		.profile = "default",
		.endpoints = { [EC2_SERVICE_EC2] = "https://mine/" } };
	assert_int_equal(ec2_settings_load(&nonsense, &s, &error), -EINVAL);
	assert_non_null(strstr(error.mend, "eu-central-1"));
	unsetenv("AWS_PROFILE");
	unsetenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
	setenv("AWS_ENDPOINT_URL", "ftp://x", 1);
	assert_int_equal(
		ec2_settings_load(&(struct ec2_settings_options){ 0 }, &s, &error), -EINVAL);
}

static int try_credential(const char *profile, struct error *error)
{
	const struct ec2_settings_options options = { .profile = profile, .region = "eu-west-1" };
	struct ec2_settings *settings = load(&options);
	const struct ec2_credential_options how = { .settings = settings };
	struct ec2_credential *credential = NULL;
	int r = ec2_credential_new(&how, clock_system(), &credential, error);
	ec2_credential_free(credential);
	ec2_settings_free(settings);
	return r;
}

static void profiles_that_lead_nowhere(void **state)
{
	static const struct {
		const char *profile;
		int result;
		const char *message;
	} cases[] = {
		{ "loop", -EINVAL, "circle" },
		{ "half", -EINVAL, "one half" },
		{ "lost", -EINVAL, "no source_profile nobody" },
		{ "bare", -EINVAL, "with which credentials" },
		{ "sso", -EOPNOTSUPP, "sso_session" },
		{ "process", -EOPNOTSUPP, "credential_process" },
		{ "mfa", -EOPNOTSUPP, "mfa_serial" },
		{ "container", -EOPNOTSUPP, "EcsContainer" },
		{ "empty", 0, NULL }, /* the machine's role */
		{ "self", 0, NULL },
		{ "web", 0, NULL },
	};
	(void)state;
	write_file("config",
		"[profile loop]\nrole_arn=a\nsource_profile=pool\n"
		"[profile pool]\nrole_arn=b\nsource_profile=loop\n"
		"[profile half]\naws_access_key_id=x\n"
		"[profile lost]\nrole_arn=a\nsource_profile=nobody\n"
		"[profile bare]\nrole_arn=a\n[profile sso]\nsso_session=x\n"
		"[profile process]\ncredential_process=/bin/x\n"
		"[profile mfa]\nrole_arn=a\nsource_profile=self\nmfa_serial=1\n"
		"[profile container]\nrole_arn=a\ncredential_source=EcsContainer\n"
		"[profile empty]\nregion=x\n"
		"[profile self]\nrole_arn=a\nsource_profile=self\naws_access_key_id=x\n"
		"aws_secret_access_key=y\n"
		"[profile web]\nrole_arn=a\nweb_identity_token_file=/f\n");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		assert_int_equal(try_credential(cases[i].profile, &error), cases[i].result);
		if (cases[i].message && !strstr(error.message, cases[i].message))
			fail_msg("%s", error.message);
	}
	setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
	struct error error = { 0 };
	assert_int_equal(try_credential("empty", &error), -EINVAL);
}

static void refusals_are_read(void **state)
{
	static const struct {
		int status;
		const char *type;
		const char *body;
		enum http_verdict verdict;
		int error;
		const char *code;
		const char *reason;
	} cases[] = {
		{ 400, NULL,
			"<Response><Errors><Error><Code>InvalidSnapshot.NotFound</Code><Message>m"
			"</Message></Error></Errors><RequestID>r</RequestID></Response>",
			HTTP_REFUSED, -ENOENT, "InvalidSnapshot.NotFound", "" },
		{ 503, NULL,
			"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></"
			"Errors>"
			"</Response>",
			HTTP_THROTTLED, -EAGAIN, "RequestLimitExceeded", "" },
		{ 500, NULL,
			"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></"
			"Errors>"
			"</Response>",
			HTTP_MAYBE, -EAGAIN, "RequestLimitExceeded", "" },
		{ 403, NULL,
			"<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code></Error>"
			"<RequestId>r</RequestId></ErrorResponse>",
			HTTP_EXPIRED, -EKEYEXPIRED, "ExpiredToken", "" },
		{ 400, "ValidationException:http://internal.amazon.com/",
			"{\"Message\":\"m\",\"Reason\":\"UNRELATED_SNAPSHOTS\"}", HTTP_REFUSED,
			-EXDEV, "ValidationException", "UNRELATED_SNAPSHOTS" },
		{ 400, "ValidationException", "{\"Reason\":\"INVALID_BLOCK_TOKEN\"}", HTTP_REFUSED,
			-ESTALE, "ValidationException", "INVALID_BLOCK_TOKEN" },
		{ 400, NULL, "{\"__type\":\"com.amazonaws.ebs#ThrottlingException\"}",
			HTTP_THROTTLED, -EAGAIN, "ThrottlingException", "" },
		{ 400, "RequestThrottledException", "{\"Reason\":\"ACCOUNT_THROTTLED\"}",
			HTTP_THROTTLED, -EAGAIN, "RequestThrottledException", "ACCOUNT_THROTTLED" },
		{ 403, "AccessDeniedException", "{\"message\":\"m\"}", HTTP_REFUSED, -EACCES,
			"AccessDeniedException", "" },
		{ 402, "ServiceQuotaExceededException", "{}", HTTP_REFUSED, -EDQUOT,
			"ServiceQuotaExceededException", "" },
		{ 404, NULL, "not json", HTTP_REFUSED, -ENOENT, "", "" },
		{ 404, "ResourceNotFoundException", "{\"Reason\":\"SNAPSHOT_NOT_FOUND\"}",
			HTTP_REFUSED, -ENOENT, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND" },
		{ 404, "ResourceNotFoundException",
			"{\"Reason\":\"DEPENDENCY_RESOURCE_NOT_FOUND\"}", HTTP_REFUSED, -EACCES,
			"ResourceNotFoundException", "DEPENDENCY_RESOURCE_NOT_FOUND" },
		{ 403, "AccessDeniedException", "{\"Reason\":\"DEPENDENCY_ACCESS_DENIED\"}",
			HTTP_REFUSED, -EACCES, "AccessDeniedException",
			"DEPENDENCY_ACCESS_DENIED" },
		{ 400, NULL, "<html", HTTP_REFUSED, -EINVAL, "", "" },
		{ 302, NULL, "", HTTP_MAYBE, -EBADMSG, "", "" },
		{ 502, NULL, "", HTTP_MAYBE, -ETIMEDOUT, "", "" },
		{ 429, NULL, "", HTTP_THROTTLED, -EAGAIN, "", "" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(http_request_free) struct http_request http = { 0 };
		struct http_error e;
		http.outcome = HTTP_ANSWERED;
		http.status = cases[i].status;
		buf_append_text(&http.ret_body, cases[i].body);
		if (cases[i].type)
			http_headers_add(&http.ret_headers, "x-amzn-ErrorType", cases[i].type);
		assert_int_equal(ec2_error_read(&http, &e), cases[i].verdict);
		assert_int_equal(e.error, cases[i].error);
		assert_string_equal(e.code, cases[i].code);
		assert_string_equal(e.reason, cases[i].reason);
	}
}

/* What was asked is told; and a 404 of who is not AWS is no snapshot that is gone. */
static void refusals_name_what_was_asked(void **state)
{
	static const struct {
		const char *url, *form, *operation;
		int error;
	} cases[] = {
		{ "https://x/snapshots/snap-1/blocks?maxResults=1", NULL, "ListSnapshotBlocks",
			-EBADMSG },
		{ "https://x/snapshots/snap-1/blocks/7?blockToken=a", NULL, "GetSnapshotBlock",
			-EBADMSG },
		{ "https://x/snapshots/snap-1/changedblocks?a", NULL, "ListChangedBlocks",
			-EBADMSG },
		{ "https://x/", "Action=CreateSnapshots&Version=1", "CreateSnapshots", -EBADMSG },
		{ "https://x/", "Action=StopInstances", "StopInstances", -EBADMSG },
		{ "http://x/latest/meta-data/iam/security-credentials/", NULL, "", -ENOENT },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(http_request_free) struct http_request http = { 0 };
		struct iovec body = { (char *)cases[i].form,
			cases[i].form ? strlen(cases[i].form) : 0 };
		struct http_error e;
		http.outcome = HTTP_ANSWERED;
		http.status = 404;
		http.url = cases[i].url;
		http.body = &body;
		http.body_count = body.iov_len > 0;
		assert_int_equal(ec2_error_read(&http, &e), HTTP_REFUSED);
		assert_string_equal(e.operation, cases[i].operation);
		assert_int_equal(e.error, cases[i].error);
	}
}

/* A clock that stands until it is told to go on. */
struct still_clock {
	struct clock_source source;
	int64_t now_ns;
};

static int64_t still_now(struct clock_source *clock)
{
	return ((struct still_clock *)clock)->now_ns;
}

static void the_limiter_gives_way_and_comes_back(void **state)
{
	static const struct clock_ops still = { still_now, still_now, NULL };
	static const uint64_t rates[EC2_LIMITS] = { 1000, 50, 0 };
	struct still_clock clock = { { &still }, 0 };
	struct ec2_limiter *l = NULL;
	(void)state;
	assert_int_equal(ec2_limiter_new(&clock.source, rates, &l), 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(ec2_limiter_reserve(l, EC2_LIMIT_BLOCKS), 0);
	assert_true(ec2_limiter_reserve(l, EC2_LIMIT_BLOCKS) > 0);
	assert_int_equal(ec2_limiter_reserve(l, EC2_LIMIT_LISTS), 0);
	ec2_limiter_throttled(l, EC2_LIMIT_BLOCKS);
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_BLOCKS), 700);
	ec2_limiter_throttled(l, EC2_LIMIT_BLOCKS); /* the same burst of answers */
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_BLOCKS), 700);
	clock.now_ns += NS_PER_S;
	ec2_limiter_throttled(l, EC2_LIMIT_BLOCKS);
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_BLOCKS), 490);
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_LISTS), 50);
	clock.now_ns += 2 * NS_PER_S;
	ec2_limiter_reserve(l, EC2_LIMIT_BLOCKS);
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_BLOCKS), 590);
	clock.now_ns += 60 * NS_PER_S;
	ec2_limiter_reserve(l, EC2_LIMIT_BLOCKS);
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_BLOCKS), 1000);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(ec2_limiter_reserve(l, EC2_LIMIT_CALLS), 0);
		ec2_limiter_throttled(l, EC2_LIMIT_CALLS);
	}
	for (unsigned i = 0; i < 100; i++) {
		clock.now_ns += 2 * NS_PER_S;
		ec2_limiter_throttled(l, EC2_LIMIT_LISTS);
	}
	assert_int_equal(ec2_limiter_rate(l, EC2_LIMIT_LISTS), 1);
	ec2_limiter_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(endpoints),
		cmocka_unit_test(profiles),
		cmocka_unit_test_setup_teardown(settings_come_in_order, set_up, tear_down),
		cmocka_unit_test_setup_teardown(profiles_that_lead_nowhere, set_up, tear_down),
		cmocka_unit_test(refusals_are_read),
		cmocka_unit_test(refusals_name_what_was_asked),
		cmocka_unit_test(the_limiter_gives_way_and_comes_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
