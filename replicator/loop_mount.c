/*
 * Loop devices by ioctl (LOOP_CONFIGURE, Linux 5.8 and later) and mount(2), no helper programs.
 *
 * The device is configured with LO_FLAGS_AUTOCLEAR while it is held open, mounted, and closed:
 * from then on the mount alone keeps it, and its end frees it. Finding a free number and taking
 * it are two calls, so losing the race to another process is tried again. Containers may lack
 * the device's node: it is made.
 */
#include "replicator/loop_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define LOOP_MAJOR 7
#define ATTEMPTS 32

static int open_device(int number, bool writable, char *path, size_t size)
{
	snprintf(path, size, "/dev/loop%d", number);
	int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC;
	int fd = open(path, flags);
	if (fd < 0 && errno == ENOENT) {
		if (mknod(path, S_IFBLK | 0600, makedev(LOOP_MAJOR, (unsigned)number)) < 0 &&
			errno != EEXIST)
			return -errno;
		fd = open(path, flags);
	}
	return fd < 0 ? -errno : fd;
}

static int configure(int device, int file, const struct loop_mount *mount)
{
	struct loop_config config = { .fd = (uint32_t)file,
		.block_size = SECTOR_BYTES,
		.info = { .lo_offset = mount->offset_bytes,
			.lo_sizelimit = mount->size_bytes,
			.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO } };
	if (!mount->writable)
		config.info.lo_flags |= LO_FLAGS_READ_ONLY;
	snprintf((char *)config.info.lo_file_name, sizeof(config.info.lo_file_name), "%s",
		mount->file);
	if (ioctl(device, LOOP_CONFIGURE, &config) == 0)
		return 0;
	/* Direct I/O is a wish. */
	if (errno != EINVAL)
		return -errno;
	config.info.lo_flags &= ~(uint32_t)LO_FLAGS_DIRECT_IO;
	return ioctl(device, LOOP_CONFIGURE, &config) == 0 ? 0 : -errno;
}

/* A configured device, held open. */
static int attach(const struct loop_mount *mount, int file, char *path, size_t size, int *ret_fd)
{
	CLEANUP_CLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -errno;
	int r = -EBUSY;
	for (unsigned i = 0; i < ATTEMPTS && r == -EBUSY; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return -errno;
		int device = open_device(number, mount->writable, path, size);
		if (device < 0)
			return device;
		r = configure(device, file, mount);
		if (r == 0)
			*ret_fd = device;
		else
			close(device);
	}
	return r;
}

int loop_mount(const struct loop_mount *mount_, struct error *error)
{
	char path[32];
	CLEANUP_CLOSE int file =
		open(mount_->file, (mount_->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (file < 0)
		return error_set(error, -errno, NULL, "%s: cannot be opened: %s", mount_->file,
			strerrordesc_np(errno));
	CLEANUP_CLOSE int device = -1;
	int r = attach(mount_, file, path, sizeof(path), &device);
	if (r < 0)
		return error_set(error, r,
			r == -EPERM || r == -EACCES || r == -ENOENT
				? "landfalld needs the rights of root and /dev/loop-control for "
				  "this"
				: "",
			"%s: no loop device: %s", mount_->file, strerrordesc_np(-r));
	unsigned long flags = MS_RDONLY | MS_NODEV | MS_NOSUID | MS_NOEXEC;
	if (mount(path, mount_->at, mount_->type, flags, mount_->options) < 0) {
		r = -errno;
		return error_set(error, r,
			r == -ENODEV ? "load the kernel's module for it, or copy the file out of "
				       "the recovery point and look elsewhere"
				     : "",
			"%s at byte %llu: mounting as %s: %s", mount_->file,
			(unsigned long long)mount_->offset_bytes, mount_->type,
			strerrordesc_np(-r));
	}
	return 0;
}

int loop_unmount(const char *at, bool force)
{
	int flags = UMOUNT_NOFOLLOW | (force ? MNT_DETACH : 0);
	return umount2(at, flags) == 0 ? 0 : -errno;
}
