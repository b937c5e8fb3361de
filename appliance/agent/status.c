/*
 * landfall-agent status: what the running agent says of itself.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/types.h>

#include "appliance/agent/command.h"
#include "common/cleanup.h"
#include "common/human.h"
#include "common/io.h"
#include "common/json.h"
#include "replicator/agent/status.h"

#define STATUS_MAX_BYTES (1u << 20)

static const char *text_of(const struct json *at, const char *name)
{
	const char *text = "";
	(void)json_find_text(at, name, &text, NULL);
	return text;
}

static double number_of(const struct json *at, const char *name)
{
	const struct cJSON *item = cJSON_GetObjectItemCaseSensitive(at->node, name);
	uint64_t whole = 0;
	if (cJSON_IsNumber(item))
		return item->valuedouble;
	return json_find_u64(at, name, &whole, NULL) > 0 ? (double)whole : -1;
}

static void print_bytes(const char *what, double bytes)
{
	char text[HUMAN_TEXT_BYTES];
	printf("%s%s", what, human_size(bytes, text));
}

static void print_error(const struct json *at, const char *indent)
{
	struct json error;
	if (json_find_object(at, "error", &error, NULL) <= 0)
		return;
	printf("%s%s\n", indent, text_of(&error, "message"));
	if (*text_of(&error, "mend"))
		printf("%s  → %s\n", indent, text_of(&error, "mend"));
}

static void print_disk(const struct json *disk)
{
	bool comparing = false;
	double size = number_of(disk, "size_bytes"), left = number_of(disk, "left_s");
	(void)json_find_bool(disk, "comparing", &comparing, NULL);
	printf("disk %s (%s): ", text_of(disk, "id"), text_of(disk, "path"));
	print_bytes("", size);
	print_bytes(", changed and not sent ", number_of(disk, "dirty_bytes"));
	if (number_of(disk, "swap_bytes") > 0)
		print_bytes(", swap left out ", number_of(disk, "swap_bytes"));
	if (comparing && size > 0) {
		printf("\n  comparing: %.1f %%", 100 * number_of(disk, "compared_bytes") / size);
		print_bytes(", ", number_of(disk, "compare_bytes_per_s"));
		printf("/s");
		if (left >= 0)
			printf(", %.0f s left", left);
	}
	putchar('\n');
	if (*text_of(disk, "unproven"))
		printf("  since %s it is not proven that every change was seen: %s\n",
			text_of(disk, "unproven_since"), text_of(disk, "unproven"));
	print_error(disk, "  ");
}

static void print_status(const struct json *root)
{
	struct json disks, item = { 0 };
	printf("machine %s, appliance %s\n", text_of(root, "machine"), text_of(root, "appliance"));
	printf("state: %s since %s\n", text_of(root, "state"), text_of(root, "state_since"));
	print_error(root, "  ");
	printf("changes are captured by %s: %s\n", text_of(root, "capture"),
		text_of(root, "capture_reason"));
	print_bytes("sent: ", number_of(root, "sent_bytes"));
	print_bytes(" of content, ", number_of(root, "wire_bytes"));
	print_bytes(" on the wire; read: ", number_of(root, "read_bytes"));
	if (number_of(root, "send_limit_bytes_per_s") > 0) {
		print_bytes("; limited to ", number_of(root, "send_limit_bytes_per_s"));
		printf("/s");
	}
	putchar('\n');
	if (number_of(root, "newest_point") > 0)
		printf("newest recovery point: %.0f of %s; filesystems stood still for %.0f ms "
		       "(longest %.0f ms)\n",
			number_of(root, "newest_point"), text_of(root, "newest_point_time"),
			number_of(root, "stall_ms"), number_of(root, "longest_stall_ms"));
	if (json_get_array(root, "disks", &disks, NULL) == 0)
		while (json_each(&disks, &item))
			print_disk(&item);
}

/* Who was killed could not take its words away. */
static int check_lives(const struct json *root, const char *path, struct error *error)
{
	uint64_t process = 0;
	if (json_find_u64(root, "process", &process, NULL) <= 0 || process == 0 ||
		process > INT_MAX || kill((pid_t)process, 0) == 0 || errno != ESRCH)
		return 0;
	return error_set(error, -ECONNREFUSED, "start it: landfall-agent run, or its service",
		"no agent is running: the one that wrote %s has died", path);
}

enum agent_exit agent_show_status(const struct agent_arguments *arguments)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP_FREE char *text = NULL;
	const char *path = agent_argument(arguments, "status-file");
	struct error error = { 0 };
	struct json root;
	size_t n;
	if (!path)
		path = AGENT_STATUS_DEFAULT_PATH;
	int r = io_load_file(io_posix(), path, STATUS_MAX_BYTES, &text, &n);
	if (r == -ENOENT)
		error_set(&error, -ECONNREFUSED, "start it: landfall-agent run, or its service",
			"no agent is running: there is no %s", path);
	else if (r < 0)
		error_set(&error, r, "run this as root", "%s cannot be read: %s", path,
			strerrordesc_np(-r));
	else
		r = json_parse(text, n, NULL, &json, &error);
	if (r >= 0) {
		json_root(json, path, &root);
		r = check_lives(&root, path, &error);
	}
	if (r < 0)
		return agent_fail(&error);
	if (agent_argument(arguments, "json")) {
		fputs(text, stdout);
		return AGENT_DONE;
	}
	print_status(&root);
	return AGENT_DONE;
}
