/*
 * appliance/config.c and its parts: what a configuration file may say, and what is told about one
 * that says something else.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/config.h"
#include "common/bytes.h"
#include "common/cleanup.h"

struct fixture {
	char directory[64], path[96], secret[96];
};

static void write_file(const char *path, const char *text, mode_t mode)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	assert_int_equal(fchmod(fileno(file), mode), 0);
	fclose(file);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	snprintf(f->directory, sizeof(f->directory), "/tmp/landfall-config-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/landfall.conf", f->directory);
	snprintf(f->secret, sizeof(f->secret), "%s/key", f->directory);
	write_file(f->secret, " a secret \nsecond line\n", 0600);
	unsetenv("AZURE_STORAGE_CONNECTION_STRING");
	unsetenv("CREDENTIALS_DIRECTORY");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	unlink(f->path);
	unlink(f->secret);
	assert_int_equal(rmdir(f->directory), 0);
	unsetenv("AZURE_STORAGE_CONNECTION_STRING");
	unsetenv("CREDENTIALS_DIRECTORY");
	free(f);
	return 0;
}

static struct config *load(struct fixture *f, const char *text)
{
	struct config *config = NULL;
	struct error error = { 0 };
	write_file(f->path, text, 0644);
	int r = config_load(f->path, &error, &config);
	if (r < 0)
		print_error("%s\n", error.message);
	assert_int_equal(r, 0);
	return config;
}

static void expect_error(struct fixture *f, const char *text, const char *words)
{
	struct config *config = NULL;
	struct error error = { 0 };
	write_file(f->path, text, 0644);
	int r = config_load(f->path, &error, &config);
	if (r >= 0 || !strstr(error.message, words))
		print_error("%d \"%s\" instead of \"%s\"\n", r, error.message, words);
	assert_true(r < 0);
	assert_null(config);
	assert_non_null(strstr(error.message, f->path));
	assert_non_null(strstr(error.message, words));
}

static void an_empty_file_is_all_defaults(void **state)
{
	struct config *config = load(*state, "# nothing\n");
	assert_string_equal(config->appliance.state_dir, "/var/lib/landfall");
	assert_string_equal(config->appliance.mount, "/run/landfall/fs");
	assert_string_equal(config->appliance.control_socket, "/run/landfall/control.sock");
	assert_string_equal(config->journal.dir, "/var/lib/landfall/journal");
	assert_int_equal(config->appliance.log_level, LOG_LEVEL_INFO);
	assert_false(config->vault.configured);
	assert_int_equal(config->vault.blob_bandwidth, 60 * MIB);
	assert_int_equal(config->vault.blob_requests, 500);
	assert_int_equal(config->aws.blocks_per_second, 1000);
	assert_int_equal(config->aws.block_price, 3000000);
	assert_int_equal(config->aws.list_price, 600000);
	assert_int_equal(config->policy_count, 0);
	config_free(config);
}

static void everything_is_read_as_its_type(void **state)
{
	struct fixture *f = *state;
	char text[2048];
	write_file(f->secret, "YSBzZWNyZXQ=\n", 0600);
	snprintf(text, sizeof(text),
		"[appliance]\nstate_dir = /srv/landfall\nmount=/mnt/landfall\nlog_level = debug\n"
		"listen = [::]:9443\n"
		"[journal]\nsize = 8G ; inline\n[cache]\nsize = 512MiB\n"
		"[vault]\naccount = acme\ncontainer = dr-vault\nauth = sharedkey\nkey_file = %s\n"
		"blob_bandwidth = 500M\nblob_requests = unlimited\n"
		"[azure]\nsubscription = s\nvm_size = Standard_D2s_v5\n[aws]\nregion = eu-west-1\n"
		"blocks_per_second = unlimited\nblock_price = 1.5\nlist_price = 12\n"
		"[policy gold]\npoint-interval = 1s\nretention = all:24h,daily:30d\n"
		"[policy  slow]\nvault-interval = 1h\nrpo-alert = 2h\n",
		f->secret);
	struct config *config = load(f, text);
	assert_string_equal(config->appliance.state_dir, "/srv/landfall");
	assert_string_equal(config->journal.dir, "/srv/landfall/journal");
	assert_int_equal(config->appliance.log_level, LOG_LEVEL_DEBUG);
	assert_true(config->journal.size_bytes == 8 * GIB);
	assert_true(config->cache.size_bytes == 512 * MIB);
	assert_true(config->vault.configured);
	assert_int_equal(config->vault.auth, CONFIG_AUTH_SHARED_KEY);
	assert_string_equal(config->vault.container, "dr-vault");
	assert_int_equal(config->vault.blob_bandwidth, 500 * MIB);
	assert_int_equal(config->vault.blob_requests, 0);
	assert_string_equal(config->azure.vm_size, "Standard_D2s_v5");
	assert_string_equal(config->aws.region, "eu-west-1");
	assert_int_equal(config->aws.blocks_per_second, 0);
	assert_int_equal(config->aws.block_price, 1500000000);
	assert_true(config->aws.list_price == 12000000000);
	assert_int_equal(config->policy_count, 2);
	assert_string_equal(config->policies[0].name, "gold");
	assert_int_equal(config->policies[0].point_interval_s, 1);
	assert_string_equal(config->policies[1].name, "slow");
	assert_int_equal(config->policies[1].vault_interval_s, 3600);
	config_free(config);
}

static void what_is_wrong_is_told_with_its_line(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "[appliance]\n\nstate = /x\n", ":3: there is no key \"state\" in [appliance]" },
		{ "\n[aplliance]\n", ":2: there is no section [aplliance]" },
		{ "state_dir = /x\n", ":1: state_dir stands before any section" },
		{ "[appliance]\nstate_dir\n", ":2: this is neither" },
		{ "[appliance\n", ":1: this is neither" },
		{ "[appliance]\nstate_dir = \n", ":2: state_dir has no value" },
		{ "[appliance]\nstate_dir = x\n", ":2: state_dir: \"x\" is no absolute path" },
		{ "[appliance]\nmount = /a\nmount = /b\n", ":3: mount is set already on line 2" },
		{ "[appliance]\nmount = /a\n  /b\n", ":3: mount is set already on line 2" },
		{ "[appliance]\nlisten = 9443\n", ":2: listen: \"9443\" is no address" },
		{ "[appliance]\nlog_level = loud\n", ":2: \"loud\" is no log level" },
		{ "[appliance]\nlisten = 1:2:3\n", ":2: listen: \"1:2:3\" is no address" },
		{ "[appliance]\nlisten = ::1:9443\n", ":2: listen: \"::1:9443\" is no address" },
		{ "[appliance]\nlisten = []:9443\n", ":2: listen: \"[]:9443\" is no address" },
		{ "[appliance]\nlisten = [1.2.3.4]:1\n", ":2: listen: \"[1.2.3.4]:1\" is no" },
		{ "[appliance]\nlisten = a b:9443\n", ":2: listen: \"a b:9443\" is no address" },
		{ "[appliance]\nlisten = 1.2.3.256:9443\n", ":2: listen: \"1.2.3.256:9443\" is" },
		{ "[appliance]\nlisten = localhost:65536\n", ":2: listen: \"localhost:65536\" is" },
		{ "[appliance]\nmount = /a\n\ncontrol_group = nogroupx\n",
			":4: [appliance] control_group: there is no group \"nogroupx\"" },
		{ "[aws]\nregion = nowhere here\n", ":2: region: \"nowhere here\" is no region" },
		{ "[aws]\nregion = -\n", ":2: region: \"-\" is no region" },
		{ "[aws]\nblock_price = free\n", ":2: block_price: \"free\" is no price" },
		{ "[aws]\nblock_price = 1e3\n", ":2: block_price: \"1e3\" is no price" },
		{ "[aws]\nblock_price = 1.\n", ":2: block_price: \"1.\" is no price" },
		{ "[aws]\nlist_price = -1\n", ":2: list_price: \"-1\" is no price" },
		{ "[aws]\nlist_price = 0.0000000001\n", ":2: list_price: \"0.0000000001\"" },
		{ "[aws]\nlist_price = 1234567\n", ":2: list_price: \"1234567\" is no price" },
		{ "[journal]\nsize = many\n", ":2: size: \"many\" is no size" },
		{ "[journal]\nsize = 0\n", ":2: [journal] size must be 256M at least" },
		{ "[vault]\nendpoint = ftp://x\n", ":2: endpoint: \"ftp://x\" is no URL" },
		{ "[vault]\nauth = password\n", ":2: \"password\" is no way" },
		{ "[vault]\naccount = acme\n",
			":2: [vault] does not say how to authenticate: auth is missing" },
		{ "[vault]\nauth = sas\n", "neither account nor endpoint" },
		{ "[vault]\naccount = acme\nauth = sharedkey\n", "needs key_file" },
		{ "[vault]\naccount = acme\nauth = sharedkey\nkey_file = /no/such\n",
			"/no/such: No such file" },
		{ "[vault]\naccount = acme\nauth = sharedkey\nkey_file = k\n",
			"names a systemd credential" },
		{ "[vault]\naccount = a\n\ncontainer = Big\n",
			":4: [vault] container: \"Big\" is no name for a container" },
		{ "[vault]\nblob_bandwidth = fast\n", ":2: blob_bandwidth: \"fast\" is no rate" },
		{ "[vault]\n\nblob_bandwidth = 4K\n", ":3: blob_bandwidth: \"4K\" is no rate" },
		{ "[vault]\nblob_bandwidth = 0\n", ":2: blob_bandwidth: \"0\" is no rate" },
		{ "[vault]\nblob_requests = 0\n", ":2: blob_requests: \"0\" is no number" },
		{ "[vault]\nblob_requests = 5K\n", ":2: blob_requests: \"5K\" is no number" },
		{ "[vault]\nblob_requests = -1\n", ":2: blob_requests: \"-1\" is no number" },
		{ "[vault]\nblob_requests = 12345678901\n", ":2: blob_requests: \"12345" },
		{ "[policy]\n", ":1: there is no section [policy]" },
		{ "[policy a/b]\n", ":1: \"a/b\" is no name for a policy" },
		{ "[policy x]\npoint-intervall = 1s\n", ":2: " },
		{ "[policy x]\npoint-interval = soon\n", ":2: " },
		{ "[policy x]\nrpo-alert = 5m\nrpo-alert = 5m\n", ":3: rpo-alert is set already" },
		{ "[policy x]\npoint-interval = 1h\nvault-interval = 1m\n", ":1: policy x: " },
		{ "\n[policy x]\nvault-interval = 1h\n", ":2: policy x: rpo-alert" },
		{ "[policy x]\nretention = all:0h\n", ":2: retention=all:0h keeps no point" },
		{ "[appliance]\nmount = /\n", ":2: [appliance] mount: \"/\" would hide" },
		{ "[appliance]\nstate_dir = /x\nmount = /x\n", ":3: [appliance] mount and" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		expect_error(*state, bad[i].text, bad[i].words);
}

static void what_inih_would_cut_is_refused(void **state)
{
	char text[1024];
	snprintf(text, sizeof(text), "[appliance]\nstate_dir = /%0300d\n", 0);
	expect_error(*state, text, ":2: the line is longer");
	snprintf(text, sizeof(text), "[policy %060d]\n", 1);
	expect_error(*state, text, ":1: the policy's name is longer");
}

static void a_socket_has_a_short_path(void **state)
{
	char text[256];
	snprintf(text, sizeof(text), "[appliance]\nmount = /a\ncontrol_socket = /%0107d\n", 0);
	expect_error(*state, text, ":3: [appliance] control_socket has 108 characters");
	snprintf(text, sizeof(text), "[appliance]\nmount = /a\ncontrol_socket = /%0106d\n", 0);
	config_free(load(*state, text));
}

static void addresses_regions_and_groups_that_are_some(void **state)
{
	static const char *const good[] = { "listen = none", "listen = 127.0.0.1:0",
		"listen = [::1]:9443", "listen = dr-1.example.org:65535", "control_group = root" };
	char text[128];
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		snprintf(text, sizeof(text), "[appliance]\n%s\n[aws]\nregion = us-gov-west-1\n",
			good[i]);
		config_free(load(*state, text));
	}
}

static void a_missing_file_is_named(void **state)
{
	struct fixture *f = *state;
	struct config *config = NULL;
	struct error error = { 0 };
	assert_int_equal(config_load(f->path, &error, &config), -ENOENT);
	assert_non_null(strstr(error.message, f->path));
}

static void the_environment_overrides_the_vault(void **state)
{
	setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true", 1);
	struct config *config = load(*state, "[vault]\naccount = acme\ncontainer = other\n");
	assert_true(config->vault.configured);
	assert_string_equal(config->vault.connection_string, "UseDevelopmentStorage=true");
	assert_string_equal(config->vault.container, "other");
	config_free(config);
}

static void secrets_come_from_files_and_credentials(void **state)
{
	struct fixture *f = *state;
	struct error error = { 0 };
	char *secret = NULL;
	assert_int_equal(config_read_secret(f->secret, &error, &secret), 0);
	assert_string_equal(secret, "a secret");
	free(secret);
	assert_int_equal(config_read_secret("key", &error, &secret), -ENOENT);
	setenv("CREDENTIALS_DIRECTORY", f->directory, 1);
	assert_int_equal(config_read_secret("key", &error, &secret), 0);
	assert_string_equal(secret, "a secret");
	free(secret);
	write_file(f->secret, "\n\n", 0600);
	assert_int_equal(config_read_secret("key", &error, &secret), -EINVAL);
}

static void secrets_open_to_everyone_are_refused(void **state)
{
	struct fixture *f = *state;
	char text[256];
	snprintf(text, sizeof(text), "[vault]\nconnection_string_file = %s\n", f->secret);
	expect_error(f, text, f->secret); /* it holds no connection string */
	write_file(f->secret, "UseDevelopmentStorage=true\n", 0600);
	struct config *config = load(f, text);
	assert_string_equal(config->vault.connection_string, "UseDevelopmentStorage=true");
	config_free(config);
	assert_int_equal(chmod(f->secret, 0644), 0);
	expect_error(f, text, "open to everyone");
}

static void fixed_differences_are_named(void **state)
{
	struct config *a = load(*state, "[appliance]\nlog_level = info\n");
	struct config *b = load(*state, "[appliance]\nlog_level = debug\n[policy x]\n");
	struct config *c =
		load(*state, "[cache]\nsize = 1G\n[vault]\ncontainer = abc\nblob_requests = 9\n");
	assert_null(config_fixed_differences(a, b));
	char *text = config_fixed_differences(a, c);
	assert_string_equal(text, "[cache] size, [vault] container, [vault] blob_requests");
	free(text);
	config_free(a);
	config_free(b);
	config_free(c);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_empty_file_is_all_defaults),
		TEST(everything_is_read_as_its_type),
		TEST(what_is_wrong_is_told_with_its_line),
		TEST(what_inih_would_cut_is_refused),
		TEST(a_socket_has_a_short_path),
		TEST(addresses_regions_and_groups_that_are_some),
		TEST(a_missing_file_is_named),
		TEST(the_environment_overrides_the_vault),
		TEST(secrets_come_from_files_and_credentials),
		TEST(secrets_open_to_everyone_are_refused),
		TEST(fixed_differences_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
