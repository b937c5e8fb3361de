/*
 * The control socket: newline-delimited JSON-RPC 2.0 over a Unix socket.
 *
 * Mode 0660, group `landfall`; a peer (SO_PEERCRED) may operate if it is root, the daemon's own
 * user or in that group. One line is at most 1 MiB; a longer one is skipped to its end and
 * answered with an error; the connection lives on. Methods run on a small pool of threads, so a
 * slow one delays nobody else's; answers may come in another order than the requests. One
 * connection may not have more than 64 requests under way, and 10,000 idle connections cost
 * little: one thread polls them all.
 *
 * Errors: code −32700 … −32600 as JSON-RPC says, and −32000 − exit for the rest; data
 * {exit, cause, mend} with the exit code of the command line's contract.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct cJSON;
struct control;
struct control_peer; /* who is calling */

enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_NOT_PERMITTED = 4,
	EXIT_CONFLICT = 5,
	EXIT_UNREACHABLE = 6,
};

/* The exit code that an -errno means to a person. */
enum exit_code exit_code_of(int code);

/* Answers one call. `parameters` is an object, borrowed, never NULL; unknown names in it are the
 * method's to refuse (control_only). On success *ret_result (taken over by the caller). */
typedef int control_method(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result);

int control_new(const char *path, const char *group, struct control **ret_control);
/* Before control_start. `name` is "point.create". */
int control_register(
	struct control *control, const char *name, control_method *method, void *context);
int control_start(struct control *control, struct error *error);
/* Stops listening, lets calls under way end, closes all. */
void control_free(struct control *control);

/* Sends a notification to a peer while its connection lives; any thread. -EPIPE: it is gone. */
int control_notify(struct control_peer *peer, const char *method, const struct cJSON *parameters);
/* A peer outlives its connection while held. */
struct control_peer *control_peer_hold(struct control_peer *peer);
void control_peer_release(struct control_peer *peer);

/* Something that wants to know when a peer's connection ends. Embed it; it stays where it is until
 * it was told or taken back. */
struct control_farewell {
	/* From the thread that serves all connections, no lock held: it must not wait. */
	void (*gone)(struct control_farewell *farewell);
	struct control_farewell *next; /* the peer's own */
};
/* `gone` is called once, when the connection ends. The caller holds the peer. -EPIPE: it has ended
 * already. */
int control_peer_on_end(struct control_peer *peer, struct control_farewell *farewell);
/* Takes it back. False: it was told, or is just being told. */
bool control_peer_forget(struct control_peer *peer, struct control_farewell *farewell);

/* -EINVAL with words unless every name in `parameters` is among `names` (NULL-terminated). */
int control_only(const struct cJSON *parameters, const char *const *names, struct error *error);
