/*
 * See pki.h: the files and the list of what was issued.
 *
 * The list is written before anything that depends on it: before a certificate is handed out,
 * before a revocation is answered. It is also written, empty, before the authority's first file,
 * so that an authority without a list, or a list with entries without an authority, is damage and
 * not a first start.
 *
 * Locks, in their order:
 *	change_lock   one change at a time; held across the writing of the list, since the change
 *	              is answered only when it is durable
 *	lock          the list; never held across I/O, so handshakes do not wait for the disk
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/bytes.h"
#include "common/buf.h"
#include "common/cleanup.h"
#include "common/hmac.h"
#include "common/log.h"
#include "replicator/pki_internal.h"
#include "replicator/sealed_json.h"
#include "replicator/twin_file.h"
#include "replicator/wire/certificate.h"

#define PAIR_MAX_BYTES (64u << 10)
#define LIST_MAX_BYTES (64u << 20)
#define KEEP_EXPIRED_NS (30 * 86400 * NS_PER_S)
#define HEX_BYTES (2 * TLS_FINGERPRINT_BYTES + 1)

struct issued {
	struct issued *next;
	struct certificate_facts facts;
	char key_id[PKI_KEY_ID_BYTES];
	char *pem; /* owned */
	bool revoked;
};

struct pki {
	struct io *io;
	struct clock_source *clock;
	char *directory;
	struct pki_pair authority, server; /* do not change */
	struct certificate_facts authority_facts;
	struct error fault; /* what opening found damaged; does not change */

	pthread_mutex_t change_lock;
	pthread_mutex_t lock;
	struct issued *list;
};

static void issued_free(struct issued *issued)
{
	if (!issued)
		return;
	free(issued->pem);
	free(issued);
}

/* ── the list's file ─────────────────────────────────────────────────────────────────────── */

static int write_issued(struct cJSON *list, const struct issued *issued)
{
	struct cJSON *object;
	char key[HEX_BYTES];
	hex_encode(issued->facts.key, TLS_FINGERPRINT_BYTES, key);
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "serial", issued->facts.serial);
	if (r == 0)
		r = json_add_text(object, "machine", issued->facts.name);
	if (r == 0)
		r = json_add_text(object, "key", issued->key_id);
	if (r == 0)
		r = json_add_text(object, "public_key_sha256", key);
	if (r == 0)
		r = json_add_bool(object, "revoked", issued->revoked);
	if (r == 0)
		r = json_add_text(object, "certificate", issued->pem);
	return r;
}

static int list_text(struct pki *pki, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list;
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "version", 1);
	if (r == 0)
		r = json_add_array(root, "issued", &list);
	pthread_mutex_lock(&pki->lock);
	for (const struct issued *issued = pki->list; r == 0 && issued; issued = issued->next)
		r = write_issued(list, issued);
	pthread_mutex_unlock(&pki->lock);
	return r == 0 ? sealed_json_format(root, text) : r;
}

static int path_of(const struct pki *pki, const char *name, struct buf *path)
{
	return buf_printf(path, "%s/%s", pki->directory, name);
}

/* Under change_lock. */
static int save(struct pki *pki, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 }, path = { 0 };
	int r = list_text(pki, &text);
	if (r == 0)
		r = path_of(pki, "issued.json", &path);
	if (r == 0)
		r = twin_save(pki->io, path.data, text.data, text.len);
	if (r < 0)
		return error_set(error, r,
			r == -ENOSPC ? "make room on the filesystem of the state directory"
				     : "check the appliance's disk and the directory's rights",
			"%s/issued.json: cannot be written: %s", pki->directory,
			strerrordesc_np(-r));
	return 0;
}

static int read_issued(struct pki *pki, const struct json *at, struct error *error)
{
	const char *pem;
	struct issued *issued = calloc(1, sizeof(*issued));
	if (!issued)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = json_get_text(at, "certificate", &pem, error);
	if (r == 0)
		r = certificate_read(pem, error, &issued->facts);
	if (r == 0)
		r = json_copy_text(at, "key", sizeof(issued->key_id), issued->key_id, error);
	if (r == 0)
		r = json_get_bool(at, "revoked", &issued->revoked, error);
	if (r == 0 && !(issued->pem = strdup(pem)))
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		issued_free(issued);
		return r;
	}
	issued->next = pki->list;
	pki->list = issued;
	return 0;
}

static int parse_list(struct pki *pki, const char *text, size_t n, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root, list;
	int r = sealed_json_parse("issued.json", text, n, error, &json);
	if (r < 0)
		return r;
	json_root(json, "issued.json", &root);
	r = json_get_array(&root, "issued", &list, error);
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = read_issued(pki, &item, error);
	return r;
}

static int damaged(const struct pki *pki, struct error *error)
{
	if (!strstr(error->message, pki->directory))
		error_prefix(error, "%s", pki->directory);
	char message[sizeof(error->message)];
	snprintf(message, sizeof(message), "%s", error->message);
	return error_set(error, -EUCLEAN,
		"put the directory back from a backup, or move it away; then restart landfalld. "
		"Without a backup every agent has to be enrolled anew: 'landfall key create', then "
		"'landfall-agent enroll' on its machine",
		"%s", message);
}

/* *ret_there: false if there is no such file. */
static int load(struct pki *pki, const char *name, size_t limit, twin_check *check,
	struct error *error, char **ret_text, size_t *ret_n, bool *ret_there)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	struct error fault = { 0 };
	int r = path_of(pki, name, &path);
	if (r == 0)
		r = twin_load(
			pki->io, path.data, limit, check, pki, error, &fault, ret_text, ret_n);
	*ret_there = r == 0;
	if (fault.code != 0)
		pki->fault = fault;
	return r == -ENOENT ? 0 : r;
}

static int check_list(void *context, const char *text, size_t n, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	(void)context;
	return sealed_json_parse("issued.json", text, n, error, &json);
}

/* The key fits the certificate, which the authority has signed: its own, or that of the other. */
static int check_pair(void *context, const char *text, size_t n, struct error *error)
{
	const struct pki *pki = context;
	struct pki_pair pair = { 0 };
	(void)n;
	int r = pki_read_pair(text, error, &pair);
	if (r == 0)
		r = certificate_check_set(pair.certificate_pem, pair.key_pem,
			pki->authority.certificate_pem ? pki->authority.certificate_pem
						       : pair.certificate_pem,
			error);
	pki_pair_free(&pair);
	return r;
}

/* ── opening ─────────────────────────────────────────────────────────────────────────────── */

static int load_list(struct pki *pki, struct error *error, bool *ret_there)
{
	CLEANUP_FREE char *text = NULL;
	size_t n;
	int r = load(pki, "issued.json", LIST_MAX_BYTES, check_list, error, &text, &n, ret_there);
	if (r == 0 && *ret_there)
		r = parse_list(pki, text, n, error);
	return r < 0 && r != -ENOMEM ? damaged(pki, error) : r;
}

static int load_pair(struct pki *pki, const char *name, struct error *error,
	struct pki_pair *ret_pair, bool *ret_there)
{
	char *text = NULL;
	size_t n;
	int r = load(pki, name, PAIR_MAX_BYTES, check_pair, error, &text, &n, ret_there);
	if (r == 0 && *ret_there)
		r = pki_read_pair(text, error, ret_pair);
	certificate_wipe(&text);
	return r;
}

static int store_pair(
	struct pki *pki, const char *name, const struct pki_pair *pair, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	char *text = NULL;
	int r = path_of(pki, name, &path);
	if (r == 0 && asprintf(&text, "%s%s", pair->key_pem, pair->certificate_pem) < 0) {
		text = NULL;
		r = -ENOMEM;
	}
	if (r == 0)
		r = twin_save(pki->io, path.data, text, strlen(text));
	certificate_wipe(&text);
	if (r < 0)
		return error_set(error, r, "check the appliance's disk and the directory's rights",
			"%s/%s: cannot be written: %s", pki->directory, name, strerrordesc_np(-r));
	return 0;
}

static int open_authority(struct pki *pki, struct error *error)
{
	bool list_there, there;
	int r = load_list(pki, error, &list_there);
	if (r < 0)
		return r;
	r = load_pair(pki, "authority.pem", error, &pki->authority, &there);
	if (r < 0)
		return r == -ENOMEM ? r : damaged(pki, error);
	if (there != list_there && (there || pki->list)) {
		error_fill(error, -EUCLEAN, NULL, "%s is missing",
			there ? "issued.json" : "authority.pem");
		return damaged(pki, error);
	}
	if (!there) {
		r = save(pki, error);
		if (r == 0)
			r = pki_make_authority(
				clock_realtime_ns(pki->clock), error, &pki->authority);
		if (r == 0)
			r = store_pair(pki, "authority.pem", &pki->authority, error);
	}
	if (r == 0)
		r = certificate_read(pki->authority.certificate_pem, error, &pki->authority_facts);
	return r;
}

/* The server's certificate may be made anew at any time: agents know the authority. */
static int open_server(struct pki *pki, struct error *error)
{
	bool there;
	struct certificate_facts facts;
	int64_t now = clock_realtime_ns(pki->clock);
	int r = load_pair(pki, "server.pem", error, &pki->server, &there);
	if (r < 0 && r != -EUCLEAN)
		return r;
	if (r == 0 && there &&
		certificate_check_set(pki->server.certificate_pem, pki->server.key_pem,
			pki->authority.certificate_pem, NULL) == 0 &&
		certificate_read(pki->server.certificate_pem, NULL, &facts) == 0 &&
		facts.not_after_ns - now > (facts.not_after_ns - facts.not_before_ns) / 3)
		return 0;
	pki_pair_free(&pki->server);
	r = pki_make_server(&pki->authority, now, error, &pki->server);
	return r == 0 ? store_pair(pki, "server.pem", &pki->server, error) : r;
}

int pki_new(struct io *io, struct clock_source *clock, const char *directory, struct error *error,
	struct pki **ret_pki)
{
	struct error own = { 0 };
	struct pki *pki = calloc(1, sizeof(*pki));
	if (!pki)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	pki->io = io;
	pki->clock = clock;
	pthread_mutex_init(&pki->change_lock, NULL);
	pthread_mutex_init(&pki->lock, NULL);
	pki->directory = strdup(directory);
	int r = pki->directory ? io_make_dir(io, directory) : -ENOMEM;
	if (r < 0 && r != -EEXIST)
		error_fill(&own, r, "check the appliance's disk and the directory's rights",
			"%s: cannot be made: %s", directory, strerrordesc_np(-r));
	else
		r = open_authority(pki, &own);
	if (r == 0)
		r = open_server(pki, &own);
	if (r < 0) {
		pki_free(pki);
		return error_set(error, r, own.mend, "%s", own.message);
	}
	*ret_pki = pki;
	return 0;
}

const struct error *pki_fault(const struct pki *pki)
{
	return &pki->fault;
}

void pki_free(struct pki *pki)
{
	if (!pki)
		return;
	while (pki->list) {
		struct issued *next = pki->list->next;
		issued_free(pki->list);
		pki->list = next;
	}
	pki_pair_free(&pki->authority);
	pki_pair_free(&pki->server);
	pthread_mutex_destroy(&pki->change_lock);
	pthread_mutex_destroy(&pki->lock);
	free(pki->directory);
	free(pki);
}

const uint8_t *pki_authority_fingerprint(const struct pki *pki)
{
	return pki->authority_facts.key;
}

const char *pki_authority_pem(const struct pki *pki)
{
	return pki->authority.certificate_pem;
}

int pki_server_tls(struct pki *pki, struct error *error, struct tls_context **ret_context)
{
	const struct tls_server_options options = {
		.certificate_pem = pki->server.certificate_pem,
		.key_pem = pki->server.key_pem,
		.authority_pem = pki->authority.certificate_pem,
		.check = pki_check,
		.check_context = pki,
	};
	return tls_server_new(&options, error, ret_context);
}

/* ── issuing ─────────────────────────────────────────────────────────────────────────────── */

/* What is no longer worth a line. Under change_lock. */
static void forget_expired(struct pki *pki, int64_t now_ns)
{
	SCOPED_LOCK(&pki->lock);
	for (struct issued **at = &pki->list; *at;) {
		struct issued *issued = *at;
		if (issued->facts.not_after_ns + KEEP_EXPIRED_NS < now_ns) {
			*at = issued->next;
			issued_free(issued);
		} else {
			at = &issued->next;
		}
	}
}

/* The same question as before: the same answer. */
static int find_equal(struct pki *pki, const struct pki_request *request, const uint8_t *key,
	int64_t now_ns, char **ret_pem)
{
	SCOPED_LOCK(&pki->lock);
	for (const struct issued *issued = pki->list; issued; issued = issued->next) {
		const struct certificate_facts *facts = &issued->facts;
		if (issued->revoked || strcmp(facts->name, request->machine) != 0 ||
			strcmp(issued->key_id, request->key_id) != 0 ||
			memcmp(facts->key, key, sizeof(facts->key)) != 0 ||
			facts->not_after_ns - now_ns <
				(facts->not_after_ns - facts->not_before_ns) / 2)
			continue;
		char *pem = strdup(issued->pem);
		if (!pem)
			return -ENOMEM;
		*ret_pem = pem;
		return 0;
	}
	return -ENOENT;
}

static void insert(struct pki *pki, struct issued *issued)
{
	SCOPED_LOCK(&pki->lock);
	issued->next = pki->list;
	pki->list = issued;
}

static void take_out(struct pki *pki, struct issued *issued)
{
	SCOPED_LOCK(&pki->lock);
	for (struct issued **at = &pki->list; *at; at = &(*at)->next)
		if (*at == issued) {
			*at = issued->next;
			break;
		}
	issued_free(issued);
}

static int issue_new(
	struct pki *pki, const struct pki_request *request, struct error *error, char **ret_pem)
{
	struct issued *issued = calloc(1, sizeof(*issued));
	char *pem = NULL;
	int r = issued ? 0 : error_set(error, -ENOMEM, NULL, "out of memory");
	if (r == 0)
		r = pki_sign_agent(&pki->authority, request->csr_pem, request->machine,
			clock_realtime_ns(pki->clock), error, &issued->pem);
	if (r == 0)
		r = certificate_read(issued->pem, error, &issued->facts);
	if (r == 0 && !(pem = strdup(issued->pem)))
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		issued_free(issued);
		return r;
	}
	snprintf(issued->key_id, sizeof(issued->key_id), "%s", request->key_id);
	insert(pki, issued);
	r = save(pki, error);
	if (r < 0) {
		take_out(pki, issued);
		free(pem);
		return r;
	}
	*ret_pem = pem;
	return 0;
}

int pki_issue(struct pki *pki, const struct pki_request *request, struct error *error,
	char **ret_certificate_pem)
{
	uint8_t key[TLS_FINGERPRINT_BYTES];
	int64_t now = clock_realtime_ns(pki->clock);
	if (strlen(request->machine) >= TLS_NAME_BYTES ||
		strlen(request->key_id) >= PKI_KEY_ID_BYTES)
		return error_set(error, -EINVAL, NULL, "the name is too long");
	int r = pki_read_request(request->csr_pem, error, key);
	if (r < 0)
		return r;
	SCOPED_LOCK(&pki->change_lock);
	forget_expired(pki, now);
	r = find_equal(pki, request, key, now, ret_certificate_pem);
	if (r != -ENOENT)
		return r;
	return issue_new(pki, request, error, ret_certificate_pem);
}

/* ── asking ──────────────────────────────────────────────────────────────────────────────── */

/* Under lock. */
static struct issued *find(struct pki *pki, const char *serial)
{
	for (struct issued *issued = pki->list; issued; issued = issued->next)
		if (strcmp(issued->facts.serial, serial) == 0)
			return issued;
	return NULL;
}

int pki_check(void *context, const struct tls_peer *peer)
{
	struct pki *pki = context;
	SCOPED_LOCK(&pki->lock);
	const struct issued *issued = find(pki, peer->serial);
	if (!issued || strcmp(issued->facts.name, peer->machine) != 0 ||
		memcmp(issued->facts.key, peer->key, sizeof(peer->key)) != 0)
		return -ENOENT;
	return issued->revoked ? -EKEYREVOKED : 0;
}

int pki_key_of(struct pki *pki, const char *serial, char ret_key_id[static PKI_KEY_ID_BYTES])
{
	SCOPED_LOCK(&pki->lock);
	const struct issued *issued = find(pki, serial);
	if (!issued)
		return -ENOENT;
	memcpy(ret_key_id, issued->key_id, PKI_KEY_ID_BYTES);
	return 0;
}

bool pki_certificate_ends(
	struct pki *pki, const char *machine, int64_t *ret_ends_ns, bool *ret_overdue)
{
	int64_t now = clock_realtime_ns(pki->clock), begins_ns = 0, ends_ns = 0;
	SCOPED_LOCK(&pki->lock);
	for (const struct issued *issued = pki->list; issued; issued = issued->next)
		if (!issued->revoked && issued->facts.not_after_ns > MAX(now, ends_ns) &&
			strcmp(issued->facts.name, machine) == 0) {
			begins_ns = issued->facts.not_before_ns;
			ends_ns = issued->facts.not_after_ns;
		}
	if (ends_ns == 0)
		return false;
	*ret_ends_ns = ends_ns;
	/* Agents renew when a third is left. */
	*ret_overdue = ends_ns - now < (ends_ns - begins_ns) / 5;
	return true;
}

bool pki_was_revoked(
	struct pki *pki, const char *machine, const char *key_id, const uint8_t *public_key)
{
	bool revoked = false;
	SCOPED_LOCK(&pki->lock);
	for (const struct issued *issued = pki->list; issued; issued = issued->next) {
		if (strcmp(issued->facts.name, machine) != 0 ||
			strcmp(issued->key_id, key_id) != 0 ||
			memcmp(issued->facts.key, public_key, TLS_FINGERPRINT_BYTES) != 0)
			continue;
		if (!issued->revoked)
			return false;
		revoked = true;
	}
	return revoked;
}

bool pki_has_certificate(struct pki *pki, const char *machine)
{
	int64_t now = clock_realtime_ns(pki->clock);
	SCOPED_LOCK(&pki->lock);
	for (const struct issued *issued = pki->list; issued; issued = issued->next)
		if (!issued->revoked && issued->facts.not_after_ns > now &&
			strcmp(issued->facts.name, machine) == 0)
			return true;
	return false;
}

/* ── revoking ────────────────────────────────────────────────────────────────────────────── */

/* It counts at once; if it cannot be written, whoever asked is told so, and it is written with the
 * next change. */
static int revoke_all(struct pki *pki, const char *machine, const char *key_id,
	const uint8_t *except, struct error *error)
{
	unsigned count = 0;
	SCOPED_LOCK(&pki->change_lock);
	pthread_mutex_lock(&pki->lock);
	for (struct issued *issued = pki->list; issued; issued = issued->next) {
		if ((machine && strcmp(issued->facts.name, machine) != 0) ||
			(key_id && strcmp(issued->key_id, key_id) != 0) ||
			(except && memcmp(issued->facts.key, except, TLS_FINGERPRINT_BYTES) == 0))
			continue;
		issued->revoked = true;
		count++;
	}
	pthread_mutex_unlock(&pki->lock);
	return count > 0 ? save(pki, error) : 0;
}

int pki_revoke_machine(
	struct pki *pki, const char *machine, const uint8_t *except, struct error *error)
{
	return revoke_all(pki, machine, NULL, except, error);
}

int pki_revoke_key(struct pki *pki, const char *key_id, struct error *error)
{
	return revoke_all(pki, NULL, key_id, NULL, error);
}
