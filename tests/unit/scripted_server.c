/*
 * See the header. Reads and writes are bounded by a socket time-out, so no test hangs on it.
 */
#include "tests/unit/scripted_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct scripted_server {
	int fd;
	uint16_t port;
	pthread_t thread;
	scripted_play *play;
	void *context;
};

static void *run(void *arg)
{
	struct scripted_server *server = arg;
	for (unsigned index = 0;; index++) {
		int fd = accept(server->fd, NULL, NULL);
		if (fd < 0)
			return NULL;
		struct timeval limit = { .tv_sec = 10 };
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		server->play(fd, index, server->context);
		close(fd);
	}
}

struct scripted_server *scripted_server_start(scripted_play *play, void *context)
{
	struct scripted_server *server = calloc(1, sizeof(*server));
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(address);
	if (!server)
		abort();
	server->play = play;
	server->context = context;
	server->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (server->fd < 0 || bind(server->fd, (struct sockaddr *)&address, n) < 0 ||
		listen(server->fd, 16) < 0 ||
		getsockname(server->fd, (struct sockaddr *)&address, &n) < 0)
		abort();
	server->port = ntohs(address.sin_port);
	if (pthread_create(&server->thread, NULL, run, server) != 0)
		abort();
	return server;
}

uint16_t scripted_server_port(const struct scripted_server *server)
{
	return server->port;
}

void scripted_server_stop(struct scripted_server *server)
{
	shutdown(server->fd, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->fd);
	free(server);
}

static ssize_t read_some(int fd, char *data, size_t n)
{
	return recv(fd, data, n, 0);
}

long scripted_read_request_body(int fd, char *head, size_t room, char *body, size_t body_room)
{
	size_t used = 0;
	head[0] = '\0';
	while (!strstr(head, "\r\n\r\n")) {
		/* Byte by byte, so that nothing of the body is taken. */
		if (used + 1 >= room || read_some(fd, head + used, 1) != 1)
			return -1;
		head[++used] = '\0';
	}
	const char *length = strcasestr(head, "\r\ncontent-length:");
	long total = length ? atol(length + 17) : 0;
	long left = total;
	char sink[65536];
	while (left > 0) {
		size_t want = (size_t)left < sizeof(sink) ? (size_t)left : sizeof(sink);
		ssize_t got = read_some(fd, sink, want);
		if (got <= 0)
			return -1;
		size_t at = (size_t)(total - left);
		for (ssize_t i = 0; i < got && at + (size_t)i < body_room; i++)
			body[at + (size_t)i] = sink[i];
		left -= got;
	}
	return total;
}

long scripted_read_request(int fd, char *head, size_t room)
{
	return scripted_read_request_body(fd, head, room, NULL, 0);
}

void scripted_write(int fd, const char *text)
{
	size_t n = strlen(text);
	while (n > 0) {
		ssize_t put = send(fd, text, n, MSG_NOSIGNAL);
		if (put <= 0)
			return;
		text += put;
		n -= (size_t)put;
	}
}

void scripted_reset(int fd)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}
