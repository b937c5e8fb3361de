/*
 * The process and its end.
 *
 * A thread of its own starts the process and waits for it, as long as it lives: the kernel ends the
 * process when that thread ends (PR_SET_PDEATHSIG), so that it never outlives a killed daemon.
 * `lock` guards what that thread tells; the socket belongs to who calls.
 */
#include "appliance/qemu.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "appliance/qemu_monitor.h"
#include "appliance/qemu_words.h"
#include "common/buf.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/io.h"

#define WORDS_MAX_BYTES (1u << 20)

struct qemu {
	struct qemu_words words;
	char *log; /* what it says itself */
	struct qemu_monitor *monitor;
	int inherited; /* its end of the sockets */
	unsigned port;
	int64_t started_ns;
	pthread_t keeper;
	bool kept;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	pid_t pid; /* 0: not started, or ended */
	bool started, ended;
	int exec_error;
};

/* ── the process ─────────────────────────────────────────────────────────────────────────── */

/* In the child: nothing but what a signal handler may call. */
__attribute__((noreturn)) static void become(
	const struct qemu *qemu, pid_t parent, int log_fd, int null_fd, int told_fd)
{
	sigset_t none;
	sigemptyset(&none);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	/* A descriptor that has the right number already would keep its close-on-exec. */
	if (dup2(null_fd, 0) == 0 && dup2(log_fd, 1) == 1 && dup2(log_fd, 2) == 2 &&
		dup2(qemu->inherited, QEMU_MONITOR_FD) == QEMU_MONITOR_FD &&
		fcntl(QEMU_MONITOR_FD, F_SETFD, 0) == 0)
		execvp(qemu->words.list[0], qemu->words.list);
	int error = errno;
	(void)!write(told_fd, &error, sizeof(error));
	_exit(127);
}

/* 0 with its pid, or why it cannot be run. */
static int spawn(const struct qemu *qemu, pid_t *ret_pid)
{
	CLEANUP_CLOSE int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CLEANUP_CLOSE int log_fd =
		open(qemu->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int told[2], error = 0;
	if (null_fd < 0 || log_fd < 0 || pipe2(told, O_CLOEXEC) < 0)
		return -errno;
	pid_t parent = getpid(), pid = fork();
	if (pid == 0)
		become(qemu, parent, log_fd, null_fd, told[1]);
	int r = pid < 0 ? -errno : 0;
	close(told[1]);
	ssize_t n;
	do
		n = read(told[0], &error, sizeof(error));
	while (n < 0 && errno == EINTR);
	close(told[0]);
	if (r == 0 && n == sizeof(error)) {
		(void)waitpid(pid, NULL, 0);
		r = -error;
	}
	if (r == 0)
		*ret_pid = pid;
	return r;
}

static void *keep(void *context)
{
	struct qemu *qemu = context;
	pid_t pid = 0;
	int r = spawn(qemu, &pid);
	pthread_mutex_lock(&qemu->lock);
	qemu->exec_error = r;
	qemu->pid = pid;
	qemu->started = true;
	qemu->ended = r < 0;
	pthread_cond_broadcast(&qemu->changed);
	pthread_mutex_unlock(&qemu->lock);
	if (r < 0)
		return NULL;
	siginfo_t info;
	/* Waited for without reaping it first, so that nobody signals a pid that is another's. */
	while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
		;
	SCOPED_LOCK(&qemu->lock);
	(void)waitpid(pid, NULL, 0);
	qemu->pid = 0;
	qemu->ended = true;
	pthread_cond_broadcast(&qemu->changed);
	return NULL;
}

static int wait_started(struct qemu *qemu)
{
	SCOPED_LOCK(&qemu->lock);
	while (!qemu->started)
		pthread_cond_wait(&qemu->changed, &qemu->lock);
	return qemu->exec_error;
}

/* ── what it is given ────────────────────────────────────────────────────────────────────── */

/* A port of loopback that nobody has now. QEMU fails to start if somebody takes it before. */
static int find_port(unsigned *ret_port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(address);
	CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, n) < 0 ||
		getsockname(fd, (struct sockaddr *)&address, &n) < 0)
		return -errno;
	*ret_port = ntohs(address.sin_port);
	return 0;
}

static int open_sockets(struct qemu *qemu)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	qemu->inherited = pair[1];
	int r = qemu_monitor_new(pair[0], &qemu->monitor);
	if (r < 0)
		close(pair[0]);
	return r;
}

/* The last line that QEMU said. */
static void last_words(const struct qemu *qemu, char *text, size_t size)
{
	CLEANUP_FREE char *all = NULL;
	size_t n = 0;
	text[0] = '\0';
	if (io_load_file(io_posix(), qemu->log, WORDS_MAX_BYTES, &all, &n) < 0)
		return;
	while (n > 0 && strchr("\r\n", all[n - 1]))
		all[--n] = '\0';
	const char *line = n > 0 ? strrchr(all, '\n') : NULL;
	snprintf(text, size, "%s", line ? line + 1 : n > 0 ? all : "");
}

static int explain(const struct qemu *qemu, int r, struct error *error)
{
	char words[200];
	if (r == -ENOENT && qemu->exec_error == -ENOENT)
		return error_set(error, r, "install qemu-system-x86, or set [local] qemu",
			"there is no %s", qemu->words.list[0]);
	last_words(qemu, words, sizeof(words));
	return error_set(error, r, "see [local] in landfall.conf(5)",
		"QEMU did not start the machine: %s", words[0] ? words : strerrordesc_np(-r));
}

static int prepare(struct qemu *qemu, const struct local_settings *settings,
	const struct target_order *order, unsigned forward_port, struct error *error)
{
	int r = asprintf(&qemu->log, "%s/%s", order->directory, QEMU_WORDS) < 0 ? -ENOMEM : 0;
	if (r == 0 && forward_port > 0)
		r = find_port(&qemu->port);
	if (r == 0)
		r = open_sockets(qemu);
	if (r < 0)
		return error_set(
			error, r, NULL, "the machine cannot be prepared: %s", strerrordesc_np(-r));
	return qemu_words_fill(&qemu->words, settings, order, qemu->port, forward_port, error);
}

int qemu_new(const struct local_settings *settings, const struct target_order *order,
	unsigned forward_port, struct error *error, struct qemu **ret_qemu)
{
	struct qemu *qemu = calloc(1, sizeof(*qemu));
	if (!qemu)
		return error_set(error, -ENOMEM, NULL, "no memory");
	qemu->inherited = -1;
	pthread_mutex_init(&qemu->lock, NULL);
	pthread_cond_init(&qemu->changed, NULL);
	int r = prepare(qemu, settings, order, forward_port, error);
	if (r < 0) {
		qemu_free(qemu);
		return r;
	}
	qemu->started_ns = clock_monotonic_ns(clock_system());
	r = -pthread_create(&qemu->keeper, NULL, keep, qemu);
	qemu->kept = r == 0;
	if (r == 0)
		r = wait_started(qemu);
	cleanup_close(&qemu->inherited);
	qemu->inherited = -1;
	if (r == 0)
		r = qemu_monitor_greet(qemu->monitor);
	if (r < 0) {
		explain(qemu, r, error);
		qemu_free(qemu);
		return r;
	}
	*ret_qemu = qemu;
	return 0;
}

void qemu_free(struct qemu *qemu)
{
	if (!qemu)
		return;
	if (qemu->kept) {
		pthread_mutex_lock(&qemu->lock);
		if (qemu->pid > 0)
			(void)kill(qemu->pid, SIGKILL);
		pthread_mutex_unlock(&qemu->lock);
		pthread_join(qemu->keeper, NULL);
	}
	cleanup_close(&qemu->inherited);
	qemu_monitor_free(qemu->monitor);
	qemu_words_free(&qemu->words);
	pthread_cond_destroy(&qemu->changed);
	pthread_mutex_destroy(&qemu->lock);
	free(qemu->log);
	free(qemu);
}

bool qemu_runs(struct qemu *qemu)
{
	SCOPED_LOCK(&qemu->lock);
	return qemu->started && !qemu->ended;
}

unsigned qemu_port(const struct qemu *qemu)
{
	return qemu->port;
}

int64_t qemu_started_ns(const struct qemu *qemu)
{
	return qemu->started_ns;
}

int qemu_screenshot(struct qemu *qemu, const char *path, struct error *error)
{
	return qemu_monitor_screendump(qemu->monitor, path, error);
}
