/*
 * landfall-agent run: replicates until it is told to stop. In the foreground; logs to stderr;
 * tells the service manager when the disks are tracked. SIGTERM and SIGINT end it, SIGHUP has its
 * session begin anew.
 */
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "appliance/agent/command.h"
#include "common/cleanup.h"
#include "common/human.h"
#include "common/log.h"
#include "common/notify.h"
#include "replicator/agent/identity.h"
#include "replicator/agent/run.h"
#include "replicator/agent/status.h"

#define PATHS_MAX 64u
#define BPF_FS "/sys/fs/bpf"
#define BPF_FS_MAGIC_NUMBER 0xcafe4a11

struct words {
	struct agent_disks disks;
	const char *freeze[PATHS_MAX + 1], *exclude[PATHS_MAX + 1];
};

static void words_free(struct words *words)
{
	agent_disks_free(&words->disks);
}

/* ── words ───────────────────────────────────────────────────────────────────────────────── */

static int read_words(
	const struct agent_arguments *arguments, struct words *words, struct error *error)
{
	const char *word;
	int r = agent_disks_read(arguments, &words->disks, error);
	for (unsigned i = 0; r == 0 && (word = agent_argument_at(arguments, "freeze", i)); i++) {
		if (i == PATHS_MAX)
			return error_set(error, -EINVAL, NULL, "more than %u --freeze", PATHS_MAX);
		words->freeze[i] = word;
	}
	for (unsigned i = 0; r == 0 && (word = agent_argument_at(arguments, "exclude", i)); i++) {
		if (i == PATHS_MAX)
			return error_set(error, -EINVAL, NULL, "more than %u --exclude", PATHS_MAX);
		words->exclude[i] = word;
	}
	return r;
}

static int read_rate(const struct agent_arguments *arguments, const char *name, uint64_t *ret,
	struct error *error)
{
	const char *word = agent_argument(arguments, name);
	if (!word || strcmp(word, "unlimited") == 0)
		return 0;
	if (size_parse(word, ret) < 0 || *ret < 65536)
		return error_set(error, -EINVAL, "write e.g. 20M: bytes a second, 64K at least",
			"--%s %.40s is not a rate", name, word);
	return 0;
}

static int read_number(const struct agent_arguments *arguments, const char *name, unsigned least,
	unsigned most, unsigned *ret, struct error *error)
{
	const char *word = agent_argument(arguments, name);
	char *end;
	if (!word)
		return 0;
	unsigned long value = strtoul(word, &end, 10);
	if (*word < '0' || *word > '9' || *end || value < least || value > most)
		return error_set(error, -EINVAL, NULL,
			"--%s %.40s: a number from %u to %u is wanted", name, word, least, most);
	*ret = (unsigned)value;
	return 0;
}

static int read_method(const char *word, enum tracker_method *ret, struct error *error)
{
	static const struct {
		const char *word;
		enum tracker_method method;
	} methods[] = { { "auto", TRACKER_AUTO }, { "bpf", TRACKER_BPF }, { "perf", TRACKER_PERF },
		{ "scan", TRACKER_SCAN } };
	for (unsigned i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		if (word && strcmp(methods[i].word, word) != 0)
			continue;
		*ret = methods[i].method;
		return 0;
	}
	return error_set(error, -EINVAL, "they are auto, bpf, perf and scan",
		"there is no way to capture called '%.40s'", word);
}

static int read_timeout(const struct agent_arguments *arguments, const char *name, int64_t most_s,
	unsigned *ret_ms, struct error *error)
{
	const char *word = agent_argument(arguments, name);
	int64_t seconds;
	if (!word)
		return 0;
	if (duration_parse(word, &seconds) < 0 || seconds < 1 || seconds > most_s)
		return error_set(error, -EINVAL, "write e.g. 10s; see landfall-agent(8)",
			"--%s %.40s is not a duration that can be: from 1s to %llds", name, word,
			(long long)most_s);
	*ret_ms = (unsigned)(seconds * 1000);
	return 0;
}

static int read_options(
	const struct agent_arguments *arguments, struct agent_options *options, struct error *error)
{
	int r = read_rate(arguments, "read-limit", &options->read_bytes_per_s, error);
	if (r == 0)
		r = read_rate(arguments, "bandwidth", &options->send_bytes_per_s, error);
	if (r == 0)
		r = read_number(arguments, "cpu-limit", 1, 10000, &options->cpu_percent, error);
	if (r == 0)
		r = read_number(arguments, "connections", 1, 8, &options->connections, error);
	if (r == 0)
		r = read_method(agent_argument(arguments, "capture"), &options->method, error);
	if (r == 0)
		r = read_timeout(
			arguments, "freeze-timeout", 60, &options->freeze_timeout_ms, error);
	/* The appliance gives a cut up that says nothing for two minutes. */
	return r == 0 ? read_timeout(arguments, "script-timeout", 100, &options->script_timeout_ms,
				error)
		      : r;
}

/* ── the process ─────────────────────────────────────────────────────────────────────────── */

/* Marks outlive us only in a bpffs. Systemd mounts it; where it does not, we do. */
static const char *find_pin_dir(const struct agent_arguments *arguments)
{
	const char *word = agent_argument(arguments, "pin-dir");
	struct statfs fs;
	if (word)
		return *word ? word : NULL;
	if (statfs(BPF_FS, &fs) == 0 && fs.f_type == BPF_FS_MAGIC_NUMBER)
		return AGENT_PIN_DIR;
	if (mount("bpf", BPF_FS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") == 0)
		return AGENT_PIN_DIR;
	log_warning("no bpffs can be had at " BPF_FS
		    " (%s): after a restart of the agent all disks "
		    "are compared",
		strerrordesc_np(errno));
	return NULL;
}

static int stop_signals(struct error *error)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? error_set(error, -errno, NULL, "signals cannot be waited for: %s",
				strerrordesc_np(errno))
		      : fd;
}

/* Takes all signals that have come: SIGHUP counts only if none of them is to end it. `context`: the
 * signals' file descriptor. */
static bool only_hangups(void *context)
{
	const int *fd = context;
	struct signalfd_siginfo info;
	bool hangup = false, end = false;
	while (read(*fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		hangup |= info.ssi_signo == SIGHUP;
		end |= info.ssi_signo != SIGHUP;
	}
	return hangup && !end;
}

static void tell_ready(void *context)
{
	(void)context;
	(void)notify_send("READY=1");
}

/* Disks are read, changes captured and filesystems frozen: whoever is not root may not, unless it
 * has the capability that the last of these takes. */
static int check_permitted(struct error *error)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	if (geteuid() == 0 ||
		(syscall(SYS_capget, &head, data) == 0 && data[0].effective & 1u << CAP_SYS_ADMIN))
		return 0;
	return error_set(error, -EPERM,
		"run it as root; its service does: systemctl start landfall-agent",
		"whoever is not root may not read disks, capture changes and freeze filesystems");
}

enum agent_exit agent_replicate(const struct agent_arguments *arguments)
{
	CLEANUP(words_free) struct words words = { 0 };
	struct error error = { 0 };
	const char *state = agent_argument(arguments, "state-dir");
	const char *status = agent_argument(arguments, "status-file");
	struct agent_options options = { .io = io_posix(),
		.state_dir = state ? state : IDENTITY_DEFAULT_DIR,
		.status_path = status ? status : AGENT_STATUS_DEFAULT_PATH,
		.disks = words.disks.disks,
		.freeze_paths = words.freeze,
		.exclude = words.exclude,
		.pre_freeze = agent_argument(arguments, "pre-freeze"),
		.post_thaw = agent_argument(arguments, "post-thaw"),
		.freeze_timeout_ms = AGENT_FREEZE_TIMEOUT_MS,
		.script_timeout_ms = AGENT_SCRIPT_TIMEOUT_MS,
		.connections = AGENT_CONNECTIONS,
		.zstd = !agent_argument(arguments, "no-compression"),
		.replicate_swap = agent_argument(arguments, "replicate-swap"),
		.ready = tell_ready };
	int r = read_words(arguments, &words, &error);
	if (r == 0)
		r = read_options(arguments, &options, &error);
	if (r == 0)
		r = check_permitted(&error);
	if (r < 0)
		return agent_fail(&error);
	options.disk_count = words.disks.count;
	CLEANUP_CLOSE int stop = stop_signals(&error);
	if (stop < 0)
		return agent_fail(&error);
	options.stop_fd = stop;
	options.begins_anew = only_hangups;
	options.begins_anew_context = &stop;
	options.pin_dir = find_pin_dir(arguments);
	r = agent_run(&options, &error);
	(void)notify_send("STOPPING=1");
	return r < 0 ? agent_fail(&error) : AGENT_DONE;
}
