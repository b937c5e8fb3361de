/*
 * The inside of the ingest, shared by the files that make it up and nobody else:
 *
 *	ingest.c          life, machines, status
 *	ingest_session.c  connections, sessions, receiving, acknowledging
 *	ingest_place.c    which session is a machine's; two hosts that claim to be one
 *	ingest_disks.c    which disks, continue or compare
 *	ingest_compare.c  answering hashes and pages
 *	ingest_verify.c   the head against the source
 *	ingest_group.c    one thread for each group that has a session: when to cut
 *	ingest_cut.c      a cut, from asking to sealing
 *	ingest_settings.c what the policy asks of agents now
 *	ingest_state.c    state/agents/<machine>.json
 *
 * One lock, for memory only: never held across input or output (`saving` is, around writing what is
 * remembered of a machine, and comes before it); it comes after the registry's. A link is used by
 * others than its own thread only while it is listed in its session, and a session only while it is
 * its machine's: both are taken off the list first and freed when nobody pins the session any more.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "replicator/head_hashes.h"
#include "replicator/ingest.h"
#include "replicator/registry_internal.h"
#include "replicator/wire/pack.h"

#define INGEST_LINKS_MAX 8u
#define INGEST_WINDOW_BYTES (16u << 20) /* under way on one connection */
#define INGEST_ASKED_MAX 64u            /* comparisons asked for and not answered */
#define INGEST_IDENTITY_BYTES 192u
#define INGEST_WORD_BYTES 64u
#define INGEST_WORDS_BYTES 400u
#define INGEST_BOOTS 4u

struct ingest_disk {
	char id[REGISTRY_NAME_BYTES];
	/* remembered */
	char identity[INGEST_IDENTITY_BYTES];
	uint64_t incarnation; /* that made it, or is making it, whole; 0: none */
	uint64_t cursor;      /* chunks below are equal, while it is not whole */
	bool whole;
	uint64_t bytes; /* as the journal has it */
	/* of the session */
	bool present;
	bool named;    /* in the list that is being read */
	bool joining;  /* no point shows it: points need not wait until it is whole */
	bool excluded; /* it is meant that the agent does not name it */
	bool resynced; /* compared since acknowledged data was lost; the next seal says so */
	uint16_t number;
	uint64_t source_bytes;
	char capture[INGEST_WORD_BYTES];
};

/* How far a session is with the cut that its group's thread conducts. */
enum cut_stage {
	CUT_NONE,
	CUT_ASKED,
	CUT_READY,
	CUT_UNCHANGED,
	CUT_FROZEN,
	CUT_MARKED,
	CUT_FAILED
};

struct ingest_cut {
	uint64_t number;
	enum cut_stage stage;
	int64_t time_ns; /* at which all stood still */
	double frozen_ms;
	bool application;                  /* its applications were at rest */
	struct error app_error;            /* why not, though they were to be */
	char unproven[INGEST_WORDS_BYTES]; /* why the agent cannot say that it saw all; "": it can
					    */
	uint64_t sent[INGEST_LINKS_MAX]; /* the last frame of each connection that belongs to it */
	struct error error;
};

/* How far the agent is with verifying a disk. */
struct ingest_verified {
	uint16_t disk; /* 0: none is being verified */
	uint64_t round, chunks, proven, differing;
	uint64_t unverified; /* of the proven: written since they were sent, by what can be told */
	bool round_over, done;
	bool ended; /* without a verdict: the agent does not have that disk */
	unsigned rounds_over;
};

struct ingest_session;

/* A connection of a session, owned by the thread that serves it. */
struct ingest_link {
	struct ingest *ingest;
	struct ingest_session *session;
	struct connection *connection;
	unsigned index;
	struct hold hold;
	uint8_t *room, *unpacked; /* a body; a payload */
	struct unpacker *unpacker;
	/* under lock */
	uint64_t staged_sequence, staged_lsn; /* frames taken in so far, and where they are */
	uint64_t acked_sequence;
	bool ending;
	pthread_cond_t staged; /* for the acker */
	pthread_t acker;
};

struct ingest_asked {
	uint16_t disk;
	uint32_t count; /* 0: the pages of chunk `first` */
	uint64_t first;
};

/* What the agent was told last; of the first connection's thread. */
struct ingest_settings {
	bool told;
	uint64_t bytes_per_s; /* 0: no limit */
	int64_t look_ns;      /* again, then */
};

struct ingest_machine;

struct ingest_session {
	struct ingest *ingest;
	struct ingest_machine *machine;
	struct ingest_group *group;
	uint64_t id;
	unsigned granted;
	struct ingest_settings settings;
	/* under lock */
	struct ingest_link *links[INGEST_LINKS_MAX];
	unsigned link_count;
	unsigned pins; /* users beside the links' threads */
	bool ending;
	bool disks_known, figures_known;
	struct ingest_cut cut;
	struct ingest_verified verified;
	struct ingest_asked asked[INGEST_ASKED_MAX];
	unsigned asked_count;
	pthread_t comparer;
};

/* A group with at least one session. */
struct ingest_group {
	struct ingest_group *next;
	struct ingest *ingest;
	char name[REGISTRY_NAME_BYTES];
	struct hold hold;
	/* Held, across writing to the journal, while disks are named and while a point is sealed: a
	 * disk that comes in between would be shown by a point that has nothing of it. Before all
	 * other locks. */
	pthread_mutex_t naming;
	unsigned sessions;    /* under lock */
	atomic_bool stopping; /* changed under lock */
	pthread_t thread;
};

struct ingest_machine {
	struct ingest_machine *next;
	char name[REGISTRY_NAME_BYTES];
	bool loaded;
	struct ingest_disk *disks;
	unsigned disk_count;
	struct ingest_session *session; /* NULL: none */
	int64_t connected_ns, left_ns;  /* 0: never since the start */
	char host[INGEST_WORD_BYTES], version[INGEST_WORD_BYTES];
	char address[CONNECTION_ADDRESS_BYTES];
	char boot[INGEST_WORD_BYTES];                  /* of the newest session; "": unknown */
	char earlier[INGEST_BOOTS][INGEST_WORD_BYTES]; /* of those before it */
	int64_t rival_ns; /* when two hosts claimed to be it the last time; 0: never */
	struct error rival;
	struct cJSON *figures;             /* the agent's own, or NULL */
	struct error cut_error;            /* why the last cut made no point; code 0: it did */
	unsigned cut_failures;             /* in a row */
	struct error refusal;              /* of a disk that it named; code 0: none is refused */
	double frozen_ms;                  /* of the last cut; −1: none yet */
	char unproven[INGEST_WORDS_BYTES]; /* of the last cut */
	uint64_t received_bytes;
};

struct ingest {
	struct agent_sessions sessions;
	struct registry *registry;
	pthread_mutex_t saving; /* around writing a file of state/agents; `lock` is taken within */
	pthread_mutex_t lock;
	pthread_cond_t changed;          /* of anything below or in what it holds */
	struct ingest_machine *machines; /* once listed they stay */
	struct ingest_group *groups;
	uint64_t last_cut;
};

/* ── ingest.c ────────────────────────────────────────────────────────────────────────────── */

void ingest_init_wait(pthread_cond_t *cond); /* by the monotonic clock */
/* Waits on `changed` for at most that long. Under lock. */
void ingest_wait(struct ingest *ingest, int64_t ns);
/* Under lock. Makes it if it is not there; NULL: no memory. */
struct ingest_machine *ingest_find_machine(struct ingest *ingest, const char *name);
/* Under lock. NULL. */
struct ingest_disk *ingest_find_disk(struct ingest_machine *machine, const char *id);
struct ingest_disk *ingest_find_number(struct ingest_machine *machine, uint16_t number);

/* ── ingest_session.c ────────────────────────────────────────────────────────────────────── */

void ingest_serve(struct agent_sessions *sessions, struct connection *connection, const char *type,
	const struct json *message);
/* Ends the session soon: stops its connections. Under lock. */
void ingest_end_session(struct ingest_session *session);

/* ── ingest_place.c ──────────────────────────────────────────────────────────────────────── */

/* Who says hello; "": it did not say. */
struct ingest_newcomer {
	const char *machine, *address;
	char host[INGEST_WORD_BYTES], version[INGEST_WORD_BYTES], boot[INGEST_WORD_BYTES];
};
/* The session becomes its machine's, once an older one has left. -EEXIST: another host has the
 * place and answers; found out within three seconds. Outside the lock. */
int ingest_take_place(struct ingest_session *session, const struct ingest_newcomer *newcomer,
	struct error *error);
/* Waits until nobody uses it any more. Outside the lock. */
void ingest_leave_place(struct ingest_session *session);
/* Two hosts claimed to be the machine of late: `ret_why`. Under lock. */
bool ingest_rival(const struct ingest_machine *machine, struct error *ret_why);

/* ── ingest_disks.c ──────────────────────────────────────────────────────────────────────── */

/* The agent's `disks`: takes them over and answers. */
int ingest_take_disks(struct ingest_link *link, const struct json *message, struct error *error);
/* The agent's `compared`. */
int ingest_take_compared(struct ingest_link *link, const struct json *message, struct error *error);
/* The disks of the group that the next point cannot show: not there, or joining and not whole;
 * their numbers. Outside the lock. */
struct ingest_group;
int ingest_absent_disks(struct ingest_group *group, uint16_t *ret_disks, unsigned *ret_count);
/* Disks that have lost data since they were whole are to be compared again; tells the agent. */
int ingest_check_damage(struct ingest_session *session, struct history *history);

/* ── ingest_compare.c ────────────────────────────────────────────────────────────────────── */

int ingest_ask(
	struct ingest_link *link, bool pages, const struct json *message, struct error *error);
void *ingest_comparer_main(void *session);

/* ── ingest_verify.c ─────────────────────────────────────────────────────────────────────── */

int ingest_take_verified(struct ingest_link *link, const struct json *message, struct error *error);

/* ── ingest_settings.c ───────────────────────────────────────────────────────────────────── */

/* Tells the agent what the policy asks of it, if it does not know. First connection only. */
int ingest_tell_settings(struct ingest_link *link, struct error *error);

/* ── ingest_group.c ──────────────────────────────────────────────────────────────────────── */

/* The session's machine is one of its group; the group's thread runs while it has sessions. 0, or
 * -errno with `error` filled. Outside the lock. */
int ingest_join_group(struct ingest_link *link, struct error *error);
/* Waits for the thread if this was the last session. Nothing if it never joined. Outside the lock.
 */
void ingest_leave_group(struct ingest_session *session);

/* ── ingest_cut.c ────────────────────────────────────────────────────────────────────────── */

/* Makes the point that is due. 0; -EAGAIN: not all machines are there and whole; else why no point
 * was made, which is logged and told to the agents. On the group's thread, outside the lock. */
int ingest_try_cut(struct ingest_group *group, const struct group_due *due);
/* The time of a point: what the agents say, within what this appliance's clock saw of the cut.
 * Their clocks may be wrong, or they may lie; a point from the future would never grow old. */
int64_t ingest_cut_time(int64_t told_ns, int64_t begun_ns, int64_t now_ns);
/* What the agent says of a cut. */
int ingest_take_cut(struct ingest_link *link, const char *type, const struct json *message,
	struct error *error);

/* ── ingest_state.c ──────────────────────────────────────────────────────────────────────── */

/* Once for a machine; again is nothing. An absent file is an empty memory; a damaged one too, with
 * a log line: everything is compared then, which is always right. Outside the lock, as is saving:
 * what ends up in the file is what was true when the last of several savers began. */
int ingest_state_load(struct ingest *ingest, struct ingest_machine *machine);
int ingest_state_save(struct ingest *ingest, struct ingest_machine *machine, struct error *error);
void ingest_state_remove(struct ingest *ingest, const char *machine);
