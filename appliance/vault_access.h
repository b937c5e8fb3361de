/*
 * From [vault] of the configuration to what the blob client needs: account, credential, options.
 */
#pragma once

#include "appliance/config.h"
#include "azureblob/azureblob.h"
#include "common/clock.h"
#include "common/error.h"

struct vault_access {
	struct azureblob_account account;
	struct azureblob_credential *credential; /* owned */
	struct http_options http;                /* borrows from the configuration */
};

/* `vault` must be configured and outlive the access. Asks nothing of the network. */
int vault_access_new(const struct config_vault *vault, struct clock_source *clock,
	struct error *error, struct vault_access **ret_access);
/* After everything that uses it. NULL is fine. */
void vault_access_free(struct vault_access *access);
