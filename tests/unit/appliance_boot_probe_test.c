/*
 * appliance/boot_probe.c: what a serial console says, in whatever pieces it comes, and a port that
 * accepts, closes or speaks.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "appliance/boot_probe.h"

struct fixture {
	char directory[64], log[96];
	struct local_settings settings;
	struct boot_probe *probe;
	char words[300];
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->directory, "/tmp/landfall-probe-XXXXXX");
	if (!mkdtemp(f->directory))
		return -1;
	snprintf(f->log, sizeof(f->log), "%s/serial.log", f->directory);
	f->settings.probe = LOCAL_PROBE_SERIAL;
	f->settings.pattern = "^[a-z]+ login:";
	*state = f;
	return boot_probe_new(&f->settings, f->log, 0, &f->probe);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	boot_probe_free(f->probe);
	(void)unlink(f->log);
	(void)rmdir(f->directory);
	free(f);
	return 0;
}

static enum boot_sight say(struct fixture *f, const char *text)
{
	FILE *file = fopen(f->log, "a");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
	fclose(file);
	return boot_probe_look(f->probe, f->words, sizeof(f->words));
}

static void test_comes_up(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(boot_probe_look(f->probe, f->words, sizeof(f->words)), BOOT_NOTHING_YET);
	assert_string_equal(f->words, "");
	assert_int_equal(say(f, "Booting\r\n[    0.1] Linux ver"), BOOT_NOTHING_YET);
	assert_int_equal(say(f, "sion 6\r\n\r\nother login: no prompt of ours\nx"), BOOT_UP);
}

static void test_prompt_in_pieces(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(say(f, "ready\n\033[0;1mhost\033[0m log"), BOOT_NOTHING_YET);
	assert_string_equal(f->words, "host log");
	assert_int_equal(say(f, "in: "), BOOT_UP);
	assert_string_equal(f->words, "host login: ");
}

static void test_anchored(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(say(f, "last login: never\n"), BOOT_UP);
	boot_probe_free(f->probe);
	f->settings.pattern = "^login:";
	assert_int_equal(boot_probe_new(&f->settings, f->log, 0, &f->probe), 0);
	assert_int_equal(boot_probe_look(f->probe, f->words, sizeof(f->words)), BOOT_NOTHING_YET);
	assert_string_equal(f->words, "last login: never");
}

static void test_broken(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(say(f, "[  1.2] Kernel panic - not syncing: VFS: Unable to mount\nmore\n"),
		BOOT_BROKEN);
	assert_string_equal(f->words, "[  1.2] Kernel panic - not syncing: VFS: Unable to mount");
}

static void test_long_line(void **state)
{
	struct fixture *f = *state;
	char line[5000];
	memset(line, '.', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	assert_int_equal(say(f, line), BOOT_NOTHING_YET);
	assert_int_equal(say(f, "\nhost login: "), BOOT_UP);
}

struct server {
	int fd;
	const char *greeting; /* NULL: closes at once */
};

static void *serve(void *context)
{
	struct server *server = context;
	int fd = accept(server->fd, NULL, NULL);
	char line[16];
	if (fd >= 0 && server->greeting) {
		/* Speaks when spoken to. */
		if (recv(fd, line, sizeof(line), 0) > 0)
			(void)send(fd, server->greeting, strlen(server->greeting), MSG_NOSIGNAL);
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

static enum boot_sight look_at_port(struct fixture *f, const char *greeting)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(address);
	struct server server = { socket(AF_INET, SOCK_STREAM, 0), greeting };
	pthread_t thread;
	assert_int_equal(bind(server.fd, (struct sockaddr *)&address, n), 0);
	assert_int_equal(listen(server.fd, 1), 0);
	assert_int_equal(getsockname(server.fd, (struct sockaddr *)&address, &n), 0);
	assert_int_equal(pthread_create(&thread, NULL, serve, &server), 0);
	boot_probe_free(f->probe);
	f->settings.probe = LOCAL_PROBE_TCP;
	f->settings.port = 22;
	assert_int_equal(
		boot_probe_new(&f->settings, f->log, ntohs(address.sin_port), &f->probe), 0);
	enum boot_sight sight = boot_probe_look(f->probe, f->words, sizeof(f->words));
	pthread_join(thread, NULL);
	close(server.fd);
	return sight;
}

static void test_port(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(look_at_port(f, "SSH-2.0-x\r\n"), BOOT_UP);
	assert_string_equal(f->words, "port 22 answers");
	assert_int_equal(look_at_port(f, NULL), BOOT_NOTHING_YET);
	/* A console that tells of a broken boot decides, whatever answers. */
	assert_int_equal(say(f, "You are in emergency mode. After logging in\n"), BOOT_BROKEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_comes_up, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_prompt_in_pieces, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_anchored, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_broken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_long_line, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_port, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
