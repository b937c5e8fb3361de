#!/usr/bin/env python3
"""The agents' door: who is let in, who is not, and what strangers can do to it.

Keys that are foreign, used up, another machine's or revoked; certificates that are foreign, revoked
or unknown; machines that say they are others; clients that lie in frames, speak old TLS, none at
all, or say nothing; and that no secret is seen in files, logs or arguments.
"""

import base64
import hashlib
import json
import os
import pathlib
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from appliance import (BUILD, Appliance, check, die_with_parent,  # noqa: E402
                       end_process, need, run_test, step, wait_until)
from wire import CONTROL, DATA, PING, Ended, Wire, frame  # noqa: E402

HELLO = {"type": "hello", "machine": "web1", "versions": [1, 1], "version": "test", "host": "h",
         "boot": "b", "connections": 1, "zstd": False}
REFUSED = 4
UNREACHABLE = 6
AT_ONCE_S = 3


class Source:
    """landfall-agent's state on one machine."""

    def __init__(self, work, name, machine=None):
        self.state = work / name
        self.machine = machine or name

    def enroll(self, port, key, *more, code=0, says="", **options):
        done = subprocess.run([BUILD / "landfall-agent", "enroll", "--appliance",
                               f"127.0.0.1:{port}", "--key-file", "-", "--machine", self.machine,
                               "--state-dir", self.state, *more], input=key, text=True,
                              capture_output=True, timeout=60, check=False, **options)
        check(done.returncode == code, f"enroll {self.machine}: exit {done.returncode} instead of "
              f"{code}: {done.stdout}{done.stderr}")
        check(says in done.stderr, f"enroll {self.machine}: {done.stderr!r} says not {says!r}")
        check(code == 0 or "\n  → " in done.stderr, f"no mend: {done.stderr!r}")
        return done

    @property
    def identity(self):
        return json.loads((self.state / "identity.json").read_text(encoding="utf-8"))


def new_key(appliance, *words):
    made = appliance.call("key", "create", *words)
    return made["text"], made["key"]["id"]


def key_of(appliance, key_id):
    return next(k for k in appliance.call("key", "list")["keys"] if k["id"] == key_id)


def private(path):
    mode = stat.S_IMODE(os.stat(path).st_mode)
    check(mode & 0o077 == 0, f"{path} has mode {mode:o}")


def refused_at_handshake(port, identity, says):
    """The certificate is refused by TLS itself, whenever Python gets to hear of it."""
    try:
        with Wire(port, identity) as wire:
            wire.say({"type": "hello", "machine": "web1", "versions": [1, 1]})
            heard, end = wire.hear_the_end()
            check(not heard, f"it was answered: {heard}")
    except Ended as why:
        end = str(why)
    check(any(word in end.lower() for word in says), f"refused with {end!r}, not {says}")


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


def keys_and_files(work, a, port):
    step("a key enrols one machine, and is seen nowhere")
    text, key_id = new_key(a)
    web1 = Source(work, "web1")
    web1.enroll(port, text)
    private(web1.state)
    private(web1.state / "identity.json")
    check(not (web1.state / "enrolling.json").exists(), "enrolling.json is left behind")
    for path in [a.state / "agent_keys.json", *(a.state / "pki").iterdir(), a.state / "pki"]:
        private(path)
    key = key_of(a, key_id)
    check(key["state"] == "used" and key["uses"][0]["machine"] == "web1", f"key list: {key}")
    secret = text.split(".")[2]
    raw = base64.urlsafe_b64decode(secret + "=")
    for path in pathlib.Path(a.state).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            check(secret.encode() not in data and raw not in data and raw.hex().encode()
                  not in data, f"the secret stands in {path}")
    web1.enroll(port, text)  # again, where it succeeded: nothing to do
    Source(work, "again", "web1").enroll(port, text, code=REFUSED, says="used up")
    Source(work, "other", "web2").enroll(port, text, code=REFUSED, says="used up")
    return web1, key_id


def keys_that_are_refused(work, a, port):
    step("keys that are none, foreign, another machine's, for nobody")
    web2 = Source(work, "web2")
    text, key_id = new_key(a, "--machine", "web2", "--ttl", "1h")
    prefix, ident, secret, print_ = text.split(".")
    web2.enroll(port, "landfall-1.x", code=2, says="no registration key")
    web2.enroll(port, ".".join([prefix, ident, secret, "A" * 43]), code=REFUSED,
                says="another appliance")
    web2.enroll(port, ".".join([prefix, ident, "B" * 42 + "A", print_]), code=REFUSED,
                says="no registration key of this appliance")
    web2.enroll(port, ".".join([prefix, "0" * 12, secret, print_]), code=REFUSED,
                says="no registration key of this appliance")
    Source(work, "web2x", "web1").enroll(port, text, code=REFUSED, says="for machine web2 alone")
    check(key_of(a, key_id)["state"] == "valid", "what was refused used the key up")
    free, free_id = new_key(a)
    Source(work, "nobody").enroll(port, free, code=REFUSED, says="protects no machine nobody")
    Source(work, "f", "filer").enroll(port, free, code=REFUSED, says="the source fuse")
    # web1 is enrolled: a key that is not bound to it does not take its place.
    Source(work, "thief", "web1").enroll(port, free, code=REFUSED, says="enrolled already")
    check(key_of(a, free_id)["state"] == "valid", "what was refused used the key up")
    a.call("key", "revoke", free_id)
    web2.enroll(port, free, code=REFUSED, says="revoked")
    web2.enroll(port, text)
    return web2, key_id


def a_lost_answer(work, a, port):
    """A relay lets the question through and loses the answer: asked again, the same key serves."""
    step("an answer that gets lost")
    text, key_id = new_key(a, "--machine", "web3")
    web3 = Source(work, "web3")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)

    def relay():
        client = listener.accept()[0]
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(client.recv(65536))   # ClientHello
            client.sendall(server.recv(65536))   # the server's flight
            server.sendall(client.recv(65536))   # Finished, perhaps the question too
            client.settimeout(0.2)
            server.settimeout(0.2)

            def enrolled():
                try:
                    server.sendall(client.recv(65536))
                except (TimeoutError, socket.timeout):
                    pass
                return "machine web3 is enrolled" in a.log.read_text(encoding="utf-8")
            wait_until(30, enrolled, "the question did not arrive")

    thread = threading.Thread(target=relay)
    thread.start()
    host = listener.getsockname()[1]
    done = web3.enroll(host, text, code=UNREACHABLE)
    thread.join()
    listener.close()
    check(done.stdout == "", "it says that it is enrolled")
    check(key_of(a, key_id)["state"] == "used", "the question did not count")
    # The pair was made for that address: through it, the way being mended, the same is asked.
    forward = subprocess.Popen(
        [sys.executable, "-c", FORWARDER, str(host), str(port)], preexec_fn=die_with_parent)
    try:
        wait_until(20, lambda: listens(host), "no forwarder")
        web3.enroll(host, text)
    finally:
        end_process(forward)
    check(len(key_of(a, key_id)["uses"]) == 1, "asking again counted twice")


FORWARDER = """
import socket, sys, threading
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them is gone
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client = listener.accept()[0]
    server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
"""


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def arguments_are_wiped(work):
    """While it talks, the key that was given as an argument is not among its arguments."""
    step("the key in the list of processes")
    secret = "C" * 42 + "A"
    key = f"landfall-1.{'1' * 12}.{secret}.{'D' * 42}A"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        agent = subprocess.Popen(
            [BUILD / "landfall-agent", "enroll", "--appliance",
             f"127.0.0.1:{listener.getsockname()[1]}", "--key", key, "--machine", "m",
             "--state-dir", work / "wiped"], preexec_fn=die_with_parent,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with listener.accept()[0]:
            words = pathlib.Path(f"/proc/{agent.pid}/cmdline").read_bytes()
            core = pathlib.Path(f"/proc/{agent.pid}/limits").read_text(encoding="ascii")
        agent.wait(30)
    check(b"--key" in words and secret.encode() not in words, f"the arguments are {words}")
    check("Max core file size        0 " in core, "core dumps are not off")


def ask_again(port, source, key_text):
    """What the appliance says to the pair of keys that `source` has, asking as at first."""
    _, key_id, secret, _ = key_text.split(".")
    key = source.state / "again.key"
    key.write_text(source.identity["key"], encoding="ascii")
    csr = subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=x"], check=True,
                         capture_output=True, text=True).stdout
    with Wire(port) as wire:
        wire.say({"type": "enroll", "machine": source.machine, "csr": csr,
                  "key": {"id": key_id, "secret": secret}})
        return wire.hear()


def welcomed(port, source):
    with Wire(port, source.identity) as wire:
        wire.say(HELLO | {"machine": source.machine})
        return wire.hear()["type"] == "welcome"


def used_keys(work, a, port):
    """A machine that was replaced does not come back by the key that it was once enrolled with."""
    step("a key that is used brings back nothing that was revoked")
    a.call("machine", "add", "web4", "--source", "agent")
    for bound in ((), ("--machine", "web4")):
        first, second = (Source(work, f"web4-{len(bound)}-{i}", "web4") for i in (1, 2))
        text, _ = new_key(a, *bound)
        first.enroll(port, text)
        heard = ask_again(port, first, text)
        check(heard["type"] == "enrolled" and heard["certificate"] ==
              first.identity["certificate"], f"asked again: {heard}")
        other, other_id = new_key(a, "--machine", "web4")
        second.enroll(port, other)
        heard = ask_again(port, first, text)
        check(heard["type"] == "error" and heard["code"] == "key-used" and heard["mend"],
              f"revoked, and asked again: {heard}")
        refused_at_handshake(port, first.identity, ["revoked"])
        check(welcomed(port, second), "who came second was revoked by who was first")
        check(ask_again(port, second, other)["type"] == "enrolled", "its own key is refused")
        a.call("key", "revoke", other_id)
        heard = ask_again(port, second, other)
        check(heard["type"] == "error" and heard["code"] == "key-revoked" and heard["mend"],
              f"with a revoked key: {heard}")
        refused_at_handshake(port, second.identity, ["revoked"])


# ── certificates ─────────────────────────────────────────────────────────────────────────────


def hear_the_revocation(wire):
    """Everything up to the end, which comes at once: one who only falls silent lives longer."""
    wire.tls.settimeout(AT_ONCE_S)
    deadline = time.monotonic() + AT_ONCE_S
    heard = []
    while True:
        try:
            heard.append(wire.hear())
        except Ended as why:
            check(time.monotonic() < deadline and "timed out" not in str(why),
                  f"the session has not ended after {AT_ONCE_S} s: {why}")
            return heard
        check(time.monotonic() < deadline, f"the session goes on: {heard}")


def certificates(work, a, port, web1, web2):
    step("certificates that are foreign, revoked, replaced")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", work / "foreign.key", "-out",
                    work / "foreign.crt", "-subj", "/CN=web1", "-days", "30"], check=True,
                   capture_output=True)
    foreign = {"key": (work / "foreign.key").read_text(encoding="ascii"),
               "certificate": (work / "foreign.crt").read_text(encoding="ascii")}
    refused_at_handshake(port, foreign, ["unknown ca"])
    # Another machine's name, with a good certificate.
    with Wire(port, web1.identity) as wire:
        wire.say({"type": "hello", "machine": "web2", "versions": [1, 1]})
        heard, _ = wire.hear_the_end()
        check(heard and heard[0]["type"] == "error" and heard[0]["code"] == "machine",
              f"web1 as web2 heard {heard}")
    # The server's own pair is no agent's.
    pem = (a.state / "pki/server.pem").read_text(encoding="ascii")
    at = pem.index("-----BEGIN CERTIFICATE")
    refused_at_handshake(port, {"key": pem[:at], "certificate": pem[at:]},
                         ["unsupported certificate", "bad certificate"])
    # A key of its own enrols the machine anew, and ends what it had, sessions included.
    old = web1.identity
    with Wire(port, old) as wire:
        wire.say(HELLO | {"machine": "web1"})
        check(wire.hear()["type"] == "welcome", "no welcome")
        text, key_id = new_key(a, "--machine", "web1")
        Source(work, "web1-new", "web1").enroll(port, text)
        heard = hear_the_revocation(wire)
        check(all(h["type"] not in ("mark", "cut.prepare") for h in heard), f"{heard}")
    refused_at_handshake(port, old, ["revoked"])
    new = Source(work, "web1-new", "web1")
    # Revoking the key revokes what was won with it, at once.
    with Wire(port, new.identity) as wire:
        wire.say(HELLO | {"machine": "web1"})
        check(wire.hear()["type"] == "welcome", "no welcome")
        a.call("key", "revoke", key_id)
        hear_the_revocation(wire)
    refused_at_handshake(port, new.identity, ["revoked"])
    # A machine that is removed.
    with Wire(port, web2.identity) as wire:
        wire.say(HELLO | {"machine": "web2"})
        check(wire.hear()["type"] == "welcome", "no welcome")
        a.call("machine", "remove", "web2")
        hear_the_revocation(wire)
    refused_at_handshake(port, web2.identity, ["revoked"])


def renewal(a, port, identity, work):
    step("a certificate is renewed for its own key alone")
    (work / "own.key").write_text(identity["key"], encoding="ascii")
    requests = {}
    for name, key in (("own", work / "own.key"), ("foreign", work / "foreign.key")):
        requests[name] = subprocess.run(["openssl", "req", "-new", "-key", key, "-subj",
                                         "/CN=somebody"], check=True, capture_output=True,
                                        text=True).stdout
    for name, wanted in (("own", "enrolled"), ("foreign", "error")):
        with Wire(port, identity) as wire:
            wire.say({"type": "renew", "csr": requests[name]})
            heard = wire.hear()
            check(heard["type"] == wanted, f"renewing for the {name} key: {heard}")
            if wanted == "enrolled":
                text = subprocess.run(["openssl", "x509", "-noout", "-subject"], text=True,
                                      input=heard["certificate"], check=True,
                                      capture_output=True).stdout
                check("web3" in text and "somebody" not in text, f"renewed as {text}")
    with Wire(port) as wire:
        wire.say({"type": "renew", "csr": requests["own"]})
        check(wire.hear()["code"] == "certificate", "renewed without a certificate")
    check("somebody" not in a.log.read_text(encoding="utf-8"), "a stranger's text in the log")


# ── strangers ────────────────────────────────────────────────────────────────────────────────


def old_tls(port, key_text):
    step("TLS 1.2, no ALPN, other ALPN; and that the chain is the key's")
    for options in ({"version": ssl.TLSVersion.TLSv1_2}, {"alpn": None}, {"alpn": "h2"}):
        try:
            with Wire(port, **options) as wire:
                wire.say({"type": "hello"})
                heard, _ = wire.hear_the_end()
                check(not heard, f"{options}: answered {heard}")
                check("alpn" in options, "TLS 1.2 is spoken")
        except Ended:
            pass
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"],
                          input="", capture_output=True, text=True, check=False, timeout=30)
    check("protocol version" in done.stderr and "BEGIN CERTIFICATE" not in done.stdout,
          f"s_client -tls1_2: {done.stderr}")
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3",
                           "-alpn", "landfall/1", "-showcerts"], input="", capture_output=True,
                          text=True, check=False, timeout=30)
    check("TLSv1.3" in done.stdout, "no TLS 1.3")
    pems = [p.split("-----END")[0] for p in done.stdout.split("-----BEGIN CERTIFICATE-----")[1:]]
    prints = []
    for pem in pems[:2]:
        der = subprocess.run("openssl x509 -pubkey -noout | openssl pkey -pubin -outform DER",
                             shell=True, check=True, capture_output=True,
                             input=f"-----BEGIN CERTIFICATE-----{pem}-----END CERTIFICATE-----\n"
                             .encode()).stdout
        prints.append(base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("="))
    check(key_text.split(".")[3] in prints, "the chain does not hold the key's authority")


def liars(a, port, identity):
    step("frames that lie")
    hello = json.dumps({"type": "hello", "machine": "web3", "versions": [1, 1]}).encode()
    lies = [b"\0" * 40, os.urandom(200), frame(CONTROL, hello, magic=1),
            frame(CONTROL, hello, checksum=5), frame(CONTROL, hello, body_checksum=5),
            frame(CONTROL, hello, sequence=0), frame(CONTROL, hello, sequence=2),
            frame(CONTROL, hello, flags=1), frame(CONTROL, hello, unused=1),
            frame(CONTROL, hello, body_bytes=1 << 31), frame(CONTROL, hello, body_bytes=0),
            frame(CONTROL, b"x" * 65536), frame(CONTROL, b"[" * 60000),
            frame(CONTROL, b"{}"), frame(CONTROL, b'{"type":"hello"}x'),
            frame(CONTROL, b'{"type":"\xff"}'), frame(CONTROL, b'{"type":"nonsense"}'),
            frame(CONTROL, b'{"type":"enroll"}'), frame(DATA, b"\0" * 4128), frame(9), frame(0),
            frame(PING, b"x"), frame(65535, b"x")]
    for who in (None, identity):
        for lie in lies:
            with Wire(port, who) as wire:
                try:
                    wire.send(lie)
                except Ended:
                    continue
                heard, _ = wire.hear_the_end()
                check(all(h["type"] == "error" for h in heard), f"{lie[:60]}: heard {heard}")
    # Half a frame, and the end.
    with Wire(port, identity) as wire:
        wire.send(frame(CONTROL, hello)[:50])
    with Wire(port) as wire:
        wire.say({"type": "hello", "machine": "web3", "versions": [1, 1]})
        check(wire.hear()["code"] == "certificate", "hello without a certificate")
    with Wire(port) as wire:
        wire.say({"type": "enroll", "machine": "../../etc", "csr": "x", "key":
                  {"id": "0" * 12, "secret": "A" * 43}})
        check(wire.hear()["type"] == "error", "enrolled as ../../etc")
    for who in (None, identity):
        with Wire(port, who) as wire:
            wire.say({"type": "enroll\nerror: forged", "machine": "x\nerror: forged", "csr": "x",
                      "key": {"id": "0" * 12, "secret": "A" * 43}})
            wire.hear_the_end()
    with Wire(port) as wire:
        wire.say({"type": "enroll", "machine": "x\nerror: forged", "csr": "x",
                  "key": {"id": "0" * 12, "secret": "A" * 43}})
        wire.hear_the_end()
    with Wire(port, identity) as wire:
        wire.say(HELLO | {"machine": "web3"})
        wire.say({"type": "error", "message": "x\nerror: forged"})
        wire.hear_the_end()
    check("\nerror: forged" not in a.log.read_text(encoding="utf-8"), "a line of the log is forged")


def closed_within(connection, seconds):
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    except (TimeoutError, socket.timeout):
        return False
    return True


def slow_ones(a, port, identity):
    step("strangers who say nothing: few at once, and not for long")
    idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(8)]
    # The ninth of one address is one too many, at once; known machines wait for nobody.
    wait_until(10, lambda: closed_within(socket.create_connection(("127.0.0.1", port), 5), 1),
               "a ninth stranger is let in")
    garbage = idle[0]
    garbage.sendall(b"GET / HTTP/1.0\r\n\r\n")
    check(closed_within(garbage, 8), "garbage is not answered with an end")
    for connection in idle[1:]:
        check(closed_within(connection, 25), "a stranger may stay for ever")
    for connection in idle:
        connection.close()
    # From many addresses: the oldest make room for those who speak.
    crowd = [socket.create_connection(("127.0.0.1", port), 5,
                                      source_address=(f"127.0.1.{i // 8 + 1}", 0))
             for i in range(64)]
    with Wire(port, identity) as wire:
        wire.say({"type": "renew", "csr": "none"})
        check(wire.hear()["type"] == "error", "strangers keep a machine outside")
    check(closed_within(crowd[0], 5), "nobody had to make room")
    check(not closed_within(crowd[-1], 0.2), "the newest had to make room")
    for connection in crowd:
        connection.close()
    # One machine's connections keep nobody else's out.
    many = [Wire(port, identity) for _ in range(40)]
    wait_until(10, lambda: sum(closed_within(w.tls, 0.01) for w in many) >= 8,
               "a machine may have any number of connections")
    with Wire(port) as wire:
        wire.say({"type": "hello"})
        check(wire.hear()["code"] == "certificate", "a machine keeps others outside")
    for wire in many:
        wire.tls.close()
    # The handshake done, and then nothing; or one byte a second.
    with Wire(port) as wire:
        wire.send(frame(CONTROL, b"{}")[:1])
        check(closed_within(wire.tls, 25), "half a first word may take for ever")
    with Wire(port, identity) as wire:
        wire.say({"type": "renew", "csr": "none"})
        check(wire.hear()["type"] == "error", "the port is not what it was")
    lines = [line for line in a.log.read_text(encoding="utf-8").splitlines()
             if "agents' port" in line]
    check(len(lines) < 80, f"{len(lines)} lines about strangers")


def test(work):
    need("openssl")
    with Appliance(BUILD, work, listen="127.0.0.1:0") as a:
        port = a.agent_port()
        for name in ("web1", "web2", "web3"):
            a.call("machine", "add", name, "--source", "agent")
        a.call("machine", "add", "filer", "--source", "fuse", "--disk", "root=1M")
        web1, _ = keys_and_files(work, a, port)
        web2, _ = keys_that_are_refused(work, a, port)
        a_lost_answer(work, a, port)
        web3 = Source(work, "web3").identity
        arguments_are_wiped(work)
        certificates(work, a, port, web1, web2)
        used_keys(work, a, port)
        renewal(a, port, web3, work)
        old_tls(port, new_key(a)[0])
        liars(a, port, web3)
        slow_ones(a, port, web3)
        step("a port that another has: an alert, and open by itself when it is free")
        a.stop()
        a.settings["appliance"]["listen"] = f"127.0.0.1:{port}"
        a.write_config()
        with socket.create_server(("127.0.0.1", port)):
            a.start()
            alert = wait_until(20, lambda: a.own_alerts().get("agents-port"), "no alert")
            check(alert["severity"] == "critical" and alert["mend"], f"{alert}")
        check(a.agent_port() == port, "it listens on another port")
        wait_until(20, lambda: "agents-port" not in a.own_alerts(), "the alert stays")
        step("a restart has forgotten nothing")
        refused_at_handshake(port, web1.identity, ["revoked"])
        with Wire(port, web3) as wire:
            wire.say({"type": "renew", "csr": "none"})
            check(wire.hear()["type"] == "error", "web3 is forgotten")
        log = a.log.read_text(encoding="utf-8")
        check("BEGIN" not in log and "landfall-1." not in log, "secrets in the log")


run_test(test)
