"""The HTTP front: connections, keep-alive, bodies, answers, and the faults that live there.

A thread a connection, blocking sockets: while the kernel copies or hashes, Python's lock is
free, so that many connections move their bodies at once. A request's way: head, classify,
fault, body, throttle, admission (credentials, headers), execution, answer.
"""
import select
import socket
import struct
import threading
import time
import uuid

from . import xmlbody
from .errors import BlobError
from .faults import Late
from .lease import Lease
from .model import MIB
from .request import Request, Response

MAX_HEAD = 64 * 1024
MAX_BODY = 1024 * MIB
REASONS = {100: "Continue", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
           206: "Partial Content", 304: "Not Modified", 400: "Bad Request",
           401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
           405: "Method Not Allowed", 409: "Conflict", 411: "Length Required",
           412: "Precondition Failed", 413: "Request Entity Too Large",
           416: "Requested Range Not Satisfiable", 429: "Too Many Requests",
           500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable"}


class Gone(Exception):
    """The client has left, or is to be left: the connection ends."""


class Front:
    """The listener. `down` is None or the outage: refuse, reset, hang, or a status."""

    def __init__(self, service, faults, witness, host, port, tls=None):
        self.service, self.faults, self.witness, self.tls = service, faults, witness, tls
        self.late = Late(self.land)
        self.host, self.port = host, port
        self.lock = threading.Lock()
        self.connections = set()
        self.down = None
        self.listener = None
        self.reserved = self._bind()
        self._listen()

    def _bind(self):
        """The port, held but not listened on: connections are refused, nobody else gets it."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.port))
        self.port = sock.getsockname()[1]
        return sock

    def _listen(self):
        listener, self.reserved = self.reserved, None
        listener.listen(512)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if self.down == "reset" or self.listener is not listener:
                abort(sock)
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Connection(self, sock).run, daemon=True).start()

    def set_down(self, mode):
        """Begins or ends an outage. What is under way is cut off by refuse and reset."""
        with self.lock:
            before, self.down = self.down, mode
            if mode == "refuse" and before != "refuse":
                listener, self.listener = self.listener, None
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()
                self.reserved = self._bind()
            elif before == "refuse" and mode != "refuse":
                self._listen()
            victims = list(self.connections) if mode in ("refuse", "reset") else []
        for connection in victims:
            connection.cut()

    def land(self, req):
        """A delayed write arrives: judged by leases and conditions as they are now."""
        req.late = True
        marks = self.witness.fencing(req)
        try:
            response = self.service.execute(req)
            status, code = response.status, None
        except BlobError as error:
            status, code = error.status, error.code
        except Exception:
            self.witness.count("crashes")
            raise
        kind = "duplicates" if req.duplicate else "late"
        applied = {"late": "landed", "duplicates": "applied"}[kind]
        self.witness.count(f"{kind}_{applied if code is None else 'rejected'}")
        self.witness.record(req, status, code, fault=kind, marks=marks)
        return {"status": status, "code": code, "operation": req.operation}


def abort(sock):
    """Closes with a reset."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    except OSError:
        pass


class Connection:
    _numbers = iter(range(1, 1 << 62))

    def __init__(self, front, sock):
        self.front, self.service, self.witness = front, front.service, front.witness
        self.sock, self.buffer = sock, bytearray()
        self.number = next(self._numbers)
        self.closing = self.resetting = False

    def run(self):
        self.witness.count("connections_opened")
        self.witness.count("connections_open")
        with self.front.lock:
            self.front.connections.add(self)
        try:
            if self.front.tls:
                self.sock = self.front.tls.wrap_socket(self.sock, server_side=True)
            while not self.closing:
                self._one()
        except (Gone, OSError):
            pass
        except Exception:       # while an answer was being sent: nothing to tell the client
            self.witness.count("crashes")
            raise
        finally:
            with self.front.lock:
                self.front.connections.discard(self)
            self.witness.count("connections_open", -1)
            try:
                self.sock.close()
            except OSError:
                pass

    def cut(self):
        """From another thread: the connection is reset whatever it is doing."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _reset(self):
        """Ends the connection with a reset, once the witness has written it down."""
        self.resetting = True
        raise Gone

    # One request

    def _one(self):
        req, declared = self._head()
        self.witness.enter(req)
        started, state = time.monotonic(), {"marks": []}
        try:
            response = self._serve(req, declared, state)
        except BlobError as error:
            response = self._refusal(req, error)
        except Gone:
            self._log(req, state.get("ending", "reset"), state, started)
            if self.resetting:
                abort(self.sock)
            raise
        except OSError:
            self._log(req, "client left", state, started)
            raise
        except Exception as error:      # a fault of this server itself must not pass unseen
            self.witness.count("crashes")
            response = self._refusal(req, BlobError("InternalError",
                                                    f"{type(error).__name__}: {error}"))
            response.headers["x-ms-test-server-crash"] = type(error).__name__
        fault = state.get("fault") or {}
        length = len(response.body) if response.stream is None else response.length
        if fault.get("kind") == "truncate":
            state["stop"] = int(length * fault.get("fraction", 0.5))
        sent = 0 if req.method == "HEAD" else state.get("stop", length)
        if req.method == "GET":
            self.front.faults.charge(req, sent)
        # written down before it is sent: who has the answer finds it in the log
        self._log(req, response.status, state, started, sent, response.code)
        try:
            self._answer(req, response, length, fault, state.get("stop"))
        finally:
            if response.done:
                response.done()

    def _log(self, req, status, state, started, sent=0, code=None):
        fault = state.get("fault")
        self.witness.record(req, status, code, fault=fault and fault["kind"], sent=sent,
                            marks=state["marks"], connection=self.number,
                            seconds=time.monotonic() - started)

    def _serve(self, req, declared, state):
        front = self.front
        problem = None
        try:
            self.service.classify(req)
        except BlobError as error:
            problem = error
        fault = front.faults.pick(req, declared or 0)
        if fault:
            state["fault"] = fault
            self.witness.count("faults")
        kind = fault["kind"] if fault else None
        if kind == "reset" and fault.get("when", "before") == "before":
            self._reset()
        self._body(req, declared)
        self._outage()
        if problem:
            raise problem
        if kind == "delay":
            time.sleep(fault["delay_s"])
        over = front.faults.throttle(req)
        if over:
            self.witness.count("throttled")
            raise BlobError("ServerBusy", "Operations per second is over the account limit."
                            if over == "requests" else "Ingress is over the account limit.")
        front.faults.charge(req, len(req.body))
        self._meddle(req, kind)
        if kind == "status" and not fault.get("applied"):
            return self._chosen(req, fault)
        if kind == "reset" and fault["when"] == "unapplied":
            self._reset()
        self.service.admit(req)
        if kind == "late":
            return self._late(req, fault, state)
        if kind == "hang" and not fault.get("applied"):
            self._hang(fault, state)
        state["marks"] = self.witness.fencing(req)
        try:
            response = self.service.execute(req)
        except BlobError as error:
            if kind not in ("status", "reset", "hang"):
                raise
            response = self._refusal(req, error)
        return self._aftermath(req, response, fault, kind, state)

    def _aftermath(self, req, response, fault, kind, state):
        """Faults that come once the request has been applied."""
        if kind in ("status", "reset", "hang") and response.done:
            response.done()
        if kind == "status":
            return self._chosen(req, fault)
        if kind == "reset":
            state["ending"] = "reset applied"
            self._reset()
        if kind == "hang":
            state["ending"] = "hang applied"
            self._hang(fault, state)
        if kind == "duplicate":
            req.duplicate = True
            self.front.late.schedule(req, fault.get("delay_s", 1))
        return response

    def _outage(self):
        down = self.front.down
        if down is None:
            return
        if down == "hang":
            self._hang({"hang_s": 3600}, {})
        if down in ("refuse", "reset"):
            self._reset()
        raise BlobError("ServerBusy" if down == "503" else "InternalError")

    def _meddle(self, req, kind):
        """Faults that happen to the account while the request is on its way."""
        if kind == "token_expire":
            authorization = req.header("authorization") or ""
            self.service.tokens.expire(authorization.removeprefix("Bearer ").strip())
        if kind in ("lease_break", "lease_steal") and req.blob:
            with self.service.account.lock:
                container = self.service.account.containers.get(req.container)
                entry = container and container.entries.get(req.blob)
                if entry and entry.base:
                    break_lease(entry.lease, steal=kind == "lease_steal")

    def _late(self, req, fault, state):
        self.witness.count("late_scheduled")
        self.front.late.schedule(req, fault.get("delay_s", 1))
        answer = fault.get("answer", "reset")
        if answer == "500":
            raise BlobError("OperationTimedOut")
        state["ending"] = f"{answer} late"
        if answer == "hang":
            self._hang(fault, state)
        self._reset()

    def _hang(self, fault, state):
        """Says nothing until the client leaves or hang_s is over; then resets."""
        state.setdefault("ending", "hang")
        deadline = time.monotonic() + fault.get("hang_s", 120)
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.sock], [], [], 0.2)
            if readable:
                break
        self._reset()

    # Reading

    def _more(self):
        part = self.sock.recv(65536)
        if not part:
            raise Gone
        self.buffer += part

    def _head(self):
        """The next request's head: (Request, declared body length or None)."""
        idle = self.service.account.settings.idle_close_s
        self.sock.settimeout(idle or None)
        while (at := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Gone
            self._more()
        self.sock.settimeout(None)
        lines = bytes(self.buffer[:at]).decode("latin-1").split("\r\n")
        del self.buffer[:at + 4]
        try:
            method, target, _version = lines[0].split(" ")
        except ValueError:
            raise Gone from None
        headers, raw = {}, []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise Gone
            value = value.strip()
            raw.append((name, value))
            headers[name.lower()] = value
        if headers.get("connection", "").lower() == "close":
            self.closing = True
        if target.startswith(("http://", "https://")):     # as asked of a proxy
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        req = Request(method, target, headers, raw)
        req.secure = self.front.tls is not None
        length = headers.get("content-length")
        return req, int(length) if length is not None and length.isdigit() else None

    def _body(self, req, declared):
        if declared is None:
            if req.method in ("PUT", "POST"):
                self.closing = True
                raise BlobError("MissingContentLengthHeader")
            return
        limit = 4 * MIB if req.operation in ("PutPage", "ClearPages") else MAX_BODY
        if req.headers.get("expect", "").lower() == "100-continue" and declared <= limit:
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if declared > limit:
            self.closing = True
            if "expect" not in req.headers:
                self._drain(min(declared, 64 * MIB))
            raise BlobError("RequestBodyTooLarge", detail={"MaxLimit": limit})
        body = bytearray(declared)
        taken = min(declared, len(self.buffer))
        body[:taken] = self.buffer[:taken]
        del self.buffer[:taken]
        view = memoryview(body)
        while taken < declared:
            got = self.sock.recv_into(view[taken:])
            if not got:
                raise Gone
            taken += got
        view.release()
        req.body = body

    def _drain(self, length):
        length -= len(self.buffer)
        self.buffer.clear()
        while length > 0:
            part = self.sock.recv(min(length, MIB))
            if not part:
                raise Gone
            length -= len(part)

    # Answering

    def _refusal(self, req, error):
        headers = {"x-ms-error-code": error.code, **error.headers}
        body = b""
        if error.status != 304:
            body = xmlbody.error(error.code, error.message, req.request_id,
                                 self.service.account.http_date(), error.detail)
            headers["Content-Type"] = "application/xml"
        response = Response(error.status, headers, body)
        response.code = error.code
        return response

    def _chosen(self, req, fault):
        code = fault.get("code", "InternalError")
        error = BlobError(code, status=fault.get("status"))
        if "retry_after" in fault:
            error.headers["Retry-After"] = str(fault["retry_after"])
        return self._refusal(req, error)

    def _answer(self, req, response, length, fault, stop):
        headers = {"Server": "Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0",
                   "x-ms-request-id": req.request_id,
                   "Date": self.service.account.http_date(),
                   "Content-Length": str(length), **response.headers}
        if req.version:
            headers["x-ms-version"] = req.version
        if "x-ms-client-request-id" in req.headers:
            headers["x-ms-client-request-id"] = req.headers["x-ms-client-request-id"]
        if self.closing:
            headers["Connection"] = "close"
        if response.status in (204, 304):
            headers.pop("Content-Length")
        if req.method == "HEAD" and response.status >= 300:
            headers["Content-Length"] = "0"
        head = f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}\r\n"
        head += "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        head = head.encode("latin-1", "replace")
        if req.method == "HEAD" or response.status in (204, 304):
            self.sock.sendall(head)
            return
        chunks = response.stream if response.stream is not None else [response.body]
        self._send(head, chunks, fault, stop)

    def _send(self, head, chunks, fault, stop):
        kind, sent = fault.get("kind"), 0
        for chunk in chunks:
            if kind == "corrupt" and chunk and sent == 0:
                chunk = bytearray(chunk)
                chunk[len(chunk) // 2] ^= 1
            if stop is not None and sent + len(chunk) >= stop:
                self.sock.sendall(head + bytes(chunk[:stop - sent]))
                raise Gone
            if kind == "slow":
                self._trickle(head + bytes(chunk), fault["bytes_per_s"])
            elif len(chunk) <= 65536:
                self.sock.sendall(head + chunk)
            else:
                if head:
                    self.sock.sendall(head)
                self.sock.sendall(chunk)
            head, sent = b"", sent + len(chunk)

    def _trickle(self, data, bytes_per_s):
        step = max(1, int(bytes_per_s / 20))
        for at in range(0, len(data), step):
            self.sock.sendall(data[at:at + step])
            time.sleep(0.05)


def break_lease(lease: Lease, steal=False):
    """What another appliance does: breaks the lease at once and, to steal it, acquires it."""
    if lease.state in ("leased", "breaking"):
        lease.end(0)
    if steal:
        lease.acquire(60, str(uuid.uuid4()))
