/*
 * Every command of `landfall`: the one place that names them. A command that is not here is
 * unknown to help, completion and parsing alike; tests hold this table against the man page and
 * the completion.
 */
#include <stddef.h>

#include "appliance/cli.h"

#define OPTION(name, value, help)               \
	{                                       \
		name, value, help, false, false \
	}
#define LIST_OPTION(name, value, help)         \
	{                                      \
		name, value, help, true, false \
	}
#define LOCAL_OPTION(name, value, help)        \
	{                                      \
		name, value, help, false, true \
	}
#define END                                    \
	{                                      \
		NULL, NULL, NULL, false, false \
	}
#define DETACH LOCAL_OPTION("detach", NULL, "do not wait for the job; print its number")

const struct cli_option cli_global_options[] = {
	OPTION("socket", "PATH", "the daemon's control socket (or LANDFALL_SOCKET)"),
	OPTION("json", NULL, "print one JSON document"),
	OPTION("no-progress", NULL, "show no progress"),
	OPTION("help", NULL, "print help and exit"),
	OPTION("version", NULL, "print the version and exit"),
	END,
};

static const struct cli_option none[] = { END };
static const struct cli_option detach[] = { DETACH, END };
static const struct cli_option status[] = {
	LOCAL_OPTION("watch", NULL, "show it again every two seconds"),
	END,
};
static const struct cli_option machine_add[] = {
	OPTION("source", "SOURCE", "how it replicates: agent, ebs or fuse"),
	LIST_OPTION("disk", "ID=SIZE", "a disk and its size, whole MiB; may be repeated"),
	OPTION("instance", "ID", "ebs: the EC2 instance; its volumes become the disks"),
	OPTION("private-ip", "IP", "ebs: the instance with this private address"),
	OPTION("region", "REGION", "ebs: where it is ([aws] region)"),
	LIST_OPTION("exclude-volume", "ID", "ebs: a volume to leave out; may be repeated"),
	OPTION("group", "GROUP", "the group it shares its history with (its own name's)"),
	OPTION("policy", "POLICY", "its policy (default)"),
	END,
};
static const struct cli_option machine_discover[] = {
	OPTION("region", "REGION", "where to look ([aws] region)"),
	OPTION("private-ip", "IP", "only the instance with this private address"),
	LIST_OPTION("tag", "KEY=VALUE", "only those with this tag; may be repeated"),
	END,
};
static const struct cli_option machine_volumes[] = {
	LIST_OPTION("include", "ID", "a volume to replicate from now on; may be repeated"),
	LIST_OPTION("exclude", "ID", "a volume to leave out from now on; may be repeated"),
	END,
};
static const struct cli_option machine_remove[] = {
	OPTION("keep-vault", NULL, "leave its disks and points in the vault"),
	DETACH,
	END,
};
static const struct cli_option key_create[] = {
	OPTION("machine", "NAME", "it enrols this machine alone, anew if need be"),
	OPTION("ttl", "DURATION", "how long it holds (5d)"),
	OPTION("uses", "N", "how many machines it may enrol (1)"),
	END,
};
static const struct cli_option point_create[] = {
	OPTION("app", NULL, "application-consistent: what writes is quiesced"),
	OPTION("resynced", NULL, "after a loss here: all content was written again"),
	OPTION("wait", "local|vault", "until it is durable there (local)"),
	DETACH,
	END,
};
static const struct cli_option point_keep[] = {
	OPTION("off", NULL, "let retention have it again"),
	END,
};
static const struct cli_option clone_create[] = {
	OPTION("quota", "SIZE", "how much may be written to it (1G)"),
	END,
};
static const struct cli_option clone_remove[] = {
	OPTION("all", NULL, "all clones"),
	END,
};
static const struct cli_option inspect[] = {
	OPTION("partition", "N", "only this partition of every disk; 0: no partitions"),
	OPTION("at", "DIR", "mount below this directory"),
	LOCAL_OPTION("close", "ID", "unmount an inspection"),
	LOCAL_OPTION("all", NULL, "with --close: all of them"),
	LOCAL_OPTION("list", NULL, "list what is open"),
	END,
};
static const struct cli_option verify[] = {
	OPTION("repair", NULL, "mend from the source what differs"),
	DETACH,
	END,
};
static const struct cli_option resync[] = {
	OPTION("disk", "ID", "only this disk"),
	END,
};
static const struct cli_option drill_start[] = {
	OPTION("point", "POINT", "the recovery point (latest)"),
	OPTION("target", "TARGET", "where: local (local)"),
	OPTION("cleanup", NULL, "stop the machine after the verdict"),
	DETACH,
	END,
};
static const struct cli_option takeover[] = {
	OPTION("group", "GROUP", "only this group (all of the vault)"),
	OPTION("discard-damaged", NULL,
		"of that group, lose what came after its newest whole point"),
	DETACH,
	END,
};

static const struct cli_option agent_install[] = {
	LOCAL_OPTION("machine", "NAME", "the machine's name here"),
	LOCAL_OPTION("identity", "FILE", "the private key for ssh (what ssh is set up to use)"),
	LOCAL_OPTION(
		"appliance", "HOST:PORT", "where agents reach this appliance (its name, 9443)"),
	{ "disk", "ID=PATH", "a disk to protect (all of the machine); repeatable", true, true },
	END,
};
static const struct cli_option agent_uninstall[] = {
	LOCAL_OPTION("identity", "FILE", "the private key for ssh (what ssh is set up to use)"),
	END,
};

const struct cli_command cli_commands[] = {
	{ "status", "[MACHINE]", "health, RPO, lag, rates and alerts", status, cli_status },
	{ "machine add", "NAME", "protect a machine", machine_add, cli_machine_add },
	{ "machine discover", "", "list EC2 instances and their volumes", machine_discover,
		cli_machine_discover },
	{ "machine list", "", "list protected machines", none, cli_machine_list },
	{ "machine show", "NAME", "show a machine, its disks and its policy", none,
		cli_machine_show },
	{ "machine volumes", "NAME", "take in or leave out volumes of an EC2 instance",
		machine_volumes, cli_machine_volumes },
	{ "machine remove", "NAME", "end a machine's protection", machine_remove,
		cli_machine_remove },
	{ "machine pause", "NAME", "stop points and flushes", none, cli_machine_pause },
	{ "machine resume", "NAME", "go on after a pause", none, cli_machine_pause },
	{ "key create", "", "make a registration key for an agent", key_create, cli_key_create },
	{ "key list", "", "list registration keys", none, cli_key_list },
	{ "key revoke", "ID", "revoke a registration key and what was won with it", none,
		cli_key_revoke },
	{ "agent install", "USER@HOST", "install the agent on a machine over ssh", agent_install,
		cli_agent_install },
	{ "agent uninstall", "USER@HOST", "remove the agent from a machine over ssh",
		agent_uninstall, cli_agent_uninstall },
	{ "point list", "MACHINE", "list recovery points", none, cli_point_list },
	{ "point show", "MACHINE [POINT]", "show a recovery point", none, cli_point_show },
	{ "point create", "MACHINE", "make a recovery point now", point_create, cli_point_create },
	{ "point keep", "MACHINE POINT", "exempt a recovery point from retention", point_keep,
		cli_point_keep },
	{ "point delete", "MACHINE POINT", "delete a recovery point", none, cli_point_delete },
	{ "clone create", "MACHINE [POINT]", "make a writable, throw-away branch", clone_create,
		cli_clone_create },
	{ "clone list", "[MACHINE]", "list clones", none, cli_clone_list },
	{ "clone remove", "[ID]", "remove a clone", clone_remove, cli_clone_remove },
	{ "inspect", "[MACHINE] [POINT]", "mount the filesystems of a recovery point read-only",
		inspect, cli_inspect },
	{ "verify", "MACHINE [POINT]", "prove a recovery point, or what is current", verify,
		cli_verify },
	{ "resync", "MACHINE", "compare the disks with their source all over", resync, cli_resync },
	{ "drill start", "MACHINE", "start a recovery point apart from everything, to prove it",
		drill_start, cli_drill_start },
	{ "drill list", "[MACHINE]", "list drills and their verdicts", none, cli_drill_list },
	{ "drill show", "ID", "show a drill and where its evidence is", none, cli_drill_show },
	{ "drill cleanup", "ID", "stop a drill's machine and remove its disks", detach,
		cli_drill_cleanup },
	{ "job list", "", "list jobs, newest first", none, cli_job_list },
	{ "job show", "ID", "show a job, its steps and its error", none, cli_job_show },
	{ "job watch", "ID", "follow a job to its end", none, cli_job_watch },
	{ "job cancel", "ID", "ask a job to stop", none, cli_job_cancel },
	{ "policy set", "NAME KEY=VALUE...", "make or change a policy", none, cli_policy_set },
	{ "policy list", "", "list policies", none, cli_policy_list },
	{ "policy show", "NAME", "show a policy", none, cli_policy_show },
	{ "vault init", "", "make the vault's container ready", none, cli_vault_init },
	{ "vault check", "", "hold every manifest against its snapshots", detach, cli_vault_check },
	{ "vault takeover", "", "make this appliance the owner", takeover, cli_vault_takeover },
	{ "metrics", "", "print metrics for Prometheus", none, cli_metrics },
	{ NULL, NULL, NULL, NULL, NULL },
};
