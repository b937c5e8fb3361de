"""The life of a server for tests: its usual options, a directory of its own that goes with it, one
line of JSON when it is ready, an end by SIGTERM, SIGINT or its parent's death."""
import argparse
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import threading

_PR_SET_PDEATHSIG = 1


def parser(description):
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--admin-port", type=int, default=0)
    options.add_argument("--data", help="where to make the directory for what is stored")
    options.add_argument("--ready-file", help="written, whole, when the server is ready")
    options.add_argument("--ready-fd", type=int, help="gets the same line and is closed")
    options.add_argument("--seed", type=int, default=1, help="for faults with a probability")
    options.add_argument("--die-with-parent", action="store_true")
    return options


def _say(args, line):
    print(line, flush=True)
    if args.ready_file:
        with open(args.ready_file + ".part", "w", encoding="ascii") as out:
            out.write(line + "\n")
        os.rename(args.ready_file + ".part", args.ready_file)
    if args.ready_fd is not None:
        with os.fdopen(args.ready_fd, "w") as out:
            out.write(line + "\n")


def _serve(args, prefix, start):
    if args.die_with_parent:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    data = tempfile.mkdtemp(prefix=prefix, dir=args.data)
    try:
        _say(args, json.dumps(start(args, data)))
        stop.wait()
    finally:
        shutil.rmtree(data, ignore_errors=True)
    return 0


def run(args, prefix, start):
    """start(args, directory) sets the server's threads going and says where it is: the line.
    Does not return."""
    code = _serve(args, prefix, start)
    sys.stdout.flush()
    os._exit(code)
