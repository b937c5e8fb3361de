"""CRC64 as the x-ms-content-crc64 header carries it.

Reflected polynomial 0x9A6C9329AC4BC9B5, initial value and final xor all ones, the value as
eight little-endian bytes in base64; of "123456789" it is 0xAE8B14860A799888. A table in Python
does 8 MB/s, so the first caller compiles the same loop in C where there is a compiler.
"""
import base64
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading

_POLY = 0x9A6C9329AC4BC9B5
_ONES = (1 << 64) - 1

_SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
static uint64_t t[8][256];
void crc64_setup(void)
{
	for (int i = 0; i < 256; i++) {
		uint64_t c = (uint64_t)i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? (c >> 1) ^ 0x9A6C9329AC4BC9B5ull : c >> 1;
		t[0][i] = c;
	}
	for (int i = 0; i < 256; i++)
		for (int k = 1; k < 8; k++)
			t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 255];
}
uint64_t crc64_update(uint64_t c, const unsigned char *p, size_t n)
{
	for (; n >= 8; p += 8, n -= 8) {
		uint64_t w;
		__builtin_memcpy(&w, p, 8);
		c ^= w;
		c = t[7][c & 255] ^ t[6][c >> 8 & 255] ^ t[5][c >> 16 & 255] ^
		    t[4][c >> 24 & 255] ^ t[3][c >> 32 & 255] ^ t[2][c >> 40 & 255] ^
		    t[1][c >> 48 & 255] ^ t[0][c >> 56];
	}
	while (n--)
		c = (c >> 8) ^ t[0][(c ^ *p++) & 255];
	return c;
}
"""

_lock = threading.Lock()
_state = {"ready": False, "update": None}


def _table():
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ _POLY if c & 1 else c >> 1
        table.append(c)
    return table


def slow(data):
    """The definition, byte by byte."""
    table, c = _table(), _ONES
    for byte in data:
        c = (c >> 8) ^ table[(c ^ byte) & 255]
    return c ^ _ONES


def _compile():
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not cc:
        return None
    with tempfile.TemporaryDirectory(prefix="landfall-crc64-") as tmp:
        library = os.path.join(tmp, "crc64.so")
        done = subprocess.run([cc, "-O2", "-shared", "-fPIC", "-x", "c", "-o", library, "-"],
                              input=_SOURCE.encode(), capture_output=True, check=False)
        if done.returncode:
            return None
        lib = ctypes.CDLL(library)
    lib.crc64_setup()
    lib.crc64_update.restype = ctypes.c_uint64
    lib.crc64_update.argtypes = [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t]
    return lib.crc64_update


def crc64(data):
    """The CRC of a bytes-like object, as a number."""
    if not _state["ready"]:
        with _lock:
            if not _state["ready"]:
                _state["update"] = _compile()
                _state["ready"] = True
    if _state["update"] is None:
        return slow(data)
    if isinstance(data, bytearray) and data:
        pointer = ctypes.addressof((ctypes.c_char * len(data)).from_buffer(data))
    else:
        data = bytes(data)
        pointer = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
    return _state["update"](_ONES, pointer, len(data)) ^ _ONES


def encode(value):
    return base64.b64encode(value.to_bytes(8, "little")).decode()
