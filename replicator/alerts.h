/*
 * Alerts: what a person should know about, each with its cause and its mend.
 *
 * Every rule stands once, in alerts.c, as a function of facts. An alert lives as long as its
 * rule holds; `since_ns` is when it began to. Not thread-safe: the owner of the facts locks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define ALERT_MAX 25

struct alert {
	const char *code; /* "rpo", "journal-full", "vault-unreachable", …; static */
	bool critical;
	int64_t since_ns;
	char text[256], cause[256], mend[256];
};

/* What is known of a group. Ages are −1 if there is nothing to take the age of. */
struct alert_facts {
	const char *machine; /* whom to name: the group's name */
	const char *member;  /* a machine of it, for commands; NULL: of the group's name */
	int64_t now_ns;

	/* protection */
	bool vault_configured;
	bool vault_initialized; /* false only if the service said so */
	bool vault_reachable;
	struct error vault_error; /* the last failure while not reachable */
	int64_t vault_error_since_ns;
	bool taken_over;
	bool lease_unknown; /* by nobody: owner.json was lost, or replaced */
	char owner[256];    /* who, since when, as the vault says */
	bool paused;
	int64_t rpo_vault_age_ns; /* of the oldest change not in the vault */
	int64_t rpo_alert_s;      /* 0: no alert */
	int64_t vault_interval_s;
	uint64_t lag_bytes, flush_bytes_per_s;

	/* flushing, when the vault answers but the flush fails */
	unsigned flush_failures; /* in a row */
	struct error flush_error;

	/* the journal */
	double fill;
	uint64_t journal_limit_bytes;
	uint64_t allowed_bytes_per_s; /* writes are slowed to this; 0: not slowed */
	bool refusing;                /* writes are refused for want of room */
	struct error commit_error;    /* the journal's disk failed; code 0: no */
	unsigned commit_failures;     /* since the last hour without one */
	bool open_failed;             /* the group is not running */
	struct error open_error;
	unsigned journal_faults; /* what opening found */
	char first_fault[256];
	unsigned resync_disks;
	char resync_names[160];
	uint64_t lost_point; /* the vault's newest, if the journal has lost it; else 0 */

	/* agents: what keeps the group's machines from making points */
	const char *agent_machine;    /* whose; NULL: nothing does */
	int64_t agent_away_since_ns;  /* 0: it is there, and fails */
	bool agent_never_came;        /* since the appliance's start: it may never have been one */
	struct error agent_error;     /* why it fails */
	bool agentless;               /* it has no agent: what fails is the fetching from AWS */
	const char *compared_machine; /* whose disks are read whole and compared; NULL: nobody's */
	struct error compared_cause;
	const char *certificate_machine; /* whose ends soon and was not renewed; NULL: nobody's */
	int64_t certificate_ends_ns;
	const char *rival_machine; /* which two hosts claim to be; NULL: none */
	struct error rival_error;
	const char *unsent_machine; /* whose agent protects a disk no longer; NULL: none's */
	struct error unsent_error;
	struct error app_error; /* why points are not application-consistent; code 0: they are */

	/* points */
	uint64_t failed_point;     /* newest whose verification failed; 0: none */
	struct error failed_fault; /* what it found; code 0: not known any more */
};

/* Evaluates every rule. `alerts`/`*count` hold the result of the evaluation before (0 at first)
 * and are replaced; an alert that goes on keeps its `since_ns`. */
void alerts_evaluate(
	const struct alert_facts *facts, struct alert alerts[static ALERT_MAX], unsigned *count);

/* What is known of a machine and is not its whole group's. */
struct machine_facts {
	const char *machine, *group;
	int64_t now_ns;
	bool has_vault;          /* one is configured */
	bool joined_unprotected; /* the group has points (in the vault), of which none has it */
	bool removal_failed, keep_vault;
	struct error removal_error; /* why */
	struct error volumes;       /* which of its instance's nobody decided about; code 0: none */
	struct error snapshots;     /* why some that nobody needs stay in AWS; code 0: none do */
	struct error drill_error;   /* how the last drill failed; code 0: it did not */
};

#define ALERT_MACHINE_MAX 5

/* As alerts_evaluate. Told after those of the group, with which they fit into ALERT_MAX. */
void alerts_evaluate_machine(const struct machine_facts *facts,
	struct alert alerts[static ALERT_MACHINE_MAX], unsigned *count);

/* What is known of the appliance itself. */
struct appliance_facts {
	int64_t now_ns;
	bool vault_configured;
	struct error vault_error; /* what it said while no machine asks it; code 0: nothing bad */
	unsigned machine_count;
	const char *journal_directory;
	uint64_t journal_free_bytes; /* of its filesystem */
	uint64_t journal_limit_bytes, journal_used_bytes;
	struct error cache_error; /* code 0: fine */
	const char *cache_path;
	unsigned agent_machine_count;
	struct error agents_error; /* why agents cannot be answered; code 0: they are */
	struct error state_fault;  /* what of the state was damaged at the start; code 0: nothing */
	const char *mount_path;
	struct error mount_error; /* why it is not mounted; code 0: it is */
	int64_t mount_lost_ns;    /* when it was last taken away from outside; 0: not of late */
};

void alerts_evaluate_appliance(const struct appliance_facts *facts,
	struct alert alerts[static ALERT_MAX], unsigned *count);

enum alert_health { ALERT_OK, ALERT_WARNING, ALERT_CRITICAL };
enum alert_health alerts_health(const struct alert *alerts, unsigned count);
const char *alert_health_text(enum alert_health health);

/* Whether the vault answered and would not have us, as opposed to being out of reach. */
bool alert_is_refusal(int code);
