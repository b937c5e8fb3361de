/*
 * Filling in struct error. Text that does not fit is cut, never an error of its own.
 */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"

void error_fill(struct error *error, int code, const char *mend, const char *format, ...)
{
	if (!error)
		return;
	va_list args;
	va_start(args, format);
	error->code = code;
	vsnprintf(error->message, sizeof(error->message), format, args);
	va_end(args);
	snprintf(error->mend, sizeof(error->mend), "%s", mend ? mend : "");
}

int error_prefix(struct error *error, const char *format, ...)
{
	if (!error)
		return 0;
	char text[sizeof(error->message)];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (n < 0)
		return error->code;
	size_t used = MIN((size_t)n, sizeof(text) - 1);
	snprintf(text + used, sizeof(text) - used, ": %s", error->message);
	memcpy(error->message, text, sizeof(text));
	return error->code;
}
