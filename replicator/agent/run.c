/*
 * Starting, and one session after another.
 */
#include "replicator/agent/run.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/enroll.h"
#include "replicator/agent/gentle.h"
#include "replicator/agent/rest_note.h"
#include "replicator/agent/script.h"
#include "replicator/agent/session.h"

#define RETRY_FIRST_MS 1000
#define RETRY_LONGEST_MS 30000
#define RENEW_AGAIN_NS (3600 * NS_PER_S)

struct agent {
	const struct agent_options *options;
	struct source *source;
	struct freezer *freezer;
	struct agent_status *status;
	struct gentle gentle;
	char host[64], boot[TRACKER_BOOT_ID_BYTES];
	int64_t certificate_begins_ns, certificate_ends_ns; /* as last loaded */
	int64_t renew_again_ns;                             /* in a session not before */
};

static void agent_close(struct agent *a)
{
	freezer_free(a->freezer);
	source_free(a->source);
	agent_status_free(a->status);
}

/* One that is not there is waited for, as long as another is. */
static int add_named(struct agent *a, struct error *error)
{
	struct error missing = { 0 };
	unsigned there = 0;
	for (unsigned i = 0; i < a->options->disk_count; i++) {
		const struct agent_disk *disk = &a->options->disks[i];
		struct error why = { 0 };
		int r = source_add(a->source, disk->id, disk->path, &why);
		there += r == 0;
		if (r == -ENOENT) {
			missing = why;
			r = source_await(a->source, disk->id, disk->path, &why);
		}
		if (r < 0)
			return *error = why, r;
	}
	if (there == 0)
		return *error = missing, missing.code;
	if (missing.code)
		log_error("%s; it is waited for", missing.message);
	return 0;
}

static int add_all(struct agent *a, struct error *error)
{
	int r = source_add_all(a->source, true, error);
	if (r == 0)
		return error_set(error, -ENOENT, "name them with --disk ID=PATH",
			"no disk was found that could be protected");
	if (r > 0)
		source_await_missing(a->source);
	return MIN(r, 0);
}

static int agent_open(struct agent *a, struct error *error)
{
	const struct agent_options *o = a->options;
	const struct source_options source = { .pin_dir = o->pin_dir,
		.method = o->method,
		.exclude = o->exclude,
		.replicate_swap = o->replicate_swap,
		.discovers = o->disk_count == 0,
		.io = o->io,
		.state_dir = o->state_dir };
	/* The watchdog is forked while this process is small, has no threads, and counts as much as
	 * others. */
	int r = freezer_new(&a->freezer, error);
	gentle_begin(&a->gentle);
	if (r == 0)
		r = agent_status_new(o->status_path, error, &a->status);
	if (r == 0)
		r = source_new(&source, error, &a->source);
	if (r == 0)
		r = o->disk_count > 0 ? add_named(a, error) : add_all(a, error);
	if (r < 0)
		return r;
	/* The kernel's type information, which loading the programs took 13 MiB for, is not needed
	 * again, and lies below what is. */
	malloc_trim(0);
	agent_status_set_method(a->status, tracker_method_name(a->source->tracker),
		tracker_method_reason(a->source->tracker));
	log_info("%u disks; changes are captured by %s: %s", a->source->count,
		tracker_method_name(a->source->tracker), tracker_method_reason(a->source->tracker));
	return 0;
}

static int tick(void *context)
{
	(void)context;
	clock_sleep_ns(clock_system(), 20 * NS_PER_MS);
	return 0;
}

/* An agent before us died while applications were at rest. */
static void wake_applications(const struct agent *a)
{
	const struct agent_options *o = a->options;
	struct error error = { 0 };
	if (!rest_note_take(o->io, o->state_dir))
		return;
	if (!o->post_thaw) {
		log_warning("an agent ended while applications were at rest, and there is no "
			    "--post-thaw that would wake them");
		return;
	}
	const struct script script = { .what = "--post-thaw",
		.command = o->post_thaw,
		.timeout_ms = o->script_timeout_ms,
		.tick = tick };
	log_warning("an agent ended while applications were at rest: they are woken");
	if (script_run(&script, &error) < 0)
		log_error("the applications may be at rest still: %s", error.message);
	else if (rest_note_clear(o->io, o->state_dir) < 0)
		log_warning("the note of that cannot be removed from %s", o->state_dir);
}

/* True if stop_fd is readable. */
static bool rest(const struct agent *a, int ms)
{
	struct pollfd fd = { .fd = a->options->stop_fd, .events = POLLIN };
	return poll(&fd, a->options->stop_fd >= 0 ? 1 : 0, ms) > 0;
}

static int load_identity(struct agent *a, struct error *error, struct identity **ret_identity)
{
	int r = identity_load(a->options->io, a->options->state_dir, error, ret_identity);
	if (r < 0)
		return r;
	a->certificate_begins_ns = (*ret_identity)->not_before_ns;
	a->certificate_ends_ns = (*ret_identity)->not_after_ns;
	return 0;
}

static void renew(const struct agent *a, const struct identity *identity)
{
	struct error error = { 0 };
	if (!enroll_renewal_is_due(identity, clock_realtime_ns(clock_system())))
		return;
	int r = enroll_renew(a->options->io, a->options->state_dir, a->options->stop_fd, &error);
	if (r < 0)
		log_warning("the certificate could not be renewed: %s", error.message);
	else
		log_info("the certificate is renewed");
}

/* A session may outlast a certificate's life; the next one begins with what is renewed here. */
static void renew_in_session(void *context)
{
	struct agent *a = context;
	const struct identity known = { .not_before_ns = a->certificate_begins_ns,
		.not_after_ns = a->certificate_ends_ns };
	struct identity *identity;
	struct error error = { 0 };
	int64_t now_ns = clock_monotonic_ns(clock_system());
	if (now_ns < a->renew_again_ns ||
		!enroll_renewal_is_due(&known, clock_realtime_ns(clock_system())))
		return;
	a->renew_again_ns = now_ns + RENEW_AGAIN_NS;
	for (unsigned i = 0; i < 2; i++) { /* the second time to know when it is due again */
		if (load_identity(a, &error, &identity) < 0) {
			log_warning("%s", error.message);
			return;
		}
		if (i == 0)
			renew(a, identity);
		identity_free(identity);
	}
}

/* One session, with an identity that is read anew: it may have been renewed. */
static int run_once(struct agent *a, struct error *error, bool *ret_worked)
{
	const struct agent_options *o = a->options;
	struct identity *identity;
	int r = load_identity(a, error, &identity);
	if (r < 0)
		return r;
	renew(a, identity);
	const struct session_options session = { .identity = identity,
		.io = o->io,
		.state_dir = o->state_dir,
		.source = a->source,
		.freezer = a->freezer,
		.status = a->status,
		.gentle = &a->gentle,
		.host = a->host,
		.boot = a->boot,
		.freeze_paths = o->freeze_paths,
		.pre_freeze = o->pre_freeze,
		.post_thaw = o->post_thaw,
		.freeze_timeout_ms = o->freeze_timeout_ms,
		.script_timeout_ms = o->script_timeout_ms,
		.connections = o->connections,
		.read_bytes_per_s = o->read_bytes_per_s,
		.send_bytes_per_s = o->send_bytes_per_s,
		.cpu_percent = o->cpu_percent,
		.zstd = o->zstd,
		.stop_fd = o->stop_fd,
		.upkeep = renew_in_session,
		.upkeep_context = a };
	(void)source_look(a->source);
	r = source_scan_begin(a->source, error);
	if (r < 0) {
		identity_free(identity);
		return r;
	}
	agent_status_set_appliance(a->status, identity->machine, identity->appliance);
	agent_status_set_state(a->status, "connecting");
	agent_status_write(a->status);
	r = session_run(&session, error, ret_worked);
	identity_free(identity);
	return r;
}

static bool is_final(int r)
{
	return r == -EKEYREVOKED || r == -EKEYEXPIRED || r == -ENOENT;
}

/* stop_fd is readable: is it a wish to begin anew? Tracking goes on meanwhile, and what was sent
 * and not acknowledged is sent by the next session, as after one that failed. */
static bool begins_anew(const struct agent *a)
{
	if (!a->options->begins_anew || !a->options->begins_anew(a->options->begins_anew_context))
		return false;
	log_info("the session begins anew, with the identity read again");
	return true;
}

static int run_sessions(struct agent *a, struct error *error)
{
	int wait_ms = RETRY_FIRST_MS;
	for (;;) {
		bool worked = false;
		*error = (struct error){ 0 };
		int r = run_once(a, error, &worked);
		agent_status_set_error(a->status, error);
		if (r == 0 && begins_anew(a)) {
			wait_ms = RETRY_FIRST_MS;
			continue;
		}
		if (r == 0 || is_final(r))
			return r;
		log_warning("%s%s%s", error->message, error->mend[0] ? " → " : "", error->mend);
		agent_status_set_state(a->status, "disconnected");
		agent_status_write(a->status);
		if (worked)
			wait_ms = RETRY_FIRST_MS;
		if (!rest(a, wait_ms))
			wait_ms = MIN(wait_ms * 2, RETRY_LONGEST_MS);
		else if (begins_anew(a))
			wait_ms = RETRY_FIRST_MS;
		else
			return 0;
	}
}

int agent_run(const struct agent_options *options, struct error *error)
{
	struct agent a = { .options = options };
	if (gethostname(a.host, sizeof(a.host) - 1) < 0)
		strcpy(a.host, "unknown");
	if (tracker_boot_id(a.boot) < 0)
		a.boot[0] = '\0';
	wake_applications(&a);
	int r = agent_open(&a, error);
	if (r == 0 && options->ready)
		options->ready(options->ready_context);
	if (r == 0)
		r = run_sessions(&a, error);
	agent_close(&a);
	return r;
}
