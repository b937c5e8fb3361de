#!/usr/bin/env python3
"""Programs that are started without standard input, output or error: nothing that they print ends
in a file or socket of theirs, and a result that nobody got is a failure."""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import BUILD, Appliance, check, run_test, step, wait_until  # noqa: E402


def run(redirections, *words):
    """The command by a shell that closes what `redirections` say."""
    return subprocess.run(["sh", "-c", f'exec "$@" {redirections}', "sh", *map(str, words)],
                          capture_output=True, text=True, timeout=60, check=False)


def closed(words, code=1):
    name = pathlib.Path(words[0]).name
    done = run(">&-", *words)
    check(done.returncode == code and "cannot write the output" in done.stderr,
          f"{words} >&-: exit {done.returncode}, {done.stderr!r}")
    done = run(">/dev/full", *words)
    check(done.returncode == code and ("No space left" in done.stderr or
                                      "not all of it was taken" in done.stderr),
          f"{words} >/dev/full: exit {done.returncode}, {done.stderr!r}")
    for redirections in (">&- 2>&-", "<&- >&- 2>&-"):
        check(run(redirections, *words).returncode == code, f"{words} {redirections}")
    for redirections in ("<&-", "2>&-", "<&- 2>&-"):
        done = run(redirections, *words)
        check(done.returncode == 0 and done.stdout, f"{words} {redirections}: {done}")
    check(run("", *words).returncode == 0, f"{name} fails")


def test(work):
    with Appliance(BUILD, work) as appliance:
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=1M")
        landfall = [BUILD / "landfall", "--socket", appliance.socket]
        step("the command line")
        for words in (["status"], ["--json", "status"], ["machine", "show", "m"], ["metrics"],
                      ["--json", "point", "create", "m"], ["--version"], ["--help"]):
            closed([*landfall, *words])
        check(run(">&-", *landfall, "machine", "show", "none").returncode == 3, "its own exit code")
        step("the other programs")
        closed([BUILD / "landfalld", "--check-config", "--config", appliance.config])
        for program in ("landfalld", "landfall-agent"):
            closed([BUILD / program, "--version"])
            closed([BUILD / program, "--help"])
        appliance.stop()
        step("a daemon without any of them writes into none of its files")
        daemon = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", BUILD / "landfalld", "--config",
             appliance.config], env=appliance.environment)
        try:
            wait_until(30, lambda: appliance.run("status").returncode == 0, "it does not answer")
            names = [str(pathlib.Path(f"/proc/{daemon.pid}/fd/{fd}").readlink()) for fd in range(3)]
            check(names == ["/dev/null"] * 3, f"its standard files are {names}")
        finally:
            daemon.terminate()
            daemon.wait(60)
        check(daemon.returncode == 0, f"it ended with {daemon.returncode}")


if __name__ == "__main__":
    run_test(test)
