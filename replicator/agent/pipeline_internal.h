/*
 * The inside of the pipeline: pipeline.c (life, queues, what has arrived), pipeline_read.c
 * (readers), pipeline_send.c (senders).
 *
 * One lock for all queues and counts, never held while anything is read, hashed or sent. Each waits
 * for what concerns it: a cut has thousands of small tasks, and waking everybody for each of them
 * costs more than reading and sending it.
 */
#pragma once

#include <pthread.h>

#include "replicator/agent/pipeline.h"
#include "replicator/wire/pack.h"

#define QUEUE_TASKS 256u /* put and not read, of one connection */
#define QUEUE_LOADS 32u  /* read and not sent, of one connection */
#define MAX_PIECES 64u   /* runs of data and zeros in one chunk; 16 pages or a gap part data */

/* What was read for a task: a buffer and what of it is to be sent. */
struct load {
	struct task task;
	uint8_t *buffer; /* NULL if there is nothing to send */
	unsigned piece_count;
	struct piece {
		uint32_t page, pages; /* within the buffer */
		bool zero;
	} pieces[MAX_PIECES];
	uint64_t hashes[WIRE_CHUNK_PAGES];
};

/* A frame that was sent and not acknowledged. */
struct flight {
	struct flight *next;
	uint64_t sequence;
	uint64_t bytes; /* of the window */
	bool last;      /* of its task */
	struct task task;
};

struct lane {
	struct pipeline *pipeline;
	unsigned index;
	struct connection *connection;
	pthread_t reader, sender;
	bool reader_runs, sender_runs;
	pthread_cond_t read_wake, send_wake; /* for these two: something to do, or room for it */
	struct task tasks[QUEUE_TASKS];
	unsigned task_first, task_count;
	bool reading; /* a task is at the reader */
	struct load *loads[QUEUE_LOADS];
	unsigned load_first, load_count;
	bool sending;
	struct flight *flights, **flights_end;
	uint64_t in_flight, window;
	uint64_t last_sent, acked;
	struct packer *packer;
};

struct pipeline {
	struct pipeline_events events;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* for the conductor, and who is paced */
	pthread_cond_t given;   /* for readers: a buffer */
	bool stopping;
	struct error error;
	unsigned lane_count;
	struct lane lanes[PIPELINE_CONNECTIONS_MAX];
	uint8_t *memory;
	uint8_t *spare[PIPELINE_BUFFERS];
	unsigned spare_count;
	struct token_bucket read_bucket, send_bucket;
	struct token_bucket cpu_bucket; /* in nanoseconds of processor time */
	uint64_t cpu_ns;                /* that the process had taken when it was looked at last */
	bool hurry;
	unsigned rates_set; /* how often */
	struct pipeline_counts counts;
	bool zstd;
};

/* Ends everybody's waiting. Under the lock. */
void pipeline_stop_locked(struct pipeline *pipeline);
/* Tells the conductor if the lane has nothing left to read; it looks for itself what else it waits
 * for. Under the lock. */
void pipeline_tell_idle_locked(struct lane *lane);
/* Waits as long as the bucket says. Without the lock. */
void pipeline_pace(struct pipeline *pipeline, struct token_bucket *bucket, uint64_t bytes);
/* Waits as long as the process has taken more of the processor than it may. Without the lock. */
void pipeline_pace_processor(struct pipeline *pipeline);
enum task_end {
	TASK_DROPPED, /* nothing came of it */
	TASK_EQUAL,   /* there was nothing to send */
	TASK_ARRIVED,
};
/* The task is through. Without the lock. */
void pipeline_finish_task(struct pipeline *pipeline, const struct task *task, enum task_end end);
void *pipeline_reader_main(void *lane);
void *pipeline_sender_main(void *lane);
