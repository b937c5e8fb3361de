/*
 * landfall-agent measure: how much changes here, and what protecting it would take.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "appliance/agent/command.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/human.h"
#include "common/json.h"
#include "replicator/agent/measure.h"

/* Examples, of the order of what public list prices are; whoever has a contract says so. */
#define PRICE_REQUESTS 0.0005
#define PRICE_MONTH_GB 0.045
#define PRICE_TRAFFIC_GB 0.09

/* ── words ───────────────────────────────────────────────────────────────────────────────── */

static int read_time(const struct agent_arguments *arguments, const char *name, int64_t least,
	int64_t *ret, struct error *error)
{
	const char *word = agent_argument(arguments, name);
	if (!word)
		return 0;
	if (duration_parse(word, ret) < 0 || *ret < least)
		return error_set(error, -EINVAL, "write e.g. 90s, 10m, 24h",
			"--%s %.40s is not a duration that can be", name, word);
	return 0;
}

static int read_price(
	const struct agent_arguments *arguments, const char *name, double *ret, struct error *error)
{
	const char *word = agent_argument(arguments, name);
	char *end;
	if (!word)
		return 0;
	double value = strtod(word, &end);
	if (end == word || *end || !isfinite(value) || value < 0)
		return error_set(
			error, -EINVAL, "write e.g. 0.05", "--%s %.40s is not a price", name, word);
	*ret = value;
	return 0;
}

static int read_rates(const struct agent_arguments *arguments, struct measure_rates *rates,
	int64_t *ret_duration_s, struct error *error)
{
	const char *word = agent_argument(arguments, "bandwidth");
	uint64_t bandwidth = 0;
	int r = read_time(arguments, "duration", 1, ret_duration_s, error);
	if (r == 0)
		r = read_time(arguments, "rpo", 1, &rates->rpo_s, error);
	if (r == 0)
		r = read_time(arguments, "point-interval", 1, &rates->point_interval_s, error);
	if (r == 0)
		r = read_time(arguments, "outage", 1, &rates->outage_s, error);
	if (r == 0)
		r = read_price(arguments, "price-requests", &rates->price_requests, error);
	if (r == 0)
		r = read_price(arguments, "price-storage", &rates->price_month_gb, error);
	if (r == 0)
		r = read_price(arguments, "price-traffic", &rates->price_traffic_gb, error);
	if (r == 0 && word && (size_parse(word, &bandwidth) < 0 || bandwidth < 65536))
		r = error_set(error, -EINVAL, "write e.g. 20M: bytes a second, 64K at least",
			"--bandwidth %.40s is not a rate", word);
	rates->bandwidth_bytes_per_s = (double)bandwidth;
	return r;
}

/* ── telling ─────────────────────────────────────────────────────────────────────────────── */

static void print_disk(const struct measure_disk *d)
{
	char a[HUMAN_TEXT_BYTES], b[HUMAN_TEXT_BYTES], c[HUMAN_TEXT_BYTES];
	printf("disk %s, %s: %s written in %llu requests", d->id, human_size((double)d->bytes, a),
		human_size((double)d->written_bytes, b), (unsigned long long)d->requests);
	if (d->requests > 0)
		printf(" of %s", human_size((double)d->written_bytes / (double)d->requests, c));
	printf("; %s of it changed", human_size((double)d->changed_bytes, a));
	for (unsigned k = 0; k < MEASURE_SIZES; k++)
		if (d->by_block[k] > 0)
			printf("%s %s in blocks of %s", k == 0 ? ":" : ",",
				human_size((double)d->by_block[k], b),
				human_size((double)measure_block_bytes[k], c));
	printf("%s\n", d->trusted ? "" : " (some writes were missed: it is more)");
}

static void print_all(const struct measurement *m, const struct measure_rates *rates,
	const struct measure_needs *needs)
{
	char a[HUMAN_TEXT_BYTES], b[HUMAN_TEXT_BYTES];
	for (unsigned i = 0; i < m->disk_count; i++)
		print_disk(&m->disks[i]);
	printf("written: %s/s on average", human_size(m->written_bytes_per_s, a));
	printf(", %s in the busiest second, over %s\n", human_size(m->peak_bytes_per_s, a),
		human_time(m->seconds, b));
	for (unsigned k = 0; k < MEASURE_WINDOWS; k++) {
		const struct measure_window *w = &m->windows[k];
		if (w->count == 0)
			continue;
		printf("changed in %u s: %s on average", measure_window_s[k],
			human_size(w->mean_bytes, a));
		printf(", %s at most\n", human_size(w->most_bytes, a));
	}
	printf("\nto have it in the vault within %s:\n", human_time((double)rates->rpo_s, a));
	printf("  bandwidth            %s/s\n", human_size(needs->bandwidth_bytes_per_s, a));
	printf("  journal              %s, to bridge %s without the vault\n",
		human_size(needs->journal_bytes, a), human_time((double)rates->outage_s, b));
	if (needs->first_sync_s < 0)
		printf("  first copy           unknown: nothing was written; give the line's "
		       "--bandwidth\n");
	else
		printf("  first copy           %s at most\n", human_time(needs->first_sync_s, a));
	printf("  requests a day       %.0f, with %.2f GB\n", needs->requests_day, needs->gb_day);
	printf("  cost                 %.2f for the first copy at most, %.2f a month at most\n",
		needs->price_first, needs->price_month);
	if (m->written_bytes_per_s <= 0)
		printf("\nNothing was written meanwhile: what usual work needs is still "
		       "unknown.\n");
	if (m->windows[1].count == 0)
		printf("\nThis was too short to tell: measure for an hour or more of usual "
		       "work.\n");
}

static int add(struct cJSON *object, const char *name, double value)
{
	return cJSON_AddNumberToObject(object, name, value) ? 0 : -ENOMEM;
}

static int add_disk(struct cJSON *list, const struct measure_disk *d)
{
	struct cJSON *item;
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", d->id);
	if (r == 0)
		r = json_add_u64(item, "size_bytes", d->bytes);
	if (r == 0)
		r = json_add_u64(item, "written_bytes", d->written_bytes);
	if (r == 0)
		r = json_add_u64(item, "requests", d->requests);
	if (r == 0)
		r = json_add_u64(item, "changed_bytes", d->changed_bytes);
	for (unsigned k = 0; r == 0 && k < MEASURE_SIZES; k++) {
		char name[48];
		snprintf(name, sizeof(name), "changed_bytes_%llu",
			(unsigned long long)measure_block_bytes[k]);
		r = json_add_u64(item, name, d->by_block[k]);
	}
	return r == 0 ? json_add_bool(item, "trusted", d->trusted) : r;
}

static int add_windows(struct cJSON *root, const struct measurement *m)
{
	struct cJSON *list, *item;
	int r = json_add_array(root, "windows", &list);
	for (unsigned k = 0; r == 0 && k < MEASURE_WINDOWS; k++) {
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_u64(item, "seconds", measure_window_s[k]);
		if (r == 0)
			r = json_add_u64(item, "count", m->windows[k].count);
		if (r == 0)
			r = add(item, "mean_bytes", m->windows[k].mean_bytes);
		if (r == 0)
			r = add(item, "most_bytes", m->windows[k].most_bytes);
		if (r == 0)
			r = add(item, "mean_puts", m->windows[k].mean_puts);
	}
	return r;
}

static int add_needs(struct cJSON *root, const struct measure_needs *needs)
{
	struct cJSON *object;
	int r = json_add_object(root, "needs", &object);
	if (r == 0)
		r = add(object, "bandwidth_bytes_per_s", needs->bandwidth_bytes_per_s);
	if (r == 0)
		r = add(object, "journal_bytes", needs->journal_bytes);
	if (r == 0)
		r = needs->first_sync_s < 0
			    ? (cJSON_AddNullToObject(object, "first_sync_s") ? 0 : -ENOMEM)
			    : add(object, "first_sync_s", needs->first_sync_s);
	if (r == 0)
		r = add(object, "requests_day", needs->requests_day);
	if (r == 0)
		r = add(object, "gb_day", needs->gb_day);
	if (r == 0)
		r = add(object, "price_first", needs->price_first);
	return r == 0 ? add(object, "price_month", needs->price_month) : r;
}

static int print_json(const struct measurement *m, const struct measure_needs *needs)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	struct cJSON *list;
	int r = json_new_object(&root);
	if (r == 0)
		r = add(root, "seconds", m->seconds);
	if (r == 0)
		r = add(root, "written_bytes_per_s", m->written_bytes_per_s);
	if (r == 0)
		r = add(root, "peak_bytes_per_s", m->peak_bytes_per_s);
	if (r == 0)
		r = json_add_array(root, "disks", &list);
	for (unsigned i = 0; r == 0 && i < m->disk_count; i++)
		r = add_disk(list, &m->disks[i]);
	if (r == 0)
		r = add_windows(root, m);
	if (r == 0)
		r = add_needs(root, needs);
	if (r == 0)
		r = json_print(root, true, &text);
	if (r == 0)
		puts(text.data);
	return r;
}

static void told(void *context, double seconds, double of_seconds)
{
	(void)context;
	fprintf(stderr, "\r%.0f of %.0f s", seconds, of_seconds);
}

/* ── the command ─────────────────────────────────────────────────────────────────────────── */

static int stop_on_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

enum agent_exit agent_measure(const struct agent_arguments *arguments)
{
	CLEANUP(agent_disks_free) struct agent_disks disks = { 0 };
	struct measure_rates rates = { .rpo_s = 300,
		.point_interval_s = 60,
		.outage_s = 86400,
		.price_requests = PRICE_REQUESTS,
		.price_month_gb = PRICE_MONTH_GB,
		.price_traffic_gb = PRICE_TRAFFIC_GB };
	struct error error = { 0 };
	struct measurement found;
	struct measure_needs needs;
	int64_t duration_s = 600;
	int r = read_rates(arguments, &rates, &duration_s, &error);
	if (r == 0)
		r = agent_disks_read(arguments, &disks, &error);
	if (r < 0)
		return agent_fail(&error);
	CLEANUP_CLOSE int stop = stop_on_signals();
	const struct measure_options options = { .disks = disks.disks,
		.disk_count = disks.count,
		.duration_ns = duration_s * NS_PER_S,
		.stop_fd = stop,
		.told = isatty(STDERR_FILENO) ? told : NULL };
	r = measure_run(&options, &error, &found);
	if (options.told)
		fputc('\n', stderr);
	if (r < 0)
		return agent_fail(&error);
	measure_needs(&found, &rates, &needs);
	if (!agent_argument(arguments, "json"))
		print_all(&found, &rates, &needs);
	else if (print_json(&found, &needs) < 0)
		return AGENT_FAILED;
	return AGENT_DONE;
}
