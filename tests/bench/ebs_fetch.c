/*
 * What fetching a snapshot takes: ec2_fetch, as the source calls it, and nothing behind it.
 *
 *	ebs_fetch ENDPOINT BLOCKS WINDOW
 *
 * Prints one JSON object: the seconds it took, the processor's seconds, of those the ones that
 * SHA-256 of so much takes on this machine (measured here, by the library that the client uses),
 * and how many bytes came.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/hmac.h"
#include "ec2/fetch.h"

#define SHA_ROUNDS 256u

static void need(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "ebs_fetch: %s\n", what);
		exit(1);
	}
}

static double cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int take_data(void *context, uint64_t offset, const void *data, size_t n)
{
	(void)offset;
	(void)data;
	*(uint64_t *)context += n;
	return 0;
}

static int take_zero(void *context, uint64_t offset, uint64_t n)
{
	(void)context;
	(void)offset;
	(void)n;
	return 0;
}

/* Processor seconds a block. */
static double sha_seconds(void)
{
	uint8_t *block = malloc(EC2_BLOCK_BYTES), digest[32];
	need(block != NULL, "out of memory");
	memset(block, 'x', EC2_BLOCK_BYTES);
	double before = cpu_seconds();
	for (unsigned i = 0; i < SHA_ROUNDS; i++)
		need(sha256(block, EC2_BLOCK_BYTES, digest) == 0, "SHA-256");
	double took = cpu_seconds() - before;
	free(block);
	return took / SHA_ROUNDS;
}

int main(int argc, char **argv)
{
	struct error error = { 0 };
	struct http_error said = { 0 };
	struct ec2_settings *settings;
	struct ec2_credential *credential;
	struct ec2 *client;
	uint64_t bytes = 0;
	if (argc != 4) {
		fprintf(stderr, "usage: ebs_fetch ENDPOINT BLOCKS WINDOW\n");
		return 2;
	}
	const struct ec2_settings_options where = { .region = "eu-test-1",
		.endpoints = { [EC2_SERVICE_EC2] = argv[1], [EC2_SERVICE_EBS] = argv[1] } };
	need(ec2_settings_load(&where, &settings, &error) == 0, error.message);
	const struct http_options http = { .proxy = "" };
	const struct ec2_credential_options who = { .settings = settings, .http = http };
	need(ec2_credential_new(&who, clock_system(), &credential, &error) == 0, error.message);
	const struct ec2_options how = {
		.settings = settings, .credential = credential, .http = http
	};
	need(ec2_new(&how, &client, &error) == 0, error.message);
	const struct ec2_fetch_ops ops = { .data = take_data, .zero = take_zero };
	const struct ec2_fetch_options what = { .snapshot = "snap-0123456789abcdef0",
		.volume_bytes = strtoull(argv[2], NULL, 10) * EC2_BLOCK_BYTES,
		.window = (unsigned)strtoul(argv[3], NULL, 10) };
	double sha = sha_seconds(), before = cpu_seconds();
	int64_t began = clock_monotonic_ns(clock_system());
	need(ec2_fetch(client, &what, &ops, &bytes, NULL, &said) == 0, said.message);
	double took = (double)(clock_monotonic_ns(clock_system()) - began) / (double)NS_PER_S;
	printf("{\"seconds\": %.4f, \"cpu_seconds\": %.4f, \"sha_seconds\": %.4f, \"bytes\": "
	       "%llu}\n",
		took, cpu_seconds() - before, sha * (double)(bytes / EC2_BLOCK_BYTES),
		(unsigned long long)bytes);
	ec2_free(client);
	ec2_credential_free(credential);
	ec2_settings_free(settings);
	return 0;
}
