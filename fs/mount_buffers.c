/*
 * Buffers for answers: MOUNT_IO_BYTES each, two of them in one huge page.
 *
 * The kernel takes an answer page by page, and looks each up; in a huge page that costs a third. So
 * large answers are a good deal faster from one. The buffer given back last is handed out first:
 * it is the one that the processor's cache still has. A few are kept, the rest of the memory goes
 * back to the system.
 *
 * Lock: buffers.lock, taken alone.
 */
#include "fs/mount_internal.h"

#include <sys/mman.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define CHUNK_BYTES (2 * MIB)
#define CHUNK_BUFFERS (CHUNK_BYTES / MOUNT_IO_BYTES)
#define KEPT_CHUNKS 2u

struct buffer_chunk {
	struct buffer_chunk *next; /* of those with a free buffer, the last used first */
	uint8_t *memory;
	unsigned free_count;
	void *free[CHUNK_BUFFERS];
};

/* Memory that begins at a multiple of its size, which the kernel may make one huge page. */
static uint8_t *map_chunk(void)
{
	uint8_t *p = mmap(NULL, 2 * CHUNK_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	uint8_t *aligned = p + (round_up((uintptr_t)p, CHUNK_BYTES) - (uintptr_t)p);
	if (aligned > p)
		munmap(p, (size_t)(aligned - p));
	if (aligned < p + CHUNK_BYTES)
		munmap(aligned + CHUNK_BYTES, (size_t)(p + CHUNK_BYTES - aligned));
	(void)madvise(aligned, CHUNK_BYTES, MADV_HUGEPAGE); /* no more than faster */
	return aligned;
}

static struct buffer_chunk *new_chunk(void)
{
	struct buffer_chunk *chunk = calloc(1, sizeof(*chunk));
	uint8_t *memory = chunk ? map_chunk() : NULL;
	if (!memory) {
		free(chunk);
		return NULL;
	}
	chunk->memory = memory;
	chunk->free_count = CHUNK_BUFFERS;
	for (unsigned i = 0; i < CHUNK_BUFFERS; i++)
		chunk->free[i] = memory + (size_t)i * MOUNT_IO_BYTES;
	return chunk;
}

static void free_chunk(struct buffer_chunk *chunk)
{
	munmap(chunk->memory, CHUNK_BYTES);
	free(chunk);
}

void *buffer_take(struct buffers *buffers, struct buffer_chunk **ret_chunk)
{
	SCOPED_LOCK(&buffers->lock);
	struct buffer_chunk *chunk = buffers->first;
	if (!chunk) {
		chunk = new_chunk();
		if (!chunk)
			return NULL;
		buffers->first = chunk;
		buffers->unused++;
	}
	buffers->unused -= chunk->free_count == CHUNK_BUFFERS;
	void *buffer = chunk->free[--chunk->free_count];
	if (chunk->free_count == 0)
		buffers->first = chunk->next;
	*ret_chunk = chunk;
	return buffer;
}

static void unlink_locked(struct buffers *buffers, const struct buffer_chunk *chunk)
{
	struct buffer_chunk **link = &buffers->first;
	while (*link != chunk)
		link = &(*link)->next;
	*link = chunk->next;
}

/* True if the chunk is not needed any more, and the caller's to free. */
static bool put_locked(struct buffers *buffers, struct buffer_chunk *chunk, void *buffer)
{
	if (chunk->free_count == 0) {
		chunk->next = buffers->first;
		buffers->first = chunk;
	}
	chunk->free[chunk->free_count++] = buffer;
	if (chunk->free_count < CHUNK_BUFFERS)
		return false;
	if (buffers->unused < KEPT_CHUNKS) {
		buffers->unused++;
		return false;
	}
	unlink_locked(buffers, chunk);
	return true;
}

void buffer_put(struct buffers *buffers, struct buffer_chunk *chunk, void *buffer)
{
	pthread_mutex_lock(&buffers->lock);
	bool last = put_locked(buffers, chunk, buffer);
	pthread_mutex_unlock(&buffers->lock);
	if (last)
		free_chunk(chunk);
}

void buffers_free(struct buffers *buffers)
{
	while (buffers->first) {
		struct buffer_chunk *chunk = buffers->first;
		buffers->first = chunk->next;
		free_chunk(chunk);
	}
	pthread_mutex_destroy(&buffers->lock);
}
