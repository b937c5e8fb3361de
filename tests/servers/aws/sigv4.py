"""Verifies Signature Version 4 from its published rules.

"Create a signed AWS API request" of the IAM User Guide. Nothing here is shared with the client
under test, so that one mistake cannot hide another.
"""
import calendar
import hashlib
import hmac
import re
import time
import urllib.parse

WINDOW_S = 300
_FIELDS = re.compile(r"AWS4-HMAC-SHA256 Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),"
                     r"\s*Signature=([0-9a-f]{64})$")


class BadSignature(Exception):
    """What is wrong with it."""


class OutOfTime(BadSignature):
    """Its date is not near enough to the server's."""


def _quote(text, safe=""):
    return urllib.parse.quote(text, safe=safe + "-_.~")


def _canonical_path(raw):
    out, trailing = [], False
    for segment in raw.split("/")[1:]:
        trailing = segment in ("", ".", "..")
        if segment == "..":
            del out[-1:]
        elif segment not in ("", "."):
            out.append(segment)
    path = "/" + "/".join(out) + ("/" if trailing and out else "")
    return _quote(path, "/")


def _canonical_query(raw):
    pairs = []
    for part in raw.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        pairs.append((_quote(urllib.parse.unquote_to_bytes(name)),
                      _quote(urllib.parse.unquote_to_bytes(value))))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _canonical_value(values):
    return ",".join(re.sub(r"[ \t]+", " ", value.strip()) for value in values)


def parse(authorization):
    """(access key id, date, region, service, [signed headers], signature)."""
    match = _FIELDS.match(authorization or "")
    if not match:
        raise BadSignature("no Authorization of AWS4-HMAC-SHA256")
    scope = match.group(1).split("/")
    if len(scope) != 5 or scope[4] != "aws4_request":
        raise BadSignature("the credential's scope is not key/date/region/service/aws4_request")
    return (*scope[:4], match.group(2).split(";"), match.group(3))


def verify(request, secret, region, service, now):
    """`request` has method, raw_path, raw_query, headers {lower: [values]}, body."""
    key_id, date, its_region, its_service, names, signature = parse(
        request.header("authorization"))
    if (its_region, its_service) != (region, service):
        raise BadSignature(f"signed for {its_service} in {its_region}, "
                           f"this is {service} in {region}")
    stamp = request.header("x-amz-date") or ""
    if not re.fullmatch(r"\d{8}T\d{6}Z", stamp) or stamp[:8] != date:
        raise BadSignature("X-Amz-Date is missing or of another day than the scope")
    if abs(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")) - now) > WINDOW_S:
        raise OutOfTime(f"Signature expired: {stamp} is not within {WINDOW_S} s")
    if names != sorted(set(names)):
        raise BadSignature("the signed headers are not sorted")
    # The rules ask for Content-Type as well, AWS does not insist, and curl leaves it out.
    must = {"host"} | {n for n in request.headers if n.startswith("x-amz-")}
    if must - set(names):
        raise BadSignature(f"not signed: {', '.join(sorted(must - set(names)))}")
    heads = ""
    for name in names:
        if name not in request.headers:
            raise BadSignature(f"signed, but not sent: {name}")
        heads += f"{name}:{_canonical_value(request.headers[name])}\n"
    digest = hashlib.sha256(request.body).hexdigest()
    if request.header("x-amz-content-sha256") not in (None, digest):
        raise BadSignature("X-Amz-Content-SHA256 is not the body's")
    canonical = "\n".join((request.method, _canonical_path(request.raw_path),
                           _canonical_query(request.raw_query), heads, ";".join(names), digest))
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, f"{date}/{region}/{service}/aws4_request",
                      hashlib.sha256(canonical.encode()).hexdigest()))
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, signature):
        raise BadSignature("The request signature we calculated does not match the signature "
                           f"you provided. Canonical request: {canonical!r}")
    return key_id
