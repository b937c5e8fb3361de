/*
 * The watchdog of freezing: a process of its own that thaws when the time is over or the agent is
 * gone, whatever state the agent is in.
 *
 * It is forked while the agent is small (or in place of one that was killed), locked in memory, and
 * makes nothing but system calls: no allocation, no locks. It learns the filesystems' descriptors
 * over a socket before anything is frozen, and their states from the shared page (freeze_internal.h
 * tells what these go through).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "replicator/agent/freeze_internal.h"

#define RETRY_MS 20
#define ANSWER_S 10

/* The shadow memory of sanitizers cannot be locked whole. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCK_SMALL (MCL_CURRENT | MCL_ONFAULT)
#else
#define LOCK_SMALL MCL_CURRENT
#endif

/* ── the watchdog ────────────────────────────────────────────────────────────────────────── */

struct message {
	uint32_t count; /* descriptors that follow, for the filesystems from `first` on */
	uint32_t first;
};

#define FDS_A_MESSAGE 32

struct ward {
	struct freeze_shared *shared;
	int socket;
	int fds[FREEZER_FILESYSTEMS_MAX];
};

static bool thaw_all(struct ward *w)
{
	bool left = false;
	for (int state = FROZEN; state >= FREEZING; state--) {
		for (unsigned i = FREEZER_FILESYSTEMS_MAX; i-- > 0;) {
			if (atomic_load(&w->shared->states[i]) != state || w->fds[i] < 0)
				continue;
			ioctl(w->fds[i], FITHAW, 0);
			left |= state == FREEZING;
		}
	}
	return left;
}

/* Takes descriptors and answers with one byte. False at the end of the agent. */
static bool take_descriptors(struct ward *w)
{
	struct message message = { 0 };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * FDS_A_MESSAGE)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { &message, sizeof(message) };
	struct msghdr header = { .msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control) };
	int fds[FDS_A_MESSAGE];

	ssize_t n = recvmsg(w->socket, &header, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n != sizeof(message))
		return false;
	if (message.first == 0) {
		for (unsigned i = 0; i < FREEZER_FILESYSTEMS_MAX; i++) {
			if (w->fds[i] >= 0)
				close(w->fds[i]);
			w->fds[i] = -1;
		}
	}
	const struct cmsghdr *c = CMSG_FIRSTHDR(&header);
	if (c && c->cmsg_type == SCM_RIGHTS) {
		size_t got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), got * sizeof(int));
		for (size_t i = 0; i < got; i++) {
			if (message.first + i < FREEZER_FILESYSTEMS_MAX)
				w->fds[message.first + i] = fds[i];
			else
				close(fds[i]);
		}
	}
	return write(w->socket, "", 1) == 1;
}

static _Noreturn void watch(struct freeze_shared *shared, int socket)
{
	struct ward w = { .shared = shared, .socket = socket };
	memset(w.fds, -1, sizeof(w.fds));
	for (;;) {
		int64_t deadline = atomic_load(&shared->deadline_ns),
			left = deadline - freeze_now_ns();
		int wait_ms = deadline == 0 ? -1 : (int)MAX(MIN(left / 1000000 + 1, 60000ll), 0ll);
		struct pollfd p = { .fd = socket, .events = POLLIN };
		int n = poll(&p, 1, wait_ms);
		if (n > 0 && !take_descriptors(&w))
			break;
		deadline = atomic_load(&shared->deadline_ns);
		if (deadline != 0 && freeze_now_ns() >= deadline) {
			atomic_store(&shared->expired, true);
			if (!thaw_all(&w))
				atomic_compare_exchange_strong(&shared->deadline_ns, &deadline, 0);
			poll(NULL, 0, RETRY_MS);
		}
	}
	/* The agent is gone, and with it whatever was freezing has either happened or not. */
	thaw_all(&w);
	_exit(0);
}

/* What the child keeps of the agent's descriptors: its end of the socket. */
static void close_others(int keep)
{
#ifdef SYS_close_range
	if ((keep == 0 || syscall(SYS_close_range, 0u, (unsigned)keep - 1, 0u) == 0) &&
		syscall(SYS_close_range, (unsigned)keep + 1, ~0u, 0u) == 0)
		return;
#endif
	struct rlimit limit = { 1024, 1024 };
	getrlimit(RLIMIT_NOFILE, &limit);
	for (int fd = 0; fd < (int)MIN(limit.rlim_cur, (rlim_t)65536); fd++) {
		if (fd != keep)
			close(fd);
	}
}

/* The kernel is not to choose it when memory is short: who is frozen cannot give any back. */
static void spare_from_oom(void)
{
	static const char least[] = "-1000";
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t written = write(fd, least, sizeof(least) - 1);
	(void)written; /* not permitted: it is as likely to be chosen as the agent */
	close(fd);
}

static _Noreturn void child(struct freeze_shared *shared, bool small, int socket)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	close_others(socket);
	/* A session of its own: a signal to the agent's group must not reach it. */
	setsid();
	prctl(PR_SET_NAME, "landfall-thaw");
	spare_from_oom();
	/* A frozen root cannot page anything in: all is locked in memory now. */
	if (mlockall(small ? LOCK_SMALL : MCL_CURRENT | MCL_ONFAULT) < 0 ||
		write(socket, "", 1) != 1)
		_exit(1);
	watch(shared, socket);
}

/* ── the agent's side ────────────────────────────────────────────────────────────────────── */

static int await_answer(int socket)
{
	char byte;
	ssize_t n;
	do
		n = read(socket, &byte, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? 0 : n == 0 ? -EPIPE : -errno;
}

int watchdog_start(struct freeze_shared *shared, bool small, pid_t *ret_pid, int *ret_socket)
{
	const struct timeval patience = { .tv_sec = ANSWER_S };
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0)
		child(shared, small, pair[1]);
	int r = pid < 0 ? -errno : 0;
	close(pair[1]);
	if (r == 0 && setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		r = -errno;
	if (r == 0)
		r = await_answer(pair[0]);
	if (r == 0) {
		*ret_pid = pid;
		*ret_socket = pair[0];
		return 0;
	}
	if (pid > 0)
		watchdog_kill(pid, pair[0]);
	else
		close(pair[0]);
	return r;
}

void watchdog_kill(pid_t pid, int socket)
{
	pid_t got;
	(void)kill(pid, SIGKILL);
	do
		got = waitpid(pid, NULL, 0);
	while (got < 0 && errno == EINTR);
	close(socket);
}

int watchdog_wake(int socket)
{
	const struct message message = { .count = 0, .first = 1 }; /* leaves all as they are */
	if (send(socket, &message, sizeof(message), MSG_NOSIGNAL) < 0)
		return -errno;
	return await_answer(socket);
}

int watchdog_give(int socket, const int *fds, size_t count)
{
	for (size_t first = 0; first == 0 || first < count; first += FDS_A_MESSAGE) {
		size_t n = MIN(count - first, (size_t)FDS_A_MESSAGE);
		struct message message = { .count = (uint32_t)n, .first = (uint32_t)first };
		union {
			char bytes[CMSG_SPACE(sizeof(int) * FDS_A_MESSAGE)];
			struct cmsghdr align;
		} control = { 0 };
		struct iovec iov = { &message, sizeof(message) };
		struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
		if (n > 0) {
			header.msg_control = &control;
			header.msg_controllen = CMSG_SPACE(sizeof(int) * n);
			struct cmsghdr *c = CMSG_FIRSTHDR(&header);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int) * n);
			memcpy(CMSG_DATA(c), fds + first, sizeof(int) * n);
		}
		if (sendmsg(socket, &header, MSG_NOSIGNAL) < 0)
			return -errno;
		int r = await_answer(socket);
		if (r < 0)
			return r;
	}
	return 0;
}
