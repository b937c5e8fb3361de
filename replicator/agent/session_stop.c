/*
 * Stopping a session that is busy.
 *
 * The conductor looks for the wish to stop between two things that it does. Each of them may wait
 * for the appliance: to take what is sent while its journal is full, or to acknowledge. A thread
 * that does nothing else sees to it that the wish is heard all the same.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "replicator/agent/session_internal.h"

#define ORDERLY_MS 3000

static bool session_is_over(const struct session *s, int wait_ms)
{
	struct pollfd fd = { .fd = s->stopper_fd, .events = POLLIN };
	return poll(&fd, 1, wait_ms) > 0;
}

static void *stopper_main(void *argument)
{
	struct session *s = argument;
	struct pollfd fds[] = { { .fd = s->options->stop_fd, .events = POLLIN },
		{ .fd = s->stopper_fd, .events = POLLIN } };
	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[1].revents || session_is_over(s, ORDERLY_MS))
		return NULL;
	for (unsigned i = 0; i < s->connection_count; i++)
		connection_stop(s->connections[i]);
	return NULL;
}

int session_watch_stop(struct session *s)
{
	if (s->options->stop_fd < 0)
		return 0;
	s->stopper_fd = eventfd(0, EFD_CLOEXEC);
	if (s->stopper_fd < 0)
		return error_set(&s->error, -errno, NULL, "no eventfd to be had: %s",
			strerrordesc_np(errno));
	int r = -pthread_create(&s->stopper, NULL, stopper_main, s);
	s->stopper_runs = r == 0;
	return r < 0 ? error_set(&s->error, r, NULL, "no thread to be had") : 0;
}

void session_unwatch_stop(struct session *s)
{
	if (s->stopper_runs) {
		(void)eventfd_write(s->stopper_fd, 1);
		pthread_join(s->stopper, NULL);
	}
	cleanup_close(&s->stopper_fd);
}
