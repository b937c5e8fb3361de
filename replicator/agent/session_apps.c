/*
 * Applications of a cut: brought to rest by the user's command before the freeze, woken by another
 * after it, whatever has come of the point; also by the next agent, if this one dies in between
 * (rest_note.h).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/rest_note.h"
#include "replicator/agent/script.h"
#include "replicator/agent/session_cut_internal.h"

/* Until the applications are at rest the cut can be called off. */
static int tick_quiesce(void *context)
{
	return cut_breathe(context, 20 * NS_PER_MS);
}

/* Once they are to be woken nothing may keep that from happening. */
static int tick_unquiesce(void *context)
{
	struct cut *cut = context;
	if (session_pump(cut->session, 20 * NS_PER_MS) < 0)
		clock_sleep_ns(clock_system(), 20 * NS_PER_MS);
	return 0;
}

static int run_script(struct cut *cut, const char *what, const char *command,
	int (*tick)(void *context), const char *variable, struct error *error)
{
	const struct script script = { .what = what,
		.command = command,
		.timeout_ms = cut->session->options->script_timeout_ms,
		.variable = variable,
		.tick = tick,
		.context = cut };
	return script_run(&script, error);
}

/* What became of the applications, while the cut goes on: the point is crash-consistent then. */
static void note_app_error(struct cut *cut, const struct error *error)
{
	log_warning("not application-consistent: %s", error->message);
	if (cut->app_error.code == 0)
		cut->app_error = *error;
}

void cut_unquiesce(struct cut *cut)
{
	struct error error = { 0 };
	const struct session_options *options = cut->session->options;
	if (!cut->at_rest)
		return;
	cut->at_rest = false;
	int r = options->post_thaw ? run_script(cut, "--post-thaw", options->post_thaw,
					     tick_unquiesce, NULL, &error)
				   : 0;
	if (r < 0)
		note_app_error(cut, &error); /* the note stays: the next agent tries it again */
	else if (options->post_thaw && (r = rest_note_clear(options->io, options->state_dir)) < 0)
		log_warning("the note that applications were at rest cannot be removed from %s: %s",
			options->state_dir, strerrordesc_np(-r));
}

/* Marked as what a next agent has to end, should this one die. */
static int bring_to_rest(struct cut *cut, struct error *error)
{
	const struct session_options *options = cut->session->options;
	CLEANUP_FREE char *variable = NULL;
	int r = options->post_thaw ? rest_note_write(options->io, options->state_dir, error) : 0;
	if (r < 0)
		return r;
	cut->at_rest = true; /* or partly so, if it fails */
	if (asprintf(&variable, "%s=%s", REST_NOTE_VARIABLE, options->state_dir) < 0) {
		variable = NULL;
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	return run_script(cut, "--pre-freeze", options->pre_freeze, tick_quiesce, variable, error);
}

int cut_quiesce(struct cut *cut)
{
	struct error error = { 0 };
	if (!cut->application)
		return 0;
	if (!cut->session->options->pre_freeze) {
		error_set(&error, -EOPNOTSUPP,
			"start landfall-agent with --pre-freeze COMMAND that brings the "
			"applications' data to rest, and --post-thaw COMMAND",
			"this machine has no command that makes its applications consistent");
		note_app_error(cut, &error);
		return 0;
	}
	if (bring_to_rest(cut, &error) == 0)
		return 0;
	cut_unquiesce(cut);
	if (session_ended(cut->session) < 0 || cut->session->cut.over)
		return error_set(&cut->error, -ECANCELED, NULL, "the cut was called off");
	note_app_error(cut, &error);
	return 0;
}
