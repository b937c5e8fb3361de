"""The built-in login service and instance metadata: they issue the Bearer tokens.

GET  /metadata/identity/oauth2/token   as on 169.254.169.254; wants `Metadata: true`
POST /<tenant>/oauth2/v2.0/token       client_credentials by client_secret or client_assertion

Tokens look like JWTs but mean nothing: the server remembers the ones it gave out, with expiry
and audience. The admin can expire them before their time.
"""
import base64
import json
import secrets
import threading
import time
from urllib.parse import parse_qs

from .request import Response

STORAGE = "https://storage.azure.com"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Tokens:
    def __init__(self, account):
        self.account = account
        self.lock = threading.Lock()
        self.issued = {}            # token -> (monotonic expiry, audience)

    def challenge(self):
        return (f"Bearer authorization_uri=https://login.microsoftonline.com/"
                f"{self.account.settings.tenant}/oauth2/authorize resource_id={STORAGE}/")

    def issue(self, audience):
        """Returns (token, seconds it lives)."""
        def part(value):
            text = json.dumps(value).encode()
            return base64.urlsafe_b64encode(text).rstrip(b"=").decode()
        ttl = self.account.settings.token_ttl_s
        now = self.account.now()
        token = ".".join([part({"typ": "JWT", "alg": "none"}),
                          part({"aud": audience, "nbf": int(now), "exp": int(now + ttl),
                                "jti": secrets.token_hex(8)}), secrets.token_urlsafe(24)])
        with self.lock:
            self.issued[token] = (time.monotonic() + ttl, audience.rstrip("/"))
        return token, ttl

    def problem(self, token):
        """What is wrong with a token (None: nothing)."""
        with self.lock:
            expiry, audience = self.issued.get(token, (None, None))
        if expiry is None:
            return "Signature validation failed. Signature key not found."
        if time.monotonic() >= expiry:
            return "Lifetime validation failed. The token is expired."
        if audience not in (STORAGE, f"https://{self.account.name}.blob.core.windows.net"):
            return "Audience validation failed. Audience did not match."
        return None

    def expire_all(self):
        with self.lock:
            count = sum(1 for expiry, _ in self.issued.values() if expiry > time.monotonic())
            self.issued = {token: (0.0, audience) for token, (_, audience)
                           in self.issued.items()}
        return count

    def expire(self, token):
        with self.lock:
            if token in self.issued:
                self.issued[token] = (0.0, self.issued[token][1])

    # Endpoints

    def imds(self, req):
        def refuse(status, error, text):
            return _json(status, {"error": error, "error_description": text})
        if req.header("metadata") != "true":
            return refuse(400, "bad_request_102", "Required metadata header not specified")
        if "x-forwarded-for" in req.headers:
            return refuse(400, "bad_request", "X-Forwarded-For is not allowed")
        if not req.query.get("api-version"):
            return refuse(400, "bad_request", "api-version is required")
        resource = req.query.get("resource")
        if not resource:
            return refuse(400, "invalid_request", "resource is required")
        wanted = req.query.get("client_id")
        if wanted and wanted != self.account.settings.client_id:
            return refuse(400, "invalid_request", "Identity not found")
        token, ttl = self.issue(resource)
        now = int(self.account.now())
        return _json(200, {
            "access_token": token, "client_id": self.account.settings.client_id,
            "expires_in": str(int(ttl)), "expires_on": str(int(now + ttl)),
            "ext_expires_in": str(int(ttl)), "not_before": str(now),
            "resource": resource, "token_type": "Bearer"})

    def login(self, req, tenant):
        def refuse(status, error, text):
            return _json(status, {"error": error, "error_description": text,
                                  "correlation_id": secrets.token_hex(8)})
        settings = self.account.settings
        form = {k: v[0] for k, v in parse_qs(bytes(req.body).decode("utf-8", "replace")).items()}
        kind = req.header("content-type") or ""
        if not kind.startswith("application/x-www-form-urlencoded"):
            return refuse(400, "invalid_request", "AADSTS900144: the body must be a form")
        if tenant != settings.tenant:
            return refuse(400, "invalid_request", f"AADSTS90002: Tenant '{tenant}' not found")
        if form.get("grant_type") != "client_credentials":
            return refuse(400, "unsupported_grant_type", "AADSTS70003: unsupported grant type")
        if form.get("client_id") != settings.client_id:
            return refuse(400, "unauthorized_client", "AADSTS700016: application not found")
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            return refuse(400, "invalid_scope", f"AADSTS1002012: scope {scope} is not valid")
        if "client_secret" in form:
            if form["client_secret"] != settings.client_secret:
                return refuse(401, "invalid_client", "AADSTS7000215: Invalid client secret")
        elif form.get("client_assertion_type") == _ASSERTION and form.get("client_assertion"):
            given = form["client_assertion"]
            good = given == settings.client_assertion if settings.client_assertion \
                else given.count(".") == 2
            if not good:
                return refuse(401, "invalid_client", "AADSTS50027: JWT token is invalid")
        else:
            return refuse(401, "invalid_client", "AADSTS7000216: no client credential")
        token, ttl = self.issue(scope[:-len("/.default")])
        return _json(200, {"token_type": "Bearer", "expires_in": int(ttl),
                           "ext_expires_in": int(ttl), "access_token": token})


def _json(status, value):
    return Response(status, {"Content-Type": "application/json; charset=utf-8",
                             "Cache-Control": "no-store"}, json.dumps(value).encode())
