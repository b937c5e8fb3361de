/*
 * Inside of the calls of this folder: the client itself. Not for others.
 */
#pragma once

#include "azureblob/azureblob.h"

struct azureblob {
	struct azureblob_credential *credential;
	struct http_calls *calls;
	char *endpoint;
	char *container;
	enum azureblob_checksum checksum;
};
