/*
 * A job's progress on stderr: a bar that is drawn over itself on a terminal, a line at every new
 * step and every tenth otherwise. The rate is a moving average over about five seconds.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "appliance/cli.h"
#include "common/bytes.h"
#include "common/clock.h"

#define BAR_WIDTH 24

void cli_progress_begin(const struct cli *cli, struct cli_progress *progress)
{
	const char *term = getenv("TERM");
	*progress = (struct cli_progress){ 0 };
	progress->terminal = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
	progress->tells = !cli->json || progress->terminal;
	progress->shown = !cli->no_progress && (!cli->json || progress->terminal);
}

static void draw_over(struct cli_progress *progress, const char *text)
{
	struct winsize size = { 0 };
	int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1
			      ? size.ws_col - 1
			      : 79;
	int width = MIN((int)strlen(text), columns);
	fprintf(stderr, "\r%.*s%*s", width, text, MAX(progress->width - width, 0), "");
	fflush(stderr);
	progress->width = width;
}

static void format_amount(uint64_t done, uint64_t total, const char *unit, char *text, size_t n)
{
	char a[CLI_TEXT_BYTES], b[CLI_TEXT_BYTES];
	if (strcmp(unit, "bytes") == 0)
		snprintf(text, n, "%s of %s", cli_size(done, a), cli_size(total, b));
	else
		snprintf(text, n, "%llu of %llu %s", (unsigned long long)done,
			(unsigned long long)total, unit);
}

static void format_rate(
	const struct cli_progress *progress, uint64_t left, const char *unit, char *text, size_t n)
{
	char a[CLI_TEXT_BYTES], b[CLI_TEXT_BYTES];
	text[0] = '\0';
	if (progress->rate <= 0)
		return;
	cli_duration((double)left / progress->rate, b);
	if (strcmp(unit, "bytes") == 0)
		snprintf(text, n, "  %s/s  %s left", cli_size((uint64_t)progress->rate, a), b);
	else
		snprintf(text, n, "  %.1f %s/s  %s left", progress->rate, unit, b);
}

static void begin_label(
	struct cli_progress *progress, const char *label, uint64_t done, int64_t now)
{
	snprintf(progress->label, sizeof(progress->label), "%s", label);
	progress->began_ns = progress->told_ns = now;
	progress->began_at = done;
	progress->rate = 0;
	progress->told_percent = 0;
	if (!progress->terminal)
		fprintf(stderr, "%s\n", label);
}

static void measure(struct cli_progress *progress, uint64_t done, int64_t now)
{
	double seconds = (double)(now - progress->told_ns) / (double)NS_PER_S;
	if (seconds < 0.1 || done < progress->began_at)
		return;
	double rate = (double)(done - progress->began_at) / seconds;
	double weight = MIN(seconds / 5, 1.0);
	progress->rate = progress->rate > 0 ? progress->rate * (1 - weight) + rate * weight : rate;
	progress->told_ns = now;
	progress->began_at = done;
}

void cli_progress_update(struct cli_progress *progress, const char *label, uint64_t done,
	uint64_t total, const char *unit)
{
	char amount[160], rate[160], bar[BAR_WIDTH + 1], line[640];
	if (!progress->shown)
		return;
	int64_t now = clock_monotonic_ns(clock_system());
	if (strcmp(label, progress->label) != 0)
		begin_label(progress, label, done, now);
	measure(progress, done, now);
	if (total == 0) {
		if (progress->terminal)
			draw_over(progress, label);
		return;
	}
	done = MIN(done, total);
	unsigned percent = (unsigned)((double)done * 100 / (double)total);
	format_amount(done, total, unit, amount, sizeof(amount));
	format_rate(progress, total - done, unit, rate, sizeof(rate));
	if (progress->terminal) {
		memset(bar, '.', BAR_WIDTH);
		memset(bar, '#', percent * BAR_WIDTH / 100);
		bar[BAR_WIDTH] = '\0';
		snprintf(line, sizeof(line), "%s [%s] %3u %%  %s%s", label, bar, percent, amount,
			rate);
		draw_over(progress, line);
	} else if (percent >= progress->told_percent + 10) {
		progress->told_percent = percent / 10 * 10;
		fprintf(stderr, "%s: %u %%  %s%s\n", label, percent, amount, rate);
	}
}

void cli_progress_obstacle(struct cli_progress *progress, const char *message, const char *mend)
{
	if (!progress->tells || strcmp(message, progress->obstacle) == 0)
		return;
	snprintf(progress->obstacle, sizeof(progress->obstacle), "%s", message);
	if (!*message)
		return;
	cli_progress_end(progress);
	fputs("waits: ", stderr);
	cli_print_safe(stderr, message);
	fputs("\n  → ", stderr);
	cli_print_safe(stderr, mend);
	fputc('\n', stderr);
}

void cli_progress_notified(void *context, const cJSON *parameters)
{
	if (cli_has(parameters, "message"))
		cli_progress_obstacle(context, cli_get_text(parameters, "message"),
			cli_get_text(parameters, "mend"));
}

void cli_progress_end(struct cli_progress *progress)
{
	if (progress->shown && progress->terminal && progress->width > 0) {
		draw_over(progress, "");
		fputc('\r', stderr);
		progress->width = 0;
	}
}
