"""How a proxy asks for credentials and judges what it is given: Basic (RFC 7617), Digest
(RFC 7616), and NTLM version 2 ([MS-NLMP]). For auth_proxy.py.

Each scheme is strict: what a real proxy may let pass (a nonce used twice, a target other than the
request's) is refused here. None of this is taken from a client's code.
"""
import base64
import hashlib
import hmac
import re
import secrets
import struct


class Basic:
    def __init__(self, user, password):
        self.want = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def judge(self, _connection, _method, _target, given):
        """(True, []) or (False, challenges)."""
        return (True, []) if given == self.want else (False, ['Basic realm="test"'])


class Digest:
    """With qop=auth. A nonce is good for requests counted 1, 2, 3, … and for no other."""

    HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}

    def __init__(self, user, password, algorithm):
        self.user, self.password, self.algorithm = user, password, algorithm
        self.counts = {}

    def challenge(self, stale=False):
        nonce = secrets.token_hex(16)
        self.counts[nonce] = 0
        return (False, [f'Digest realm="te\\"st", qop="auth", algorithm={self.algorithm}, '
                        f'nonce="{nonce}", opaque="0paque"' + (", stale=true" if stale else "")])

    def hash(self, *parts):
        return self.HASHES[self.algorithm](":".join(parts).encode()).hexdigest()

    def judge(self, _connection, method, target, given):
        if not given.startswith("Digest "):
            return self.challenge()
        fields = {name.lower(): quoted.replace('\\"', '"') if quoted else plain
                  for name, quoted, plain in
                  re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', given[7:])}
        nonce = fields.get("nonce", "")
        if nonce not in self.counts:
            return self.challenge(stale=True)
        right = self.hash(self.hash(self.user, 'te"st', self.password), nonce,
                          fields.get("nc", ""), fields.get("cnonce", ""), "auth",
                          self.hash(method, fields.get("uri", "")))
        # The RFC wants the target as in the request; libcurl leaves scheme and host out, which
        # proxies let pass.
        path = re.sub("^http://[^/]*", "", target)
        if (fields.get("username") != self.user or fields.get("uri") not in (target, path) or
                fields.get("qop") != "auth" or fields.get("opaque") != "0paque" or
                fields.get("algorithm", "MD5") != self.algorithm or
                not hmac.compare_digest(right, fields.get("response", ""))):
            return self.challenge()
        if int(fields["nc"], 16) != self.counts[nonce] + 1:
            return self.challenge(stale=True)
        self.counts[nonce] += 1
        return True, []


def md4(data):
    """RFC 1320; OpenSSL 3 has it no more."""
    def rotate(x, n):
        x &= 0xffffffff
        return (x << n | x >> (32 - n)) & 0xffffffff
    state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476]
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + struct.pack("<Q", 8 * len(data))
    rounds = (
        (lambda x, y, z: x & y | ~x & z, 0, (3, 7, 11, 19), range(16)),
        (lambda x, y, z: x & y | x & z | y & z, 0x5a827999, (3, 5, 9, 13),
         [i % 4 * 4 + i // 4 for i in range(16)]),
        (lambda x, y, z: x ^ y ^ z, 0x6ed9eba1, (3, 9, 11, 15),
         (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15)))
    for at in range(0, len(padded), 64):
        words = struct.unpack("<16I", padded[at:at + 64])
        a, b, c, d = state
        for function, constant, shifts, order in rounds:
            for step, k in enumerate(order):
                a = rotate(a + (function(b, c, d) & 0xffffffff) + words[k] + constant,
                           shifts[step % 4])
                a, b, c, d = d, a, b, c
        state = [(old + new) & 0xffffffff for old, new in zip(state, (a, b, c, d))]
    return struct.pack("<4I", *state)


class Ntlm:
    """Three messages on one connection, which is let through afterwards as it is."""

    FLAGS = 0x00888205  # Unicode, NTLM, request target, extended session security, target info
    TARGET = "PROXY".encode("utf-16-le")

    def __init__(self, user, password):
        assert md4(b"abc").hex() == "a448017aaf21d8525fc10ae87aa6729d"
        self.user, self.key = user, md4(password.encode("utf-16-le"))
        self.challenges = {}  # by connection
        self.known = set()

    def second_message(self, challenge):
        info = struct.pack("<HH", 2, len(self.TARGET)) + self.TARGET + bytes(4)
        at = 48
        return (b"NTLMSSP\0" + struct.pack("<IHHIIQQ", 2, len(self.TARGET), len(self.TARGET), at,
                                           self.FLAGS, challenge, 0) +
                struct.pack("<HHI", len(info), len(info), at + len(self.TARGET)) +
                self.TARGET + info)

    def is_right(self, message, challenge):
        def field(at):
            size, _, offset = struct.unpack_from("<HHI", message, at)
            return message[offset:offset + size]
        response, domain, user = field(20), field(28), field(36)
        flags, = struct.unpack_from("<I", message, 60)
        encoding = "utf-16-le" if flags & 1 else "ascii"
        domain, user = domain.decode(encoding), user.decode(encoding)
        key = hmac.digest(self.key, (user.upper() + domain).encode("utf-16-le"), "md5")
        proof = hmac.digest(key, struct.pack("<Q", challenge) + response[16:], "md5")
        # Version 2 has a response of more than 24 bytes; the older one is refused.
        return user == self.user and len(response) > 24 and hmac.compare_digest(
            proof, response[:16])

    def judge(self, connection, _method, _target, given):
        if connection in self.known:
            return True, []
        if not given.startswith("NTLM "):
            return False, ["NTLM"]
        message = base64.b64decode(given[5:])
        kind, = struct.unpack_from("<I", message, 8)
        if kind == 1:
            challenge = self.challenges[connection] = secrets.randbits(64)
            return False, ["NTLM " + base64.b64encode(self.second_message(challenge)).decode()]
        challenge = self.challenges.pop(connection, None)
        if kind != 3 or challenge is None or not self.is_right(message, challenge):
            return False, ["NTLM"]
        self.known.add(connection)
        return True, []


def scheme(name, user, password):
    """basic, digest-md5, digest-sha256 or ntlm."""
    if name == "basic":
        return Basic(user, password)
    if name == "ntlm":
        return Ntlm(user, password)
    return Digest(user, password, {"digest-md5": "MD5", "digest-sha256": "SHA-256"}[name])
