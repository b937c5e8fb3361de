/*
 * The inside of the registry, shared by the files that make it up and nobody else:
 *
 *	registry.c          life, upkeep thread
 *	registry_file.c     state/registry.json
 *	registry_groups.c   groups: opening, closing, reopening; holding one while it is used
 *	registry_policies.c policies by name
 *	machines.c          adding, removing, pausing
 *	machine_alerts.c    what is told of one machine and not of its group
 *	machine_vault.c     what the vault says of one that is to be added
 *	machine_aws.c       what of a machine is in AWS, as JSON
 *	machine_volumes.c   volumes that become its disks, or are left out
 *	points.c            POINT arguments, points as JSON
 *	clones.c            clones
 *	inspect.c           inspections
 *	methods_*.c         the socket's methods
 *	verify.c, takeover.c, metrics.c
 *
 * Locks, in their order:
 *	change_lock   one change of the lists at a time; held across I/O, since a change is answered
 *	              only when it is durable
 *	lock          the lists and counts; never held across I/O, calls of group_* that only
 *	              read memory excepted
 *
 * Who uses a group's history outside these locks holds the group (registry_hold): closing it
 * waits until nobody does. Long holders look at hold_is_ending.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "replicator/backpressure.h"
#include "replicator/control.h"
#include "common/human.h"
#include "replicator/registry.h"

#define REGISTRY_NAME_BYTES (NAME_MAX_CHARACTERS + 1)
#define REGISTRY_DEFAULT_POLICY "default"
#define REGISTRY_AWS_BYTES 64 /* an id or region of AWS */

struct group_entry {
	struct group_entry *next;
	char name[REGISTRY_NAME_BYTES];
	char policy[REGISTRY_NAME_BYTES];
	struct uuid id;
	bool paused;

	struct group *group; /* NULL: not open */
	struct error open_error;
	struct alert alerts[ALERT_MAX]; /* while it is not open */
	unsigned alert_count;
	unsigned holders;
	bool ending;  /* holders are to let go; no new ones */
	bool leaving; /* is being deleted in the vault: not to be opened again meanwhile */
	int64_t retry_mono_ns, retry_delay_ns;
};

struct machine_disk {
	char id[REGISTRY_NAME_BYTES];
	uint64_t size_bytes;
	char volume[REGISTRY_AWS_BYTES]; /* of the source ebs; else "" */
};

/* Volumes of an instance that are not to be replicated. */
#define MACHINE_LEFT_OUT_MAX 40u
struct machine_left_out {
	unsigned count;
	char ids[MACHINE_LEFT_OUT_MAX][REGISTRY_AWS_BYTES];
};

struct machine_entry {
	struct machine_entry *next; /* by name */
	char name[REGISTRY_NAME_BYTES];
	char source[16];
	struct group_entry *group;
	bool removing, keep_vault;
	bool shown;                 /* in the mount */
	struct machine_disk *disks; /* owned */
	unsigned disk_count;
	char instance[REGISTRY_AWS_BYTES], region[REGISTRY_AWS_BYTES]; /* of the source ebs */
	struct machine_left_out left_out;                              /* likewise */
	struct alert alerts[ALERT_MACHINE_MAX]; /* its own, as of the last upkeep */
	unsigned alert_count;
};

enum policy_origin { POLICY_BUILT_IN, POLICY_CONFIGURED, POLICY_STORED };

struct policy_entry {
	struct policy_entry *next; /* by name */
	struct policy policy;
	enum policy_origin origin;
};

struct clone_record;
struct ebs;
struct ingest;
struct inspection;

struct registry {
	struct io *io;
	struct clock_source *clock;
	struct blob_service *service;
	struct jobs *jobs;
	char *state_dir, *journal_dir, *mount_path, *cache_path;
	char *file_path;
	struct error state_fault; /* what the start found damaged; code 0: nothing */
	uint64_t journal_bytes;   /* under lock */

	struct uuid appliance;
	char appliance_name[64];
	int64_t started_ns;
	struct mount *mount;
	struct error mount_error; /* why it is not there; under lock, as is */
	int64_t mount_lost_ns;    /* when it was last found taken away; 0: never */
	struct cache *cache;
	struct error cache_error;
	/* Under lock: what the vault said while no group asks it, and when it is asked next. */
	bool vault_asked;
	struct error vault_error;
	int64_t vault_ask_mono_ns;

	pthread_mutex_t change_lock;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a holder let go; or stopping */
	bool stopping;
	pthread_t upkeep_thread;
	bool upkeep_runs;

	struct machine_entry *machines;
	struct group_entry *groups;
	struct policy_entry *policies;
	struct agents *agents; /* NULL: none */
	struct ingest *ingest; /* what agents send; NULL: none is taken in */
	struct ebs *ebs;       /* what is fetched from EBS; NULL: nothing is */
	struct drills *drills; /* NULL: none can be run */
	struct clone_record *clones;
	struct inspection *inspections;
	uint64_t last_clone, last_inspection;
	struct alert alerts[ALERT_MAX];
	unsigned alert_count;
	uint64_t journal_free_bytes;
};

/* ── registry_file.c ─────────────────────────────────────────────────────────────────────── */

/* Both under change_lock. Loading an absent file makes a new appliance's id. */
int registry_load(struct registry *registry, struct error *error);
int registry_save(struct registry *registry, struct error *error);

/* ── registry_policies.c ─────────────────────────────────────────────────────────────────── */

/* Under lock (or change_lock). NULL if there is none. */
struct policy_entry *registry_find_policy(struct registry *registry, const char *name);
/* Adds or replaces, under change_lock. -ENOMEM. */
int registry_put_policy(
	struct registry *registry, const struct policy *policy, enum policy_origin origin);
int policy_to_json(const struct policy_entry *entry, struct cJSON **ret_settings);
/* Reads {"point-interval": "60s", …} into `policy` and checks it. */
int policy_from_json(struct policy *policy, const struct json *settings, struct error *error);

/* ── registry_groups.c ───────────────────────────────────────────────────────────────────── */

struct hold {
	struct registry *registry;
	struct group_entry *entry;
	struct group *group;
	char machine[REGISTRY_NAME_BYTES];
	char source[16];
};

/* Holds the group of a machine, so that its history stays. -ENOENT: no such machine; -EIO: its
 * group is not open. Any thread. */
int registry_hold(
	struct registry *registry, const char *machine, struct error *error, struct hold *ret_hold);
void registry_release(struct hold *hold); /* a zeroed hold is fine */
bool hold_is_ending(const struct hold *hold);

/* All under change_lock. */
struct group_entry *registry_find_group(struct registry *registry, const char *name);
struct machine_entry *registry_find_machine(struct registry *registry, const char *name);
int registry_add_group(struct registry *registry, const char *name, const struct uuid *id,
	const char *policy, struct error *error, struct group_entry **ret_entry);
void registry_forget_group(struct registry *registry, struct group_entry *entry);
/* Opens the group, its disks, and shows its machines. `import`: see group_options. Failure is
 * kept in the entry (alerts) as well. */
int registry_open_group(struct registry *registry, struct group_entry *entry,
	struct vault_reading *import, struct error *error);
/* Hides its machines, ends clones and inspections, waits for holders, closes. */
void registry_close_group(struct registry *registry, struct group_entry *entry);
/* After a failure of its journal, or if it could not be opened: once more. */
void registry_reopen_group(struct registry *registry, struct group_entry *entry);
void registry_show_machine(struct registry *registry, struct machine_entry *machine);
void registry_hide_machine(struct registry *registry, struct machine_entry *machine);
/* Looks whether the mount is there, and puts it back if somebody took it away: for whoever is about
 * to name a path in it. Fails with words if it cannot be put back. */
int registry_check_mount(struct registry *registry, struct error *error);
/* Writes them to the group. */
int registry_push_settings(
	struct registry *registry, struct group_entry *entry, struct error *error);
unsigned registry_count_machines(struct registry *registry, const struct group_entry *entry);
/* Shares the room for journals between the groups. */
void registry_share_journal(struct registry *registry);
/* Removes a directory's files and the directory. */
int registry_remove_directory(struct registry *registry, const char *path);
char *registry_group_directory(const struct registry *registry, const char *group);
char *registry_group_state_path(const struct registry *registry, const char *group);

/* ── machines.c ──────────────────────────────────────────────────────────────────────────── */

struct machine_request {
	const char *name, *source, *group, *policy; /* the last two may be NULL */
	struct machine_disk disks[HISTORY_MAX_DISKS];
	unsigned disk_count;
	char instance[REGISTRY_AWS_BYTES], region[REGISTRY_AWS_BYTES]; /* of the source ebs */
	struct machine_left_out left_out;
	/* Called once, by another thread, if the vault lets it wait; may be NULL. */
	void (*waits)(void *context);
	void *waits_context;
	struct error *ret_unheard; /* filled if the vault could not be asked; may be NULL */
};
/* "ID=SIZE"; each mistake has its words. */
int machine_parse_disk(const char *text, struct machine_disk *ret_disk, struct error *error);
int machine_check_size(const char *disk, uint64_t size_bytes, struct error *error);
int machine_add(
	struct registry *registry, const struct machine_request *request, struct error *error);
/* A disk that the machine's source reports: added, or grown, if need be; durable when it returns.
 * -EINVAL: a size or name that cannot be; -E2BIG: the group is full; -ENOENT: no such machine. */
int machine_set_disk(struct registry *registry, const char *name, const char *id,
	uint64_t size_bytes, struct error *error);
/* Inserts into the list, under change_lock; no more. */
int machine_insert(struct registry *registry, const struct machine_request *request,
	struct group_entry *group, struct error *error);
void machine_erase(struct registry *registry, struct machine_entry *machine);
int machine_pause(struct registry *registry, const char *name, bool paused, struct error *error);
int machine_register_jobs(struct registry *registry);
int machine_start_removal(struct registry *registry, const char *name, bool keep_vault,
	struct error *error, uint64_t *ret_job);

/* ── machine_vault.c ─────────────────────────────────────────────────────────────────────── */

/* -EEXIST with words if the vault holds a group or disks of that name. No lock held. */
int machine_check_vault(
	struct registry *registry, const struct machine_request *request, struct error *error);

/* ── machine_aws.c ───────────────────────────────────────────────────────────────────────── */

/* Adds instance, region and the disks' volumes; nothing for a machine of another source. */
int machine_aws_to_json(const struct machine_entry *machine, struct cJSON *object);
/* Reads them into a request that has its source and disks. -EBADMSG. */
int machine_aws_from_json(
	const struct json *at, struct machine_request *request, struct error *error);
bool machine_leaves_out(const struct machine_left_out *left_out, const char *volume);
/* Once is enough. -E2BIG with words. */
int machine_leave_out(struct machine_left_out *left_out, const char *volume, struct error *error);

/* ── machine_volumes.c ───────────────────────────────────────────────────────────────────── */

/* A volume becomes a disk of the machine; under its volume's name if a disk of that name was there
 * before. Durable when it returns. -EEXIST: it is one, or the name is another volume's; -ENOENT;
 * -E2BIG: the group is full. */
int machine_include_volume(struct registry *registry, const char *name,
	const struct machine_disk *disk, struct error *error);
/* The volume is left out from now on; if it is a disk of the machine, points made from now on do
 * not show that. Durable when it returns. -EINVAL: it is the only one; -ENOENT. */
int machine_exclude_volume(
	struct registry *registry, const char *name, const char *volume, struct error *error);

/* ── machine_alerts.c ────────────────────────────────────────────────────────────────────── */

/* The newest point with all of `flags` that shows one of the machine's disks at least: those that
 * it has now. -ENOENT. Any thread that may use the history. */
int machine_newest_point(
	struct history *history, const char *machine, uint32_t flags, struct point *ret_point);
/* How many points there are since its first disk was added; NULL: none. */
uint64_t machine_point_count(struct history *history, const char *machine);
/* All under lock. No point (of the vault, if there is one) has it. */
bool machine_is_unprotected(const struct registry *registry, const struct machine_entry *machine);
/* Evaluates the alerts that are each machine's own. */
void machines_watch(struct registry *registry);
/* Adds them to those of its group. */
void machine_add_alerts(const struct machine_entry *machine, struct group_status *status);

/* ── points.c ────────────────────────────────────────────────────────────────────────────── */

/* What a POINT argument names; NULL is "latest". -ENOENT, -EINVAL with words. */
int point_select(
	struct history *history, const char *text, struct error *error, struct point *ret_point);
/* How many a history has with number ≥ `from`; NULL: none. Any thread. */
uint64_t point_count(struct history *history, uint64_t from);
int point_to_json(const struct registry *registry, const char *machine, const struct point *point,
	struct cJSON **ret_json);
/* The POINT parameter as text (numbers too); NULL if absent. `text` is room for a number. */
int point_parameter(const struct cJSON *parameters, char text[static 24], struct error *error,
	const char **ret);

/* ── clones.c ────────────────────────────────────────────────────────────────────────────── */

/* Who made it, and will remove it: a person's command does so only with a person's. */
enum clone_owner { CLONE_OF_PERSON, CLONE_OF_INSPECTION, CLONE_OF_DRILL };

struct clone_record {
	struct clone_record *next;
	char id[24];
	struct hold hold; /* of the machine's group */
	uint64_t point;
	struct clone *clone;
	enum clone_owner owner;
	bool busy; /* being removed */
};

int clone_create(struct registry *registry, const char *machine, const char *point,
	uint64_t quota_bytes, enum clone_owner owner, struct error *error, char ret_id[static 24]);
/* -EBUSY while a file is open; -ENOENT. */
int clone_remove(struct registry *registry, const char *id, struct error *error);
/* The same for who has just closed its files: the kernel lets go of them a moment after a process
 * has ended or a loop device was detached. 0 also if it is gone. Waits up to 5 s. */
int clone_remove_soon(struct registry *registry, const char *id, struct error *error);
/* Those of a group, files open or not: its machines are hidden already. */
void clone_remove_all(struct registry *registry, const struct group_entry *entry);
/* Under lock. Those of inspections are not counted. */
unsigned clone_count(struct registry *registry, const char *machine);
int clone_json(struct registry *registry, const char *id, struct cJSON **ret_json);
int clones_json(struct registry *registry, const char *machine, struct cJSON **ret_json);

/* ── inspect.c ───────────────────────────────────────────────────────────────────────────── */

/* At a start: takes down what a killed daemon left mounted. */
void inspect_clean_stale(struct registry *registry);
/* Ends all of a group (NULL: all), whoever uses them. */
void inspect_close_group(struct registry *registry, const struct group_entry *entry);
/* Under lock. */
unsigned inspect_count(struct registry *registry, const char *machine);

/* ── methods ─────────────────────────────────────────────────────────────────────────────── */

int methods_status_register(struct registry *registry, struct control *control);
int methods_machine_register(struct registry *registry, struct control *control);
/* point_wait.c: has the source of the group make a point, and waits until it has. `peer` (NULL:
 * nobody) is told what it waits for, if it waits: `point.waiting`. -ENOTCONN: no agent can come. */
struct control_peer;
int registry_ask_point(const struct hold *hold, uint8_t kind, struct control_peer *peer,
	struct error *error, uint64_t *ret_number);
int methods_point_register(struct registry *registry, struct control *control);
int methods_clone_register(struct registry *registry, struct control *control);
int methods_policy_register(struct registry *registry, struct control *control);
int methods_vault_register(struct registry *registry, struct control *control);
int methods_inspect_register(struct registry *registry, struct control *control);
int methods_verify_register(struct registry *registry, struct control *control);
int methods_metrics_register(struct registry *registry, struct control *control);

/* Everything `status` tells of one machine. Under lock. */
int machine_to_json(
	struct registry *registry, const struct machine_entry *machine, struct cJSON **ret_json);

/* One policy as `policy.show` tells it. -ENOENT. */
int policy_json(struct registry *registry, const char *name, struct cJSON **ret_json);

/* A required or optional text parameter; -EINVAL with words if it is of another type. */
int parameter_text(const struct cJSON *parameters, const char *name, bool required,
	struct error *error, const char **ret_text);
int parameter_flag(
	const struct cJSON *parameters, const char *name, struct error *error, bool *ret_flag);
/* An object {name: value}; takes over `value`, also on failure. */
int result_wrap(const char *name, struct cJSON *value, struct cJSON **ret_result);
int result_add_time(struct cJSON *object, const char *name, int64_t ns); /* 0: null */
int json_add_null(struct cJSON *object, const char *name);
int json_add_double(struct cJSON *object, const char *name, double value);
int json_add_alerts(
	struct cJSON *object, const char *name, const struct alert *alerts, unsigned count);
int json_add_item(struct cJSON *parent, const char *name, struct cJSON *item); /* taken over */

/* A method that ends one thing, {"id": …}, or all of its kind, {"all": true}. */
#define ENDING_ID_BYTES 24
struct ending {
	const char *told; /* the result's list of the ids that were ended */
	/* One that is there and that nobody ends already; false: there is none. Under lock. */
	bool (*next)(const struct registry *registry, char ret_id[static ENDING_ID_BYTES]);
	/* Outside the lock. -ENOENT: it is gone. */
	int (*end)(struct registry *registry, const char *id, struct error *error);
};
/* Reads the parameters and does it; stops at the first that cannot be ended. */
int ending_run(struct registry *registry, const struct ending *ending,
	const struct cJSON *parameters, struct error *error, struct cJSON **ret_result);
