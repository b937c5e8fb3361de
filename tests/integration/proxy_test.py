#!/usr/bin/env python3
"""The vault behind a proxy that wants credentials: everything goes through it, hosts of no_proxy
do not, and whoever is not let through is told why."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, TOP, Appliance, StrictService, check, die_with_parent,  # noqa: E402
                       end_process, run_test, step, wait_until)

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1d", "rpo-alert": "0",
                      "retention": "all:1h"}}


class Proxy:
    def __init__(self, work, credentials):
        self.log, self.ready = work / "proxy.log", work / "proxy.ready"
        self.process = subprocess.Popen(
            [sys.executable, TOP / "tests/integration/auth_proxy.py", self.ready, credentials,
             self.log], preexec_fn=die_with_parent)
        wait_until(20, self.ready.exists, "the proxy does not start")
        self.url = f"http://127.0.0.1:{self.ready.read_text(encoding='ascii').strip()}"

    def count(self, answer):
        if not self.log.exists():
            return 0
        text = self.log.read_text(encoding="utf-8")
        return sum(line.endswith(answer) for line in text.splitlines())


def test(work):
    proxy = Proxy(work, "who:open sesame")
    secret = work / "proxy-credentials"
    secret.write_text("who:open sesame\n", encoding="ascii")
    secret.chmod(0o600)
    with StrictService(work) as service:
        appliance = Appliance(BUILD, work, service.connection_string, policies=POLICIES)
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            for variable in (name, name.upper()):
                appliance.environment.pop(variable, None)
        vault = appliance.settings["vault"]

        step("without credentials nobody is let through")
        vault["proxy"] = proxy.url
        appliance.write_config()
        with appliance:
            told = appliance.run("vault", "init")
            check(told.returncode != 0, "the proxy let us through without credentials")
            check(proxy.count(" 407") > 0, "the proxy was not asked")
            check(proxy.count(" sent") == 0, "the proxy sent something on")

        step("with them everything goes through")
        vault["proxy_credentials_file"] = secret
        appliance.write_config()
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M",
                           "--policy", "asked")
            with open(appliance.live("m", "d"), "r+b") as file:
                file.write(os.urandom(MIB))
                os.fsync(file.fileno())
            point = appliance.create_point("m", "vault")
            check(appliance.verify("m", point["number"]) == "vault", "not read from the vault")
            sent = proxy.count(" sent")
            answered = sum(service.admin("/stats")["operations"].values())
            check(sent > 0 and answered <= sent, f"{answered} requests, {sent} by the proxy")

        step("but not to hosts of no_proxy")
        vault["no_proxy"] = "localhost,127.0.0.1"
        appliance.write_config()
        with appliance:
            appliance.call("vault", "check")
            check(proxy.count(" sent") == sent, "no_proxy was not heeded")

        step("a file of credentials that is not there is told at once")
        vault["proxy_credentials_file"] = work / "none"
        appliance.write_config()
        done = subprocess.run([BUILD / "landfalld", "--check-config", "--config",
                               appliance.config], capture_output=True, text=True, check=False,
                              env=appliance.environment)
        check(done.returncode != 0 and "none" in done.stderr + done.stdout,
              f"--check-config: {done.stdout}{done.stderr}")
    end_process(proxy.process)


if __name__ == "__main__":
    run_test(test)
