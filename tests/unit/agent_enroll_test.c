/*
 * replicator/agent/enroll and identity against the appliance's own door: enrolling, asking again,
 * renewing when a third of the certificate's life is left, and that a failure keeps what there is.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "replicator/agent/enroll.h"
#include "replicator/agents_internal.h"
#include "replicator/wire/certificate.h"

#define DAY_NS (86400 * NS_PER_S)

/* The appliance's clock, some time away from the real one. */
struct shifted_clock {
	struct clock_source base;
	atomic_llong shift_ns;
};

struct fixture {
	struct shifted_clock clock;
	char directory[64], appliance[96], agent[96], address[64];
	struct agents *agents;
};

static int64_t shifted_realtime(struct clock_source *clock)
{
	return clock_realtime_ns(clock_system()) +
	       atomic_load(&((struct shifted_clock *)clock)->shift_ns);
}

static int64_t monotonic(struct clock_source *clock)
{
	(void)clock;
	return clock_monotonic_ns(clock_system());
}

static const struct clock_ops shifted_ops = { .realtime_ns = shifted_realtime,
	.monotonic_ns = monotonic };

static int only_web1(void *context, const char *machine, struct error *error)
{
	(void)context;
	return strcmp(machine, "web1") == 0
		       ? 0
		       : error_set(error, -ENOENT, "add it", "there is no machine %s", machine);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static void open_door(struct fixture *f, const char *address)
{
	struct error error = { 0 };
	const struct agents_options options = { io_posix(), &f->clock.base, f->appliance };
	const struct agents_door door = { .address = address, .may_enroll = only_web1 };
	if (agents_new(&options, &error, &f->agents) < 0 ||
		agents_listen(f->agents, &door, &error) < 0)
		fail_msg("%s", error.message);
	snprintf(f->address, sizeof(f->address), "127.0.0.1:%u", agents_port(f->agents));
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->clock.base.ops = &shifted_ops;
	strcpy(f->directory, "/tmp/landfall-enroll-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->appliance, sizeof(f->appliance), "%s/appliance", f->directory);
	snprintf(f->agent, sizeof(f->agent), "%s/agent", f->directory);
	assert_int_equal(mkdir(f->appliance, 0700), 0);
	open_door(f, "127.0.0.1:0");
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	agents_free(f->agents);
	nftw(f->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static void make_key(struct fixture *f, const char *machine, char text[static KEY_TEXT_BYTES])
{
	const struct agent_keys_order order = { machine, AGENT_KEYS_DEFAULT_TTL_S, 1 };
	struct registration_key key;
	assert_int_equal(agent_keys_create(f->agents->keys, &order, NULL, &key), 0);
	memcpy(key.authority, pki_authority_fingerprint(f->agents->pki), sizeof(key.authority));
	key_text_format(&key, text);
}

static int enroll(struct fixture *f, const char *key, const char *machine, struct error *error)
{
	const struct enroll_request request = { io_posix(), f->agent, f->address, key, machine };
	return enroll_machine(&request, error);
}

static struct identity *load(struct fixture *f)
{
	struct identity *identity;
	struct error error = { 0 };
	if (identity_load(io_posix(), f->agent, &error, &identity) < 0)
		fail_msg("%s", error.message);
	return identity;
}

static void enrolling_wins_an_identity(void **state)
{
	struct fixture *f = *state;
	char key[KEY_TEXT_BYTES];
	struct error error = { 0 };
	struct identity *identity;
	struct tls_context *tls;
	struct stat st;
	char path[128];
	assert_int_equal(identity_load(io_posix(), f->agent, NULL, &identity), -ENOENT);
	make_key(f, NULL, key);
	assert_int_equal(enroll(f, key, "web2", &error), -EACCES);
	assert_string_equal(error.message, "there is no machine web2");
	assert_string_equal(error.mend, "add it");
	assert_int_equal(enroll(f, key, "web1", &error), 0);
	identity = load(f);
	assert_string_equal(identity->machine, "web1");
	assert_string_equal(identity->appliance, f->address);
	assert_false(enroll_renewal_is_due(identity, clock_realtime_ns(clock_system())));
	assert_int_equal(identity_tls(identity, NULL, &tls), 0);
	tls_free(tls);
	identity_free(identity);
	snprintf(path, sizeof(path), "%s/identity.json", f->agent);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Once more: nothing is asked, the appliance need not even be there. */
	agents_stop(f->agents);
	assert_int_equal(enroll(f, key, "web1", &error), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(enroll(f, key, "web1", &error), -ECONNREFUSED);
}

static void a_certificate_is_renewed(void **state)
{
	struct fixture *f = *state;
	char key[KEY_TEXT_BYTES];
	struct error error = { 0 };
	int64_t now = clock_realtime_ns(clock_system());
	atomic_store(&f->clock.shift_ns, -61 * DAY_NS);
	make_key(f, "web1", key);
	assert_int_equal(enroll(f, key, "web1", &error), 0);
	atomic_store(&f->clock.shift_ns, 0);
	struct identity *old = load(f);
	assert_true(enroll_renewal_is_due(old, now));
	assert_false(enroll_renewal_is_due(old, now - 10 * DAY_NS));
	/* While the appliance is away, what there is stays. */
	agents_free(f->agents);
	f->agents = NULL;
	assert_int_equal(enroll_renew(io_posix(), f->agent, -1, &error), -ECONNREFUSED);
	struct identity *same = load(f);
	assert_string_equal(same->certificate_pem, old->certificate_pem);
	open_door(f, old->appliance);
	if (enroll_renew(io_posix(), f->agent, -1, &error) < 0)
		fail_msg("%s", error.message);
	struct identity *renewed = load(f);
	assert_true(renewed->not_after_ns - now > (PKI_AGENT_DAYS - 1) * DAY_NS);
	assert_string_equal(renewed->key_pem, old->key_pem);
	assert_string_equal(renewed->authority_pem, old->authority_pem);
	assert_string_equal(renewed->machine, "web1");
	/* Revoked: it is told so, and keeps what it has. */
	assert_int_equal(agents_forget_machine(f->agents, "web1", NULL), 0);
	assert_int_equal(enroll_renew(io_posix(), f->agent, -1, &error), -EKEYREVOKED);
	assert_true(error.mend[0]);
	identity_free(old);
	identity_free(same);
	identity_free(renewed);
}

static void is_overdue(struct fixture *f, int64_t days, bool has, bool overdue)
{
	int64_t ends_ns = 0, now;
	bool found = false;
	atomic_store(&f->clock.shift_ns, days * DAY_NS);
	now = clock_realtime_ns(&f->clock.base);
	assert_int_equal(pki_certificate_ends(f->agents->pki, "web1", &ends_ns, &found), has);
	assert_int_equal(pki_has_certificate(f->agents->pki, "web1"), has);
	if (!has)
		return;
	assert_int_equal(found, overdue);
	assert_true(ends_ns > now && ends_ns <= now + PKI_AGENT_DAYS * DAY_NS);
}

/* An agent that has not renewed when a fifth is left (it ought to have when a third was) is told
 * of; the newest certificate counts, and one that has ended or was revoked is none. */
static void what_was_not_renewed_in_time_is_overdue(void **state)
{
	struct fixture *f = *state;
	const int64_t life_days = PKI_AGENT_DAYS + 1; /* it begins a day before */
	char key[KEY_TEXT_BYTES];
	struct error error = { 0 };
	is_overdue(f, 0, false, false);
	make_key(f, "web1", key);
	assert_int_equal(enroll(f, key, "web1", &error), 0);
	struct identity *first = load(f);
	const int64_t due_days = PKI_AGENT_DAYS - life_days / 5; /* rounded up: after it was due */
	is_overdue(f, 0, true, false);
	is_overdue(f, PKI_AGENT_DAYS - life_days / 3 + 1, true, false);
	is_overdue(f, due_days - 1, true, false);
	is_overdue(f, due_days + 1, true, true);
	is_overdue(f, PKI_AGENT_DAYS - 1, true, true);
	is_overdue(f, PKI_AGENT_DAYS + 1, false, false);
	/* Renewed late, with a certificate that the real clock still knows as good. */
	is_overdue(f, due_days + 1, true, true);
	assert_int_equal(enroll_renew(io_posix(), f->agent, -1, &error), 0);
	is_overdue(f, due_days + 1, true, false);
	is_overdue(f, PKI_AGENT_DAYS + 1, true, false);
	struct identity *second = load(f);
	assert_string_not_equal(first->certificate_pem, second->certificate_pem);
	assert_int_equal(agents_forget_machine(f->agents, "web1", NULL), 0);
	is_overdue(f, PKI_AGENT_DAYS + 1, false, false);
	identity_free(first);
	identity_free(second);
}

/* Another appliance at the same address, with an authority of its own. */
static void another_appliance_wins_nothing(void **state)
{
	struct fixture *f = *state;
	char key[KEY_TEXT_BYTES], foreign[KEY_TEXT_BYTES], address[64];
	struct error error = { 0 };
	make_key(f, "web1", key);
	make_key(f, "web1", foreign);
	assert_int_equal(enroll(f, key, "web1", &error), 0);
	strcpy(address, f->address);
	agents_free(f->agents);
	f->agents = NULL;
	strcat(f->appliance, "2");
	assert_int_equal(mkdir(f->appliance, 0700), 0);
	open_door(f, address);
	assert_int_equal(enroll_renew(io_posix(), f->agent, -1, &error), -EACCES);
	assert_int_equal(enroll(f, foreign, "web1", &error), -EACCES);
	struct identity *identity = load(f);
	assert_string_equal(identity->machine, "web1");
	identity_free(identity);
}

static void a_damaged_identity_is_found(void **state)
{
	struct fixture *f = *state;
	char key[KEY_TEXT_BYTES], path[128], *text;
	struct identity *identity;
	size_t n;
	make_key(f, "web1", key);
	assert_int_equal(enroll(f, key, "web1", NULL), 0);
	snprintf(path, sizeof(path), "%s/identity.json", f->agent);
	assert_int_equal(io_load_file(io_posix(), path, 1 << 16, &text, &n), 0);
	char *from = strstr(strstr(text, "\"certificate\""), "CERTIFICATE-----") + 20;
	char *until = strstr(from, "-----END") - 8;
	assert_true(until - from > 400);
	for (char *at = from; at < until; at += 13) {
		char kept = *at;
		if (kept == '\\' || kept == 'n')
			continue; /* an end of line, as JSON has it */
		*at = kept == 'k' ? 'l' : 'k';
		assert_int_equal(io_replace_file(io_posix(), path, text, n), 0);
		assert_int_equal(identity_load(io_posix(), f->agent, NULL, &identity), -EBADMSG);
		*at = kept;
	}
	text[n / 2] = '\0';
	assert_int_equal(io_replace_file(io_posix(), path, text, n / 2), 0);
	assert_int_equal(identity_load(io_posix(), f->agent, NULL, &identity), -EBADMSG);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(enrolling_wins_an_identity),
		TEST(a_certificate_is_renewed),
		TEST(what_was_not_renewed_in_time_is_overdue),
		TEST(another_appliance_wins_nothing),
		TEST(a_damaged_identity_is_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
