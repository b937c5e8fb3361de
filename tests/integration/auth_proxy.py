#!/usr/bin/env python3
"""An HTTP proxy that wants credentials, for tests of clients.

    auth_proxy.py READY_FILE USER:PASSWORD LOG [basic|digest-md5|digest-sha256|ntlm]

Listens on a free port of 127.0.0.1 and writes the number to READY_FILE. Knows CONNECT and plain
requests (absolute URLs); whoever brings no or wrong credentials gets a 407. Each request becomes a
line in LOG: its method, its target, its answer. The schemes are judged by proxy_schemes.py.
"""
import os
import socket
import sys
import threading
import urllib.parse

from proxy_schemes import scheme


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def read_head(stream):
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b"\n", b""):
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    return lines


class Proxy:
    def __init__(self, credentials, log, name):
        user, _, password = credentials.partition(":")
        self.scheme = scheme(name, user, password)
        self.lock = threading.Lock()
        self.log = open(log, "a", buffering=1, encoding="ascii")

    def serve(self, client):
        stream = client.makefile("rb")
        try:
            while head := read_head(stream):
                if not self.one(client, stream, head):
                    break
        except OSError:
            pass
        finally:
            client.close()

    def one(self, client, stream, head):
        method, target, _ = head[0].split(" ")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        with self.lock:
            known, challenges = self.scheme.judge(client, method, target,
                                                  headers.get("proxy-authorization", ""))
        if not known:
            stream.read(length)
            self.log.write(f"{method} {target} 407\n")
            lines = "".join(f"Proxy-Authenticate: {challenge}\r\n" for challenge in challenges)
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n" + lines.encode() +
                           b"Content-Length: 0\r\n\r\n")
            return True
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port))) as server:
                self.log.write(f"{method} {target} 200\n")
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join()
            return False
        url = urllib.parse.urlsplit(target)
        path = url.path + ("?" + url.query if url.query else "")
        kept = [line for line in head[1:] if not line.lower().startswith("proxy-")
                and not line.lower().startswith("connection:")]
        with socket.create_connection((url.hostname, url.port or 80)) as server:
            server.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *kept,
                                        "Connection: close", "", ""]).encode("latin-1"))
            server.sendall(stream.read(length))
            self.log.write(f"{method} {target} sent\n")
            while data := server.recv(65536):
                client.sendall(data)
        return False


def main():
    ready, credentials, log = sys.argv[1:4]
    proxy = Proxy(credentials, log, sys.argv[4] if len(sys.argv) > 4 else "basic")
    listener = socket.create_server(("127.0.0.1", 0))
    with open(ready + ".part", "w", encoding="ascii") as out:
        out.write(f"{listener.getsockname()[1]}\n")
    os.rename(ready + ".part", ready)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=proxy.serve, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
