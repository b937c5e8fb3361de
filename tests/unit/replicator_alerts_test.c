/*
 * replicator/alerts: each rule raises its alert and only then, with cause and mend; what goes on
 * keeps its beginning.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "replicator/alerts.h"

#define NOW (20000ll * 86400 * NS_PER_S)
#define HOUR (3600 * NS_PER_S)

static struct alert_facts healthy(void)
{
	return (struct alert_facts){ .machine = "web",
		.now_ns = NOW,
		.vault_configured = true,
		.vault_initialized = true,
		.vault_reachable = true,
		.rpo_vault_age_ns = 60 * NS_PER_S,
		.rpo_alert_s = 900,
		.vault_interval_s = 300,
		.fill = 0.2,
		.journal_limit_bytes = 10 * GIB };
}

static unsigned evaluate(const struct alert_facts *facts, struct alert alerts[static ALERT_MAX])
{
	unsigned count = 0;
	alerts_evaluate(facts, alerts, &count);
	for (unsigned i = 0; i < count; i++) {
		assert_true(alerts[i].text[0] && alerts[i].cause[0] && alerts[i].mend[0]);
		assert_true(alerts[i].since_ns > 0 && alerts[i].since_ns <= facts->now_ns);
		assert_null(strchr(alerts[i].text, '\n'));
	}
	return count;
}

static void expect_only(const struct alert_facts *facts, const char *code, bool critical)
{
	struct alert alerts[ALERT_MAX];
	unsigned count = evaluate(facts, alerts);
	if (count != 1 || strcmp(alerts[0].code, code) != 0 || alerts[0].critical != critical)
		fail_msg("wanted %s, got %u, first %s (%s)", code, count,
			count ? alerts[0].code : "-", count ? alerts[0].text : "-");
	assert_non_null(strstr(alerts[0].text, "web"));
}

static void agents_that_keep_points_from_being_made(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	struct alert_facts f = healthy();
	f.agent_machine = "db";
	f.agent_away_since_ns = NOW - 60 * NS_PER_S;
	expect_only(&f, "agent-away", false);
	assert_int_equal(evaluate(&f, alerts), 1);
	assert_int_equal(alerts[0].since_ns, f.agent_away_since_ns);
	assert_non_null(strstr(alerts[0].text, "machine db"));
	assert_non_null(strstr(alerts[0].mend, "machine db"));
	f.agent_away_since_ns = NOW - HOUR;
	expect_only(&f, "agent-away", true);
	f.agent_never_came = true;
	expect_only(&f, "agent-away", true);
	f.agent_away_since_ns = 0;
	error_set(&f.agent_error, -EIO, NULL, "disk root cannot be read");
	expect_only(&f, "agent-failing", false);
	f.agentless = true;
	expect_only(&f, "source-failing", false);
	f.agentless = false;
	f.agent_machine = NULL;
	f.compared_machine = "db";
	error_set(&f.compared_cause, -ESTALE, NULL, "its snapshot is gone");
	expect_only(&f, "full-comparison", false);
	assert_int_equal(evaluate(&f, alerts), 1);
	assert_string_equal(alerts[0].cause, "its snapshot is gone");
	assert_true(alerts[0].mend[0]);
	f.compared_machine = NULL;
	f.certificate_machine = "web";
	f.certificate_ends_ns = NOW + HOUR;
	expect_only(&f, "agent-certificate", false);
	f.certificate_machine = NULL;
	f.rival_machine = "web";
	error_set(
		&f.rival_error, -EEXIST, NULL, "one (192.0.2.1) takes turns with two (192.0.2.2)");
	expect_only(&f, "identity-shared", true);
	assert_int_equal(evaluate(&f, alerts), 1);
	assert_string_equal(alerts[0].cause, f.rival_error.message);
	assert_non_null(strstr(alerts[0].mend, "key create --machine web"));
	f.rival_machine = NULL;
	f.unsent_machine = "web";
	error_set(&f.unsent_error, -ENODEV, "name it", "no disk data any more");
	expect_only(&f, "disk-not-sent", false);
	assert_int_equal(evaluate(&f, alerts), 1);
	assert_string_equal(alerts[0].cause, "no disk data any more");
	assert_string_equal(alerts[0].mend, "name it");
	f.unsent_machine = NULL;
	error_set(&f.app_error, -EIO, NULL, "the --pre-freeze command ended with 1");
	expect_only(&f, "app-failing", false);
	f.paused = true;
	expect_only(&f, "paused", false);
}

static void a_healthy_group_is_silent(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	struct alert_facts f = healthy();
	assert_int_equal(evaluate(&f, alerts), 0);
	f.rpo_vault_age_ns = -1; /* nothing to protect yet */
	assert_int_equal(evaluate(&f, alerts), 0);
	f.rpo_vault_age_ns = 100 * HOUR;
	f.rpo_alert_s = 0; /* not wanted */
	assert_int_equal(evaluate(&f, alerts), 0);
}

static void rpo_tells_why(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	struct alert_facts f = healthy();
	f.rpo_vault_age_ns = 900 * NS_PER_S;
	assert_int_equal(evaluate(&f, alerts), 0);
	f.rpo_vault_age_ns = HOUR;
	f.lag_bytes = 3 * GIB;
	f.flush_bytes_per_s = MIB;
	expect_only(&f, "rpo", true);
	evaluate(&f, alerts);
	assert_non_null(strstr(alerts[0].text, "60 min"));
	assert_non_null(strstr(alerts[0].text, "15 min"));
	assert_non_null(strstr(alerts[0].cause, "3.0 GiB"));
	assert_non_null(strstr(alerts[0].cause, "1.0 MiB/s"));
	f.paused = true;
	assert_int_equal(evaluate(&f, alerts), 2);
	assert_string_equal(alerts[0].code, "rpo");
	assert_non_null(strstr(alerts[0].mend, "resume web"));
	f.machine = "web's group";
	f.member = "web2"; /* what the command takes */
	assert_int_equal(evaluate(&f, alerts), 2);
	assert_non_null(strstr(alerts[0].mend, "resume web2"));
	assert_non_null(strstr(alerts[1].mend, "resume web2"));
	f = healthy();
	f.rpo_vault_age_ns = HOUR;
	f.vault_reachable = false;
	error_set(&f.vault_error, -ETIMEDOUT, NULL, "blob.example: timed out (request id 42)");
	assert_int_equal(evaluate(&f, alerts), 2);
	assert_string_equal(alerts[1].code, "rpo");
	assert_non_null(strstr(alerts[1].cause, "request id 42"));
	f.vault_configured = false;
	expect_only(&f, "vault-missing", false);
}

static void the_vault_out_of_reach_or_refusing(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	struct alert_facts f = healthy();
	f.vault_reachable = false;
	/* Not asked yet is no fault. */
	assert_int_equal(evaluate(&f, alerts), 0);
	error_set(&f.vault_error, -ECONNREFUSED, NULL, "connection refused (request id 7)");
	f.vault_error_since_ns = NOW - HOUR;
	expect_only(&f, "vault-unreachable", false);
	evaluate(&f, alerts);
	assert_true(alerts[0].since_ns == NOW - HOUR);
	assert_non_null(strstr(alerts[0].cause, "request id 7"));
	error_set(&f.vault_error, -EACCES, "renew the SAS", "403 AuthenticationFailed");
	expect_only(&f, "vault-refused", true);
	evaluate(&f, alerts);
	assert_string_equal(alerts[0].mend, "renew the SAS");
	f.vault_initialized = false;
	expect_only(&f, "vault-missing", false);
	evaluate(&f, alerts);
	assert_non_null(strstr(alerts[0].mend, "vault init"));
}

static void taken_over_silences_what_follows_from_it(void **state)
{
	(void)state;
	struct alert_facts f = healthy();
	f.taken_over = true;
	f.vault_reachable = false;
	f.flush_failures = 5;
	f.rpo_vault_age_ns = 9 * HOUR;
	error_set(&f.vault_error, -ESTALE, NULL, "lease lost");
	snprintf(f.owner, sizeof(f.owner), "owned by dr2 since 2026-11-22T05:54:11Z");
	expect_only(&f, "taken-over", true);
	struct alert alerts[ALERT_MAX];
	evaluate(&f, alerts);
	assert_non_null(strstr(alerts[0].cause, "dr2"));
	assert_non_null(strstr(alerts[0].mend, "--keep-vault"));
}

static void flush_failures_become_critical(void **state)
{
	(void)state;
	struct alert_facts f = healthy();
	f.flush_failures = 1;
	error_set(&f.flush_error, -EIO, NULL, "web/root at 4096: payload fails its hash");
	expect_only(&f, "flush-failed", false);
	f.flush_failures = 3;
	expect_only(&f, "flush-failed", true);
}

static void the_journal_fills(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	struct alert_facts f = healthy();
	f.fill = 0.85;
	f.allowed_bytes_per_s = 5 * MIB;
	expect_only(&f, "journal-filling", false);
	evaluate(&f, alerts);
	assert_non_null(strstr(alerts[0].text, "85 %"));
	assert_non_null(strstr(alerts[0].text, "5.0 MiB/s"));
	f.fill = 0.98;
	f.refusing = true;
	expect_only(&f, "journal-full", true);
}

static void damage_on_the_appliances_disk(void **state)
{
	(void)state;
	struct alert_facts f = healthy();
	f.journal_faults = 2;
	snprintf(f.first_fault, sizeof(f.first_fault), "7.seg at 8192: record fails its checksum");
	expect_only(&f, "journal-damaged", false);
	f.resync_disks = 1;
	snprintf(f.resync_names, sizeof(f.resync_names), "web/root");
	expect_only(&f, "resync-needed", true);
	f = healthy();
	error_set(&f.commit_error, -EIO, NULL, "8.seg: fdatasync: Input/output error");
	f.commit_failures = 1;
	expect_only(&f, "commit-failed", true);
	f = healthy();
	f.open_failed = true;
	error_set(&f.open_error, -EUCLEAN, NULL, "journal/web: no checkpoint is whole");
	expect_only(&f, "group-failed", true);
	f = healthy();
	f.failed_point = 12;
	expect_only(&f, "verify-failed", true);
	f = healthy();
	f.paused = true;
	expect_only(&f, "paused", false);
}

static void what_goes_on_keeps_its_beginning(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	unsigned count = 0;
	struct alert_facts f = healthy();
	f.paused = true;
	alerts_evaluate(&f, alerts, &count);
	f.now_ns += HOUR;
	f.failed_point = 3;
	alerts_evaluate(&f, alerts, &count);
	assert_int_equal(count, 2);
	for (unsigned i = 0; i < 2; i++)
		assert_true(alerts[i].since_ns ==
			    (strcmp(alerts[i].code, "paused") == 0 ? NOW : NOW + HOUR));
	f.paused = false;
	alerts_evaluate(&f, alerts, &count);
	assert_int_equal(count, 1);
	f.paused = true;
	f.now_ns += HOUR;
	alerts_evaluate(&f, alerts, &count);
	for (unsigned i = 0; i < 2; i++)
		if (strcmp(alerts[i].code, "paused") == 0)
			assert_true(alerts[i].since_ns == NOW + 2 * HOUR);
}

/* Every fact at once: all alerts fit. */
static void all_at_once_fit(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	struct alert_facts f = healthy();
	f.open_failed = f.paused = f.refusing = true;
	f.vault_reachable = f.vault_initialized = false;
	f.commit_error.code = f.open_error.code = f.vault_error.code = f.flush_error.code = -EIO;
	memset(f.commit_error.message, 'x', sizeof(f.commit_error.message) - 1);
	f.journal_faults = f.flush_failures = f.commit_failures = 9;
	f.failed_point = 1;
	f.rpo_vault_age_ns = HOUR;
	unsigned count = 0;
	alerts_evaluate(&f, alerts, &count);
	assert_in_range(count, 5, ALERT_MAX);
	assert_int_equal(alerts_health(alerts, count), ALERT_CRITICAL);
}

static void the_appliances_own(void **state)
{
	(void)state;
	struct alert alerts[ALERT_MAX];
	unsigned count = 0;
	struct appliance_facts f = { .now_ns = NOW,
		.vault_configured = true,
		.journal_directory = "/j",
		.journal_free_bytes = 100 * GIB,
		.journal_limit_bytes = 64 * GIB };
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 0);
	f.journal_free_bytes = 30 * GIB;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 1);
	assert_string_equal(alerts[0].code, "disk-full");
	assert_false(alerts[0].critical);
	f.journal_used_bytes = 40 * GIB; /* 24 more, and there are 30 */
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 0);
	f.journal_free_bytes = 100 * MIB;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_true(count == 1 && alerts[0].critical);
	f.journal_free_bytes = 100 * GIB;
	f.vault_configured = false;
	error_set(&f.cache_error, -ENOSPC, NULL, "no space");
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 2);
	f.machine_count = 1;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 1);
	assert_string_equal(alerts[0].code, "cache-failed");
	f.cache_error = (struct error){ 0 };
	f.mount_path = "/landfall";
	error_set(&f.mount_error, -EBUSY, "unmount what lies over it", "something lies over it");
	f.mount_lost_ns = NOW - 5;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_true(count == 1 && alerts[0].critical);
	assert_string_equal(alerts[0].code, "mount-lost");
	assert_string_equal(alerts[0].cause, "something lies over it");
	f.mount_error = (struct error){ 0 };
	alerts_evaluate_appliance(&f, alerts, &count); /* it is back */
	assert_true(count == 1 && !alerts[0].critical);
	assert_int_equal(alerts[0].since_ns, NOW - 5);
	f.mount_lost_ns = 0;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 0);
	error_set(&f.agents_error, -EADDRINUSE, "end what listens there", "in use");
	alerts_evaluate_appliance(&f, alerts, &count); /* no machine needs it */
	assert_int_equal(count, 0);
	f.agent_machine_count = 1;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_true(count == 1 && alerts[0].critical);
	assert_string_equal(alerts[0].code, "agents-port");
	assert_string_equal(alerts[0].mend, "end what listens there");
	f.agents_error = (struct error){ 0 };
	f.vault_configured = true;
	error_set(&f.vault_error, -EACCES, NULL, "403 AuthenticationFailed");
	alerts_evaluate_appliance(&f, alerts, &count); /* the machine's group says it */
	assert_int_equal(count, 0);
	f.machine_count = 0;
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_true(count == 1 && alerts[0].critical && alerts[0].mend[0]);
	assert_string_equal(alerts[0].code, "vault-refused");
	assert_string_equal(alerts[0].cause, "403 AuthenticationFailed");
	error_set(&f.vault_error, -ENOENT, NULL, "no container");
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_true(count == 1 && !alerts[0].critical && strstr(alerts[0].mend, "vault init"));
	error_set(&f.vault_error, -EAGAIN, NULL, "timed out");
	alerts_evaluate_appliance(&f, alerts, &count);
	assert_int_equal(count, 1);
	assert_string_equal(alerts[0].code, "vault-unreachable");
}

static void health_is_the_worst(void **state)
{
	(void)state;
	struct alert alerts[2] = { { .critical = false }, { .critical = true } };
	assert_string_equal(alert_health_text(alerts_health(alerts, 0)), "ok");
	assert_string_equal(alert_health_text(alerts_health(alerts, 1)), "warning");
	assert_string_equal(alert_health_text(alerts_health(alerts, 2)), "critical");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_healthy_group_is_silent),
		cmocka_unit_test(agents_that_keep_points_from_being_made),
		cmocka_unit_test(rpo_tells_why),
		cmocka_unit_test(the_vault_out_of_reach_or_refusing),
		cmocka_unit_test(taken_over_silences_what_follows_from_it),
		cmocka_unit_test(flush_failures_become_critical),
		cmocka_unit_test(the_journal_fills),
		cmocka_unit_test(damage_on_the_appliances_disk),
		cmocka_unit_test(what_goes_on_keeps_its_beginning),
		cmocka_unit_test(all_at_once_fit),
		cmocka_unit_test(the_appliances_own),
		cmocka_unit_test(health_is_the_worst),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
