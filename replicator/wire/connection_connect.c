/*
 * The agent's way in: a name, its addresses in turn, the handshake; one deadline for all of it.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "replicator/wire/connection_internal.h"

#define HOST_BYTES 256

/* "HOST:PORT", "[v6]:PORT". */
static int split(const char *address, char host[static HOST_BYTES], const char **ret_port)
{
	const char *colon = strrchr(address, ':');
	if (!colon || colon == address || colon[1] == '\0')
		return -EINVAL;
	size_t n = (size_t)(colon - address);
	if (address[0] == '[') {
		if (n < 3 || address[n - 1] != ']')
			return -EINVAL;
		address++;
		n -= 2;
	} else if (memchr(address, ':', n)) {
		return -EINVAL;
	}
	if (n >= HOST_BYTES)
		return -EINVAL;
	memcpy(host, address, n);
	host[n] = '\0';
	*ret_port = colon + 1;
	return 0;
}

static int look_up(const char *address, struct error *error, struct addrinfo **ret_list)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	const struct addrinfo numeric = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST };
	char host[HOST_BYTES];
	const char *port;
	if (split(address, host, &port) < 0)
		return error_set(error, -EINVAL, "give HOST:PORT, e.g. appliance.example:9443",
			"\"%.200s\" is no address", address);
	/* Numbers need no network to be understood. */
	int r = getaddrinfo(host, port, &numeric, ret_list);
	if (r != 0)
		r = getaddrinfo(host, port, &hints, ret_list);
	if (r != 0)
		return error_set(error, -EHOSTUNREACH, "check the name and the resolver",
			"%s cannot be found: %s", host, gai_strerror(r));
	return 0;
}

/* Waits for a connect under way. */
static int wait_connected(int fd, int stop_fd, int64_t deadline_ns)
{
	for (;;) {
		struct pollfd polls[2] = {
			{ .fd = fd, .events = POLLOUT },
			{ .fd = stop_fd, .events = POLLIN },
		};
		int64_t left = deadline_ns - connection_now_ns();
		if (left <= 0)
			return -ETIMEDOUT;
		int n = poll(polls, stop_fd >= 0 ? 2 : 1, (int)(left / NS_PER_MS + 1));
		if (n > 0 && polls[1].revents)
			return -ECANCELED;
		if (n > 0)
			break;
	}
	int code = 0;
	socklen_t size = sizeof(code);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0)
		return -errno;
	return -code;
}

static int connect_one(const struct addrinfo *at, int stop_fd, int64_t deadline_ns, int *ret_fd)
{
	CLEANUP_CLOSE int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int r = connect(fd, at->ai_addr, at->ai_addrlen) < 0 ? -errno : 0;
	if (r == -EINPROGRESS)
		r = wait_connected(fd, stop_fd, deadline_ns);
	if (r < 0)
		return r;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

/* Each address gets its share of the time that is left. */
static int connect_any(
	const char *address, int stop_fd, int64_t deadline_ns, struct error *error, int *ret_fd)
{
	struct addrinfo *list;
	int r = look_up(address, error, &list);
	if (r < 0)
		return r;
	unsigned count = 0;
	for (const struct addrinfo *at = list; at; at = at->ai_next)
		count++;
	r = -EHOSTUNREACH;
	for (const struct addrinfo *at = list; at && r < 0 && r != -ECANCELED; at = at->ai_next) {
		int64_t now = connection_now_ns();
		r = connect_one(at, stop_fd, now + (deadline_ns - now) / count--, ret_fd);
	}
	freeaddrinfo(list);
	if (r < 0)
		return error_set(error, r,
			"see that landfalld runs there and that its port can be reached",
			"%s cannot be reached: %s", address, strerrordesc_np(-r));
	return 0;
}

int connection_connect(struct tls_context *context, const char *address, int timeout_ms,
	int stop_fd, struct error *error, struct connection **ret_connection)
{
	int64_t deadline_ns = connection_now_ns() + timeout_ms * NS_PER_MS;
	CLEANUP_CLOSE int fd = -1;
	struct connection *connection;
	int r = connect_any(address, stop_fd, deadline_ns, error, &fd);
	if (r == 0)
		r = connection_new(context, fd, error, &connection);
	if (r < 0)
		return r;
	fd = -1; /* the connection's now */
	connection->stop_fd = stop_fd;
	int64_t left = MAX(deadline_ns - connection_now_ns(), NS_PER_MS);
	r = connection_handshake(connection, (int)(left / NS_PER_MS), error);
	connection->stop_fd = -1;
	if (r < 0) {
		connection_free(connection);
		if (r != -ECANCELED && error && !error->mend[0])
			snprintf(error->mend, sizeof(error->mend),
				"see that %.100s is the appliance's port for agents ([appliance] "
				"listen there, 9443 if not told otherwise)",
				address);
		return r;
	}
	*ret_connection = connection;
	return 0;
}
