/*
 * Asking the admin's port of a server for tests, with the project's own HTTP client, never by
 * proxy. `variable` names the environment's variable that holds the port's URL. What is refused
 * fails the test.
 */
#pragma once

#include <stdint.h>

#include "common/buf.h"

/* `json` NULL: no body. Appends the answer to `answer` unless it is NULL. */
void service_admin_ask(const char *variable, const char *method, const char *path, const char *json,
	struct buf *answer);

/* A number of the answer to a GET: its "name", or with `object` that object's, 0 if it has none. */
uint64_t service_admin_number(
	const char *variable, const char *path, const char *object, const char *name);
