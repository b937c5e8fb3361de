/*
 * Standard input, output and error of a program: that they are there, and that what went to the
 * output has arrived. Main threads only.
 */
#pragma once

/* To be called before anything is opened: whoever starts a program may have closed them (`>&-`),
 * and the next file or socket would get the number and take what is printed. What is closed becomes
 * /dev/null: standard error takes what is written and forgets it, standard output cannot be written
 * (-EBADF), so that lost output is told. 0 or -errno. */
int standard_files_open(void);

/* Whether all that was printed to standard output has been taken. 0 or -errno; of an
 * earlier failure no more is known than -EPIPE or, whatever it was, -EIO. */
int standard_output_flush(void);

/* At a program's end: `code`, or, if it is 0 and standard output was not taken, 1; then standard
 * error says so on behalf of `program`, unless the reader went away (EPIPE). */
int standard_output_end(const char *program, int code);
