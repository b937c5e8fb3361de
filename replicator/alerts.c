/*
 * The rules, each once. A rule is a function that raises its alert or does not; the tables at the
 * end run them all. Every text says what and where, every cause why as far as it is known, every
 * mend what a person can do now.
 */
#include "replicator/alerts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/human.h"
#include "common/utc.h"

/* The next evaluation under construction. */
struct board {
	struct alert *alerts;
	unsigned count;
	int64_t now_ns;
};

static struct alert *raise_alert(struct board *board, const char *code, bool critical)
{
	/* More rules than places would be a mistake in this file; see ALERT_MAX. */
	if (board->count == ALERT_MAX)
		return &board->alerts[ALERT_MAX - 1];
	struct alert *alert = &board->alerts[board->count++];
	*alert = (struct alert){ .code = code, .critical = critical, .since_ns = board->now_ns };
	return alert;
}

#define SAY(field, ...) snprintf(field, sizeof(field), __VA_ARGS__)

static const char *size_text(uint64_t bytes, char ret_text[static HUMAN_TEXT_BYTES])
{
	return human_size((double)bytes, ret_text);
}

static const char *age_text(int64_t ns, char ret_text[static HUMAN_TEXT_BYTES])
{
	return human_time((double)ns / (double)NS_PER_S, ret_text);
}

/* The machine that commands are to name. */
static const char *member_of(const struct alert_facts *f)
{
	return f->member ? f->member : f->machine;
}

/* ── a group's rules ─────────────────────────────────────────────────────────────────────── */

static void rule_group_failed(const struct alert_facts *f, struct board *board)
{
	if (!f->open_failed)
		return;
	struct alert *a = raise_alert(board, "group-failed", true);
	SAY(a->text, "%s is not running: its journal could not be opened", f->machine);
	SAY(a->cause, "%s", f->open_error.message);
	if (f->open_error.mend[0])
		SAY(a->mend, "%s", f->open_error.mend);
	else
		SAY(a->mend,
			"mend the cause; it is tried again every minute. If the journal is lost, "
			"'landfall vault takeover --group %s' brings the points of the vault back",
			f->machine);
}

static void rule_commit_failed(const struct alert_facts *f, struct board *board)
{
	if (f->commit_error.code == 0)
		return;
	struct alert *a = raise_alert(board, "commit-failed", true);
	SAY(a->text,
		"%s: the journal's disk failed to take a write (%u times lately); the "
		"journal was closed and read again from the disk",
		f->machine, f->commit_failures);
	SAY(a->cause, "%s", f->commit_error.message);
	SAY(a->mend, "%s",
		f->commit_error.code == -ENOSPC
			? "make room on the journal's filesystem, or lower [journal] size"
			: "look for the disk's errors in the kernel's log (dmesg) and replace it; "
			  "what was acknowledged before is safe");
}

static void rule_resync(const struct alert_facts *f, struct board *board)
{
	if (f->resync_disks == 0)
		return;
	struct alert *a = raise_alert(board, "resync-needed", true);
	SAY(a->text, "%s: %u disks lost acknowledged data and must be compared with the source: %s",
		f->machine, f->resync_disks, f->resync_names);
	if (f->first_fault[0])
		SAY(a->cause, "%s", f->first_fault);
	else if (f->lost_point > 0)
		SAY(a->cause,
			"the vault holds point %" PRIu64
			", which the journal does not know: it is older than the vault (this "
			"appliance went back to a snapshot or a backup), or its end is lost",
			f->lost_point);
	else
		SAY(a->cause, "part of the journal could not be read back");
	SAY(a->mend,
		"write the disks' content again from the source (source fuse: to the live "
		"files, then 'landfall point create %s --resynced'); or go back to the newest "
		"point "
		"in the vault: 'landfall machine remove %s --keep-vault', then 'landfall vault "
		"takeover'",
		member_of(f), member_of(f));
}

static void rule_journal_damaged(const struct alert_facts *f, struct board *board)
{
	if (f->journal_faults == 0 || f->resync_disks > 0)
		return;
	struct alert *a = raise_alert(board, "journal-damaged", false);
	SAY(a->text, "%s: %u parts of the journal failed their checksums when it was opened",
		f->machine, f->journal_faults);
	SAY(a->cause, "%s", f->first_fault);
	SAY(a->mend, "check the appliance's disk (smartctl, dmesg); points marked damaged cannot "
		     "be trusted, 'landfall verify' proves the others");
}

static void rule_taken_over(const struct alert_facts *f, struct board *board)
{
	if (!f->taken_over)
		return;
	struct alert *a = raise_alert(board, "taken-over", true);
	if (f->lease_unknown) {
		SAY(a->text,
			"%s cannot be told to be this appliance's: nothing is written here or sent "
			"to the vault any more",
			f->machine);
		SAY(a->cause, "%s", f->owner);
		SAY(a->mend,
			"if no other appliance has it, 'landfall vault takeover --group %s' here "
			"goes on from the newest point in the vault; or bring the owner.json back "
			"that was there before, and restart landfalld",
			f->machine);
		return;
	}
	SAY(a->text,
		"%s belongs to another appliance now: nothing is written here or sent to the "
		"vault any more",
		f->machine);
	SAY(a->cause, "%s", f->owner[0] ? f->owner : "the vault names another owner");
	SAY(a->mend,
		"if that was meant, 'landfall machine remove %s --keep-vault' here; if not, "
		"stop the other appliance and run 'landfall vault takeover --group %s' here",
		member_of(f), f->machine);
}

static void rule_vault_missing(const struct alert_facts *f, struct board *board)
{
	if (f->vault_configured && f->vault_initialized)
		return;
	struct alert *a = raise_alert(board, "vault-missing", false);
	if (!f->vault_configured) {
		SAY(a->text, "%s has local recovery points only: they die with this appliance",
			f->machine);
		SAY(a->cause, "no vault is configured");
		SAY(a->mend, "add [vault] to landfall.conf, restart landfalld, run 'landfall vault "
			     "init'");
		return;
	}
	SAY(a->text, "%s is not protected yet: the container is no vault", f->machine);
	SAY(a->cause, "%s", f->vault_error.message);
	SAY(a->mend, "run 'landfall vault init', or mend [vault] container in landfall.conf");
}

bool alert_is_refusal(int code)
{
	return code == -EACCES || code == -EPERM || code == -EINVAL || code == -EPROTONOSUPPORT ||
	       code == -EEXIST;
}

static void rule_vault_unreachable(const struct alert_facts *f, struct board *board)
{
	if (!f->vault_configured || !f->vault_initialized || f->taken_over || f->vault_reachable ||
		f->vault_error.code == 0)
		return;
	bool refused = alert_is_refusal(f->vault_error.code);
	struct alert *a =
		raise_alert(board, refused ? "vault-refused" : "vault-unreachable", refused);
	if (f->vault_error_since_ns > 0)
		a->since_ns = f->vault_error_since_ns;
	SAY(a->text, "%s: the vault %s; points are made locally, %s", f->machine,
		refused ? "refuses us" : "is out of reach",
		"and will be sent when it answers again");
	SAY(a->cause, "%s", f->vault_error.message);
	SAY(a->mend, "%s",
		f->vault_error.mend[0] ? f->vault_error.mend
		: refused ? "check the credentials and [vault] in landfall.conf, and the clock"
			  : "check the network, the proxy and the endpoint in landfall.conf; it "
			    "is tried again by itself");
}

static void rule_flush_failed(const struct alert_facts *f, struct board *board)
{
	if (f->flush_failures == 0 || f->taken_over)
		return;
	struct alert *a = raise_alert(board, "flush-failed", f->flush_failures >= 3);
	SAY(a->text, "%s: sending to the vault failed %u times in a row", f->machine,
		f->flush_failures);
	SAY(a->cause, "%s", f->flush_error.message);
	SAY(a->mend, "%s",
		f->flush_error.mend[0]
			? f->flush_error.mend
			: "it is tried again by itself; 'landfall vault check' tells "
			  "whether the vault is sound");
}

static void rule_rpo(const struct alert_facts *f, struct board *board)
{
	if (!f->vault_configured || f->rpo_alert_s == 0 || f->taken_over || f->open_failed ||
		f->rpo_vault_age_ns <= f->rpo_alert_s * NS_PER_S)
		return;
	char age[HUMAN_TEXT_BYTES], allowed[HUMAN_TEXT_BYTES], lag[HUMAN_TEXT_BYTES],
		rate[HUMAN_TEXT_BYTES];
	struct alert *a = raise_alert(board, "rpo", true);
	SAY(a->text, "%s: changes as old as %s are not in the vault; the policy allows %s",
		f->machine, age_text(f->rpo_vault_age_ns, age),
		age_text(f->rpo_alert_s * NS_PER_S, allowed));
	if (f->paused) {
		SAY(a->cause, "replication is paused");
		SAY(a->mend, "run 'landfall machine resume %s'", member_of(f));
	} else if (!f->vault_reachable || f->flush_failures > 0) {
		SAY(a->cause, "%s",
			f->vault_reachable ? f->flush_error.message : f->vault_error.message);
		SAY(a->mend, "mend what keeps the vault from being written; see the other alert");
	} else {
		SAY(a->cause, "%s wait to be sent, and %s/s flow", size_text(f->lag_bytes, lag),
			size_text(f->flush_bytes_per_s, rate));
		SAY(a->mend, "give it more bandwidth (policy, line), or allow more with "
			     "'landfall policy set … rpo-alert=…'");
	}
}

static void rule_journal_fill(const struct alert_facts *f, struct board *board)
{
	if (f->open_failed || (!f->refusing && f->allowed_bytes_per_s == 0))
		return;
	char rate[HUMAN_TEXT_BYTES], limit[HUMAN_TEXT_BYTES];
	struct alert *a =
		raise_alert(board, f->refusing ? "journal-full" : "journal-filling", f->refusing);
	size_text(f->journal_limit_bytes, limit);
	if (f->refusing)
		SAY(a->text,
			"%s: the journal is full (%.0f %% of %s): writes wait, then are "
			"refused; nothing acknowledged is lost",
			f->machine, f->fill * 100.0, limit);
	else
		SAY(a->text,
			"%s: the journal is filling (%.0f %% of %s): writes are slowed to %s/s",
			f->machine, f->fill * 100.0, limit,
			size_text(f->allowed_bytes_per_s, rate));
	const char *cause = "the source writes faster than the vault takes it";
	char resume[128];
	const char *mend = "give it more bandwidth, or a larger [journal] size";
	if (!f->vault_configured) {
		cause = "without a vault nothing leaves the journal";
		mend = "configure a vault, or a larger [journal] size";
	} else if (f->paused) {
		cause = "replication is paused and the source goes on writing";
		SAY(resume, "run 'landfall machine resume %s'", member_of(f));
		mend = resume;
	} else if (!f->vault_reachable) {
		cause = "the vault is out of reach";
		mend = "bring the vault back (see its alert), or give a larger [journal] size";
	}
	SAY(a->cause, "%s", cause);
	SAY(a->mend, "%s", mend);
}

static void rule_agent_away(const struct alert_facts *f, struct board *board)
{
	if (!f->agent_machine || f->agent_away_since_ns == 0 || f->open_failed || f->paused)
		return;
	int64_t away_ns = f->now_ns - f->agent_away_since_ns;
	char age[HUMAN_TEXT_BYTES];
	struct alert *a = raise_alert(
		board, "agent-away", f->rpo_alert_s > 0 && away_ns > f->rpo_alert_s * NS_PER_S);
	a->since_ns = f->agent_away_since_ns;
	SAY(a->text, "%s: no recovery points are made, since the agent of machine %s is away%s%s",
		f->machine, f->agent_machine, f->agent_never_came ? "" : " for ",
		f->agent_never_came ? "" : age_text(away_ns, age));
	SAY(a->cause, "%s",
		f->agent_never_came
			? "it has not come since the appliance was started, or is not enrolled yet"
			: "its connection ended and it has not come back");
	SAY(a->mend,
		"on machine %s: 'landfall-agent status', start the service landfall-agent, see "
		"that "
		"it reaches the appliance's port; enrol it with a key of 'landfall key create' if "
		"it "
		"never was",
		f->agent_machine);
}

static void rule_agent_failing(const struct alert_facts *f, struct board *board)
{
	if (!f->agent_machine || f->agent_away_since_ns > 0 || f->agentless || f->open_failed ||
		f->paused)
		return;
	struct alert *a = raise_alert(board, "agent-failing", false);
	SAY(a->text,
		"%s: recovery points cannot be made, or not of all disks, because of machine %s",
		f->machine, f->agent_machine);
	SAY(a->cause, "%s", f->agent_error.message);
	SAY(a->mend, "%s",
		f->agent_error.mend[0] ? f->agent_error.mend
				       : "see 'landfall-agent status' and the agent's log on that "
					 "machine; it is tried again by itself");
}

static void rule_source_failing(const struct alert_facts *f, struct board *board)
{
	if (!f->agent_machine || !f->agentless || f->open_failed || f->paused)
		return;
	struct alert *a = raise_alert(board, "source-failing", false);
	SAY(a->text, "%s: no recovery points are made, because machine %s cannot be read from AWS",
		f->machine, f->agent_machine);
	SAY(a->cause, "%s", f->agent_error.message);
	SAY(a->mend, "%s",
		f->agent_error.mend[0] ? f->agent_error.mend
				       : "see the appliance's log; it is tried again by itself");
}

static void rule_comparison(const struct alert_facts *f, struct board *board)
{
	if (!f->compared_machine || f->open_failed || f->paused)
		return;
	struct alert *a = raise_alert(board, "full-comparison", false);
	SAY(a->text,
		"%s: the next recovery point takes longer: the disks of machine %s are read whole "
		"from AWS and compared",
		f->machine, f->compared_machine);
	SAY(a->cause, "%s", f->compared_cause.message);
	SAY(a->mend, "%s",
		f->compared_cause.mend[0] ? f->compared_cause.mend
					  : "nothing: it mends itself, and ends with that point");
}

static void rule_app_failing(const struct alert_facts *f, struct board *board)
{
	if (f->app_error.code == 0 || f->open_failed || f->paused)
		return;
	struct alert *a = raise_alert(board, "app-failing", false);
	SAY(a->text, "%s: recovery points are made, but none that is application-consistent",
		f->machine);
	SAY(a->cause, "%s", f->app_error.message);
	SAY(a->mend, "%s",
		f->app_error.mend[0] ? f->app_error.mend
				     : "see the agent's log on that machine, or set the policy's "
				       "app-interval to 0");
}

static void rule_certificate(const struct alert_facts *f, struct board *board)
{
	char age[HUMAN_TEXT_BYTES];
	if (!f->certificate_machine || f->open_failed)
		return;
	struct alert *a = raise_alert(board, "agent-certificate", false);
	SAY(a->text, "%s: the certificate of machine %s ends in %s; then its agent is refused",
		f->machine, f->certificate_machine,
		age_text(MAX(f->certificate_ends_ns - f->now_ns, (int64_t)0), age));
	SAY(a->cause, "its agent has not renewed it, though it ought to have weeks ago");
	SAY(a->mend,
		"on machine %s: see that landfall-agent runs and reaches the appliance, and its "
		"log; "
		"or enrol it anew: 'landfall key create --machine %s'",
		f->certificate_machine, f->certificate_machine);
}

static void rule_rival(const struct alert_facts *f, struct board *board)
{
	if (!f->rival_machine || f->open_failed)
		return;
	struct alert *a = raise_alert(board, "identity-shared", true);
	SAY(a->text, "%s: two hosts claim to be machine %s; only one at a time is replicated",
		f->machine, f->rival_machine);
	SAY(a->cause, "%s", f->rival_error.message);
	SAY(a->mend,
		"on the copy: stop landfall-agent, remove /var/lib/landfall-agent, enrol it as a "
		"machine of its own; if the copy is the one that is connected, enrol the original "
		"anew: 'landfall key create --machine %s'",
		f->rival_machine);
}

static void rule_unsent(const struct alert_facts *f, struct board *board)
{
	if (!f->unsent_machine || f->open_failed)
		return;
	struct alert *a = raise_alert(board, "disk-not-sent", false);
	SAY(a->text,
		"%s: a disk of machine %s is no longer sent by its agent: recovery points are made "
		"without it",
		f->machine, f->unsent_machine);
	SAY(a->cause, "%s", f->unsent_error.message);
	SAY(a->mend, "%s", f->unsent_error.mend);
}

static void rule_verify_failed(const struct alert_facts *f, struct board *board)
{
	if (f->failed_point == 0)
		return;
	struct alert *a = raise_alert(board, "verify-failed", true);
	SAY(a->text, "%s: recovery point %" PRIu64 " did not prove right when it was verified",
		f->machine, f->failed_point);
	SAY(a->cause, "%s",
		f->failed_fault.code ? f->failed_fault.message
				     : "what was wrong with it is in the record of the job verify");
	SAY(a->mend,
		"do not use that point; run 'landfall vault check', verify its neighbours, "
		"then 'landfall point delete %s %" PRIu64 "', once a newer one is in the vault",
		member_of(f), f->failed_point);
}

static void rule_paused(const struct alert_facts *f, struct board *board)
{
	if (!f->paused)
		return;
	struct alert *a = raise_alert(board, "paused", false);
	SAY(a->text, "%s is paused: no points are made, nothing is sent to the vault", f->machine);
	SAY(a->cause, "somebody paused it");
	SAY(a->mend, "run 'landfall machine resume %s'", member_of(f));
}

static void (*const group_rules[])(const struct alert_facts *facts, struct board *board) = {
	rule_group_failed,
	rule_commit_failed,
	rule_resync,
	rule_journal_damaged,
	rule_taken_over,
	rule_vault_missing,
	rule_vault_unreachable,
	rule_flush_failed,
	rule_rpo,
	rule_journal_fill,
	rule_agent_away,
	rule_agent_failing,
	rule_source_failing,
	rule_comparison,
	rule_app_failing,
	rule_certificate,
	rule_rival,
	rule_unsent,
	rule_verify_failed,
	rule_paused,
};
_Static_assert(
	ARRAY_SIZE(group_rules) + ALERT_MACHINE_MAX <= ALERT_MAX, "every rule has its place");

/* What goes on keeps its beginning. */
static void replace(struct alert *alerts, unsigned *count, const struct board *next)
{
	for (unsigned i = 0; i < next->count; i++)
		for (unsigned k = 0; k < *count; k++)
			if (strcmp(next->alerts[i].code, alerts[k].code) == 0)
				next->alerts[i].since_ns =
					MIN(next->alerts[i].since_ns, alerts[k].since_ns);
	memcpy(alerts, next->alerts, next->count * sizeof(*alerts));
	*count = next->count;
}

void alerts_evaluate(
	const struct alert_facts *facts, struct alert alerts[static ALERT_MAX], unsigned *count)
{
	struct alert next[ALERT_MAX];
	struct board board = { .alerts = next, .now_ns = facts->now_ns };
	for (unsigned i = 0; i < ARRAY_SIZE(group_rules); i++)
		group_rules[i](facts, &board);
	replace(alerts, count, &board);
}

/* ── a machine's rules ───────────────────────────────────────────────────────────────────── */

static void rule_joined(const struct machine_facts *f, struct board *board)
{
	if (!f->joined_unprotected)
		return;
	struct alert *a = raise_alert(board, "unprotected", false);
	SAY(a->text, "%s is not protected yet: no recovery point of group %s%s has it", f->machine,
		f->group, f->has_vault ? " in the vault" : "");
	SAY(a->cause, "the newest one was made before this machine's disks came into the group");
	SAY(a->mend,
		"the next one has it: 'landfall point create %s%s' makes one now, and says what "
		"keeps it from being made",
		f->machine, f->has_vault ? " --wait vault" : "");
}

static void rule_removal(const struct machine_facts *f, struct board *board)
{
	if (!f->removal_failed)
		return;
	struct alert *a = raise_alert(board, "removal-failed", true);
	SAY(a->text,
		"%s is not removed, nor protected any more: its removal stopped before its end",
		f->machine);
	SAY(a->cause, "%s", f->removal_error.message);
	SAY(a->mend, "%s%sthen run 'landfall machine remove %s%s' again", f->removal_error.mend,
		f->removal_error.mend[0] ? "; " : "see that the cause is mended; ", f->machine,
		f->keep_vault ? " --keep-vault" : "");
}

static void rule_volumes(const struct machine_facts *f, struct board *board)
{
	if (f->volumes.code == 0)
		return;
	struct alert *a = raise_alert(board, "volumes-new", false);
	SAY(a->text, "%s: its instance has volumes that are not replicated", f->machine);
	SAY(a->cause, "%s", f->volumes.message);
	SAY(a->mend, "%s", f->volumes.mend);
}

static void rule_snapshots(const struct machine_facts *f, struct board *board)
{
	if (f->snapshots.code == 0)
		return;
	struct alert *a = raise_alert(board, "snapshots-left", false);
	SAY(a->text,
		"%s: snapshots that nobody needs any more stay in AWS, and more with every "
		"recovery "
		"point; they cost money",
		f->machine);
	SAY(a->cause, "%s", f->snapshots.message);
	SAY(a->mend, "%s",
		f->snapshots.mend[0] ? f->snapshots.mend : "they are deleted once that is mended");
}

static void rule_drill(const struct machine_facts *f, struct board *board)
{
	if (f->drill_error.code == 0)
		return;
	struct alert *a = raise_alert(board, "drill-failed", false);
	SAY(a->text, "%s: its last drill failed", f->machine);
	SAY(a->cause, "%s", f->drill_error.message);
	SAY(a->mend, "%s%s'landfall drill start %s' tries again", f->drill_error.mend,
		f->drill_error.mend[0] ? "; " : "", f->machine);
}

void alerts_evaluate_machine(const struct machine_facts *facts,
	struct alert alerts[static ALERT_MACHINE_MAX], unsigned *count)
{
	struct alert next[ALERT_MAX];
	struct board board = { .alerts = next, .now_ns = facts->now_ns };
	rule_joined(facts, &board);
	rule_removal(facts, &board);
	rule_volumes(facts, &board);
	rule_snapshots(facts, &board);
	rule_drill(facts, &board);
	replace(alerts, count, &board);
}

/* ── the appliance's rules ───────────────────────────────────────────────────────────────── */

static void rule_disk_full(const struct appliance_facts *f, struct board *board)
{
	uint64_t may_grow = f->journal_limit_bytes > f->journal_used_bytes
				    ? f->journal_limit_bytes - f->journal_used_bytes
				    : 0;
	/* The journal is promised its size; a filesystem that cannot hold it will fail writes. */
	if (f->journal_free_bytes >= may_grow && f->journal_free_bytes >= GIB / 4)
		return;
	char left[HUMAN_TEXT_BYTES], more[HUMAN_TEXT_BYTES];
	bool critical = f->journal_free_bytes < MIN(GIB, may_grow / 10 + 128 * MIB);
	struct alert *a = raise_alert(board, "disk-full", critical);
	SAY(a->text,
		"%s: %s are left on the journal's filesystem, and the journal may still grow "
		"by %s",
		f->journal_directory, size_text(f->journal_free_bytes, left),
		size_text(may_grow, more));
	SAY(a->cause,
		"[journal] size is more than the filesystem holds, or something else fills it");
	SAY(a->mend, "make room there, or lower [journal] size in landfall.conf and reload");
}

static void rule_cache_failed(const struct appliance_facts *f, struct board *board)
{
	if (f->cache_error.code == 0)
		return;
	struct alert *a = raise_alert(board, "cache-failed", false);
	SAY(a->text, "%s: running without a read cache; reading old points is slow",
		f->cache_path ? f->cache_path : "cache");
	SAY(a->cause, "%s", f->cache_error.message);
	SAY(a->mend, "%s",
		f->cache_error.mend[0] ? f->cache_error.mend
				       : "mend the cause and restart landfalld");
}

/* With machines, each says so itself. */
static void rule_vault(const struct appliance_facts *f, struct board *board)
{
	int code = f->vault_error.code;
	if (!f->vault_configured || f->machine_count > 0 || code == 0)
		return;
	bool missing = code == -ENOENT, refused = alert_is_refusal(code);
	struct alert *a = raise_alert(board,
		missing   ? "vault-missing"
		: refused ? "vault-refused"
			  : "vault-unreachable",
		refused);
	SAY(a->text, "the vault %s; no machine is protected yet",
		missing   ? "is not initialised"
		: refused ? "refuses us"
			  : "is out of reach");
	SAY(a->cause, "%s", f->vault_error.message);
	if (missing)
		SAY(a->mend,
			"run 'landfall vault init', or mend [vault] container in landfall.conf");
	else
		SAY(a->mend, "%s",
			f->vault_error.mend[0] ? f->vault_error.mend
			: refused ? "check the credentials and [vault] in landfall.conf, and the "
				    "clock"
				  : "check the network, the proxy and the endpoint in "
				    "landfall.conf; it is tried again by itself");
}

static void rule_no_vault(const struct appliance_facts *f, struct board *board)
{
	if (f->vault_configured || f->machine_count > 0)
		return; /* with machines, each says so itself */
	struct alert *a = raise_alert(board, "vault-missing", false);
	SAY(a->text, "no vault is configured: what will be protected here will not outlive this "
		     "appliance");
	SAY(a->cause, "landfall.conf has no [vault]");
	SAY(a->mend, "add [vault] to landfall.conf, restart landfalld, run 'landfall vault init'");
}

static void rule_agents_port(const struct appliance_facts *f, struct board *board)
{
	if (f->agents_error.code == 0 || f->agent_machine_count == 0)
		return;
	struct alert *a = raise_alert(board, "agents-port", true);
	SAY(a->text, "the port for agents is not open: %u machines cannot replicate",
		f->agent_machine_count);
	SAY(a->cause, "%s", f->agents_error.message);
	SAY(a->mend, "%s",
		f->agents_error.mend[0] ? f->agents_error.mend : "check [appliance] listen");
}

static void rule_state_damaged(const struct appliance_facts *f, struct board *board)
{
	if (f->state_fault.code == 0)
		return;
	struct alert *a = raise_alert(board, "state-damaged", false);
	SAY(a->text,
		"a file of the appliance's state was damaged and is mended; this is said until "
		"landfalld is restarted");
	SAY(a->cause, "%s", f->state_fault.message);
	SAY(a->mend, "%s", f->state_fault.mend);
}

static void rule_mount(const struct appliance_facts *f, struct board *board)
{
	if (f->mount_error.code == 0 && f->mount_lost_ns == 0)
		return;
	struct alert *a = raise_alert(board, "mount-lost", f->mount_error.code != 0);
	if (f->mount_error.code != 0) {
		SAY(a->text,
			"%s is not to be seen: live disks, recovery points and clones cannot be "
			"opened; replication goes on",
			f->mount_path);
		SAY(a->cause, "%s", f->mount_error.message);
		SAY(a->mend, "%s; it is mounted again by itself then",
			f->mount_error.mend[0] ? f->mount_error.mend : "see the log");
		return;
	}
	a->since_ns = f->mount_lost_ns;
	SAY(a->text, "%s was taken away and is mounted again; replication went on", f->mount_path);
	SAY(a->cause, "something on this machine unmounted it, or ended its FUSE connection");
	SAY(a->mend, "find out what does (journalctl, scripts with umount); whoever had files open "
		     "goes on with them, or opens them anew if they fail; this alert ends an "
		     "hour after the last time");
}

void alerts_evaluate_appliance(
	const struct appliance_facts *facts, struct alert alerts[static ALERT_MAX], unsigned *count)
{
	struct alert next[ALERT_MAX];
	struct board board = { .alerts = next, .now_ns = facts->now_ns };
	rule_disk_full(facts, &board);
	rule_cache_failed(facts, &board);
	rule_state_damaged(facts, &board);
	rule_mount(facts, &board);
	rule_agents_port(facts, &board);
	rule_no_vault(facts, &board);
	rule_vault(facts, &board);
	replace(alerts, count, &board);
}

enum alert_health alerts_health(const struct alert *alerts, unsigned count)
{
	enum alert_health worst = ALERT_OK;
	for (unsigned i = 0; i < count; i++) {
		enum alert_health one = alerts[i].critical ? ALERT_CRITICAL : ALERT_WARNING;
		worst = MAX(worst, one);
	}
	return worst;
}

const char *alert_health_text(enum alert_health health)
{
	static const char *const texts[] = { "ok", "warning", "critical" };
	return texts[health];
}
