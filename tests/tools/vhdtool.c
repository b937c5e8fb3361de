/*
 * Makes a sparse VHD of zeros: vhdtool FILE BYTES. For tests that show its footer to other
 * programs.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/vhd.h"

int main(int argc, char **argv)
{
	uint8_t footer[VHD_FOOTER_BYTES];
	const struct uuid group = { 0 };
	struct uuid id;
	if (argc != 3) {
		fprintf(stderr, "usage: vhdtool FILE BYTES\n");
		return 2;
	}
	uint64_t bytes = strtoull(argv[2], NULL, 10);
	vhd_disk_id(&group, argv[1], &id);
	int r = vhd_footer_format(bytes, &id, 0, footer);
	if (r < 0) {
		fprintf(stderr, "vhdtool: %s\n", strerrordesc_np(-r));
		return 1;
	}
	int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || pwrite(fd, footer, sizeof(footer), (off_t)bytes) != sizeof(footer) ||
		close(fd) < 0) {
		perror("vhdtool");
		return 1;
	}
	return 0;
}
