/*
 * The pipeline's life, its queues, and what the appliance has acknowledged.
 */
#include "replicator/agent/pipeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/pipeline_internal.h"

#define STRIPE_SECTORS 131072u /* 64 MiB, as PROTOCOL.md says */
#define RATE_BURST_BYTES (4u << 20)
#define CPU_PERCENT_NS (NS_PER_S / 100) /* a second */
#define CPU_BURST_NS (20 * NS_PER_MS)

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static int start_lane(struct pipeline *p, struct lane *lane)
{
	int r = -pthread_create(&lane->reader, NULL, pipeline_reader_main, lane);
	if (r < 0)
		return r;
	lane->reader_runs = true;
	r = -pthread_create(&lane->sender, NULL, pipeline_sender_main, lane);
	lane->sender_runs = r == 0;
	(void)p;
	return r;
}

static int make_lane(struct pipeline *p, unsigned index, const struct pipeline_options *options)
{
	struct lane *lane = &p->lanes[index];
	lane->pipeline = p;
	pthread_cond_init(&lane->read_wake, NULL);
	pthread_cond_init(&lane->send_wake, NULL);
	lane->index = index;
	lane->connection = options->connections[index];
	lane->window = options->window_bytes;
	lane->flights_end = &lane->flights;
	return options->zstd ? packer_new(clock_system(), WIRE_MAX_DATA_BYTES, &lane->packer) : 0;
}

static uint64_t processor_ns(void)
{
	struct timespec t = { 0 };
	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

int pipeline_new(
	const struct pipeline_options *options, struct error *error, struct pipeline **ret_pipeline)
{
	struct pipeline *p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	p->events = options->events;
	p->zstd = options->zstd;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&p->changed, &monotonic);
	pthread_cond_init(&p->given, NULL);
	pthread_condattr_destroy(&monotonic);
	token_bucket_init(&p->read_bucket, clock_system(), 0, RATE_BURST_BYTES);
	token_bucket_init(&p->send_bucket, clock_system(), 0, RATE_BURST_BYTES);
	token_bucket_init(&p->cpu_bucket, clock_system(), options->cpu_percent * CPU_PERCENT_NS,
		CPU_BURST_NS);
	p->cpu_ns = processor_ns();
	p->memory = aligned_alloc(4096, (size_t)PIPELINE_BUFFERS * WIRE_CHUNK_BYTES);
	/* A watchdog that is forked anew would keep a copy of what they held. */
	if (p->memory)
		(void)madvise(
			p->memory, (size_t)PIPELINE_BUFFERS * WIRE_CHUNK_BYTES, MADV_DONTFORK);
	for (unsigned i = 0; p->memory && i < PIPELINE_BUFFERS; i++)
		p->spare[p->spare_count++] = p->memory + (size_t)i * WIRE_CHUNK_BYTES;
	int r = p->memory ? 0 : -ENOMEM;
	for (unsigned i = 0; r == 0 && i < options->connection_count; i++) {
		p->lane_count++;
		r = make_lane(p, i, options);
	}
	for (unsigned i = 0; r == 0 && i < p->lane_count; i++)
		r = start_lane(p, &p->lanes[i]);
	if (r < 0) {
		pipeline_free(p);
		return error_set(
			error, r, NULL, "the pipeline cannot be made: %s", strerrordesc_np(-r));
	}
	*ret_pipeline = p;
	return 0;
}

static void drop_task(const struct task *task)
{
	if (task->pass > 0)
		source_put_back(task->disk, task->offset, task->length);
	free(task->expected_pages);
}

static void free_lane(struct lane *lane)
{
	for (unsigned i = 0; i < lane->task_count; i++)
		drop_task(&lane->tasks[(lane->task_first + i) % QUEUE_TASKS]);
	for (unsigned i = 0; i < lane->load_count; i++) {
		struct load *load = lane->loads[(lane->load_first + i) % QUEUE_LOADS];
		drop_task(&load->task);
		free(load);
	}
	while (lane->flights) {
		struct flight *flight = lane->flights;
		lane->flights = flight->next;
		if (flight->last)
			drop_task(&flight->task);
		free(flight);
	}
	packer_free(lane->packer);
	pthread_cond_destroy(&lane->read_wake);
	pthread_cond_destroy(&lane->send_wake);
}

void pipeline_stop_locked(struct pipeline *p)
{
	p->stopping = true;
	pthread_cond_broadcast(&p->changed);
	pthread_cond_broadcast(&p->given);
	for (unsigned i = 0; i < p->lane_count; i++) {
		pthread_cond_broadcast(&p->lanes[i].read_wake);
		pthread_cond_broadcast(&p->lanes[i].send_wake);
	}
}

void pipeline_free(struct pipeline *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	pipeline_stop_locked(p);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->lane_count; i++) {
		if (p->lanes[i].reader_runs)
			pthread_join(p->lanes[i].reader, NULL);
		if (p->lanes[i].sender_runs)
			pthread_join(p->lanes[i].sender, NULL);
	}
	for (unsigned i = 0; i < p->lane_count; i++)
		free_lane(&p->lanes[i]);
	if (p->memory)
		(void)madvise(p->memory, (size_t)PIPELINE_BUFFERS * WIRE_CHUNK_BYTES, MADV_DOFORK);
	free(p->memory);
	pthread_cond_destroy(&p->changed);
	pthread_cond_destroy(&p->given);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void pipeline_fail(struct pipeline *p, const struct error *error)
{
	{
		SCOPED_LOCK(&p->lock);
		if (p->error.code == 0)
			p->error = *error;
		pipeline_stop_locked(p);
	}
	p->events.failed(p->events.context, error);
}

void pipeline_error(struct pipeline *p, struct error *ret_error)
{
	SCOPED_LOCK(&p->lock);
	*ret_error = p->error;
}

void pipeline_counts(struct pipeline *p, struct pipeline_counts *ret_counts)
{
	SCOPED_LOCK(&p->lock);
	*ret_counts = p->counts;
}

/* What is owed at a lower rate is forgiven: it would hold up what may go now. */
static void set_rate(struct token_bucket *bucket, uint64_t bytes_per_s)
{
	uint64_t before = bucket->per_second;
	if (bytes_per_s == before)
		return;
	if (before > 0 && (bytes_per_s == 0 || bytes_per_s > before))
		bucket->full_at_ns = clock_monotonic_ns(bucket->clock);
	token_bucket_set_rate(bucket, bytes_per_s, MIN(RATE_BURST_BYTES, MAX(bytes_per_s, 1ull)));
}

void pipeline_set_rates(struct pipeline *p, uint64_t read_bytes_per_s, uint64_t send_bytes_per_s)
{
	SCOPED_LOCK(&p->lock);
	set_rate(&p->read_bucket, read_bytes_per_s);
	set_rate(&p->send_bucket, send_bytes_per_s);
	p->rates_set++;
	pthread_cond_broadcast(&p->changed);
}

bool pipeline_is_paced(struct pipeline *p)
{
	SCOPED_LOCK(&p->lock);
	return p->read_bucket.per_second > 0 || p->send_bucket.per_second > 0;
}

void pipeline_hurry(struct pipeline *p, bool hurry)
{
	SCOPED_LOCK(&p->lock);
	p->hurry = hurry;
	p->rates_set++;
	pthread_cond_broadcast(&p->changed);
}

void pipeline_pace(struct pipeline *p, struct token_bucket *bucket, uint64_t bytes)
{
	SCOPED_LOCK(&p->lock);
	int64_t wait_ns = token_bucket_reserve(bucket, bytes);
	int64_t until = clock_monotonic_ns(clock_system()) + wait_ns;
	struct timespec at = { .tv_sec = until / NS_PER_S, .tv_nsec = (long)(until % NS_PER_S) };
	unsigned rates = p->rates_set;
	while (wait_ns > 0 && !p->stopping && !p->hurry && p->rates_set == rates)
		if (pthread_cond_timedwait(&p->changed, &p->lock, &at) == ETIMEDOUT)
			break;
}

void pipeline_pace_processor(struct pipeline *p)
{
	uint64_t used;
	{
		SCOPED_LOCK(&p->lock);
		if (p->cpu_bucket.per_second == 0)
			return;
		uint64_t now = processor_ns();
		used = now - MIN(p->cpu_ns, now);
		p->cpu_ns = now;
	}
	pipeline_pace(p, &p->cpu_bucket, used);
}

/* ── putting and waiting ─────────────────────────────────────────────────────────────────── */

static struct lane *lane_of(struct pipeline *p, const struct task *task)
{
	return &p->lanes[task->offset / SECTOR_BYTES / STRIPE_SECTORS % p->lane_count];
}

int pipeline_put(struct pipeline *p, const struct task *task)
{
	struct lane *lane = lane_of(p, task);
	SCOPED_LOCK(&p->lock);
	while (lane->task_count == QUEUE_TASKS && !p->stopping)
		pthread_cond_wait(&p->changed, &p->lock);
	if (p->stopping) {
		drop_task(task);
		return -EIO;
	}
	lane->tasks[(lane->task_first + lane->task_count++) % QUEUE_TASKS] = *task;
	pthread_cond_signal(&lane->read_wake);
	return 0;
}

bool pipeline_has_room(struct pipeline *p)
{
	SCOPED_LOCK(&p->lock);
	for (unsigned i = 0; i < p->lane_count; i++)
		if (p->lanes[i].task_count >= QUEUE_TASKS / 2)
			return false;
	return true;
}

static bool is_read(const struct lane *lane)
{
	return lane->task_count == 0 && !lane->reading;
}

static bool is_sent(const struct lane *lane)
{
	return is_read(lane) && lane->load_count == 0 && !lane->sending;
}

static bool is_arrived(const struct lane *lane)
{
	return is_sent(lane) && !lane->flights;
}

void pipeline_tell_idle_locked(struct lane *lane)
{
	if (is_read(lane))
		pthread_cond_broadcast(&lane->pipeline->changed);
}

static int wait_until(struct pipeline *p, bool (*is)(const struct lane *), int64_t patience_ns)
{
	int64_t until = clock_monotonic_ns(clock_system()) + patience_ns;
	struct timespec at = { .tv_sec = until / NS_PER_S, .tv_nsec = (long)(until % NS_PER_S) };
	SCOPED_LOCK(&p->lock);
	for (;;) {
		bool all = true;
		for (unsigned i = 0; i < p->lane_count; i++)
			all &= is(&p->lanes[i]);
		if (p->stopping)
			return -EIO;
		if (all)
			return 0;
		if (pthread_cond_timedwait(&p->changed, &p->lock, &at) == ETIMEDOUT)
			return -ETIMEDOUT;
	}
}

int pipeline_wait_read(struct pipeline *p, int64_t patience_ns)
{
	return wait_until(p, is_read, patience_ns);
}

int pipeline_wait_sent(struct pipeline *p, int64_t patience_ns)
{
	return wait_until(p, is_sent, patience_ns);
}

int pipeline_wait_arrived(struct pipeline *p, int64_t patience_ns)
{
	return wait_until(p, is_arrived, patience_ns);
}

void pipeline_last_sent(struct pipeline *p, uint64_t ret_sequences[static PIPELINE_CONNECTIONS_MAX])
{
	SCOPED_LOCK(&p->lock);
	for (unsigned i = 0; i < PIPELINE_CONNECTIONS_MAX; i++)
		ret_sequences[i] = i < p->lane_count ? p->lanes[i].last_sent : 0;
}

/* ── what has arrived ────────────────────────────────────────────────────────────────────── */

void pipeline_finish_task(struct pipeline *p, const struct task *task, enum task_end end)
{
	if (task->pass > 0 && end != TASK_DROPPED)
		source_settle(task->disk, task->pass, task->offset, task->length);
	else if (task->pass > 0)
		source_put_back(task->disk, task->offset, task->length);
	if (task->kind != TASK_SEND && end != TASK_DROPPED)
		p->events.compared(
			p->events.context, task->disk, task->offset, end == TASK_ARRIVED);
	free(task->expected_pages);
}

void pipeline_acknowledge(
	struct pipeline *p, unsigned index, uint64_t sequence, uint64_t window_bytes)
{
	struct flight *done = NULL, **done_end = &done;
	if (index >= p->lane_count)
		return;
	{
		struct lane *lane = &p->lanes[index];
		SCOPED_LOCK(&p->lock);
		lane->window = window_bytes;
		lane->acked = MAX(lane->acked, sequence);
		while (lane->flights && lane->flights->sequence <= sequence) {
			struct flight *flight = lane->flights;
			lane->flights = flight->next;
			lane->in_flight -= flight->bytes;
			flight->next = NULL;
			*done_end = flight;
			done_end = &flight->next;
		}
		if (!lane->flights)
			lane->flights_end = &lane->flights;
	}
	while (done) {
		struct flight *flight = done;
		done = flight->next;
		if (flight->last)
			pipeline_finish_task(p, &flight->task, TASK_ARRIVED);
		free(flight);
	}
	SCOPED_LOCK(&p->lock);
	pthread_cond_signal(&p->lanes[index].send_wake);
	/* After the marks are settled, so that who waits for arrivals finds them so. */
	pipeline_tell_idle_locked(&p->lanes[index]);
}
