/*
 * Logging to stderr, a line a call, with journald's level prefixes ("<6>") when stderr is
 * journald's socket (JOURNAL_STREAM is set) and plain words otherwise.
 *
 * Log once, where the decision is made; elsewhere hand the error up. Never log a secret.
 * Any thread; a line is written with one write(2), so lines do not mix. Control characters in it
 * become '?', so that others' words cannot begin a line.
 */
#pragma once

enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7
};

/* What is less urgent than `level` is dropped. Default: info. */
void log_set_level(enum log_level level);

/* One line; `format` has no newline. Mostly by the macros below. */
void log_message(enum log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#define log_error(...) log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)
