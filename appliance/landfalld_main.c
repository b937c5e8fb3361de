/*
 * landfalld: the daemon. Runs in the foreground, logs to stderr, tells systemd how it fares.
 *
 * The main thread starts the parts and then does nothing but wait for signals, which are blocked
 * in all threads: SIGTERM and SIGINT end it cleanly, SIGHUP reads the configuration again. While
 * it waits it feeds the watchdog.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "appliance/config.h"
#include "appliance/daemon.h"
#include "common/notify.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/standard_files.h"
#include "replicator/control.h"

#define TRIM_NS (15 * NS_PER_S)

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57 /* Linux 5.6 */
#endif

static const char usage[] = "usage: landfalld [OPTION]...\n\n"
			    "The daemon that replicates machines' disks to Azure page blobs.\n\n"
			    "options:\n"
			    "  --config PATH   read this file (" CONFIG_DEFAULT_PATH ")\n"
			    "  --check-config  read and check the configuration, then exit\n"
			    "  --help          print help and exit\n"
			    "  --version       print the version and exit\n";

struct arguments {
	const char *config;
	bool check;
};

static void log_problem(const struct error *error)
{
	log_error("%s%s%s", error->message, error->mend[0] ? " → " : "", error->mend);
}

/* Negative: go on. */
static int parse(int argc, char **argv, struct arguments *arguments)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check-config", no_argument, NULL, 'k' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	*arguments = (struct arguments){ .config = CONFIG_DEFAULT_PATH };
	for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		switch (option) {
		case 'c':
			arguments->config = optarg;
			break;
		case 'k':
			arguments->check = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_DONE;
		case 'v':
			puts("landfalld " LANDFALL_VERSION);
			return EXIT_DONE;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "landfalld: \"%s\" is one word too many\n%s", argv[optind], usage);
		return EXIT_USAGE;
	}
	return -1;
}

static int check_config(const char *path)
{
	struct config *config;
	struct error error = { 0 };
	int r = config_load(path, &error, &config);
	if (r < 0) {
		fprintf(stderr, "landfalld: %s\n", error.message);
		if (error.mend[0])
			fprintf(stderr, "  → %s\n", error.mend);
		return (int)exit_code_of(r);
	}
	printf("%s is right: %u policies, %s\n", path, config->policy_count,
		config->vault.configured ? "a vault" : "no vault");
	config_free(config);
	return EXIT_DONE;
}

/* Keys are in memory: no core dumps, no ptrace by others. Files as many as allowed. The kernel
 * must not wait for our own FUSE mount when it needs memory while we write (best effort: that
 * takes CAP_SYS_RESOURCE; threads made later inherit it). */
static void prepare_process(void)
{
	struct rlimit limit;
	umask(022);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)1 << 20);
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			log_warning("cannot raise the number of open files: %s",
				strerrordesc_np(errno));
	}
}

static void block_signals(sigset_t *ret_set)
{
	sigemptyset(ret_set);
	sigaddset(ret_set, SIGTERM);
	sigaddset(ret_set, SIGINT);
	sigaddset(ret_set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, ret_set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void reload(struct daemon *daemon)
{
	struct error error = { 0 };
	char text[128];
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%lld",
		(long long)(clock_monotonic_ns(clock_system()) / NS_PER_US));
	(void)notify_send(text);
	if (daemon_reload(daemon, &error) < 0) {
		error_prefix(&error, "the configuration stays as it was");
		log_problem(&error);
	}
	(void)notify_send("READY=1");
}

/* Until a signal ends it. What many threads gave back stays in the allocator's arenas unless it is
 * told: a burst would be resident for ever. */
static void serve(struct daemon *daemon, const sigset_t *signals)
{
	int64_t watchdog = notify_watchdog_ns() / 2;
	int64_t wait = watchdog > 0 ? MIN(watchdog, TRIM_NS) : TRIM_NS;
	struct timespec timeout = {
		.tv_sec = wait / NS_PER_S,
		.tv_nsec = wait % NS_PER_S,
	};
	for (;;) {
		siginfo_t info;
		int number = sigtimedwait(signals, &info, &timeout);
		if (watchdog > 0)
			(void)notify_send("WATCHDOG=1");
		if (number < 0)
			(void)malloc_trim(0);
		if (number < 0)
			daemon_upkeep(daemon);
		if (number == SIGHUP)
			reload(daemon);
		if (number == SIGTERM || number == SIGINT)
			return;
	}
}

static int run(const char *path)
{
	struct error error = { 0 };
	struct config *config;
	struct daemon *daemon;
	sigset_t signals;
	int r = config_load(path, &error, &config);
	if (r < 0) {
		log_problem(&error);
		return (int)exit_code_of(r);
	}
	log_set_level(config->appliance.log_level);
	prepare_process();
	block_signals(&signals);
	char *socket_path = config->appliance.control_socket;
	r = daemon_new(config, &error, &daemon);
	if (r < 0) {
		log_problem(&error);
		config_free(config);
		return (int)exit_code_of(r);
	}
	log_info("landfalld " LANDFALL_VERSION " answers on %s", socket_path);
	r = notify_send("READY=1");
	if (r < 0)
		log_warning("cannot tell the service manager: %s", strerrordesc_np(-r));
	serve(daemon, &signals);
	log_info("stopping");
	(void)notify_send("STOPPING=1");
	daemon_free(daemon);
	log_info("stopped");
	return EXIT_DONE;
}

int main(int argc, char **argv)
{
	struct arguments arguments;
	if (standard_files_open() < 0)
		return EXIT_FAILED;
	int code = parse(argc, argv, &arguments);
	if (code < 0)
		code = arguments.check ? check_config(arguments.config) : run(arguments.config);
	return standard_output_end("landfalld", code);
}
