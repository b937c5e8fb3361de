/*
 * systemd's notification protocol, without its library: the socket's name is a path, or, with a
 * leading '@', an abstract name. No state; a lost message is told to the caller only.
 */
#include "common/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"

int notify_send(const char *state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *name = getenv("NOTIFY_SOCKET");
	if (!name || !*name)
		return 0;
	size_t n = strlen(name);
	if ((name[0] != '/' && name[0] != '@') || n < 2)
		return -EAFNOSUPPORT;
	if (n >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, name, n);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	ssize_t sent = sendto(
		fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&address, length);
	return sent < 0 ? -errno : 0;
}

int64_t notify_watchdog_ns(void)
{
	const char *interval = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	char *end;
	if (!interval || !*interval)
		return 0;
	if (pid && *pid && strtoll(pid, NULL, 10) != getpid())
		return 0;
	long long us = strtoll(interval, &end, 10);
	return *end || us <= 0 || us > INT64_MAX / NS_PER_US ? 0 : us * NS_PER_US;
}
