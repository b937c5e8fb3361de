#!/usr/bin/env python3
"""The daemon ends soon after SIGTERM, whatever it waits for in a vault that does not answer.

`vault init` against a service that takes the connection and is silent; then flushes and
verifications whose requests hang or are answered 503, at each step of a flush; a point that only an
absent agent could make. Afterwards what was
under way reaches the vault.
"""

import pathlib
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from agent import Agent  # noqa: E402
from appliance import (BUILD, MIB, Appliance, Rpc, StrictService, check, run_test,  # noqa: E402
                       step, wait_until)

LONGEST_S = 5
POLICIES = {"rare": {"point-interval": "1h", "vault-interval": "1h", "rpo-alert": "0",
                     "retention": "all:1h"}}
SILENT = ("DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=c2VjcmV0;"
          "BlobEndpoint=http://127.0.0.1:{}/devstoreaccount1;")
BUSY = {"kind": "busy"}
HANG = {"kind": "hang", "hang_s": 300}


def begin(appliance, *words):
    """A command whose end is not waited for."""
    return subprocess.Popen([appliance.build / "landfall", "--socket", appliance.socket,
                             *[str(word) for word in words]], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, env=appliance.environment)


def check_stops(appliance, client):
    """SIGTERM ends the daemon in time, and the client learns that its wish was not fulfilled."""
    before = time.monotonic()
    appliance.stop()
    took = time.monotonic() - before
    check(appliance.process.returncode == 0, f"it ended with {appliance.process.returncode}")
    check(took <= LONGEST_S, f"stopping took {took:.1f} s")
    check(client.wait(10) != 0, "a command that was cut off tells of success")
    print(f"   stopped in {took:.2f} s", flush=True)


def silent_service(work):
    step("vault init against a service that never answers")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        with Appliance(BUILD, work, SILENT.format(listener.getsockname()[1]),
                       name="silent") as appliance:
            client = begin(appliance, "vault", "init")
            with listener.accept()[0]:
                check_stops(appliance, client)


def absent_agent(work):
    step("a point of a machine whose agent never comes")
    with Appliance(BUILD, work, name="absent", listen="127.0.0.1:0") as appliance, \
            Agent(BUILD, work, "m") as agent:
        appliance.call("machine", "add", "m", "--source", "agent")
        agent.enroll(appliance)
        with Rpc(appliance.socket) as rpc:
            rpc.request("point.create", machine="m")
            appliance.call("status")  # which came in later
            client = begin(appliance, "point", "create", "m")
            check_stops(appliance, client)
            answer = rpc.line()
            check(answer and "stopping" in answer["error"]["message"], f"{answer}")


def write(appliance, seed):
    appliance.write("m", "d", 0, bytes([seed]) * MIB)


def interrupted(service, appliance, seed, operation, fault):
    step(f"a flush whose {operation} meets {fault['kind']}")
    write(appliance, seed)
    service.admin("/rules", [{"match": {"operation": operation}, "times": 0, "fault": fault}])
    client = begin(appliance, "point", "create", "m", "--wait", "vault")
    wait_until(30, lambda: sum(rule["fired"] for rule in service.admin("/rules")) >=
               (1 if fault is HANG else 5), f"the flush asks for no {operation}")
    check_stops(appliance, client)
    service.admin("/rules/clear", {})
    appliance.start()
    point = appliance.create_point("m", "vault")
    check(appliance.verify("m", point["number"]) == "vault", "it was not read from the vault")


def test(work):
    silent_service(work)
    absent_agent(work)
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M", "--policy",
                       "rare")
        write(appliance, 1)
        appliance.create_point("m", "vault")
        for seed, operation in enumerate(("PutPage", "Snapshot", "PutBlockList"), 2):
            interrupted(service, appliance, seed, operation, BUSY)
            interrupted(service, appliance, seed + 10, operation, HANG)
        appliance.check_vault(orphans=8)


if __name__ == "__main__":
    run_test(test)
