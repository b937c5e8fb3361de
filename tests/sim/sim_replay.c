/*
 * Command lines, seeds, and how to repeat a failure. The command is kept where a signal handler
 * finds it; that is the only state.
 */
#include "tests/sim/sim_replay.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/rng.h"

#define HANG_SECONDS 120

static char replay_command[512];

static void on_signal(int number)
{
	static const char text[] = "\nit died or hangs; replay with:\n  ";
	ssize_t r = write(STDERR_FILENO, text, sizeof(text) - 1);
	r = write(STDERR_FILENO, replay_command, strlen(replay_command));
	r = write(STDERR_FILENO, "\n", 1);
	(void)r;
	signal(SIGABRT, SIG_DFL);
	signal(number, SIG_DFL);
	raise(number == SIGALRM ? SIGABRT : number);
}

void sim_replay_set(const struct sim_settings *settings, const char *format, ...)
{
	char what[128];
	va_list args;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	snprintf(replay_command, sizeof(replay_command), "%s --replay %s --verbose",
		settings->program, what);
	alarm(HANG_SECONDS);
}

int sim_replay_report(const char *failure)
{
	fprintf(stderr, "FAILED: %s\nreplay with:\n  %s\n", failure, replay_command);
	return 1;
}

uint64_t sim_mix(uint64_t a, uint64_t b)
{
	struct rng rng;
	rng_seed(&rng, a ^ (b * 0x9e3779b97f4a7c15ull));
	return rng_next(&rng);
}

static int parse(int argc, char **argv, struct sim_settings *s)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;
		if (!strcmp(argv[i], "--verbose")) {
			s->trace = stderr;
			continue;
		}
		if (!strcmp(argv[i], "--drains")) {
			s->drains = true;
			continue;
		}
		if (!value)
			return -EINVAL;
		i++;
		if (!strcmp(argv[i - 1], "--mode"))
			s->mode = value;
		else if (!strcmp(argv[i - 1], "--seed"))
			s->seed = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--crash-points"))
			s->crash_points = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--replay"))
			s->replay = value;
		else if (strcmp(argv[i - 1], "--shard") != 0 ||
			 sscanf(value, "%u/%u", &s->shard, &s->shards) != 2 ||
			 s->shard >= s->shards)
			return -EINVAL;
	}
	return 0;
}

int sim_settings_parse(
	int argc, char **argv, const char *mode, uint64_t crash_points, struct sim_settings *ret)
{
	struct sim_settings s = { .program = argv[0], .mode = mode, .shards = 1 };
	s.crash_points = crash_points;
	s.seed = sim_mix((uint64_t)time(NULL), (uint64_t)getpid());
	int r = parse(argc, argv, &s);
	if (r < 0)
		return r;
	const char *divisor = getenv("LANDFALL_SIM_DIVISOR");
	s.divisor = divisor ? (unsigned)strtoul(divisor, NULL, 10) : 1;
	if (s.divisor == 0)
		s.divisor = 1;
	s.crash_points = (s.crash_points + s.divisor - 1) / s.divisor;
	if (!s.trace)
		log_set_level((enum log_level)0);
	signal(SIGABRT, on_signal);
	signal(SIGSEGV, on_signal);
	signal(SIGALRM, on_signal);
	*ret = s;
	return 0;
}
