/*
 * Priorities. The numbers of ioprio_set(2), which the C library does not have, are those of Linux'
 * include/uapi/linux/ioprio.h.
 */
#include "replicator/agent/gentle.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NICE 5
#define NICE_HURRY (-10)
#define IO_WHO_THREAD 1
#define IO_CLASS_SHIFT 13
#define IO_BEST_EFFORT(level) (2 << IO_CLASS_SHIFT | (level))
#define IO_GENTLE IO_BEST_EFFORT(6)
#define IO_HURRY IO_BEST_EFFORT(0)

static void set(id_t thread, int nice_value, int io)
{
	(void)setpriority(PRIO_PROCESS, thread, nice_value);
	(void)syscall(SYS_ioprio_set, IO_WHO_THREAD, (int)thread, io);
}

void gentle_begin(struct gentle *ret_gentle)
{
	errno = 0;
	int nice_value = getpriority(PRIO_PROCESS, 0);
	if (errno != 0 || nice_value < NICE)
		nice_value = NICE;
	long io = syscall(SYS_ioprio_get, IO_WHO_THREAD, 0);
	/* Not set (0), real time, or a better level of best effort: higher numbers are less. */
	if (io < IO_GENTLE)
		io = IO_GENTLE;
	set(0, nice_value, (int)io);
	ret_gentle->nice = nice_value;
	ret_gentle->io = (int)io;
}

void gentle_hurry(const struct gentle *gentle, bool hurry)
{
	DIR *directory = opendir("/proc/self/task");
	if (!directory)
		return;
	for (struct dirent *entry; (entry = readdir(directory));) {
		int thread = atoi(entry->d_name);
		if (thread > 0 && hurry)
			set((id_t)thread, NICE_HURRY, IO_HURRY);
		else if (thread > 0)
			set((id_t)thread, gentle->nice, gentle->io);
	}
	closedir(directory);
}
