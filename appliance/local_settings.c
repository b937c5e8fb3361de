/*
 * From texts to settings. Any thread.
 */
#include "appliance/local_settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/human.h"

#define DEFAULT_MEMORY (2 * GIB)
#define LEAST_MEMORY (64 * MIB)
#define DEFAULT_QUOTA (8 * GIB)
#define DEFAULT_CPUS 2u
#define MOST_CPUS 64u
#define DEFAULT_TIMEOUT_S 600u
#define MOST_TIMEOUT_S 86400u

/* Which of the words it is; NULL is the first. */
static int choose(const char *key, const char *text, const char *const words[], struct error *error,
	unsigned *ret_which)
{
	*ret_which = 0;
	for (unsigned i = 0; text && words[i]; i++)
		if (strcmp(text, words[i]) == 0) {
			*ret_which = i;
			return 0;
		}
	if (!text)
		return 0;
	return error_set(error, -EINVAL, "see landfall.conf(5)",
		"[local] %s: \"%.60s\" is none of %s, %s%s%s", key, text, words[0], words[1],
		words[2] ? ", " : "", words[2] ? words[2] : "");
}

static int read_pattern(const char *pattern, struct error *error, struct local_settings *s)
{
	regex_t compiled;
	char words[128];
	int r = regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB | REG_NEWLINE);
	if (r != 0) {
		regerror(r, &compiled, words, sizeof(words));
		return error_set(error, -EINVAL, "write an extended regular expression",
			"[local] probe: \"%.60s\": %s", pattern, words);
	}
	regfree(&compiled);
	s->probe = LOCAL_PROBE_SERIAL;
	s->pattern = pattern;
	return 0;
}

static int read_port(const char *text, struct error *error, struct local_settings *s)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || port < 1 || port > 65535)
		return error_set(error, -EINVAL, "write e.g. tcp:22",
			"[local] probe: \"%.60s\" is no port", text);
	if (s->network == LOCAL_NETWORK_NONE)
		return error_set(error, -EINVAL, "set network = isolated, or probe = serial:…",
			"[local] probe: a port cannot be reached without a network");
	s->probe = LOCAL_PROBE_TCP;
	s->port = (unsigned)port;
	return 0;
}

static int read_probe(const char *text, struct error *error, struct local_settings *s)
{
	if (!text)
		return read_pattern("login:", error, s);
	if (strncmp(text, "serial:", 7) == 0 && text[7])
		return read_pattern(text + 7, error, s);
	if (strncmp(text, "tcp:", 4) == 0)
		return read_port(text + 4, error, s);
	return error_set(error, -EINVAL, "write serial:PATTERN or tcp:PORT",
		"[local] probe: \"%.60s\" is none that is known", text);
}

static int read_cpus(const char *text, struct error *error, uint64_t *ret_cpus)
{
	char *end;
	unsigned long cpus = text ? strtoul(text, &end, 10) : DEFAULT_CPUS;
	*ret_cpus = cpus;
	if (text && (*text < '0' || *text > '9' || *end || cpus < 1 || cpus > MOST_CPUS))
		return error_set(error, -EINVAL, "write e.g. 2",
			"[local] cpus: \"%.60s\" is no number from 1 to %u", text, MOST_CPUS);
	return 0;
}

static int read_timeout(const char *text, struct error *error, int64_t *ret_timeout_s)
{
	*ret_timeout_s = DEFAULT_TIMEOUT_S;
	if (text && (duration_parse(text, ret_timeout_s) < 0 || *ret_timeout_s < 1 ||
			    *ret_timeout_s > MOST_TIMEOUT_S))
		return error_set(error, -EINVAL, "write e.g. 10m",
			"[local] probe_timeout: \"%.60s\" is no time from 1s to 1d", text);
	return 0;
}

static int read_numbers(const struct config_local *config, struct error *error,
	const char **ret_key, struct local_settings *s)
{
	s->memory_bytes = config->memory_bytes ? config->memory_bytes : DEFAULT_MEMORY;
	s->quota_bytes = config->clone_quota_bytes ? config->clone_quota_bytes : DEFAULT_QUOTA;
	*ret_key = "memory";
	if (s->memory_bytes < LEAST_MEMORY)
		return error_set(error, -EINVAL, "give it what the machine needs, e.g. 2G",
			"[local] memory must be 64M at least");
	*ret_key = "clone_quota";
	if (s->quota_bytes < MIB)
		return error_set(error, -EINVAL, "give what a machine may write, e.g. 8G",
			"[local] clone_quota must be 1M at least");
	*ret_key = "cpus";
	int r = read_cpus(config->cpus, error, &s->cpus);
	if (r < 0)
		return r;
	*ret_key = "probe_timeout";
	return read_timeout(config->probe_timeout, error, &s->timeout_s);
}

int local_settings_read(const struct config_local *config, struct error *error,
	const char **ret_key, struct local_settings *ret_settings)
{
	static const char *const accelerations[] = { "auto", "kvm", "emulation", NULL };
	static const char *const firmwares[] = { "auto", "bios", "uefi", NULL };
	static const char *const buses[] = { "virtio", "scsi", "nvme", NULL };
	static const char *const networks[] = { "isolated", "none", NULL };
	struct local_settings s = { .qemu = config->qemu ? config->qemu : "qemu-system-x86_64" };
	unsigned acceleration, firmware, disks, network;
	int r = read_numbers(config, error, ret_key, &s);
	if (r < 0)
		return r;
	*ret_key = "acceleration";
	r = choose("acceleration", config->acceleration, accelerations, error, &acceleration);
	if (r < 0)
		return r;
	*ret_key = "firmware";
	r = choose("firmware", config->firmware, firmwares, error, &firmware);
	if (r < 0)
		return r;
	*ret_key = "disks";
	r = choose("disks", config->disks, buses, error, &disks);
	if (r < 0)
		return r;
	*ret_key = "network";
	r = choose("network", config->network, networks, error, &network);
	if (r < 0)
		return r;
	s.acceleration = acceleration;
	s.firmware = firmware;
	s.disks = disks;
	s.network = network;
	*ret_key = "probe";
	r = read_probe(config->probe, error, &s);
	if (r == 0)
		*ret_settings = s;
	return r;
}
