/*
 * Prometheus' text format, the part that is worth a test of its own.
 */
#pragma once

#include "common/buf.h"

/* Appends a label's value as the format wants it: backslash, quote and line end escaped. 0 or
 * -ENOMEM. */
int metrics_escape(struct buf *b, const char *value);
