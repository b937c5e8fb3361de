/*
 * replicator/agent_keys and pki: what a registration key allows and for how long, what a restart
 * remembers, what damage looks like, and that nothing is given away that is not durable.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/json.h"
#include "replicator/agent_keys.h"
#include "replicator/pki.h"
#include "replicator/wire/certificate.h"

#define DAY_NS (86400 * NS_PER_S)

/* A clock that is moved by hand, and files whose replacing fails when told to. */
struct fixture {
	struct clock_source clock;
	struct io io;
	struct io_ops ops;
	int64_t now_ns;
	char directory[64], path[96], pki_path[96];
	struct agent_keys *keys;
	uint8_t public_key[2][TLS_FINGERPRINT_BYTES];
};

static struct fixture *the_fixture(const struct clock_source *clock)
{
	return (struct fixture *)clock;
}

static int64_t now(struct clock_source *clock)
{
	return the_fixture(clock)->now_ns;
}

static const struct clock_ops clock_ops = { .realtime_ns = now, .monotonic_ns = now };

static bool disk_full; /* of this program's only fixture at a time */

static int open_unless_full(
	struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	(void)io;
	if (disk_full && (flags & IO_CREATE))
		return -ENOSPC;
	return io_open(io_posix(), path, flags, ret_file);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static void open_keys(struct fixture *f)
{
	struct error error = { 0 };
	if (agent_keys_new(&f->io, &f->clock, f->path, &error, &f->keys) < 0)
		fail_msg("%s", error.message);
}

static void reopen(struct fixture *f)
{
	agent_keys_free(f->keys);
	open_keys(f);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->clock.ops = &clock_ops;
	f->now_ns = clock_realtime_ns(clock_system());
	f->ops = *io_posix()->ops;
	f->ops.open = open_unless_full;
	f->io.ops = &f->ops;
	disk_full = false;
	memset(f->public_key[1], 1, TLS_FINGERPRINT_BYTES);
	strcpy(f->directory, "/tmp/landfall-keys-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/agent_keys.json", f->directory);
	snprintf(f->pki_path, sizeof(f->pki_path), "%s/pki", f->directory);
	open_keys(f);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	agent_keys_free(f->keys);
	nftw(f->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static struct registration_key make(struct fixture *f, const char *machine, unsigned uses)
{
	struct agent_keys_order order = {
		.machine = machine, .ttl_s = AGENT_KEYS_DEFAULT_TTL_S, .uses = uses
	};
	struct registration_key key;
	struct error error = { 0 };
	if (agent_keys_create(f->keys, &order, &error, &key) < 0)
		fail_msg("%s", error.message);
	return key;
}

static int use(struct fixture *f, const struct registration_key *key, const char *machine,
	unsigned public_key)
{
	const struct agent_keys_claim claim = { .id = key->id,
		.secret = key->secret,
		.machine = machine,
		.public_key = f->public_key[public_key] };
	return agent_keys_use(f->keys, &claim, NULL);
}

/* ── keys ────────────────────────────────────────────────────────────────────────────────── */

static void a_key_serves_once(void **state)
{
	struct fixture *f = *state;
	struct registration_key key = make(f, NULL, 1);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(use(f, &key, "web1", 0), 0); /* again: the same question */
		assert_int_equal(use(f, &key, "web1", 1), -EEXIST);
		assert_int_equal(use(f, &key, "web2", 0), -EEXIST);
		reopen(f);
	}
	key.secret[0] ^= 1;
	assert_int_equal(use(f, &key, "web1", 0), -EACCES);
	key.secret[0] ^= 1;
	strcpy(key.id, "000000000000");
	assert_int_equal(use(f, &key, "web1", 0), -EACCES);
}

static void a_key_may_serve_several(void **state)
{
	struct fixture *f = *state;
	struct registration_key key = make(f, NULL, 3);
	assert_int_equal(use(f, &key, "web1", 0), 0);
	assert_int_equal(use(f, &key, "web2", 0), 0);
	reopen(f);
	assert_int_equal(use(f, &key, "web1", 0), 0);
	assert_int_equal(use(f, &key, "web3", 1), 0);
	assert_int_equal(use(f, &key, "web4", 0), -EEXIST);
}

static void a_key_ends(void **state)
{
	struct fixture *f = *state;
	struct registration_key key = make(f, NULL, 1), used = make(f, NULL, 1);
	assert_int_equal(use(f, &used, "web1", 0), 0);
	f->now_ns += 5 * DAY_NS - 1;
	assert_int_equal(use(f, &used, "web1", 0), 0);
	f->now_ns += 1;
	assert_int_equal(use(f, &key, "web2", 0), -EKEYEXPIRED);
	assert_int_equal(use(f, &used, "web1", 0), -EKEYEXPIRED);
	/* A month later it is not even listed. */
	f->now_ns += 31 * DAY_NS;
	struct registration_key next = make(f, NULL, 1);
	CLEANUP(json_freep) struct cJSON *list = NULL;
	assert_int_equal(agent_keys_to_json(f->keys, &list), 0);
	assert_int_equal(cJSON_GetArraySize(list), 1);
	assert_int_equal(use(f, &next, "web1", 0), 0);
}

static void a_bound_key_is_one_machines(void **state)
{
	struct fixture *f = *state;
	struct registration_key key = make(f, "web1", 1);
	struct agent_keys_verdict verdict;
	assert_int_equal(use(f, &key, "web2", 0), -EPERM);
	const struct agent_keys_claim claim = { key.id, key.secret, "web1", f->public_key[0] };
	assert_int_equal(agent_keys_check(f->keys, &claim, NULL, &verdict), 0);
	assert_true(verdict.bound);
	assert_false(verdict.again);
	assert_int_equal(use(f, &key, "web1", 0), 0);
	assert_int_equal(agent_keys_check(f->keys, &claim, NULL, &verdict), 0);
	assert_true(verdict.again);
}

static void revoking_and_removing_end_it(void **state)
{
	struct fixture *f = *state;
	struct registration_key revoked = make(f, NULL, 1), bound = make(f, "web1", 1),
				used = make(f, NULL, 2), other = make(f, "web2", 1);
	assert_int_equal(agent_keys_revoke(f->keys, "ffffffffffff", NULL), -ENOENT);
	assert_int_equal(agent_keys_revoke(f->keys, revoked.id, NULL), 0);
	assert_int_equal(use(f, &used, "web1", 0), 0);
	assert_int_equal(agent_keys_forget_machine(f->keys, "web1", NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(use(f, &revoked, "web3", 0), -EKEYREVOKED);
		assert_int_equal(use(f, &bound, "web1", 0), -EKEYREVOKED);
		reopen(f);
	}
	/* Its one use that is left is a new one, not the old one repeated. */
	assert_int_equal(use(f, &used, "web1", 0), 0);
	assert_int_equal(use(f, &used, "web3", 0), -EEXIST);
	assert_int_equal(use(f, &other, "web2", 0), 0);
}

/* Who enrols a machine anew ends whatever was won for it before, and with it the asking again. */
static void a_new_use_ends_the_earlier_ones(void **state)
{
	struct fixture *f = *state;
	struct registration_key first = make(f, NULL, 1), other = make(f, NULL, 2),
				early = make(f, "web1", 1), bound = make(f, "web1", 1);
	assert_int_equal(use(f, &first, "web1", 0), 0);
	assert_int_equal(use(f, &other, "web2", 0), 0);
	assert_int_equal(use(f, &early, "web1", 0), 0);
	assert_int_equal(use(f, &first, "web1", 0), -EEXIST);
	disk_full = true;
	assert_int_equal(use(f, &bound, "web1", 1), -ENOSPC);
	disk_full = false;
	assert_int_equal(use(f, &early, "web1", 0), 0); /* nothing has taken its place */
	assert_int_equal(use(f, &bound, "web1", 1), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(use(f, &first, "web1", 0), -EEXIST);
		assert_int_equal(use(f, &early, "web1", 0), -EEXIST);
		assert_int_equal(use(f, &bound, "web1", 1), 0);
		assert_int_equal(use(f, &other, "web2", 0), 0);
		reopen(f);
	}
	/* Of one key, too: its next use ends the one before. */
	struct registration_key twice = make(f, "web1", 2);
	assert_int_equal(use(f, &twice, "web1", 0), 0);
	assert_int_equal(use(f, &twice, "web1", 1), 0);
	assert_int_equal(use(f, &twice, "web1", 0), -EEXIST);
	assert_int_equal(use(f, &twice, "web1", 1), 0);
}

static void orders_are_checked(void **state)
{
	struct fixture *f = *state;
	static const struct agent_keys_order bad[] = { { NULL, 59, 1 }, { NULL, -1, 1 },
		{ NULL, AGENT_KEYS_MAX_TTL_S + 1, 1 }, { NULL, 3600, 0 },
		{ NULL, 3600, AGENT_KEYS_MAX_USES + 1 }, { "../x", 3600, 1 }, { "", 3600, 1 } };
	struct registration_key key;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(agent_keys_create(f->keys, &bad[i], NULL, &key), -EINVAL);
}

/* What cannot be written has not happened. */
static void a_full_disk_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct registration_key key = make(f, NULL, 1), none;
	const struct agent_keys_order order = { NULL, 3600, 1 };
	disk_full = true;
	assert_int_equal(use(f, &key, "web1", 0), -ENOSPC);
	assert_int_equal(agent_keys_create(f->keys, &order, NULL, &none), -ENOSPC);
	assert_int_equal(agent_keys_revoke(f->keys, key.id, NULL), -ENOSPC);
	disk_full = false;
	assert_int_equal(use(f, &key, "web2", 1), 0); /* nobody has used it */
}

/* Flips each byte of a file in turn: its copy takes its place. Then of both: `check` finds it. */
static void flip_bytes(const char *path, size_t step, int (*check)(struct fixture *), void *f)
{
	char *data, copy[160];
	size_t n;
	snprintf(copy, sizeof(copy), "%s.copy", path);
	assert_int_equal(io_load_file(io_posix(), path, 1 << 20, &data, &n), 0);
	for (size_t i = 0; i < n; i += step) {
		data[i] ^= 1;
		assert_int_equal(io_replace_file(io_posix(), path, data, n), 0);
		if (check(f) != 0)
			fail_msg("%s: byte %zu of %zu is not mended", path, i, n);
		assert_int_equal(io_replace_file(io_posix(), path, data, n), 0);
		assert_int_equal(io_replace_file(io_posix(), copy, data, n), 0);
		if (check(f) == 0)
			fail_msg("%s: byte %zu of %zu", path, i, n);
		data[i] ^= 1;
		assert_int_equal(io_replace_file(io_posix(), path, data, n), 0);
		assert_int_equal(check(f), 0);
	}
	free(data);
}

/* With its copy. */
static void move(const char *from, const char *to)
{
	char copy[160], copy_to[160];
	snprintf(copy, sizeof(copy), "%s.copy", from);
	snprintf(copy_to, sizeof(copy_to), "%s.copy", to);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(rename(copy, copy_to), 0);
}

static int try_keys(struct fixture *f)
{
	struct agent_keys *keys;
	int r = agent_keys_new(&f->io, &f->clock, f->path, NULL, &keys);
	if (r == 0)
		agent_keys_free(keys);
	else
		assert_int_equal(r, -EUCLEAN);
	return r;
}

static void damaged_keys_are_found(void **state)
{
	struct fixture *f = *state;
	struct registration_key key = make(f, "web1", 1);
	assert_int_equal(use(f, &key, "web1", 0), 0);
	flip_bytes(f->path, 7, try_keys, f);
}

/* ── the authority ───────────────────────────────────────────────────────────────────────── */

static struct pki *open_pki(struct fixture *f)
{
	struct error error = { 0 };
	struct pki *pki;
	if (pki_new(&f->io, &f->clock, f->pki_path, &error, &pki) < 0)
		fail_msg("%s", error.message);
	return pki;
}

static int issue(struct pki *pki, const char *key_pem, const char *machine, const char *key_id,
	char **ret_certificate)
{
	CLEANUP_FREE char *csr = NULL;
	assert_int_equal(certificate_make_request(key_pem, "somebody else", NULL, &csr), 0);
	const struct pki_request request = { machine, key_id, csr };
	return pki_issue(pki, &request, NULL, ret_certificate);
}

static int check(struct pki *pki, const char *certificate)
{
	struct certificate_facts facts;
	struct tls_peer peer = { .known = true };
	assert_int_equal(certificate_read(certificate, NULL, &facts), 0);
	memcpy(peer.machine, facts.name, sizeof(facts.name));
	memcpy(peer.serial, facts.serial, sizeof(facts.serial));
	memcpy(peer.key, facts.key, sizeof(facts.key));
	return pki_check(pki, &peer);
}

static void certificates_are_remembered(void **state)
{
	struct fixture *f = *state;
	struct certificate_facts facts;
	char *key, *first, *again, *other, *renewed;
	struct pki *pki = open_pki(f);
	assert_int_equal(certificate_make_key(NULL, &key), 0);
	assert_int_equal(issue(pki, key, "web1", "k1", &first), 0);
	assert_int_equal(issue(pki, key, "web1", "k1", &again), 0);
	assert_string_equal(first, again);
	assert_int_equal(issue(pki, key, "web2", "k2", &other), 0);
	assert_int_equal(certificate_read(first, NULL, &facts), 0);
	assert_string_equal(facts.name, "web1"); /* not what the request says */
	assert_true(facts.not_after_ns - f->now_ns > (PKI_AGENT_DAYS - 1) * DAY_NS);
	pki_free(pki);
	f->now_ns += 60 * DAY_NS;
	pki = open_pki(f);
	assert_int_equal(check(pki, first), 0);
	assert_int_equal(issue(pki, key, "web1", "k1", &renewed), 0);
	assert_string_not_equal(first, renewed);
	assert_int_equal(certificate_read(renewed, NULL, &facts), 0);
	assert_false(pki_was_revoked(pki, "web1", "k1", facts.key));
	assert_int_equal(pki_revoke_key(pki, "k1", NULL), 0);
	assert_true(pki_was_revoked(pki, "web1", "k1", facts.key));
	assert_false(pki_was_revoked(pki, "web2", "k2", facts.key));
	assert_false(pki_was_revoked(pki, "web1", "k2", facts.key));
	assert_false(pki_has_certificate(pki, "web1"));
	assert_true(pki_has_certificate(pki, "web2"));
	pki_free(pki);
	pki = open_pki(f);
	assert_int_equal(check(pki, first), -EKEYREVOKED);
	assert_int_equal(check(pki, renewed), -EKEYREVOKED);
	assert_int_equal(check(pki, other), 0);
	f->now_ns += 40 * DAY_NS;
	assert_false(pki_has_certificate(pki, "web2"));
	pki_free(pki);
	certificate_wipe(&key);
	free(first);
	free(again);
	free(other);
	free(renewed);
}

static void what_is_not_durable_is_not_issued(void **state)
{
	struct fixture *f = *state;
	char *key, *certificate;
	struct pki *pki = open_pki(f);
	assert_int_equal(certificate_make_key(NULL, &key), 0);
	disk_full = true;
	assert_int_equal(issue(pki, key, "web1", "k1", &certificate), -ENOSPC);
	disk_full = false;
	assert_false(pki_has_certificate(pki, "web1"));
	assert_int_equal(issue(pki, key, "web1", "k1", &certificate), 0);
	/* A revocation counts even if it cannot be written; that it cannot is told. */
	disk_full = true;
	assert_int_equal(pki_revoke_machine(pki, "web1", NULL, NULL), -ENOSPC);
	disk_full = false;
	assert_int_equal(check(pki, certificate), -EKEYREVOKED);
	pki_free(pki);
	certificate_wipe(&key);
	free(certificate);
}

static int try_pki(struct fixture *f)
{
	struct pki *pki;
	int r = pki_new(&f->io, &f->clock, f->pki_path, NULL, &pki);
	if (r == 0)
		pki_free(pki);
	else
		assert_int_equal(r, -EUCLEAN);
	return r;
}

static void a_lost_authority_is_not_replaced(void **state)
{
	struct fixture *f = *state;
	char list[128], authority[128], server[128], aside[128], *key, *certificate;
	snprintf(list, sizeof(list), "%s/issued.json", f->pki_path);
	snprintf(authority, sizeof(authority), "%s/authority.pem", f->pki_path);
	snprintf(server, sizeof(server), "%s/server.pem", f->pki_path);
	snprintf(aside, sizeof(aside), "%s/aside", f->pki_path);
	/* Killed in its first start, between the two files: it goes on. */
	struct pki *pki = open_pki(f);
	pki_free(pki);
	move(authority, aside);
	assert_int_equal(try_pki(f), 0);
	/* The port's own pair may be made anew at any time. */
	assert_int_equal(remove(server), 0);
	assert_int_equal(try_pki(f), 0);
	pki = open_pki(f);
	assert_int_equal(certificate_make_key(NULL, &key), 0);
	assert_int_equal(issue(pki, key, "web1", "k1", &certificate), 0);
	pki_free(pki);
	move(authority, aside);
	assert_int_equal(try_pki(f), -EUCLEAN);
	move(aside, authority);
	move(list, aside);
	assert_int_equal(try_pki(f), -EUCLEAN);
	move(aside, list);
	flip_bytes(list, 41, try_pki, f);
	pki = open_pki(f);
	assert_int_equal(check(pki, certificate), 0);
	pki_free(pki);
	certificate_wipe(&key);
	free(certificate);
}

static void bad_requests_are_refused(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = { "", "x",
		"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n" };
	struct pki *pki = open_pki(f);
	char *key, *csr, *certificate;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct pki_request request = { "web1", "k1", bad[i] };
		assert_int_equal(pki_issue(pki, &request, NULL, &certificate), -EBADMSG);
	}
	/* Any letter changed: no longer signed with its key. */
	assert_int_equal(certificate_make_key(NULL, &key), 0);
	assert_int_equal(certificate_make_request(key, "web1", NULL, &csr), 0);
	char *body = strchr(csr, '\n') + 1;
	for (size_t i = 0; body[i] != '-'; i += 3) {
		char kept = body[i];
		uint8_t print[TLS_FINGERPRINT_BYTES];
		if (kept == '\n' || kept == '=')
			continue;
		body[i] = kept == 'A' ? 'B' : 'A';
		assert_int_equal(pki_read_request(csr, NULL, print), -EBADMSG);
		body[i] = kept;
	}
	pki_free(pki);
	certificate_wipe(&key);
	free(csr);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(a_key_serves_once),
		TEST(a_key_may_serve_several),
		TEST(a_key_ends),
		TEST(a_bound_key_is_one_machines),
		TEST(revoking_and_removing_end_it),
		TEST(a_new_use_ends_the_earlier_ones),
		TEST(orders_are_checked),
		TEST(a_full_disk_changes_nothing),
		TEST(damaged_keys_are_found),
		TEST(certificates_are_remembered),
		TEST(what_is_not_durable_is_not_issued),
		TEST(a_lost_authority_is_not_replaced),
		TEST(bad_requests_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
