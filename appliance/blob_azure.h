/*
 * The vault's blob service in Azure Storage (or what speaks its protocol), behind what the
 * replicator asks for: replicator/blob.h over azureblob/.
 */
#pragma once

#include "appliance/config.h"
#include "common/clock.h"
#include "common/error.h"
#include "replicator/blob.h"

/* Makes the service from the [vault] section; asks nothing of it yet. `vault` and `clock` are
 * borrowed until blob_azure_free. -EINVAL: no container, account or credential that would do;
 * what reading the secrets' files ends with. */
int blob_azure_new(const struct config_vault *vault, struct clock_source *clock,
	struct error *error, struct blob_service **ret_service);
/* Ends all calls of all its stores with -ECANCELED, those to come as well, within a quarter of a
 * second. Any thread; NULL is fine. */
void blob_azure_stop(struct blob_service *service);
/* After its stores. NULL is fine. */
void blob_azure_free(struct blob_service *service);
