/*
 * How a machine comes by a certificate: with a registration key (`enroll`), or with the certificate
 * it has (`renew`).
 *
 * The order makes a crash harmless: the key's use is durable before the certificate is signed, the
 * certificate is on its list before it is sent. Whoever lost the answer asks again with the same
 * public key. Noting a use ends the machine's earlier ones, before anything is signed: whose
 * certificate was revoked for another's cannot ask for it again.
 *
 * A key without a machine of its own cannot take the name of a machine that has a certificate: that
 * takes a key that somebody bound to this name, and it ends what the machine had before.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/log.h"
#include "replicator/agents_internal.h"
#include "common/human.h"
#include "replicator/sealed_json.h"

struct enrolment {
	const char *machine, *csr, *id;
	uint8_t secret[KEY_SECRET_BYTES];
	uint8_t public_key[TLS_FINGERPRINT_BYTES];
};

/* ── answering ───────────────────────────────────────────────────────────────────────────── */

static void answer(struct agents *agents, struct connection *connection, const char *certificate)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "enrolled");
	if (r == 0)
		r = json_add_text(json, "certificate", certificate);
	if (r == 0)
		r = json_add_text(json, "authority", pki_authority_pem(agents->pki));
	if (r == 0)
		(void)connection_send_control(connection, json, NULL, NULL);
}

static const char *word_for(int code)
{
	switch (code) {
	case -EACCES:
		return "key";
	case -EKEYEXPIRED:
		return "key-expired";
	case -EKEYREVOKED:
		return "key-revoked";
	case -EPERM:
		return "key-machine";
	case -EEXIST:
		return "key-used";
	case -ENOENT:
		return "machine";
	case -EBUSY:
		return "machine-enrolled";
	case -EINVAL:
	case -EBADMSG:
		return "request";
	default:
		return "failed";
	}
}

/* What only concerns our own disk is not for strangers. */
static int refuse(struct connection *connection, int code, const struct error *error)
{
	const char *word = word_for(code);
	bool ours = strcmp(word, "failed") == 0;
	(void)connection_send_error(connection, word,
		ours ? "the appliance cannot do this now" : error->message,
		ours ? "see the appliance's log" : error->mend);
	return code;
}

/* ── enroll ──────────────────────────────────────────────────────────────────────────────── */

static int read_enrolment(
	const struct json *message, struct enrolment *ret_enrolment, struct error *error)
{
	struct json key;
	const char *secret;
	int r = json_get_object(message, "key", &key, error);
	if (r == 0)
		r = json_get_text(&key, "id", &ret_enrolment->id, error);
	if (r == 0)
		r = json_get_text(&key, "secret", &secret, error);
	if (r == 0)
		r = json_get_text(message, "machine", &ret_enrolment->machine, error);
	if (r == 0)
		r = json_get_text(message, "csr", &ret_enrolment->csr, error);
	if (r < 0)
		return error_set(error, -EBADMSG, NULL, "the request is not complete");
	if (key_check_id(ret_enrolment->id) < 0 ||
		key_secret_parse(secret, ret_enrolment->secret) < 0)
		return error_set(error, -EACCES,
			"make a new one on the appliance: landfall key create",
			"this is no registration key of this appliance's");
	r = name_check("machine", ret_enrolment->machine, error);
	if (r == 0)
		r = pki_read_request(ret_enrolment->csr, error, ret_enrolment->public_key);
	return r;
}

/* Under agents->lock. */
static int may_have(struct agents *agents, const struct enrolment *enrolment,
	const struct agent_keys_verdict *verdict, struct error *error)
{
	int r = agents->may_enroll(agents->may_enroll_context, enrolment->machine, error);
	if (r < 0)
		return r;
	if (verdict->again && pki_was_revoked(agents->pki, enrolment->machine, enrolment->id,
				      enrolment->public_key))
		return error_set(error, -EKEYREVOKED,
			"to enrol it anew make a key of its own: landfall key create --machine "
			"NAME",
			"what registration key %s has won for machine %s was revoked",
			enrolment->id, enrolment->machine);
	if (!verdict->bound && !verdict->again &&
		pki_has_certificate(agents->pki, enrolment->machine))
		return error_set(error, -EBUSY,
			"to enrol it anew make a key of its own: landfall key create --machine "
			"NAME",
			"machine %s is enrolled already", enrolment->machine);
	return 0;
}

static int grant(struct agents *agents, const struct enrolment *enrolment, struct error *error,
	char **ret_certificate)
{
	const struct agent_keys_claim claim = { .id = enrolment->id,
		.secret = enrolment->secret,
		.machine = enrolment->machine,
		.public_key = enrolment->public_key };
	const struct pki_request request = {
		.machine = enrolment->machine, .key_id = enrolment->id, .csr_pem = enrolment->csr
	};
	struct agent_keys_verdict verdict;
	SCOPED_LOCK(&agents->lock);
	int r = agent_keys_check(agents->keys, &claim, error, &verdict);
	if (r == 0)
		r = may_have(agents, enrolment, &verdict, error);
	if (r == 0)
		r = agent_keys_use(agents->keys, &claim, error);
	if (r == 0)
		r = pki_issue(agents->pki, &request, error, ret_certificate);
	if (r == 0 && verdict.bound) {
		r = pki_revoke_machine(
			agents->pki, enrolment->machine, enrolment->public_key, error);
		if (r < 0)
			free(TAKE(*ret_certificate));
		agents_recheck(agents, false);
	}
	return r;
}

int agents_enroll(void *context, struct connection *connection, const struct json *message,
	struct error *error)
{
	struct agents *agents = context;
	struct enrolment enrolment = { 0 };
	CLEANUP_FREE char *certificate = NULL;
	int r = read_enrolment(message, &enrolment, error);
	if (r == 0)
		r = grant(agents, &enrolment, error, &certificate);
	OPENSSL_cleanse(enrolment.secret, sizeof(enrolment.secret));
	if (r < 0)
		return refuse(connection, r, error);
	log_info("machine %s is enrolled by registration key %s, from %s", enrolment.machine,
		enrolment.id, connection_address(connection));
	answer(agents, connection, certificate);
	return 0;
}

/* ── renew ───────────────────────────────────────────────────────────────────────────────── */

static int renew(struct agents *agents, const struct tls_peer *peer, const struct json *message,
	struct error *error, char **ret_certificate)
{
	struct pki_request request = { .machine = peer->machine };
	char key_id[PKI_KEY_ID_BYTES];
	uint8_t public_key[TLS_FINGERPRINT_BYTES];
	int r = json_get_text(message, "csr", &request.csr_pem, error);
	if (r == 0)
		r = pki_read_request(request.csr_pem, error, public_key);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	if (memcmp(public_key, peer->key, sizeof(public_key)) != 0)
		return error_set(error, -EBADMSG, NULL, "the request is for another key");
	SCOPED_LOCK(&agents->lock);
	if (pki_check(agents->pki, peer) < 0 || pki_key_of(agents->pki, peer->serial, key_id) < 0)
		return error_set(error, -EKEYREVOKED, "enrol the machine again with a new key",
			"this machine's certificate was revoked");
	request.key_id = key_id;
	return pki_issue(agents->pki, &request, error, ret_certificate);
}

int agents_renew(void *context, struct connection *connection, const struct json *message,
	struct error *error)
{
	struct agents *agents = context;
	const struct tls_peer *peer = connection_peer(connection);
	CLEANUP_FREE char *certificate = NULL;
	int r = renew(agents, peer, message, error, &certificate);
	if (r < 0)
		return refuse(connection, r, error);
	log_info("machine %s has renewed its certificate", peer->machine);
	answer(agents, connection, certificate);
	return 0;
}
