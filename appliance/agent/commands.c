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

const struct agent_command agent_commands[] = {
	{ "enroll", "win a certificate for this machine", enroll, agent_enroll },
	{ NULL, NULL, NULL, NULL },
};
