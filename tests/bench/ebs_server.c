/*
 * EBS direct with nothing in the way: what the benchmarks fetch from. Any snapshot is there, and
 * every one shows the same volume.
 *
 *	ebs_server BLOCKS EVERY      of so many blocks of 512 KiB each EVERY-th has data
 *
 * Answers ListSnapshotBlocks and GetSnapshotBlock on a free port of 127.0.0.1, which it prints.
 * Signatures and tokens are not looked at: tests/servers/aws is strict, this is fast. It costs
 * the processor as little as it can, for that is shared with who is measured: contents, POOL
 * different ones, are made and hashed before it begins, and sent from where they are.
 *
 * A thread a connection; all they share is written before the first of them.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK_BYTES 524288u
#define POOL 128u
#define REQUEST_BYTES 8192u
#define PAGE_BLOCKS 10000ull

struct server {
	unsigned long long blocks, every;
	int pool; /* a file in memory */
	char checksums[POOL][64];
};

struct visit {
	const struct server *server;
	int fd;
};

static void need(int condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "ebs_server: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static void make_pool(struct server *server)
{
	unsigned char *block = malloc(BLOCK_BYTES), digest[32];
	server->pool = memfd_create("blocks", MFD_CLOEXEC);
	need(block && server->pool >= 0, "memory");
	for (unsigned i = 0; i < POOL; i++) {
		unsigned n;
		for (unsigned at = 0; at < BLOCK_BYTES; at += 256)
			need(getrandom(block + at, 256, 0) == 256, "randomness");
		need(EVP_Digest(block, BLOCK_BYTES, digest, &n, EVP_sha256(), NULL) == 1,
			"SHA-256");
		EVP_EncodeBlock((unsigned char *)server->checksums[i], digest, 32);
		need(write(server->pool, block, BLOCK_BYTES) == BLOCK_BYTES, "memory");
	}
	free(block);
}

/* False: who asked is gone. */
static int send_all(int fd, const char *text, size_t n, int flags)
{
	while (n > 0) {
		ssize_t sent = send(fd, text, n, flags | MSG_NOSIGNAL);
		if (sent <= 0)
			return 0;
		text += sent;
		n -= (size_t)sent;
	}
	return 1;
}

static int send_block(const struct visit *v, unsigned long long index)
{
	char head[512];
	unsigned which = (unsigned)(index / v->server->every % POOL);
	off_t at = (off_t)which * BLOCK_BYTES, end = at + BLOCK_BYTES;
	int n = snprintf(head, sizeof(head),
		"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
		"Content-Length: %u\r\nx-amz-Data-Length: %u\r\nx-amz-Checksum: %s\r\n"
		"x-amz-Checksum-Algorithm: SHA256\r\nx-amzn-RequestId: %llu\r\n\r\n",
		BLOCK_BYTES, BLOCK_BYTES, v->server->checksums[which], index);
	if (!send_all(v->fd, head, (size_t)n, MSG_MORE))
		return 0;
	while (at < end)
		if (sendfile(v->fd, v->server->pool, &at, (size_t)(end - at)) <= 0)
			return 0;
	return 1;
}

/* The number after `name` in the request's first line, or `otherwise`. */
static unsigned long long find_number(
	const char *line, const char *name, unsigned long long otherwise)
{
	const char *found = strstr(line, name);
	return found ? strtoull(found + strlen(name), NULL, 10) : otherwise;
}

static int send_list(const struct visit *v, const char *line)
{
	const struct server *s = v->server;
	unsigned long long index = find_number(line, "startingBlockIndex=", 0);
	unsigned long long most = find_number(line, "maxResults=", PAGE_BLOCKS), count = 0;
	char *body = NULL, head[256];
	size_t n;
	FILE *out = open_memstream(&body, &n);
	need(out != NULL, "memory");
	index = find_number(line, "pageToken=", index);
	index = (index + s->every - 1) / s->every * s->every;
	fputs("{\"Blocks\":[", out);
	for (; index < s->blocks && count < most; index += s->every, count++)
		fprintf(out,
			"%s{\"BlockIndex\":%llu,\"BlockToken\":\"AAUBAcuWqOCnDNuKle11s7IIX6jp6FYcC+"
			"q8oT93913HhvLvA+3JKrSybp/%020llu==\"}",
			count ? "," : "", index, index);
	fprintf(out, "],\"BlockSize\":%u,\"VolumeSize\":%llu,\"ExpiryTime\":4102444800",
		BLOCK_BYTES, s->blocks / 2048);
	if (index < s->blocks)
		fprintf(out, ",\"NextToken\":\"%llu\"", index);
	fputs("}", out);
	need(fclose(out) == 0, "memory");
	int h = snprintf(head, sizeof(head),
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		n);
	int sent = send_all(v->fd, head, (size_t)h, MSG_MORE) && send_all(v->fd, body, n, 0);
	free(body);
	return sent;
}

static int answer(const struct visit *v, const char *line)
{
	static const char refusal[] =
		"HTTP/1.1 404 Not Found\r\nx-amzn-ErrorType: UnknownOperationException\r\n"
		"Content-Length: 2\r\n\r\n{}";
	const char *blocks = strstr(line, "/blocks");
	if (strncmp(line, "GET /snapshots/", 15) != 0 || !blocks)
		return send_all(v->fd, refusal, sizeof(refusal) - 1, 0);
	if (blocks[7] != '/')
		return send_list(v, line);
	return send_block(v, strtoull(blocks + 8, NULL, 10));
}

static void *visit(void *context)
{
	struct visit *v = context;
	char room[REQUEST_BYTES + 1];
	size_t have = 0;
	for (;;) {
		room[have] = '\0';
		char *end = strstr(room, "\r\n\r\n");
		if (end) {
			size_t used = (size_t)(end + 4 - room);
			*strstr(room, "\r\n") = '\0';
			if (!answer(v, room))
				break;
			memmove(room, room + used, have -= used);
			continue;
		}
		ssize_t n = recv(v->fd, room + have, REQUEST_BYTES - have, 0);
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	close(v->fd);
	free(v);
	return NULL;
}

static void serve(struct server *server, int listener)
{
	for (;;) {
		pthread_t thread;
		int one = 1;
		struct visit *v = malloc(sizeof(*v));
		need(v != NULL, "memory");
		*v = (struct visit){ server, accept4(listener, NULL, NULL, SOCK_CLOEXEC) };
		need(v->fd >= 0, "accept");
		setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		need(pthread_create(&thread, NULL, visit, v) == 0, "thread");
		pthread_detach(thread);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(address);
	struct server *server = calloc(1, sizeof(*server));
	need(server != NULL, "memory");
	server->blocks = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
	server->every = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	if (server->blocks == 0 || server->every == 0) {
		fprintf(stderr, "usage: ebs_server BLOCKS EVERY\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	make_pool(server);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	need(listener >= 0 && bind(listener, (struct sockaddr *)&address, n) == 0 &&
			listen(listener, 256) == 0 &&
			getsockname(listener, (struct sockaddr *)&address, &n) == 0,
		"no port");
	printf("%u\n", ntohs(address.sin_port));
	fflush(stdout);
	serve(server, listener);
}
