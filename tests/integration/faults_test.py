#!/usr/bin/env python3
"""The daemon against a service that fails in every way the real one can.

    faults_test.py [KIND…]

One kind of fault after another, then all at once: the load goes on, points get into the vault all
the same, each of them is exactly what was written down at its seal, and no request changes a disk
without lease and sequence number.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, Failure, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402
from images import Record, Scribbler, vault_of  # noqa: E402

SIZE = 32 * MIB
WRITES = ("PutPage", "ClearPages", "Snapshot", "SetProperties", "PutBlob", "PutBlock",
          "PutBlockList")


def on_writes(fault, probability, operations=WRITES):
    return [{"match": {"operation": operation}, "probability": probability, "fault": fault}
            for operation in operations]


def on_all(fault, probability):
    return [{"match": {}, "probability": probability, "fault": fault}]


KINDS = {
    "busy": on_all({"kind": "busy"}, 0.2),
    "error-not-applied": on_writes({"kind": "error500"}, 0.1),
    "error-applied": on_writes({"kind": "error500", "applied": True}, 0.1),
    "timeout-applied": on_writes({"kind": "timeout500", "applied": True}, 0.1),
    "reset-before": on_all({"kind": "reset", "when": "before"}, 0.1),
    "reset-after": on_writes({"kind": "reset", "when": "applied"}, 0.1),
    "late": on_writes({"kind": "late", "answer": "500", "delay_s": 1.5}, 0.1,
                      ("PutPage", "ClearPages", "Snapshot", "SetProperties")),
    "late-after-reset": on_writes({"kind": "late", "answer": "reset", "delay_s": 0.3}, 0.1),
    "duplicate": on_writes({"kind": "duplicate", "delay_s": 0.5}, 0.2),
    "slow": on_all({"kind": "slow", "bytes_per_s": 200_000}, 0.1)
            + on_all({"kind": "delay", "delay_s": 0.3}, 0.1),
    "truncated": on_all({"kind": "truncate"}, 0.1),
}
KINDS["all-at-once"] = [{**rule, "probability": rule["probability"] / 5}
                        for rules in list(KINDS.values()) for rule in rules]


class Load:
    """Two machines in one group, a disk each, scribbled on all the time."""

    def __init__(self, appliance, work):
        self.appliance = appliance
        self.writers = {f"{m}/d": Scribbler(appliance.live(m, "d"), work / f"mirror-{m}", SIZE,
                                            seed=i) for i, m in enumerate(("a", "b"))}
        self.record = Record(appliance, "g")

    def __enter__(self):
        self.resume()
        return self

    def __exit__(self, *_):
        for writer in self.writers.values():
            writer.end()

    def resume(self):
        for writer in self.writers.values():
            writer.start()

    def point(self):
        """Seals while the writers are paused, and writes down what the point holds; returns the
        job that waits for it in the vault. No other points are made."""
        for writer in self.writers.values():
            writer.pause()
        made = self.appliance.call("point", "create", "a", "--wait", "vault", "--detach")
        self.record.images[made["point"]["number"]] = {d: w.image()
                                                       for d, w in self.writers.items()}
        self.resume()
        return made["job"]

    def written(self):
        return sum(writer.written for writer in self.writers.values())


def wait_vault(appliance, job, what, seconds=100):
    """Until the job's point is in the vault."""
    done = appliance.run("job", "watch", job, timeout=seconds)
    if done.returncode != 0:
        raise Failure(f"{what}: the point does not reach the vault: {done.stdout}")


def one_kind(service, appliance, load, kind, rules):
    service.admin("/rules/clear", {"seed": sum(kind.encode())})
    service.admin("/rules", rules)
    before = load.written()
    load.point()
    wait_vault(appliance, load.point(), kind)
    check(load.written() > before, f"{kind}: the load did not go on")
    fired = sum(rule["fired"] for rule in service.admin("/rules"))
    check(fired > 0, f"{kind}: no fault was met, nothing is shown")
    service.admin("/rules/clear", {})
    return fired


def clock_skew(service, appliance, load):
    """A service whose clock is off refuses every signature; that is told, and is over by itself
    when the clocks agree again. Nothing else may have been refused before."""
    step("clock skew")
    service.admin("/settings", {"clock_skew_s": 3600})
    late = {k: v for k, v in service.admin("/stats").items() if k.startswith("late_")}
    job = load.point()
    appliance.wait_alert("a", "vault-refused", 60)
    check(appliance.run("point", "create", "a", "--detach").returncode == 0,
          "no local point while the vault refuses")
    load.record.images.pop(appliance.points("a")[-1]["number"], None)
    service.admin("/settings", {"clock_skew_s": 0})
    wait_vault(appliance, job, "clock skew")
    service.admin("/reset", {})
    return late


def expired_tokens(work, service):
    """With tokens instead of signatures: they expire in the middle of a flush, all the time."""
    step("expired tokens")
    facts = service.facts
    appliance = Appliance(BUILD, work, name="tokens", policies={
        "asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}})
    secret = work / "client-secret"
    secret.write_text(facts["client_secret"] + "\n", encoding="ascii")
    secret.chmod(0o600)
    appliance.settings["vault"] = {
        "endpoint": facts["endpoint"], "container": "tokens", "auth": "client-secret",
        "tenant_id": facts["tenant"], "client_id": facts["client_id"],
        "client_secret_file": secret, "login_endpoint": facts["login_endpoint"]}
    appliance.container = "tokens"
    appliance.write_config()
    with appliance:
        appliance.call("vault", "init")
        appliance.call("machine", "add", "t", "--source", "fuse", "--disk", "d=8M", "--policy",
                       "asked")
        record = Record(appliance, "t")
        with Scribbler(appliance.live("t", "d"), work / "mirror-t", 8 * MIB, seed=9) as writer:
            service.admin("/rules", [{"match": {"container": "tokens"}, "probability": 0.2,
                                      "fault": {"kind": "token_expire"}}])
            for _ in range(4):
                writer.some(100)
                service.admin("/tokens/expire", {})
                point = appliance.create_point("t", "vault")
                record.images[point["number"]] = {"t/d": writer.image()}
            check(sum(rule["fired"] for rule in service.admin("/rules")) > 0, "no token expired")
            service.admin("/rules/clear", {})
        check(len(record.check_vault(vault_of(service))) == 4, "vault points are missing")


def test(work):
    kinds = sys.argv[1:] or [*KINDS, "expired-tokens"]
    if kinds != ["expired-tokens"]:
        every_kind(work, [kind for kind in kinds if kind in KINDS])
    if "expired-tokens" in kinds:
        place = work / "tokens"
        place.mkdir()
        with StrictService(place) as service:
            expired_tokens(work, service)


def every_kind(work, kinds):
    policies = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=policies) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        for machine in ("a", "b"):
            appliance.call("machine", "add", machine, "--source", "fuse", "--disk",
                           f"d={SIZE // MIB}M", "--group", "g", "--policy", "asked")
        with Load(appliance, work) as load:
            for kind in kinds:
                step(f"{kind}: {one_kind(service, appliance, load, kind, KINDS[kind])} faults")
            service.check_witness()
            late = clock_skew(service, appliance, load)
            for writer in load.writers.values():
                writer.pause()
            judge(service, appliance, load)
            print(f"late writes: {late}")


def judge(service, appliance, load):
    step("every vault point, read by another client")
    compared = load.record.check_vault(vault_of(service))
    check(len(compared) >= 6, f"only {compared} were compared")
    load.record.check_local(compared[-3:])
    appliance.check_vault(orphans=1000)
    for number in compared:
        check(appliance.verify("a", number) == "vault", "verify did not read the vault")
    step("after a restart nothing is left over")
    appliance.stop()
    appliance.start()
    wait_until(60, lambda: appliance.call("vault", "check")["job"]["result"]["orphaned"] == 0,
               "unexplained snapshots are not collected")
    appliance.check_vault()
    service.check_witness()
    print(f"{len(compared)} vault points compared")


if __name__ == "__main__":
    run_test(test)
