/*
 * The log level is the one mutable global outside the programs' main files.
 */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/bytes.h"

static _Atomic int log_threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	atomic_store(&log_threshold, (int)level);
}

static const char *level_word(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error: ";
	case LOG_LEVEL_WARNING:
		return "warning: ";
	case LOG_LEVEL_DEBUG:
		return "debug: ";
	case LOG_LEVEL_INFO:
		break;
	}
	return "";
}

void log_message(enum log_level level, const char *format, ...)
{
	if ((int)level > atomic_load(&log_threshold))
		return;
	char line[2048];
	/* journald sets this for the services it reads; it never changes while we run. */
	const char *journald = getenv("JOURNAL_STREAM");
	int used = journald ? snprintf(line, sizeof(line), "<%d>", (int)level)
			    : snprintf(line, sizeof(line), "%s", level_word(level));
	size_t at = used > 0 ? (size_t)used : 0;
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line + at, sizeof(line) - at - 1, format, args);
	va_end(args);
	if (n < 0)
		return;
	size_t end = MIN(at + (size_t)n, sizeof(line) - 2);
	/* Others' words may be in it: they must not look like lines of ours. */
	for (; at < end; at++)
		if ((unsigned char)line[at] < 0x20 || line[at] == 0x7f)
			line[at] = line[at] == '\t' ? ' ' : '?';
	line[at++] = '\n';
	/* Nobody is left to tell when stderr is gone. */
	if (write(STDERR_FILENO, line, at) < 0)
		return;
}
