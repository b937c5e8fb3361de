/*
 * See openssl.h. The library keeps its errors by thread.
 */
#include "replicator/wire/openssl.h"

#include <openssl/err.h>

int openssl_no_password(char *buffer, int size, int writing, void *context)
{
	(void)buffer, (void)size, (void)writing, (void)context;
	return -1;
}

int openssl_failed(struct error *error, int code, const char *what)
{
	unsigned long last = ERR_peek_last_error();
	const char *reason = last ? ERR_reason_error_string(last) : NULL;
	ERR_clear_error();
	return error_set(error, code, NULL, "%s: %s", what, reason ? reason : "no reason given");
}
