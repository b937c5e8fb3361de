"""The HTTP front: which service a request is for, who asks, faults at work, the answer.

A thread a connection. One port serves all: paths below /latest are the metadata service's, paths
below /snapshots EBS direct's, and a POST to / is EC2's or STS's by its Version.
"""
import http.server
import select
import socket
import socketserver
import struct
import sys
import threading
import time
import traceback
import urllib.parse
from email.utils import formatdate

from . import ebsapi, ec2api, sigv4, stsapi
from .errors import Gone, Refusal


class Witness:
    """Counts everything that a test may want to know."""

    def __init__(self):
        self.lock = threading.Lock()
        self.reset()

    def reset(self):
        with self.lock:
            self.counts = {name: 0 for name in (
                "bad_signatures", "expired_refused", "throttled", "bad_block_tokens",
                "bad_page_tokens", "reads_of_unfinished", "out_of_time", "imds_v1", "crashes", "connections")}
            self.operations, self.reads, self.problems = {}, {}, []

    def count(self, name):
        with self.lock:
            self.counts[name] += 1

    def operation(self, name):
        with self.lock:
            self.operations[name] = self.operations.get(name, 0) + 1

    def read(self, snapshot, index):
        with self.lock:
            of = self.reads.setdefault(snapshot, {})
            of[index] = of.get(index, 0) + 1

    def problem(self, text):
        with self.lock:
            self.problems.append(text)


class Request:
    def __init__(self, method, target, headers, body):
        self.method, self.body = method, body
        self.raw_path, _, self.raw_query = target.partition("?")
        self.headers = {}
        for name, value in headers:
            self.headers.setdefault(name.lower(), []).append(value)
        self.path = urllib.parse.unquote(self.raw_path)
        self.query = {}
        for part in filter(None, self.raw_query.split("&")):
            name, _, value = part.partition("=")
            # A plus that is not escaped is read as a blank: tokens have to be escaped whole.
            self.query.setdefault(urllib.parse.unquote_plus(name), []).append(
                urllib.parse.unquote_plus(value))

    def header(self, name):
        values = self.headers.get(name)
        return values[0] if values else None

    def form(self):
        return dict(urllib.parse.parse_qsl(self.body.decode(), keep_blank_values=True))


class Aws:
    """All services behind one port."""

    def __init__(self, settings, keys, store, faults, witness):
        self.settings, self.keys, self.store = settings, keys, store
        self.faults, self.witness = faults, witness
        self.ec2 = ec2api.Ec2(store, settings, faults, witness)
        self.ebs = ebsapi.Ebs(store, settings, faults, witness)
        self.sts = stsapi.Sts(keys, settings)
        self.imds = stsapi.Imds(keys, settings, witness)

    def now(self):
        """The time as the services' clock has it."""
        return time.time() + self.settings["clock_skew_s"]

    def answer(self, request):
        """(status, headers, body, fault)."""
        if request.path.startswith("/latest/"):
            self.witness.operation("imds")
            try:
                return 200, {"Content-Type": "text/plain"}, self.imds.serve(request), {}
            except Refusal as refusal:
                return refusal.status, {"Content-Type": "text/plain"}, b"", {}
        if request.path.startswith("/snapshots/"):
            return self._guard(request, "ebs", ebsapi.refuse, self._serve_ebs)
        form = request.form() if request.method == "POST" else {}
        if form.get("Version") == stsapi.VERSION:
            return self._guard(request, "sts", stsapi.refuse, self._serve_sts)
        return self._guard(request, "ec2", ec2api.refuse, self._serve_ec2)

    def _guard(self, request, service, refuse, serve):
        fault = {}
        try:
            return (*serve(request, fault), fault)
        except Refusal as refusal:
            return (*refuse(refusal), fault)

    def _caller(self, request, service):
        """Whose keys signed it; raises as the service would."""
        expired = {"ec2": (400, "RequestExpired"), "ebs": (403, "ExpiredTokenException"),
                   "sts": (403, "ExpiredToken")}[service]
        wrong = {"ec2": (401, "AuthFailure"), "ebs": (403, "InvalidSignatureException"),
                 "sts": (403, "SignatureDoesNotMatch")}[service]
        try:
            key = self.keys.find(sigv4.parse(request.header("authorization"))[0])
            if key is None:
                raise sigv4.BadSignature("The security token included in the request is invalid")
            if (request.header("x-amz-security-token") or None) != key.token:
                raise sigv4.BadSignature("X-Amz-Security-Token is not this key's")
            sigv4.verify(request, key.secret, self.settings["region"], service, self.now())
        except sigv4.OutOfTime as late:
            self.witness.count("out_of_time")
            # EC2 calls a request expired, the others its signature wrong.
            raise Refusal(*(expired if service == "ec2" else wrong), str(late)) from None
        except sigv4.BadSignature as bad:
            self.witness.count("bad_signatures")
            self.witness.problem(f"{service}: {bad}")
            raise Refusal(*wrong, str(bad)) from None
        if key.expires is not None and key.expires <= time.time():
            self.witness.count("expired_refused")
            raise Refusal(*expired, "The security token included in the request is expired")
        return key

    def _begin(self, request, service, operation, fault, snapshot=None, index=None):
        """What is common: count, fault, caller, denials. Faults that answer raise."""
        self.witness.operation(operation)
        fault.update(self.faults.pick(operation, snapshot, index))
        kind = fault.get("kind")
        if kind == "expire_credentials":
            self.keys.expire_all()
        elif kind == "expire_block_tokens":
            self.ebs.expire("block")
        elif kind == "expire_page_tokens":
            self.ebs.expire("page")
        elif kind == "delay":
            time.sleep(fault["delay_s"])
        caller = self._caller(request, service)
        if operation in self.settings["deny"]:
            code = "UnauthorizedOperation" if service == "ec2" else "AccessDeniedException"
            # Neither names what was asked; EC2 says it in a message of its own that needs decoding.
            raise Refusal(403, code, "You are not authorized to perform this operation.")
        if not fault.get("applied"):
            self._strike(fault)
        return caller

    @staticmethod
    def _strike(fault):
        """Faults in place of an answer."""
        kind = fault.get("kind")
        if kind == "status":
            headers = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
            raise Refusal(fault["status"], fault.get("code", "InternalError"),
                          reason=fault.get("reason"), headers=headers)
        if kind in ("reset", "hang"):
            raise Gone(kind == "reset")

    def _serve_ebs(self, request, fault):
        operation, snapshot, index = self.ebs.classify(request)
        self._begin(request, "ebs", operation, fault, snapshot, index)
        out = self.ebs.serve(request, operation, snapshot, index, fault)
        self._strike(fault)
        return out

    def _serve_ec2(self, request, fault):
        if request.raw_path != "/" or request.method != "POST":
            raise Refusal(404, "InvalidAction")
        form = request.form()
        self._begin(request, "ec2", form.get("Action", "none"), fault)
        out = 200, {"Content-Type": "text/xml;charset=UTF-8"}, self.ec2.serve(form, fault)
        self._strike(fault)
        return out

    def _serve_sts(self, request, fault):
        form = request.form()
        caller = None
        if form.get("Action") == "AssumeRoleWithWebIdentity":
            self.witness.operation(form["Action"])
            fault.update(self.faults.pick(form["Action"]))
            self._strike(fault)
        else:
            caller = self._begin(request, "sts", form.get("Action", "none"), fault)
        return 200, {"Content-Type": "text/xml"}, self.sts.serve(form, caller)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.aws.witness.count("connections")

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, socket.timeout, ValueError, OSError):
            self.close_connection = True

    def _serve(self):
        aws = self.server.aws
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, self.headers.items(), body)
        fault = {}
        try:
            status, headers, data, fault = aws.answer(request)
        except Gone as gone:
            self._leave(gone.reset)
            return
        except Exception:  # a crash of the server's is a failed test
            aws.witness.count("crashes")
            traceback.print_exc(file=sys.stderr)
            status, headers, data = 500, {}, b""
        self._send(status, headers, data, fault if status == 200 else {})

    def _send(self, status, headers, data, fault):
        kind = fault.get("kind")
        if kind == "corrupt" and data:
            data = bytearray(data)
            data[len(data) // 2] ^= 1
        if kind == "short":
            data = data[:len(data) // 2]
        if self.server.aws.settings["delay_ms"]:
            time.sleep(self.server.aws.settings["delay_ms"] / 1000)
        head = f"HTTP/1.1 {status} {self.responses.get(status, ('Unknown',))[0]}\r\n"
        for name, value in {**headers, "Date": formatdate(self.server.aws.now(), usegmt=True),
                            "x-amzn-RequestId": "req-" + hex(id(data))[2:],
                            "Content-Length": str(len(data))}.items():
            head += f"{name}: {value}\r\n"
        if kind == "truncate":
            data = data[:len(data) // 2]
            self.close_connection = True
        self.wfile.write(head.encode() + b"\r\n" + data)

    def _leave(self, reset):
        self.close_connection = True
        if not reset:
            select.select([self.connection], [], [], 60)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                   struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve


class Front(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, aws, host, port):
        self.aws = aws
        super().__init__((host, port), Handler)

    def handle_error(self, request, client_address):
        pass
