"""Who may ask: SharedKey, SAS and Bearer, verified from Microsoft's published rules.

"Authorize with Shared Key", "Create an account SAS", "Create a service SAS". Nothing here is
shared with the client under test, so that one mistake cannot hide another.
"""
import base64
import hashlib
import hmac
import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from .errors import BlobError
from .request import KNOWN_VERSIONS

WINDOW_S = 15 * 60
_SIGNED_HEADERS = ("content-encoding", "content-language", "content-length", "content-md5",
                   "content-type", "date", "if-modified-since", "if-match", "if-none-match",
                   "if-unmodified-since", "range")

# What a SAS must permit: operation -> (letters of which one suffices, resource types)
_SAS_NEEDS = {
    "ListContainers": ("l", "s"), "GetAccountInfo": ("rwdlacup", "sco"),
    "CreateContainer": ("cw", "c"), "DeleteContainer": ("d", "c"), "ListBlobs": ("l", "c"),
    "GetContainer": ("r", "c"), "SetContainerMetadata": ("w", "c"), "LeaseContainer": ("wd", "c"),
    "PutBlob": ("cw", "o"), "GetBlob": ("r", "o"), "HeadBlob": ("r", "o"),
    "PutPage": ("w", "o"), "ClearPages": ("w", "o"), "PutPageFromUrl": ("w", "o"),
    "GetPageRanges": ("r", "o"), "Snapshot": ("cw", "o"), "DeleteBlob": ("d", "o"),
    "LeaseBlob": ("wd", "o"), "SetProperties": ("w", "o"), "SetMetadata": ("w", "o"),
    "GetMetadata": ("r", "o"), "PutBlock": ("w", "o"), "PutBlockList": ("w", "o"),
    "GetBlockList": ("r", "o"), "CopyBlob": ("cw", "o"), "AbortCopy": ("w", "o"),
}


def sign(key, text):
    mac = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256)
    return base64.b64encode(mac.digest()).decode()


class Authenticator:
    """Checks every request. `tokens` is the built-in login service."""

    def __init__(self, account, tokens):
        self.account, self.tokens = account, tokens

    def check(self, req):
        """Sets req.identity, or raises. Also settles x-ms-version."""
        self._version(req)
        authorization = req.header("authorization")
        if "sig" in req.query and authorization is None:
            self._sas(req)
        elif authorization is None:
            raise BlobError("NoAuthenticationInformation",
                            headers={"WWW-Authenticate": self.tokens.challenge()})
        elif authorization.startswith("SharedKey "):
            self._shared_key(req, authorization)
        elif authorization.startswith("Bearer "):
            self._bearer(req, authorization)
        else:
            raise BlobError("InvalidAuthenticationInfo", status=400)

    def _version(self, req):
        version = req.header("x-ms-version") or req.query.get("sv")
        if version is None:
            raise BlobError("MissingRequiredHeader", detail={"HeaderName": "x-ms-version"})
        if version not in KNOWN_VERSIONS:
            raise BlobError("InvalidHeaderValue", detail={
                "HeaderName": "x-ms-version", "HeaderValue": version})
        req.version = version

    # SharedKey

    def _shared_key(self, req, authorization):
        self._clock(req)
        name, _, signature = authorization[len("SharedKey "):].partition(":")
        text = string_to_sign(req, self.account.name)
        expected = sign(self.account.key, text)
        if name != self.account.name or not hmac.compare_digest(expected, signature):
            raise BlobError("AuthenticationFailed", detail={
                "AuthenticationErrorDetail":
                    f"The MAC signature found in the HTTP request '{signature}' is not the same "
                    f"as any computed signature. Server used following string to sign: "
                    f"'{text}'."})
        req.identity = "sharedkey"

    def _clock(self, req):
        text = req.header("x-ms-date") or req.header("date")
        try:
            sent = parsedate_to_datetime(text or "").timestamp()
        except (TypeError, ValueError):
            raise BlobError("AuthenticationFailed", detail={
                "AuthenticationErrorDetail": "The Date header in the request is incorrect."
            }) from None
        if abs(sent - self.account.now()) > WINDOW_S:
            raise BlobError("AuthenticationFailed", detail={
                "AuthenticationErrorDetail": f"Request date header too old: '{text}'"})

    # Bearer

    def _bearer(self, req, authorization):
        if req.version < "2017-11-09":
            raise BlobError("InvalidAuthenticationInfo", status=400, detail={
                "AuthenticationErrorDetail": "Bearer needs x-ms-version 2017-11-09 or later."})
        problem = self.tokens.problem(authorization[len("Bearer "):].strip())
        if problem:
            raise BlobError("InvalidAuthenticationInfo",
                            headers={"WWW-Authenticate": self.tokens.challenge()},
                            detail={"AuthenticationErrorDetail": problem})
        req.identity = "bearer"

    # Shared access signatures

    def _sas(self, req):
        q = req.query
        account_sas = "ss" in q or "srt" in q
        text = self._account_sas_text(q) if account_sas else self._service_sas_text(req)
        if not hmac.compare_digest(sign(self.account.key, text), q["sig"]):
            raise BlobError("AuthenticationFailed", detail={
                "AuthenticationErrorDetail": "Signature did not match. String to sign used was "
                                             + text})
        now = self.account.now()
        if "se" not in q or _time(q["se"]) <= now or ("st" in q and _time(q["st"]) > now):
            raise BlobError("AuthenticationFailed", detail={
                "AuthenticationErrorDetail": f"Signed expiry time [{q.get('se')}] or start time "
                                             f"[{q.get('st')}] does not fit the present."})
        if q.get("spr") == "https" and not req.secure:
            raise BlobError("AuthorizationProtocolMismatch")
        letters, resource = _SAS_NEEDS.get(req.operation, ("", ""))
        if account_sas:
            if "b" not in q.get("ss", ""):
                raise BlobError("AuthorizationServiceMismatch")
            if not set(resource) & set(q.get("srt", "")):
                raise BlobError("AuthorizationResourceTypeMismatch")
        elif req.operation in ("CreateContainer", "DeleteContainer", "ListContainers",
                               "GetContainer", "SetContainerMetadata", "LeaseContainer"):
            raise BlobError("AuthorizationFailure")
        elif req.operation == "ListBlobs" and q.get("sr") != "c":
            raise BlobError("AuthorizationFailure")
        if not set(letters) & set(q.get("sp", "")):
            raise BlobError("AuthorizationPermissionMismatch")
        req.identity = "sas"

    def _account_sas_text(self, q):
        fields = [self.account.name] + [q.get(k, "") for k in
                                        ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv")]
        if q.get("sv", "") >= "2020-12-06":
            fields.append(q.get("ses", ""))
        return "\n".join(fields) + "\n"

    def _service_sas_text(self, req):
        q, kind = req.query, req.query.get("sr")
        if kind not in ("b", "c", "bs"):
            raise BlobError("AuthenticationFailed", detail={
                "AuthenticationErrorDetail": f"sr={kind} is not supported"})
        resource = f"/blob/{self.account.name}/{req.container or ''}"
        if kind != "c":
            resource += f"/{req.blob or ''}"
        if kind == "bs" and not req.snapshot:
            raise BlobError("AuthorizationFailure")
        fields = [q.get("sp", ""), q.get("st", ""), q.get("se", ""), resource, q.get("si", ""),
                  q.get("sip", ""), q.get("spr", ""), q.get("sv", ""), kind,
                  req.snapshot or "" if kind == "bs" else ""]
        if q.get("sv", "") >= "2020-12-06":
            fields.append(q.get("ses", ""))
        fields += [q.get(k, "") for k in ("rscc", "rscd", "rsce", "rscl", "rsct")]
        return "\n".join(fields)


def string_to_sign(req, account):
    """The text whose HMAC a SharedKey authorization carries."""
    values = []
    for name in _SIGNED_HEADERS:
        value = req.headers.get(name, "")
        if name == "content-length" and value == "0":
            value = ""
        if name == "date" and "x-ms-date" in req.headers:
            value = ""
        values.append(value)
    canonical = sorted((k, re.sub(r"\s+", " ", v.strip())) for k, v in req.headers.items()
                       if k.startswith("x-ms-"))
    head = "\n".join([req.method] + values) + "\n"
    head += "".join(f"{k}:{v}\n" for k, v in canonical)
    resource = f"/{account}{req.path}"
    grouped = {}
    for name, value in req.query_pairs:
        grouped.setdefault(name.lower(), []).append(value)
    for name in sorted(grouped):
        resource += f"\n{name}:{','.join(sorted(grouped[name]))}"
    return head + resource


def _time(text):
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d",
                 "%Y-%m-%dT%H:%M:%S.%fZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    raise BlobError("AuthenticationFailed", detail={
        "AuthenticationErrorDetail": f"{text} is not a valid time"})
