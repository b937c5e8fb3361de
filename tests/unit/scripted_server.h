/*
 * A server for tests of HTTP clients: a thread that accepts connections on a free port of
 * 127.0.0.1 and hands each, in order and one at a time, to a function of the test.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct scripted_server;

/* Plays the server's side of connection number `index` (from 0). `fd` is closed afterwards. */
typedef void scripted_play(int fd, unsigned index, void *context);

/* Aborts the test if it cannot be started. */
struct scripted_server *scripted_server_start(scripted_play *play, void *context);
uint16_t scripted_server_port(const struct scripted_server *server);
/* Ends the thread, after the connection it is at. */
void scripted_server_stop(struct scripted_server *server);

/* Reads a request: its head into `head` (NUL-terminated, cut at `room`), its body (by
 * Content-Length) away. Returns the body's length, -1 if the connection ended first. */
long scripted_read_request(int fd, char *head, size_t room);
/* As above, the body's first bytes into `body`. */
long scripted_read_request_body(int fd, char *head, size_t room, char *body, size_t body_room);
void scripted_write(int fd, const char *text);
/* Makes the coming close a reset. */
void scripted_reset(int fd);
