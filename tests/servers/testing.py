"""What the tests of the strict server share: a server for each test class, requests by hand."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
from email.utils import formatdate

MIB = 1 << 20
SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pageblob", "server.py")


class ServerCase(unittest.TestCase):
    """Starts one server a class; each test begins with fresh rules and settings."""

    options = ()

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="landfall-test-")
        cls.process = subprocess.Popen(
            [sys.executable, SERVER, "--data", cls.scratch.name, "--die-with-parent",
             *cls.options], stdout=subprocess.PIPE, text=True)
        cls.server = json.loads(cls.process.stdout.readline())
        cls.defaults = admin(cls.server, "GET", "/settings")

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        cls.process.wait(20)
        cls.process.stdout.close()
        left = os.listdir(cls.scratch.name)
        cls.scratch.cleanup()
        assert not left, f"the server left {left} behind"

    def setUp(self):
        admin(self.server, "POST", "/rules/clear", {"seed": 1})
        admin(self.server, "POST", "/settings", self.defaults)
        admin(self.server, "POST", "/reset", {})

    def tearDown(self):
        stats = admin(self.server, "GET", "/stats")
        self.assertEqual(stats["crashes"], 0, "the server itself failed")
        found = admin(self.server, "GET", "/verify")
        self.assertEqual(found["problems"], [])


class TlsServerCase(ServerCase):
    """The same over TLS, with a certificate of its own in cls.cert."""

    @classmethod
    def setUpClass(cls):
        if not shutil.which("openssl"):
            raise unittest.SkipTest("openssl is not installed")
        cls.pki = tempfile.TemporaryDirectory(prefix="landfall-test-")
        cls.cert, key = cls.pki.name + "/cert.pem", cls.pki.name + "/key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out",
                        cls.cert], check=True, capture_output=True)
        cls.options = ("--tls", cls.cert, key)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.pki.cleanup()


def rest(method, url, headers=None, body=None, connection=None, timeout=30):
    """One request; returns (status, headers, body), JSON bodies read."""
    parts = urllib.parse.urlsplit(url)
    own = connection is None
    if own:
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    path = parts.path + ("?" + parts.query if parts.query else "")
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        data = answer.read()
    finally:
        if own:
            connection.close()
    if (answer.getheader("Content-Type") or "").startswith("application/json"):
        data = json.loads(data)
    return answer.status, dict(answer.getheaders()), data


def admin(server, method, path, value=None):
    body = None if value is None else json.dumps(value)
    status, _, data = rest(method, server["admin"] + path, body=body)
    if status != 200:
        raise AssertionError(f"admin {method} {path}: {status} {data}")
    return data


class Signer:
    """Signs by hand, from the published rules and nothing else, and sends."""

    def __init__(self, server, version="2021-12-02"):
        self.server, self.version = server, version
        self.root = f"http://127.0.0.1:{server['port']}"

    def headers(self, method, target, extra=None, length=0, date=None):
        """All headers for a target like /account/container/blob?comp=page."""
        headers = {"x-ms-version": self.version, "x-ms-date": date or formatdate(usegmt=True)}
        headers.update(extra or {})
        if method in ("PUT", "POST"):
            headers["Content-Length"] = str(length)
        low = {k.lower(): v for k, v in headers.items()}
        path, _, query = target.partition("?")
        text = method + "\n"
        for name in ("content-encoding", "content-language", "content-length", "content-md5",
                     "content-type", "date", "if-modified-since", "if-match", "if-none-match",
                     "if-unmodified-since", "range"):
            value = low.get(name, "")
            text += ("" if name == "content-length" and value == "0" else value) + "\n"
        for name in sorted(n for n in low if n.startswith("x-ms-")):
            text += f"{name}:{low[name]}\n"
        text += f"/{self.server['account']}{path}"
        for pair in sorted(p for p in query.split("&") if p):
            name, _, value = pair.partition("=")
            text += f"\n{name.lower()}:{urllib.parse.unquote(value)}"
        mac = hmac.new(base64.b64decode(self.server["key"]), text.encode(), hashlib.sha256)
        headers["Authorization"] = (f"SharedKey {self.server['account']}:"
                                    + base64.b64encode(mac.digest()).decode())
        return headers

    def send(self, method, resource, extra=None, body=None, connection=None, date=None,
             timeout=30):
        """resource: container/blob?query. Returns (status, headers, body)."""
        target = f"/{self.server['account']}/{resource}"
        headers = self.headers(method, target, extra, len(body or b""), date)
        return rest(method, self.root + target, headers, body, connection, timeout)
