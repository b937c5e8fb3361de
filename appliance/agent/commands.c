/*
 * Every command of `landfall-agent`: the one place that names them. Tests hold this table against
 * the man page and the completion.
 */
#include <stddef.h>

#include "appliance/agent/command.h"

#define END                                    \
	{                                      \
		NULL, NULL, NULL, false, false \
	}
#define STATE_DIR                                                                                \
	{                                                                                        \
		"state-dir", "DIR", "where the agent keeps its state (/var/lib/landfall-agent)", \
			false, false                                                             \
	}

static const struct agent_option enroll[] = {
	{ "appliance", "HOST:PORT", "the appliance's address", false, false },
	{ "key", "KEY", "the registration key", false, true },
	{ "key-file", "FILE", "read the registration key from there; -: standard input", false,
		false },
	{ "machine", "NAME", "this machine's name on the appliance", false, false },
	STATE_DIR,
	END,
};

#define STATUS_FILE                                                   \
	{                                                             \
		"status-file", "FILE",                                \
			"where the running agent tells how it fares " \
			"(/run/landfall-agent/status.json)",          \
			false, false                                  \
	}

static const struct agent_option run[] = {
	{ "disk", "ID=PATH", "a disk to protect; none named: every disk of the machine", true,
		false },
	{ "exclude", "DISK", "not this one: kernel name (* as in a shell), serial number or path",
		true, false },
	{ "replicate-swap", NULL, "what lies in swap, too", false, false },
	{ "freeze", "MOUNTPOINT", "a filesystem to freeze beside those on the disks", true, false },
	{ "pre-freeze", "COMMAND", "run before the freeze of an application-consistent point",
		false, false },
	{ "post-thaw", "COMMAND", "run after it", false, false },
	{ "script-timeout", "TIME", "end either command after this (60s)", false, false },
	{ "freeze-timeout", "TIME", "thaw after this in any case (10s)", false, false },
	{ "bandwidth", "RATE", "send no more a second, e.g. 20M", false, false },
	{ "read-limit", "RATE", "read no more a second from the disks", false, false },
	{ "cpu-limit", "PERCENT", "take no more of a processor to read and send", false, false },
	{ "connections", "N", "to the appliance (2)", false, false },
	{ "no-compression", NULL, "never compress what is sent", false, false },
	{ "capture", "WAY", "auto, bpf, perf or scan (auto)", false, false },
	{ "pin-dir", "DIR",
		"of a bpffs, where marks outlive the agent "
		"(/sys/fs/bpf/landfall-agent)",
		false, false },
	STATUS_FILE,
	STATE_DIR,
	END,
};

static const struct agent_option status[] = {
	{ "json", NULL, "print the document as it is", false, false },
	STATUS_FILE,
	END,
};

static const struct agent_option measure[] = {
	{ "duration", "TIME", "for so long (10m)", false, false },
	{ "disk", "ID=PATH", "a disk to watch; none named: every disk of the machine", true,
		false },
	{ "rpo", "TIME", "wanted recovery point objective, in the vault (5m)", false, false },
	{ "point-interval", "TIME", "between recovery points on the appliance (60s)", false,
		false },
	{ "outage", "TIME", "without the vault that the journal is to bridge (24h)", false, false },
	{ "bandwidth", "RATE", "to the vault, e.g. 20M (what the RPO needs)", false, false },
	{ "price-requests", "PRICE", "of 10,000 writes to the vault (0.0005)", false, false },
	{ "price-storage", "PRICE", "of a GB in the vault for a month (0.045)", false, false },
	{ "price-traffic", "PRICE", "of a GB out of the source's network (0.09)", false, false },
	{ "json", NULL, "print one JSON document", false, false },
	END,
};

const struct agent_command agent_commands[] = {
	{ "enroll", "win a certificate for this machine", enroll, agent_enroll },
	{ "run", "replicate this machine's disks until told to stop", run, agent_replicate },
	{ "status", "tell how the running agent fares", status, agent_show_status },
	{ "measure", "watch what changes, without replicating, and tell what it takes", measure,
		agent_measure },
	{ NULL, NULL, NULL, NULL },
};
