"""Refusals, in each service's words."""


class Refusal(Exception):
    """An answer that is an error. `reason` is EBS direct's."""

    def __init__(self, status, code, message="", reason=None, headers=None):
        super().__init__(code)
        self.status, self.code, self.reason = status, code, reason
        self.message = message or code
        self.headers = headers or {}


class Gone(Exception):
    """The connection ends without (the rest of) an answer; `reset`: with a reset."""

    def __init__(self, reset=False):
        super().__init__("gone")
        self.reset = reset
