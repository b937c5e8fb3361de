#!/usr/bin/env python3
"""What `cmake --install` puts where: the programs run, and the unit starts them from there."""

import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import BUILD, check, run_test, shell, step  # noqa: E402

FILES = ("bin/landfall", "sbin/landfalld", "sbin/landfall-agent",
         "share/man/man8/landfall-agent.8", "share/bash-completion/completions/landfall-agent",
         "lib/systemd/system/landfalld.service",
         "lib/sysusers.d/landfall.conf", "share/man/man1/landfall.1", "share/man/man8/landfalld.8",
         "share/man/man5/landfall.conf.5", "share/bash-completion/completions/landfall",
         "share/doc/landfall/landfall.conf.sample")


def installed(root, prefix, destdir):
    """Installs, and looks at it: `root` is where the prefix really is."""
    step(f"prefix {prefix}" + (f" under {destdir}" if destdir else ""))
    environment = dict(os.environ, DESTDIR=str(destdir or ""))
    shell("cmake", "--install", BUILD, "--prefix", prefix, env=environment)
    for name in FILES:
        check((root / name).is_file(), f"{name} is not installed")
    for program in ("bin/landfall", "sbin/landfalld", "sbin/landfall-agent"):
        check("landfall" in shell(root / program, "--version"), f"{program} does not run")
    unit = (root / "lib/systemd/system/landfalld.service").read_text(encoding="utf-8")
    started = re.findall(r"^ExecStart(?:Pre)?=(\S+)", unit, re.MULTILINE)
    check(started and all(path == f"{prefix}/sbin/landfalld" for path in started),
          f"the unit starts {started}")


def test(work):
    installed(work / "prefix", work / "prefix", None)
    installed(work / "stage/usr", "/usr", work / "stage")


if __name__ == "__main__":
    run_test(test)
