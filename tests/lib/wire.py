"""The agents' protocol as a client that may lie: frames by hand, TLS by Python's own library.

    agent = Wire(port, identity)         # identity: the agent's identity.json, or None
    agent.say({"type": "hello", …})
    agent.hear()                         # the next message, or Ended with what TLS said
"""

import ctypes
import ctypes.util
import json
import socket
import ssl
import struct
import tempfile

CONTROL, DATA, ZERO, ACK, HASHES, PAGES, PING, PONG = range(1, 9)
MAGIC = 0x3157464C
XXHASH = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
XXHASH.XXH3_64bits.restype = ctypes.c_uint64
XXHASH.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


class Ended(Exception):
    """The appliance ended the connection; the text tells what TLS or TCP said."""


def xxh3(data):
    return XXHASH.XXH3_64bits(bytes(data), len(data))


def frame(kind, body=b"", sequence=1, flags=0, proven=None, **lies):
    """A frame with its checksums right, but for what `lies` sets: magic, body_bytes, unused,
    body_checksum, checksum."""
    covered = body if proven is None else body[:proven]
    head = struct.pack("<IHHIIQQ", lies.get("magic", MAGIC), kind, flags,
                       lies.get("body_bytes", len(body)), lies.get("unused", 0), sequence,
                       lies.get("body_checksum", xxh3(covered)))
    return head + struct.pack("<Q", lies.get("checksum", xxh3(head))) + body


def context(identity=None, alpn="landfall/1", version=ssl.TLSVersion.TLSv1_3):
    """TLS as an agent's; `identity` has certificate and key (PEM), or is None."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.maximum_version = version
    if alpn:
        tls.set_alpn_protocols([alpn])
    if identity:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pem:
            pem.write(identity["key"] + identity["certificate"])
            pem.flush()
            tls.load_cert_chain(pem.name)
    return tls


class Wire:
    def __init__(self, port, identity=None, timeout=20, **tls):
        self.sequence = 0
        self.tls = None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        try:
            self.tls = context(identity, **tls).wrap_socket(self.socket)
        except (OSError, ssl.SSLError) as why:
            self.socket.close()
            raise Ended(str(why)) from why

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tls.close()

    def send(self, data):
        try:
            self.tls.sendall(data)
        except (OSError, ssl.SSLError) as why:
            raise Ended(str(why)) from why

    def say(self, message):
        self.sequence += 1
        self.send(frame(CONTROL, json.dumps(message).encode(), self.sequence))

    def read(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.tls.recv(n - len(data))
            except (OSError, ssl.SSLError) as why:
                raise Ended(str(why)) from why
            if not more:
                raise Ended("closed")
            data += more
        return data

    def take(self):
        """The next frame: (type, body)."""
        head = self.read(40)
        magic, kind, _, n, _, _, body_checksum = struct.unpack("<IHHIIQQ", head[:32])
        body = self.read(n)
        if magic != MAGIC or struct.unpack("<Q", head[32:])[0] != xxh3(head[:32]) or \
                body_checksum != xxh3(body):
            raise Ended("the appliance sent what is no frame")
        return kind, body

    def hear(self):
        """The next message, PING and PONG left out."""
        while True:
            kind, body = self.take()
            if kind == CONTROL:
                return json.loads(body)
            if kind not in (PING, PONG):
                raise Ended(f"a frame of type {kind} instead of a message")

    def hear_the_end(self):
        """Everything up to the end: messages, and what TLS or TCP said."""
        heard = []
        while True:
            try:
                heard.append(self.hear())
            except Ended as why:
                return heard, str(why)
