#!/usr/bin/env python3
"""The strict server against requests signed by hand: what it refuses, and curl as a client."""
import base64
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import unittest
import urllib.parse
import urllib.request
from email.utils import formatdate
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from testing import MIB, ServerCase, Signer, TlsServerCase, admin, rest      # noqa: E402

PAGE = {"x-ms-page-write": "update", "x-ms-range": "bytes=0-511"}
CLEAR = {"x-ms-page-write": "clear", "x-ms-range": "bytes=0-511"}


class StrictCase(ServerCase):
    def setUp(self):
        super().setUp()
        self.signer = Signer(self.server)
        self.send("PUT", "cont?restype=container", want=(201, 409))
        self.create("d.vhd")

    def tearDown(self):
        self.send("DELETE", "cont?restype=container", want=(202, 404))
        super().tearDown()

    def create(self, name, size=MIB, **extra):
        self.send("PUT", f"cont/{name}", {"x-ms-blob-type": "PageBlob",
                                       "x-ms-blob-content-length": str(size), **extra}, want=201)

    def send(self, method, resource, extra=None, body=None, want=None, **kwargs):
        status, headers, data = self.signer.send(method, resource, extra, body, **kwargs)
        if want is not None:
            self.assertIn(status, want if isinstance(want, tuple) else (want,),
                          (method, resource, extra, data))
        return status, headers, data

    def refused(self, status, code, method, resource, extra=None, body=None, **kwargs):
        got, headers, data = self.signer.send(method, resource, extra, body, **kwargs)
        self.assertEqual((got, headers.get("x-ms-error-code")), (status, code), data)
        self.assertIn("x-ms-request-id", headers)
        self.assertIn("Date", headers)
        if method != "HEAD":
            root = ET.fromstring(data)
            self.assertEqual(root.findtext("Code"), code)
            self.assertIn(headers["x-ms-request-id"], root.findtext("Message"))

    def put(self, start, data, **extra):
        headers = {"x-ms-page-write": "update",
                   "x-ms-range": f"bytes={start}-{start + len(data) - 1}"}
        headers.update({k.replace("_", "-"): v for k, v in extra.items()})
        return self.send("PUT", "cont/d.vhd?comp=page", headers, data, want=201)

    def log(self):
        return admin(self.server, "GET", "/log")


class Refusals(StrictCase):
    def test_headers(self):
        self.refused(400, "UnsupportedHeader", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "x-ms-blob-type": "PageBlob"}, bytes(512))
        self.refused(400, "UnsupportedHeader", "GET", "cont/d.vhd", {"x-ms-surprise": "1"})
        self.refused(400, "UnsupportedHeader", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "x-ms-meta-a": "1"}, bytes(512))
        for version in ("2021-12-03", "today", "2099-01-01"):
            self.refused(400, "InvalidHeaderValue", "GET", "cont/d.vhd", {"x-ms-version": version})
        self.refused(400, "MissingRequiredHeader", "PUT", "cont/x", {"x-ms-blob-type": "PageBlob"})
        self.refused(400, "MissingRequiredHeader", "PUT", "cont/x", {})
        self.refused(400, "InvalidHeaderValue", "PUT", "cont/x", {"x-ms-blob-type": "OtherBlob"})
        self.refused(400, "InvalidMetadata", "PUT", "cont/d.vhd?comp=snapshot",
                     {"x-ms-meta-a-b": "1"})
        self.refused(400, "MetadataTooLarge", "PUT", "cont/d.vhd?comp=snapshot",
                     {"x-ms-meta-a": "1" * 8200})

    def test_sizes(self):
        kind = {"x-ms-blob-type": "PageBlob"}
        for size in ("511", "513", "-512", str((8 << 40) + 512)):
            self.refused(400, "InvalidHeaderValue", "PUT", "cont/x",
                         {**kind, "x-ms-blob-content-length": size})
        self.refused(400, "InvalidHeaderValue", "PUT", "cont/x",
                     {**kind, "x-ms-blob-content-length": "512"}, bytes(512))
        self.send("PUT", "cont/x", {**kind, "x-ms-blob-content-length": str(8 << 40)}, want=201)

    def test_pages(self):
        where = "cont/d.vhd?comp=page"
        self.refused(413, "RequestBodyTooLarge", "PUT", where, {
            "x-ms-page-write": "update", "x-ms-range": f"bytes=0-{4 * MIB + 511}"},
            bytes(4 * MIB + 512))
        for text in ("bytes=1-512", "bytes=0-510", "bytes=512-511"):
            self.refused(416, "InvalidPageRange", "PUT", where, {**PAGE, "x-ms-range": text},
                         bytes(512))
        self.refused(416, "InvalidPageRange", "PUT", where, {
            **PAGE, "x-ms-range": f"bytes={MIB}-{MIB + 511}"}, bytes(512))
        self.refused(400, "InvalidHeaderValue", "PUT", where, PAGE, bytes(1024))
        self.refused(400, "InvalidHeaderValue", "PUT", where, CLEAR, bytes(512))
        self.refused(400, "InvalidHeaderValue", "PUT", where, {
            **CLEAR, "Content-MD5": base64.b64encode(bytes(16)).decode()})
        self.refused(400, "MissingRequiredHeader", "PUT", where,
                     {"x-ms-page-write": "update"}, bytes(512))
        self.refused(400, "InvalidQueryParameterValue", "PUT",
                     "cont/d.vhd?comp=page&snapshot=2026-01-01T00:00:00.0000000Z", PAGE, bytes(512))
        self.send("PUT", "cont/block", {"x-ms-blob-type": "BlockBlob"}, b"text", want=201)
        self.refused(409, "InvalidBlobType", "PUT", "cont/block?comp=page", PAGE, bytes(512))
        self.refused(404, "BlobNotFound", "PUT", "cont/none?comp=page", PAGE, bytes(512))
        self.refused(404, "ContainerNotFound", "PUT", "none/none?comp=page", PAGE, bytes(512))
        self.assertEqual(self.send("GET", "cont/d.vhd?comp=pagelist")[2].count(b"<PageRange>"), 0)

    def test_checksums(self):
        data = b"123456789".ljust(512, b"\0")
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        answer = self.put(0, data, Content_MD5=md5)[1]
        self.assertEqual(answer["Content-MD5"], md5)
        self.refused(400, "Md5Mismatch", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "Content-MD5": md5}, bytes(512))
        self.refused(400, "InvalidMd5", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "Content-MD5": "AAAA"}, bytes(512))
        crc = base64.b64encode(crc64(data).to_bytes(8, "little")).decode()
        self.assertEqual(self.put(0, data, x_ms_content_crc64=crc)[1]["x-ms-content-crc64"], crc)
        self.refused(400, "Crc64Mismatch", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "x-ms-content-crc64": crc}, bytes(512))
        self.refused(400, "InvalidHeaderValue", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "x-ms-content-crc64": crc, "Content-MD5": md5}, data)
        self.assertEqual(crc64(b"123456789"), 0xAE8B14860A799888)
        status, headers, got = self.send("GET", "cont/d.vhd", {
            "x-ms-range": "bytes=0-511", "x-ms-range-get-content-crc64": "true"})
        self.assertEqual((status, got, headers["x-ms-content-crc64"]), (206, data, crc))

    def test_ranges(self):
        self.put(0, b"r" * 1024)
        status, headers, data = self.send("GET", "cont/d.vhd", {"Range": "bytes=1000-1039"})
        self.assertEqual((status, headers["Content-Range"], data),
                         (206, f"bytes 1000-1039/{MIB}", b"r" * 24 + bytes(16)))
        self.refused(416, "InvalidRange", "GET", "cont/d.vhd", {"x-ms-range": f"bytes={MIB}-"})
        status, headers, data = self.send("GET", "cont/d.vhd", {"x-ms-range": f"bytes={MIB - 5}-"})
        self.assertEqual((status, data), (206, bytes(5)))
        self.assertEqual(self.send("HEAD", "cont/d.vhd")[1]["Content-Length"], str(MIB))

    def test_page_list_in_pieces(self):
        for i in range(25):
            self.put(i * 1024, b"x" * 512)
        found, marker = [], ""
        while True:
            more = f"&marker={urllib.parse.quote(marker, safe='')}" if marker else ""
            _, _, data = self.send("GET", f"cont/d.vhd?comp=pagelist&maxresults=7{more}", want=200)
            root = ET.fromstring(data)
            part = [int(p.findtext("Start")) for p in root.iter("PageRange")]
            self.assertLessEqual(len(part), 7)
            found += part
            marker = root.findtext("NextMarker")
            if not marker:
                break
        self.assertEqual(found, [i * 1024 for i in range(25)])
        self.refused(400, "InvalidQueryParameterValue", "GET", "cont/d.vhd?comp=pagelist&marker=no")
        self.refused(400, "OutOfRangeQueryParameterValue", "GET",
                     "cont/d.vhd?comp=pagelist&maxresults=0")

    def test_conditions(self):
        _, head, _ = self.send("HEAD", "cont/d.vhd")
        etag, modified = head["ETag"], head["Last-Modified"]
        self.send("GET", "cont/d.vhd", {"If-None-Match": etag}, want=304)
        self.send("GET", "cont/d.vhd", {"If-Modified-Since": modified}, want=304)
        self.send("GET", "cont/d.vhd", {"If-Unmodified-Since": modified}, want=200)
        old = formatdate(time.time() - 3600, usegmt=True)
        self.refused(412, "ConditionNotMet", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "If-Unmodified-Since": old}, bytes(512))
        self.refused(412, "ConditionNotMet", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "If-Match": '"0x1"'}, bytes(512))
        self.refused(412, "ConditionNotMet", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "If-None-Match": etag}, bytes(512))
        block = {"x-ms-blob-type": "BlockBlob"}
        self.send("PUT", "cont/m.json", {**block, "If-None-Match": "*"}, b"1", want=201)
        self.refused(409, "BlobAlreadyExists", "PUT", "cont/m.json",
                     {**block, "If-None-Match": "*"}, b"2")
        self.refused(412, "ConditionNotMet", "PUT", "cont/new.json",
                     {**block, "If-Match": "*"}, b"2")
        self.send("PUT", "cont/d.vhd?comp=lease", {
            "x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}, want=201)
        self.assertEqual(self.send("HEAD", "cont/d.vhd")[1]["ETag"], etag, "a lease keeps the ETag")

    def test_methods_and_addresses(self):
        self.refused(405, "UnsupportedHttpVerb", "POST", "cont/d.vhd")
        self.refused(400, "InvalidQueryParameterValue", "PUT", "cont/d.vhd?comp=incrementalcopy")
        status, headers, _ = rest("GET", f"{self.signer.root}/someone/cont/d.vhd")
        self.assertEqual((status, headers["x-ms-error-code"]), (400, "InvalidUri"))

    def test_idle_connections_are_closed(self):
        admin(self.server, "POST", "/settings", {"idle_close_s": 0.1})
        with socket.create_connection(("127.0.0.1", self.server["port"]), 10) as sock:
            self.assertEqual(sock.recv(1), b"")

    def test_no_content_length(self):
        with socket.create_connection(("127.0.0.1", self.server["port"]), 10) as sock:
            sock.sendall(b"PUT /landfalltest/cont/d.vhd?comp=page HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b"411 ", sock.recv(4096))


class Credentials(StrictCase):
    def test_clock(self):
        for seconds in (-16 * 60, 16 * 60):
            self.refused(403, "AuthenticationFailed", "GET", "cont/d.vhd",
                         date=formatdate(time.time() + seconds, usegmt=True))
        self.send("GET", "cont/d.vhd", date=formatdate(time.time() - 14 * 60, usegmt=True), want=200)
        admin(self.server, "POST", "/settings", {"clock_skew_s": 1000})
        self.refused(403, "AuthenticationFailed", "GET", "cont/d.vhd")
        admin(self.server, "POST", "/settings", {"clock_skew_s": 0})

    def test_signature(self):
        target = f"/{self.server['account']}/cont/d.vhd?comp=page"
        headers = self.signer.headers("PUT", target, PAGE, 512)
        for name, value in (("x-ms-range", "bytes=512-1023"), ("x-ms-lease-id", "1"),
                            ("Content-Type", "text/plain")):
            status, answer, _ = rest("PUT", self.signer.root + target,
                                     {**headers, name: value}, bytes(512))
            self.assertEqual((status, answer["x-ms-error-code"]), (403, "AuthenticationFailed"))
        url = f"{self.server['endpoint']}/cont/d.vhd"
        status, answer, _ = rest("GET", url)
        self.assertEqual((status, answer["x-ms-error-code"]), (400, "MissingRequiredHeader"))
        status, answer, _ = rest("GET", url, {"x-ms-version": "2021-12-02"})
        self.assertEqual((status, answer["x-ms-error-code"]),
                         (401, "NoAuthenticationInformation"))
        self.assertEqual(admin(self.server, "GET", "/stats")["bad_signatures"], 3)

    def test_host_style(self):
        account = self.server["account"]
        headers = self.signer.headers("GET", "/cont/d.vhd")
        headers["Host"] = f"{account}.blob.core.windows.net"
        self.assertEqual(rest("GET", self.signer.root + "/cont/d.vhd", headers)[0], 200)

    def token(self, **form):
        settings = admin(self.server, "GET", "/settings")
        given = {"grant_type": "client_credentials", "client_id": settings["client_id"],
                 "scope": "https://storage.azure.com/.default", **form}
        return rest("POST", f"{self.server['login_endpoint']}/{settings['tenant']}"
                    "/oauth2/v2.0/token", {"Content-Type": "application/x-www-form-urlencoded"},
                    urllib.parse.urlencode(given))

    def bearer(self, token):
        return rest("HEAD", f"{self.server['endpoint']}/cont/d.vhd", {
            "Authorization": f"Bearer {token}", "x-ms-version": "2021-12-02"})[0]

    def test_tokens(self):
        status, _, answer = self.token(client_secret="the-client-secret")
        self.assertEqual((status, answer["token_type"]), (200, "Bearer"))
        self.assertEqual(self.bearer(answer["access_token"]), 200)
        self.assertEqual(self.bearer(answer["access_token"] + "x"), 401)
        self.assertEqual(self.token(client_secret="no")[0], 401)
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        self.assertEqual(self.token(client_assertion="a.b.c", client_assertion_type=kind)[0], 200)
        self.assertEqual(self.token(client_assertion="abc", client_assertion_type=kind)[0], 401)
        _, _, other = self.token(client_secret="the-client-secret",
                                 scope="https://management.azure.com/.default")
        self.assertEqual(self.bearer(other["access_token"]), 401, "a token for something else")
        admin(self.server, "POST", "/settings", {"token_ttl_s": 0})
        _, _, short = self.token(client_secret="the-client-secret")
        self.assertEqual(self.bearer(short["access_token"]), 401)
        admin(self.server, "POST", "/rules", [{"fault": {"kind": "token_expire"}}])
        self.assertEqual(self.bearer(answer["access_token"]), 401)
        self.assertEqual(self.bearer(answer["access_token"]), 401)

    def test_metadata_service(self):
        url = (self.server["imds_endpoint"] + "/metadata/identity/oauth2/token"
               "?api-version=2018-02-01&resource=https://storage.azure.com/")
        self.assertEqual(rest("GET", url)[0], 400)
        status, _, answer = rest("GET", url, {"Metadata": "true"})
        self.assertEqual(status, 200)
        self.assertEqual(self.bearer(answer["access_token"]), 200)
        admin(self.server, "POST", "/rules", [{
            "match": {"operation": "ImdsToken"},
            "fault": {"kind": "status", "status": 429, "code": "ServerBusy"}}])
        self.assertEqual(rest("GET", url, {"Metadata": "true"})[0], 429)
        self.assertEqual(rest("GET", url, {"Metadata": "true"})[0], 200)


@unittest.skipUnless(shutil.which("curl"), "curl is not installed")
class Curl(StrictCase):
    def curl(self, method, resource, extra=None, body=None, *options):
        target = f"/{self.server['account']}/{resource}"
        headers = self.signer.headers(method, target, extra, len(body or b""))
        command = ["curl", "-sS", "-X", method, "-o", "-", "-w", "\n%{http_code}", *options]
        for name, value in headers.items():
            if name != "Content-Length" or not body:
                command += ["-H", f"{name}: {value}"]
        command += ["-H", "Content-Type:"]
        if body is not None:
            command += ["--data-binary", "@-"]
        done = subprocess.run(command + [self.signer.root + target], input=body,
                              capture_output=True, check=True, timeout=60)
        data, _, status = done.stdout.rpartition(b"\n")
        return int(status), data

    def test_round_trip(self):
        data = os.urandom(4 * MIB)
        self.create("e.vhd", 8 * MIB)
        started = time.monotonic()
        extra = {"x-ms-page-write": "update", "x-ms-range": f"bytes={MIB}-{5 * MIB - 1}"}
        status, _ = self.curl("PUT", "cont/e.vhd?comp=page", extra, data,
                              "--expect100-timeout", "40")
        self.assertEqual(status, 201)
        self.assertLess(time.monotonic() - started, 30, "100-continue was not answered")
        status, got = self.curl("GET", "cont/e.vhd", {"x-ms-range": extra["x-ms-range"]})
        self.assertEqual((status, got), (206, data))
        self.assertEqual(self.curl("PUT", "cont/e.vhd?comp=page",
                                   {**CLEAR, "x-ms-range": f"bytes=0-{8 * MIB - 1}"})[0], 201)


class Tls(TlsServerCase):
    def test_round_trip(self):
        context = ssl.create_default_context(cafile=self.cert)
        signer = Signer(self.server)

        def send(method, resource, extra, body=b""):
            target = f"/{self.server['account']}/{resource}"
            headers = signer.headers(method, target, {"Content-Type": "text/plain", **extra},
                                     len(body))
            request = urllib.request.Request(f"https://127.0.0.1:{self.server['port']}{target}",
                                             body if method == "PUT" else None, headers,
                                             method=method)
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return answer.status, answer.read()

        send("PUT", "tls?restype=container", {})
        send("PUT", "tls/d", {"x-ms-blob-type": "PageBlob",
                              "x-ms-blob-content-length": str(8 * MIB)})
        data = os.urandom(4 * MIB)
        send("PUT", "tls/d?comp=page", {"x-ms-page-write": "update",
                                        "x-ms-range": f"bytes=0-{4 * MIB - 1}"}, data)
        self.assertEqual(send("GET", "tls/d", {})[1], data + bytes(4 * MIB))


def crc64(data):
    """The definition, bit by bit."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x9A6C9329AC4BC9B5 if crc & 1 else 0)
    return crc ^ ((1 << 64) - 1)


if __name__ == "__main__":
    unittest.main()
