/*
 * The emulator's account and key are published constants. A host that is an address or
 * localhost, or an endpoint with a path, means path-style, as in the Azure SDKs.
 */
#include "azureblob/account.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base64.h"
#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/url.h"

#define DEVELOPMENT_ACCOUNT "devstoreaccount1"
#define DEVELOPMENT_KEY \
	"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#define PUBLIC_SUFFIX "core.windows.net"

enum field {
	ACCOUNT_NAME,
	ACCOUNT_KEY,
	SHARED_ACCESS_SIGNATURE,
	DEFAULT_ENDPOINTS_PROTOCOL,
	ENDPOINT_SUFFIX,
	BLOB_ENDPOINT,
	USE_DEVELOPMENT_STORAGE,
	DEVELOPMENT_STORAGE_PROXY_URI,
	FIELD_COUNT,
};

static const char *const field_names[FIELD_COUNT] = { "AccountName", "AccountKey",
	"SharedAccessSignature", "DefaultEndpointsProtocol", "EndpointSuffix", "BlobEndpoint",
	"UseDevelopmentStorage", "DevelopmentStorageProxyUri" };

struct fields {
	char *values[FIELD_COUNT];
};

static void wipe(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

static void fields_free(struct fields *fields)
{
	for (size_t i = 0; i < FIELD_COUNT; i++)
		wipe(fields->values[i]);
}

void azureblob_account_free(struct azureblob_account *account)
{
	free(account->name);
	free(account->endpoint);
	wipe(account->key);
	wipe(account->sas);
	*account = (struct azureblob_account){ 0 };
}

static int split(const char *text, struct fields *fields, struct error *error)
{
	for (unsigned part = 1; *text; part++) {
		size_t n = strcspn(text, ";");
		const char *next = text + n + (text[n] == ';');
		while (n > 0 && strchr(" \t\r\n", text[0]))
			text++, n--;
		while (n > 0 && strchr(" \t\r\n", text[n - 1]))
			n--;
		size_t name_n = MIN(strcspn(text, "="), n);
		if (n > 0 && (name_n == n || name_n == 0))
			return error_set(error, -EINVAL, "write Key=Value;Key=Value",
				"connection string: part %u is not Key=Value", part);
		for (size_t i = 0; n > 0 && i < FIELD_COUNT; i++) {
			if (strlen(field_names[i]) != name_n ||
				strncasecmp(field_names[i], text, name_n) != 0)
				continue;
			if (fields->values[i])
				return error_set(error, -EINVAL, "give it once",
					"connection string: %s stands there twice", field_names[i]);
			fields->values[i] = strndup(text + name_n + 1, n - name_n - 1);
			if (!fields->values[i])
				return error_set(error, -ENOMEM, NULL, "out of memory");
		}
		text = next;
	}
	return 0;
}

static bool is_local(const char *host)
{
	struct in6_addr address;
	return inet_pton(AF_INET, host, &address) == 1 ||
	       inet_pton(AF_INET6, host, &address) == 1 || strcasecmp(host, "localhost") == 0;
}

/* Finds style and account, and puts the endpoint into its one form. */
static int settle_endpoint(
	const char *name, const char *endpoint, struct azureblob_account *a, struct error *error)
{
	CLEANUP(url_free) struct url url = { 0 };
	CLEANUP(buf_free) struct buf b = { 0 };
	const char *mend = "write it as https://ACCOUNT.blob.core.windows.net";
	int r = url_parse(endpoint, &url);
	if (r < 0)
		return error_set(
			error, r, mend, "blob endpoint: %s is no http or https URL", endpoint);
	size_t path_n = strlen(url.path);
	while (path_n > 0 && url.path[path_n - 1] == '/')
		url.path[--path_n] = '\0';
	const char *path_account = path_n > 0 ? url.path + 1 : NULL;
	a->path_style = path_account || is_local(url.host);
	if (path_account && (strchr(path_account, '/') || strchr(path_account, '%')))
		return error_set(error, -EINVAL, mend,
			"blob endpoint: %s has more than an account in its path", endpoint);
	if (!name && path_account)
		a->name = strdup(path_account);
	else if (!name && !a->path_style)
		a->name = strndup(url.host, strcspn(url.host, "."));
	else if (name)
		a->name = strdup(name);
	else
		return error_set(error, -EINVAL, "give the account's name too",
			"blob endpoint: %s does not tell the account", endpoint);
	if (!a->name)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	r = buf_printf(&b, "%s://", url.scheme);
	if (r == 0)
		r = url_append_authority(&b, &url);
	if (r == 0 && a->path_style)
		r = buf_printf(&b, "/%s", path_account ? path_account : a->name);
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	a->endpoint = TAKE(b.data);
	if (url.query[0] && !a->sas) {
		a->sas = strdup(url.query);
		if (!a->sas)
			return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	return 0;
}

static int check_name(const char *name, struct error *error)
{
	size_t n = strlen(name);
	if (n < 3 || n > 24 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789") != n)
		return error_set(error, -EINVAL,
			"it is the storage account's own: 3 to 24 small letters and digits",
			"storage account: %s is not an account's name", name);
	return 0;
}

static int take_key(struct fields *fields, struct azureblob_account *a, struct error *error)
{
	const char *key = fields->values[ACCOUNT_KEY];
	if (!key)
		return 0;
	CLEANUP_FREE uint8_t *data = malloc(BASE64_DATA_BYTES(strlen(key)));
	size_t n;
	if (!data)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	if (base64_decode(key, strlen(key), data, &n) < 0 || n == 0)
		return error_set(error, -EINVAL, "copy it whole, with the = at its end",
			"connection string: AccountKey is not base64");
	explicit_bzero(data, n);
	a->key = TAKE(fields->values[ACCOUNT_KEY]);
	return 0;
}

static int development_endpoint(const char *proxy, struct buf *endpoint)
{
	if (!proxy)
		return buf_append_text(endpoint, "http://127.0.0.1:10000/" DEVELOPMENT_ACCOUNT);
	CLEANUP(url_free) struct url url = { 0 };
	int r = url_parse(proxy, &url);
	if (r == 0) {
		url.port = 10000;
		r = buf_printf(endpoint, "%s://", url.scheme);
	}
	if (r == 0)
		r = url_append_authority(endpoint, &url);
	return r < 0 ? r : buf_append_text(endpoint, "/" DEVELOPMENT_ACCOUNT);
}

static int set_default(char **slot, const char *value)
{
	if (*slot)
		return 0;
	*slot = strdup(value);
	return *slot ? 0 : -ENOMEM;
}

static int compose_endpoint(struct fields *fields, struct buf *b, struct error *error)
{
	char **v = fields->values;
	int r = 0;
	if (v[USE_DEVELOPMENT_STORAGE] && strcasecmp(v[USE_DEVELOPMENT_STORAGE], "true") == 0) {
		r = set_default(&v[ACCOUNT_NAME], DEVELOPMENT_ACCOUNT);
		if (r == 0)
			r = set_default(&v[ACCOUNT_KEY], DEVELOPMENT_KEY);
		if (r == 0)
			r = development_endpoint(v[DEVELOPMENT_STORAGE_PROXY_URI], b);
		if (r < 0)
			return error_set(error, r, "write it as http://HOST",
				"connection string: DevelopmentStorageProxyUri is no URL");
		return 0;
	}
	if (v[BLOB_ENDPOINT]) {
		r = buf_append_text(b, v[BLOB_ENDPOINT]);
	} else if (v[ACCOUNT_NAME]) {
		const char *protocol =
			v[DEFAULT_ENDPOINTS_PROTOCOL] ? v[DEFAULT_ENDPOINTS_PROTOCOL] : "https";
		if (strcasecmp(protocol, "http") != 0 && strcasecmp(protocol, "https") != 0)
			return error_set(error, -EINVAL, "write http or https",
				"connection string: DefaultEndpointsProtocol is %s", protocol);
		r = buf_printf(b, "%s://%s.blob.%s", protocol, v[ACCOUNT_NAME],
			v[ENDPOINT_SUFFIX] ? v[ENDPOINT_SUFFIX] : PUBLIC_SUFFIX);
	} else {
		return error_set(error, -EINVAL, "copy it whole from the storage account",
			"connection string: neither AccountName nor BlobEndpoint is given");
	}
	return r < 0 ? error_set(error, r, NULL, "out of memory") : 0;
}

static void account_clear(struct azureblob_account *account)
{
	azureblob_account_free(account);
}

int azureblob_account_parse(
	const char *connection_string, struct azureblob_account *ret_account, struct error *error)
{
	CLEANUP(fields_free) struct fields fields = { { 0 } };
	CLEANUP(account_clear) struct azureblob_account a = { 0 };
	CLEANUP(buf_free) struct buf endpoint = { 0 };
	int r = split(connection_string, &fields, error);
	if (r == 0)
		r = compose_endpoint(&fields, &endpoint, error);
	if (r < 0)
		return r;
	const char *sas = fields.values[SHARED_ACCESS_SIGNATURE];
	if (sas) {
		a.sas = strdup(sas + (sas[0] == '?'));
		if (!a.sas)
			return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	r = take_key(&fields, &a, error);
	if (r == 0)
		r = settle_endpoint(fields.values[ACCOUNT_NAME], endpoint.data, &a, error);
	if (r == 0)
		r = check_name(a.name, error);
	if (r < 0)
		return r;
	*ret_account = a;
	a = (struct azureblob_account){ 0 };
	return 0;
}

int azureblob_account_make(const char *name, const char *endpoint,
	struct azureblob_account *ret_account, struct error *error)
{
	CLEANUP(account_clear) struct azureblob_account a = { 0 };
	CLEANUP(buf_free) struct buf b = { 0 };
	int r;
	if (!name && !endpoint)
		return error_set(error, -EINVAL, "give account or endpoint",
			"storage account: neither name nor endpoint is given");
	if (name && (r = check_name(name, error)) < 0)
		return r;
	if (!endpoint) {
		r = buf_printf(&b, "https://%s.blob." PUBLIC_SUFFIX, name);
		if (r < 0)
			return error_set(error, r, NULL, "out of memory");
		endpoint = b.data;
	}
	r = settle_endpoint(name, endpoint, &a, error);
	if (r == 0)
		r = check_name(a.name, error);
	if (r < 0)
		return r;
	*ret_account = a;
	a = (struct azureblob_account){ 0 };
	return 0;
}
