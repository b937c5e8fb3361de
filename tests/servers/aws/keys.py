"""Who may ask: long-lived keys, roles and the keys they give, the metadata service's tokens."""
import base64
import secrets
import threading
import time

from .errors import Refusal


def iso(when):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


class Key:
    def __init__(self, key_id, secret, token=None, expires=None, who="user"):
        self.id, self.secret, self.token = key_id, secret, token
        self.expires, self.who = expires, who


class Keys:
    def __init__(self, settings):
        self.settings, self.lock = settings, threading.Lock()
        self.items, self.imds_tokens = {}, {}
        self.static = Key("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
        self.items[self.static.id] = self.static
        self.issued = 0

    def issue(self, who, seconds=None):
        """New temporary keys; with '+', '/' and '=' in their token."""
        life = self.settings["credential_ttl_s"] if seconds is None else seconds
        token = base64.b64encode(b"\xfb\xff\xfe" + secrets.token_bytes(200)).decode() + "+/=="
        with self.lock:
            key = Key("ASIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30), token,
                      time.time() + life, who)
            self.items[key.id] = key
            self.issued += 1
        return key

    def expire_all(self):
        """Temporary keys are refused from now on, whatever was said when they were given."""
        with self.lock:
            old = [k for k in self.items.values() if k.token and k.expires > time.time()]
            for key in old:
                key.expires = 0
        return len(old)

    def find(self, key_id):
        return self.items.get(key_id)

    # The metadata service

    def imds_token(self, ttl):
        token = secrets.token_urlsafe(42) + "=="
        self.imds_tokens[token] = time.time() + ttl
        return token

    def imds_check(self, token):
        if self.imds_tokens.get(token or "", 0) < time.time():
            raise Refusal(401, "Unauthorized")
