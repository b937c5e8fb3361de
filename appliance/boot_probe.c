/*
 * The log is read as it grows, line by line; the unfinished last line is looked at, too: a login
 * prompt ends with no newline. Terminal's control sequences are taken out.
 */
#include "appliance/boot_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define LINE_BYTES 1024u
#define PORT_WAIT_MS 1000

/* What ends a boot: GRUB, SeaBIOS, SYSLINUX, initramfs-tools, dracut, systemd, the kernel. */
static const char *const broken[] = {
	"Kernel panic - not syncing",
	"No bootable device",
	"Boot failed: not a bootable disk",
	"grub rescue>",
	"error: no such partition",
	"You are in emergency mode",
	"Give root password for maintenance",
	"Cannot open access to console, the root account is locked",
	"ALERT!",
	"Dropping to a shell!",
	"(initramfs)",
	"dracut-initqueue timeout",
	"Entering emergency mode",
};

struct boot_probe {
	const struct local_settings *settings;
	char *log;
	unsigned port;
	regex_t pattern;
	bool compiled;
	uint64_t at; /* what is read of the log */
	char line[LINE_BYTES],
		last[LINE_BYTES]; /* the unfinished one; the last that is not empty */
	size_t length;
	unsigned escape; /* 1: after ESC; 2: within a control sequence */
};

int boot_probe_new(const struct local_settings *settings, const char *log, unsigned port,
	struct boot_probe **ret_probe)
{
	struct boot_probe *probe = calloc(1, sizeof(*probe));
	if (!probe)
		return -ENOMEM;
	probe->settings = settings;
	probe->port = port;
	probe->log = strdup(log);
	bool serial = settings->probe == LOCAL_PROBE_SERIAL;
	probe->compiled = serial && regcomp(&probe->pattern, settings->pattern,
					    REG_EXTENDED | REG_NOSUB | REG_NEWLINE) == 0;
	if (!probe->log || (serial && !probe->compiled)) {
		boot_probe_free(probe);
		return -ENOMEM;
	}
	*ret_probe = probe;
	return 0;
}

void boot_probe_free(struct boot_probe *probe)
{
	if (!probe)
		return;
	if (probe->compiled)
		regfree(&probe->pattern);
	free(probe->log);
	free(probe);
}

/* ── the serial console ──────────────────────────────────────────────────────────────────── */

/* What the line as it stands says. */
static enum boot_sight judge(const struct boot_probe *probe)
{
	for (unsigned i = 0; i < ARRAY_SIZE(broken); i++)
		if (strstr(probe->line, broken[i]))
			return BOOT_BROKEN;
	if (probe->compiled && regexec(&probe->pattern, probe->line, 0, NULL, 0) == 0)
		return BOOT_UP;
	return BOOT_NOTHING_YET;
}

static enum boot_sight end_line(struct boot_probe *probe)
{
	enum boot_sight sight = judge(probe);
	if (probe->line[strspn(probe->line, " \t")])
		memcpy(probe->last, probe->line, sizeof(probe->last));
	if (sight == BOOT_NOTHING_YET) {
		probe->length = 0;
		probe->line[0] = '\0';
	}
	return sight;
}

/* True if the character is part of a control sequence (ECMA-48: ESC, or ESC [ … a letter). */
static bool in_escape(struct boot_probe *probe, char c)
{
	if (c == '\033') {
		probe->escape = 1;
		return true;
	}
	if (probe->escape == 0)
		return false;
	if (probe->escape == 1 && c == '[')
		probe->escape = 2;
	else if (probe->escape == 1 || (c >= '@' && c <= '~'))
		probe->escape = 0;
	return true;
}

static enum boot_sight take(struct boot_probe *probe, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char c = data[i];
		if (in_escape(probe, c) || c == '\r' || c == '\0')
			continue;
		if (c == '\n' || probe->length == LINE_BYTES - 1) {
			enum boot_sight sight = end_line(probe);
			if (sight != BOOT_NOTHING_YET)
				return sight;
		}
		if (c != '\n') {
			probe->line[probe->length++] = c >= ' ' || c == '\t' ? c : '?';
			probe->line[probe->length] = '\0';
		}
	}
	return judge(probe);
}

static enum boot_sight read_log(struct boot_probe *probe)
{
	CLEANUP_CLOSE int fd = open(probe->log, O_RDONLY | O_CLOEXEC);
	char data[4096];
	for (;;) {
		ssize_t n = fd < 0 ? 0 : pread(fd, data, sizeof(data), (off_t)probe->at);
		if (n <= 0)
			return judge(probe);
		probe->at += (uint64_t)n;
		enum boot_sight sight = take(probe, data, (size_t)n);
		if (sight != BOOT_NOTHING_YET)
			return sight;
	}
}

/* ── the port ────────────────────────────────────────────────────────────────────────────── */

/* 1: it said something; 0: nothing in time; -EPIPE: it was closed. */
static int hear(int fd)
{
	char data[256];
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	if (poll(&pollfd, 1, PORT_WAIT_MS) <= 0)
		return 0;
	return recv(fd, data, sizeof(data), 0) > 0 ? 1 : -EPIPE;
}

static bool port_answers(unsigned port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return false;
	int r = hear(fd);
	/* Who speaks only when spoken to gets empty lines. */
	if (r == 0 && send(fd, "\r\n\r\n", 4, MSG_NOSIGNAL) == 4)
		r = hear(fd);
	return r == 1;
}

enum boot_sight boot_probe_look(struct boot_probe *probe, char *words, size_t size)
{
	enum boot_sight sight = read_log(probe);
	bool asked = sight != BOOT_BROKEN && probe->settings->probe == LOCAL_PROBE_TCP;
	if (asked && port_answers(probe->port)) {
		snprintf(words, size, "port %u answers", probe->settings->port);
		return BOOT_UP;
	}
	snprintf(words, size, "%s", probe->line[0] ? probe->line : probe->last);
	return sight;
}
