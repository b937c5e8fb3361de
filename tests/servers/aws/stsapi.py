"""STS (version 2011-06-15) and the instance metadata service."""
import json
import secrets
import time
from xml.sax.saxutils import escape

from .errors import Refusal
from .keys import iso

VERSION = "2011-06-15"
NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


class Sts:
    def __init__(self, keys, settings):
        self.keys, self.settings = keys, settings

    def serve(self, form, caller):
        action = form.get("Action")
        if action == "AssumeRole" and caller:
            return self._assume(form, action, caller)
        if action == "AssumeRoleWithWebIdentity":
            if form.get("WebIdentityToken") != self.settings["web_identity_token"]:
                raise Refusal(400, "InvalidIdentityToken", "Couldn't retrieve verification key")
            return self._assume(form, action, None)
        raise Refusal(400, "InvalidAction")

    def _assume(self, form, action, caller):
        role = self.settings["roles"].get(form.get("RoleArn"))
        if role is None or not form.get("RoleSessionName") or \
                role.get("external_id") != form.get("ExternalId") or \
                (caller and role.get("by") and caller.who != role["by"]):
            raise Refusal(403, "AccessDenied",
                          f"User is not authorized to perform: sts:{action} on resource: "
                          f"{form.get('RoleArn')}")
        key = self.keys.issue(form["RoleArn"])
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in (
            ("AccessKeyId", key.id), ("SecretAccessKey", key.secret),
            ("SessionToken", key.token), ("Expiration", iso(key.expires))))
        return (f'<{action}Response xmlns="{NAMESPACE}"><{action}Result><Credentials>{inner}'
                f"</Credentials></{action}Result><ResponseMetadata><RequestId>"
                f"{secrets.token_hex(8)}</RequestId></ResponseMetadata></{action}Response>"
                ).encode()


def refuse(refusal):
    body = (f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type>'
            f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
            f"</Error><RequestId>{secrets.token_hex(8)}</RequestId></ErrorResponse>")
    return refusal.status, {"Content-Type": "text/xml"}, body.encode()


class Imds:
    ROLES = "/latest/meta-data/iam/security-credentials/"

    def __init__(self, keys, settings, witness):
        self.keys, self.settings, self.witness = keys, settings, witness

    def serve(self, request):
        if self.settings["imds_mode"] == "off":
            raise Refusal(403, "Forbidden")
        if request.path == "/latest/api/token":
            ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds") or ""
            if request.method != "PUT" or request.header("x-forwarded-for"):
                raise Refusal(403, "Forbidden")
            if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
                raise Refusal(400, "BadRequest")
            if self.settings["imds_mode"] == "hop":
                time.sleep(self.settings["imds_hang_s"])
                raise Refusal(500, "Late")
            return self.keys.imds_token(int(ttl)).encode()
        if request.method != "GET":
            raise Refusal(405, "MethodNotAllowed")
        if request.header("x-aws-ec2-metadata-token") is None:
            self.witness.count("imds_v1")
        self.keys.imds_check(request.header("x-aws-ec2-metadata-token"))
        role = self.settings["imds_role"]
        if request.path == "/latest/meta-data/placement/region":
            return self.settings["region"].encode()
        if request.path == self.ROLES and role:
            return role.encode()
        if role and request.path == self.ROLES + role:
            key = self.keys.issue("machine")
            return json.dumps({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": iso(0),
                               "AccessKeyId": key.id, "SecretAccessKey": key.secret,
                               "Token": key.token, "Expiration": iso(key.expires)}).encode()
        raise Refusal(404, "NotFound")
