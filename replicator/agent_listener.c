/*
 * See agent_listener.h.
 *
 * A connection is a guest in a list from its acceptance on, so that it can be stopped at any
 * moment. It counts as pending until its certificate has been found good. A revocation that comes
 * while a guest is on its way in is not missed: the guest is marked known first and its
 * certificate checked after, the revocation is noted first and the known guests checked after.
 *
 * One lock, for the list and the counts; calls of `check` and connection_stop, which wait for
 * nothing, are made under it.
 */
#include "replicator/agent_listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#define HOST_BYTES 256
#define BACKLOG 128
#define FINISH_MS 2000
#define OUT_OF_FILES_MS 200
#define THREAD_STACK_BYTES (1u << 20)
/* Strangers must not fill the log. */
#define LOG_LINES_A_MINUTE 20

struct guest {
	struct guest *next;
	struct agent_listener *listener;
	struct connection *connection;
	uint8_t address[16]; /* IPv6, v4-mapped; the /64 of an IPv6 address */
	bool pending, known;
	bool dismissed; /* told to go, to make room */
};

struct agent_listener {
	struct tls_context *tls;
	tls_check *check;
	void *check_context;
	int (*enroll)(void *context, struct connection *connection, const struct json *message,
		struct error *error);
	int (*renew)(void *context, struct connection *connection, const struct json *message,
		struct error *error);
	void *context;
	struct agent_sessions *sessions;
	int fd, stop_fd;
	uint16_t port;
	pthread_t thread;
	bool thread_runs;

	pthread_mutex_t lock;
	pthread_cond_t left; /* a guest */
	struct guest *guests;
	unsigned count, pending;
	bool stopping;
	int64_t log_minute;
	unsigned log_lines;
	uint64_t log_dropped;
};

/* ── telling ─────────────────────────────────────────────────────────────────────────────── */

/* What strangers do is worth a line, but not as many as they like. */
static void log_stranger(struct agent_listener *listener, const struct guest *guest,
	const char *what, const char *text)
{
	int64_t minute = clock_monotonic_ns(clock_system()) / (60 * NS_PER_S);
	uint64_t dropped = 0;
	pthread_mutex_lock(&listener->lock);
	if (minute != listener->log_minute) {
		listener->log_minute = minute;
		listener->log_lines = 0;
		dropped = listener->log_dropped;
		listener->log_dropped = 0;
	}
	bool tell = listener->log_lines++ < LOG_LINES_A_MINUTE;
	listener->log_dropped += !tell;
	pthread_mutex_unlock(&listener->lock);
	if (dropped > 0)
		log_warning("agents' port: %llu more connections were refused without a line each",
			(unsigned long long)dropped);
	if (tell)
		log_warning("agents' port: %s: %s%s", connection_address(guest->connection), what,
			text);
}

/* ── guests ──────────────────────────────────────────────────────────────────────────────── */

static void end_guest(struct guest *guest)
{
	struct agent_listener *listener = guest->listener;
	pthread_mutex_lock(&listener->lock);
	for (struct guest **at = &listener->guests; *at; at = &(*at)->next)
		if (*at == guest) {
			*at = guest->next;
			break;
		}
	listener->pending -= guest->pending;
	pthread_mutex_unlock(&listener->lock);
	connection_free(guest->connection);
	free(guest);
	pthread_mutex_lock(&listener->lock);
	listener->count--;
	pthread_cond_broadcast(&listener->left);
	pthread_mutex_unlock(&listener->lock);
}

/* It has proven who it is. One machine's connections must not keep the others' out. */
static int welcome_known(struct guest *guest, struct error *error)
{
	struct agent_listener *listener = guest->listener;
	const struct tls_peer *peer = connection_peer(guest->connection);
	if (!peer->known)
		return 0;
	pthread_mutex_lock(&listener->lock);
	unsigned same = 0;
	for (const struct guest *at = listener->guests; at; at = at->next)
		same += at->known &&
			strcmp(connection_peer(at->connection)->machine, peer->machine) == 0;
	guest->known = true;
	listener->pending -= guest->pending;
	guest->pending = false;
	pthread_mutex_unlock(&listener->lock);
	if (same >= AGENT_LISTENER_MACHINE)
		return error_set(error, -EMFILE, NULL, "%s: too many connections of machine %s",
			connection_address(guest->connection), peer->machine);
	int r = listener->check(listener->check_context, peer);
	return r < 0 ? error_set(error, r, NULL, "%s: its certificate is no longer good",
			       connection_address(guest->connection))
		     : 0;
}

static int check_name(struct guest *guest, const struct json *message)
{
	const struct tls_peer *peer = connection_peer(guest->connection);
	const char *machine = peer->machine;
	if (json_find_text(message, "machine", &machine, NULL) < 0 ||
		strcmp(machine, peer->machine) != 0) {
		log_stranger(guest->listener, guest, peer->machine, " says it is another machine");
		(void)connection_send_error(guest->connection, "machine",
			"the certificate is another machine's", "enrol this machine by its name");
		return -EPERM;
	}
	return 0;
}

static void serve(struct guest *guest, const char *type, const struct json *message)
{
	struct agent_sessions *sessions = guest->listener->sessions;
	if (check_name(guest, message) < 0)
		return;
	if (!sessions) {
		(void)connection_send_error(guest->connection, "unavailable",
			"this appliance does not take in agents' data", "ask its operator");
		return;
	}
	sessions->ops->serve(sessions, guest->connection, type, message);
}

/* What it said first decides whose it is. */
static void attend(struct guest *guest, const char *type, const struct json *message)
{
	struct agent_listener *listener = guest->listener;
	bool known = connection_peer(guest->connection)->known;
	struct error error = { 0 };
	if (strcmp(type, "enroll") == 0 && !known) {
		if (listener->enroll(listener->context, guest->connection, message, &error) < 0)
			log_stranger(listener, guest, "an enrolment is refused: ", error.message);
	} else if (strcmp(type, "renew") == 0 && known) {
		if (listener->renew(listener->context, guest->connection, message, &error) < 0)
			log_stranger(listener, guest, "a renewal is refused: ", error.message);
	} else if ((strcmp(type, "hello") == 0 || strcmp(type, "join") == 0) && known) {
		serve(guest, type, message);
	} else {
		log_stranger(listener, guest, "",
			known ? "an unknown first word" : "a first word that needs a certificate");
		(void)connection_send_error(guest->connection, known ? "unknown" : "certificate",
			known ? "this cannot be said first" : "only enrolled machines may say this",
			known ? NULL : "run landfall-agent enroll");
	}
}

static void *run_guest(void *context)
{
	struct guest *guest = context;
	struct error error = { 0 };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	const char *type;
	struct json message;
	int r = connection_handshake(guest->connection, AGENT_LISTENER_HANDSHAKE_MS, &error);
	if (r == 0)
		r = welcome_known(guest, &error);
	if (r == 0)
		r = connection_receive_control(
			guest->connection, AGENT_LISTENER_FIRST_WORD_MS, &json, &type, &error);
	if (r == 0) {
		json_root(json, "message", &message);
		attend(guest, type, &message);
		connection_finish(guest->connection, FINISH_MS);
	} else if (r != -ECANCELED) {
		/* Its words begin with the address already. */
		size_t n = strlen(connection_address(guest->connection));
		bool told = strncmp(error.message, connection_address(guest->connection), n) == 0;
		log_stranger(guest->listener, guest, "",
			told ? error.message + n + strlen(": ") : error.message);
	}
	json_freep(&json);
	json = NULL;
	end_guest(guest);
	return NULL;
}

/* ── accepting ───────────────────────────────────────────────────────────────────────────── */

static void address_of(const struct sockaddr_storage *from, uint8_t ret_address[static 16])
{
	memset(ret_address, 0, 16);
	if (from->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)from;
		bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
		memcpy(ret_address, &in6->sin6_addr, mapped ? 16 : 8);
	} else if (from->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)from;
		ret_address[10] = ret_address[11] = 0xff;
		memcpy(ret_address + 12, &in->sin_addr, 4);
	}
}

/* Whoever has been a stranger the longest makes room: a handful of silent ones must not keep those
 * who do speak outside. Under lock. */
static void dismiss_oldest(struct agent_listener *listener)
{
	struct guest *oldest = NULL;
	for (struct guest *guest = listener->guests; guest; guest = guest->next)
		if (guest->pending && !guest->dismissed)
			oldest = guest;
	if (oldest) {
		oldest->dismissed = true;
		connection_stop(oldest->connection);
	}
}

/* Under lock. NULL: there is room. */
static const char *why_not(struct agent_listener *listener, const uint8_t address[static 16])
{
	unsigned same = 0;
	if (listener->stopping)
		return "stopping";
	if (listener->count >= AGENT_LISTENER_CONNECTIONS)
		return "too many connections";
	if (listener->pending >= 2 * AGENT_LISTENER_PENDING)
		return "too many connections that have not said who they are";
	for (const struct guest *guest = listener->guests; guest; guest = guest->next)
		same += guest->pending && memcmp(guest->address, address, 16) == 0;
	if (same >= AGENT_LISTENER_PENDING_ADDRESS)
		return "too many connections of one address that have not said who they are";
	if (listener->pending >= AGENT_LISTENER_PENDING)
		dismiss_oldest(listener);
	return NULL;
}

static int start_thread(struct guest *guest)
{
	pthread_attr_t attributes;
	pthread_t thread;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
	int r = -pthread_create(&thread, &attributes, run_guest, guest);
	pthread_attr_destroy(&attributes);
	return r;
}

/* Takes the socket over. */
static void let_in(struct agent_listener *listener, int fd, const struct sockaddr_storage *from)
{
	struct guest *guest = calloc(1, sizeof(*guest));
	uint8_t address[16];
	address_of(from, address);
	if (!guest || connection_accept(listener->tls, fd, NULL, &guest->connection) < 0) {
		close(fd);
		free(guest);
		return;
	}
	guest->listener = listener;
	memcpy(guest->address, address, sizeof(address));
	guest->pending = true;
	pthread_mutex_lock(&listener->lock);
	const char *refusal = why_not(listener, address);
	if (!refusal) {
		guest->next = listener->guests;
		listener->guests = guest;
		listener->count++;
		listener->pending++;
	}
	pthread_mutex_unlock(&listener->lock);
	if (!refusal) {
		if (start_thread(guest) < 0)
			end_guest(guest);
		return;
	}
	log_stranger(listener, guest, "", refusal);
	connection_free(guest->connection);
	free(guest);
}

static void *run_listener(void *context)
{
	struct agent_listener *listener = context;
	for (;;) {
		struct pollfd polls[2] = {
			{ .fd = listener->fd, .events = POLLIN },
			{ .fd = listener->stop_fd, .events = POLLIN },
		};
		if (poll(polls, 2, -1) < 0)
			continue;
		if (polls[1].revents)
			return NULL;
		struct sockaddr_storage from = { 0 };
		socklen_t n = sizeof(from);
		int fd = accept4(
			listener->fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			let_in(listener, fd, &from);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			/* It stays readable: wait until somebody has given something back. */
			(void)poll(&polls[1], 1, OUT_OF_FILES_MS);
	}
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static int resolve(const char *address, struct addrinfo **ret_list)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	const char *colon = strrchr(address, ':');
	char host[HOST_BYTES];
	if (!colon || (size_t)(colon - address) >= sizeof(host))
		return -EINVAL;
	size_t n = (size_t)(colon - address);
	bool brackets = n >= 2 && address[0] == '[' && address[n - 1] == ']';
	memcpy(host, address + brackets, n - 2 * brackets);
	host[n - 2 * brackets] = '\0';
	return getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, ret_list) == 0 ? 0 : -EINVAL;
}

static int bind_to(const struct addrinfo *at, int *ret_fd)
{
	int on = 1, off = 0;
	CLEANUP_CLOSE int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (at->ai_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

static uint16_t port_of(int fd)
{
	struct sockaddr_storage own = { 0 };
	socklen_t n = sizeof(own);
	if (getsockname(fd, (struct sockaddr *)&own, &n) < 0)
		return 0;
	return own.ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)&own)->sin6_port)
					 : ntohs(((const struct sockaddr_in *)&own)->sin_port);
}

static int open_port(struct agent_listener *listener, const char *address, struct error *error)
{
	struct addrinfo *list = NULL;
	int r = resolve(address, &list);
	if (r == 0) {
		r = -EADDRNOTAVAIL;
		for (struct addrinfo *at = list; at && r < 0; at = at->ai_next)
			r = bind_to(at, &listener->fd);
		freeaddrinfo(list);
	}
	if (r == 0) {
		listener->port = port_of(listener->fd);
		listener->stop_fd = eventfd(0, EFD_CLOEXEC);
		if (listener->stop_fd < 0)
			r = -errno;
	}
	return r < 0 ? error_set(error, r,
			       r == -EADDRINUSE
				       ? "end what listens there, or set another [appliance] listen"
				       : "check [appliance] listen",
			       "cannot listen for agents on %s: %s", address, strerrordesc_np(-r))
		     : 0;
}

int agent_listener_new(const struct agent_listener_options *options, struct error *error,
	struct agent_listener **ret_listener)
{
	struct agent_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	listener->tls = options->tls;
	listener->check = options->check;
	listener->check_context = options->check_context;
	listener->enroll = options->enroll;
	listener->renew = options->renew;
	listener->context = options->context;
	listener->sessions = options->sessions;
	listener->fd = listener->stop_fd = -1;
	pthread_mutex_init(&listener->lock, NULL);
	pthread_cond_init(&listener->left, NULL);
	int r = open_port(listener, options->address, error);
	if (r == 0) {
		r = -pthread_create(&listener->thread, NULL, run_listener, listener);
		listener->thread_runs = r == 0;
		if (r < 0)
			error_fill(error, r, NULL, "no thread for the agents' port");
	}
	if (r < 0) {
		agent_listener_free(listener);
		return r;
	}
	*ret_listener = listener;
	return 0;
}

void agent_listener_free(struct agent_listener *listener)
{
	if (!listener)
		return;
	if (listener->thread_runs) {
		uint64_t one = 1;
		while (write(listener->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
		pthread_join(listener->thread, NULL);
	}
	pthread_mutex_lock(&listener->lock);
	listener->stopping = true;
	for (struct guest *guest = listener->guests; guest; guest = guest->next)
		connection_stop(guest->connection);
	while (listener->count > 0)
		pthread_cond_wait(&listener->left, &listener->lock);
	pthread_mutex_unlock(&listener->lock);
	cleanup_close(&listener->fd);
	cleanup_close(&listener->stop_fd);
	pthread_cond_destroy(&listener->left);
	pthread_mutex_destroy(&listener->lock);
	free(listener);
}

uint16_t agent_listener_port(const struct agent_listener *listener)
{
	return listener->port;
}

/* Under lock. False: all that are known may stay. */
static bool stop_refused(struct agent_listener *listener)
{
	bool any = false;
	for (struct guest *guest = listener->guests; guest; guest = guest->next)
		if (guest->known && listener->check(listener->check_context,
					    connection_peer(guest->connection)) < 0) {
			connection_stop(guest->connection);
			any = true;
		}
	return any;
}

void agent_listener_recheck(struct agent_listener *listener, bool wait)
{
	SCOPED_LOCK(&listener->lock);
	while (stop_refused(listener) && wait)
		pthread_cond_wait(&listener->left, &listener->lock);
}
