#!/usr/bin/env python3
"""Help, man pages, completion and sample configuration say the same as the programs do.

Every command and option that --help knows stands in the man page under its command, and nothing
else does; the completion offers exactly these; the sample configuration passes --check-config.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["LANDFALL_BUILD"])
LANDFALL = BUILD / "landfall"
LANDFALLD = BUILD / "landfalld"
AGENT = BUILD / "landfall-agent"
faults = []


def check(condition, text):
    if not condition:
        faults.append(text)


def run(*words, **options):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=30,
                          check=False, **options)


def options_in_help(text, heading):
    """{name: takes a value} below a heading of --help."""
    block = text.split(f"\n{heading}:\n", 1)
    if len(block) < 2:
        return {}
    found = {}
    for line in block[1].split("\n\n")[0].splitlines():
        match = re.match(r"  --(\S+)( \S+)?  ", line)
        check(match, f"cannot read the help's line {line!r}")
        if match:
            found[match[1]] = bool(match[2])
    return found


def commands_in_help():
    text = run(LANDFALL, "--help").stdout
    block = text.split("\ncommands:\n", 1)[1].split("\n\n")[0]
    found = {}
    for line in block.splitlines():
        words = [w for w in re.split(r"\s{2,}", line.strip())[0].split()]
        name = " ".join(w for w in words if w.islower())
        arguments = " ".join(w for w in words if not w.islower())
        found[name] = arguments
    return found


def without_macros(words):
    """'Oo Ar MACHINE Oc Op Ar POINT' → '[MACHINE] [POINT]'"""
    words = re.sub(r"Oo Ar (\S+) Oc", r"[\1]", words)
    words = re.sub(r"Op Ar (\S+)", r"[\1]", words)
    return re.sub(r"\bAr ", "", words).strip()


def commands_in_man():
    """{command: (arguments, {option: takes a value})} from landfall(1)'s source."""
    found, name = {}, None
    source = (TOP / "appliance/man/landfall.1").read_text(encoding="utf-8")
    commands = source.split(".Sh COMMANDS\n")[1].split("\n.Sh ")[0]
    for line in commands.splitlines():
        if match := re.match(r"\.It Ic ([a-z ]+?)(?: (Op|Oo|Ar) (.*))?$", line):
            name = match[1]
            found[name] = (without_macros(f"{match[2] or ''} {match[3] or ''}"), {})
        elif match := re.match(r"\.It Fl -(\S+)( Ar \S+)?$", line):
            found[name][1][match[1]] = bool(match[2])
    head = source.split(".Sh COMMANDS\n")[0]
    globals_ = {m[1]: bool(m[2]) for m in re.finditer(r"^\.It Fl -(\S+)( Ar \S+)?$", head, re.M)}
    return found, globals_


def check_landfall():
    helped = commands_in_help()
    manned, globals_ = commands_in_man()
    check(set(helped) == set(manned),
          f"help and man page differ in commands: {set(helped) ^ set(manned)}")
    check(len(helped) >= 28, f"only {len(helped)} commands")
    general = options_in_help(run(LANDFALL, "--help").stdout, "global options")
    check(general == globals_, f"global options: help {general}, man page {globals_}")
    table = {}
    for name, arguments in helped.items():
        result = run(LANDFALL, *name.split(), "--help")
        check(result.returncode == 0 and not result.stderr, f"{name} --help fails")
        options = options_in_help(result.stdout, "options")
        table[name] = options
        man_arguments, man_options = manned.get(name, ("", {}))
        check(options == man_options, f"{name}: help has {options}, man page {man_options}")
        check(arguments == man_arguments,
              f"{name}: help has arguments {arguments!r}, man page {man_arguments!r}")
        for option, takes_value in {**options, **general}.items():
            if takes_value:
                result = run(LANDFALL, *name.split(), f"--{option}")
                check(result.returncode == 2, f"{name} --{option} without value: "
                      f"exit {result.returncode}")
    return table, general


def complete(words):
    """What the completion offers for the last of `words`."""
    script = (f". {TOP}/appliance/completion/landfall; compopt() {{ :; }}; "
              f"COMP_WORDS=({' '.join(shlex.quote(w) for w in ['landfall', *words])}); "
              f"COMP_CWORD={len(words)}; _landfall; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    environment = {**os.environ, "PATH": f"{BUILD}:{os.environ['PATH']}",
                   "LANDFALL_SOCKET": "/nonexistent/socket"}
    result = run("bash", "-c", script, env=environment)
    check(not result.stderr, f"completion of {words}: {result.stderr}")
    return set(result.stdout.split())


def check_completion(table, general):
    nouns = {name.split()[0] for name in table}
    check(complete([""]) == nouns, f"completion offers {complete([''])} for nouns")
    for noun in nouns:
        verbs = {name.split()[1] for name in table if name.startswith(noun + " ")}
        if verbs:
            check(complete([noun, ""]) == verbs, f"completion of {noun}: {complete([noun, ''])}")
    for name, options in table.items():
        wanted = {f"--{o}" for o in {**options, **general}}
        offered = complete([*name.split(), "--"])
        check(offered == wanted, f"completion of {name} --: differs in {offered ^ wanted}")
    check(complete(["point", "create", "m", "--wait", "v"]) == {"vault"}, "no value for --wait")
    check("latest" in complete(["verify", "m", "l"]), "no points offered")


def check_landfalld():
    if not LANDFALLD.exists():
        check(False, "landfalld is not built")
        return
    helped = options_in_help(run(LANDFALLD, "--help").stdout, "options")
    source = (TOP / "appliance/man/landfalld.8").read_text(encoding="utf-8")
    manned = {m[1]: bool(m[2]) for m in re.finditer(r"^\.It Fl -(\S+)( Ar \S+)?$", source, re.M)}
    check(helped == manned, f"landfalld: help {helped}, man page {manned}")
    completion = (TOP / "appliance/completion/landfalld").read_text(encoding="utf-8")
    check(set(re.findall(r"--[a-z-]+(?=[ '])", completion)) - {"--"} ==
          {f"--{o}" for o in helped}, "landfalld: the completion differs")
    check(run(LANDFALLD, "--version").returncode == 0, "landfalld --version")
    check(run(LANDFALLD, "--frob").returncode == 2, "landfalld --frob is no usage error")
    check(run(LANDFALLD, "word").returncode == 2, "landfalld word is no usage error")
    sample = TOP / "appliance/landfall.conf.sample"
    result = run(LANDFALLD, "--check-config", "--config", sample)
    check(result.returncode == 0, f"the sample is refused: {result.stderr}")


def agent_in_man():
    """{command: {option: takes a value}} and the options before COMMANDS of landfall-agent(8)."""
    source = (TOP / "appliance/man/landfall-agent.8").read_text(encoding="utf-8")
    head, commands = source.split(".Sh COMMANDS\n")
    found, name = {}, None
    for line in commands.split("\n.Sh ")[0].splitlines():
        if match := re.match(r"\.It Ic (\S+)$", line):
            name = match[1]
            found[name] = {}
        elif match := re.match(r"\.It Fl -(\S+)( Ar \S+)?$", line):
            found[name][match[1]] = bool(match[2])
    return found, {m[1]: bool(m[2]) for m in re.finditer(r"^\.It Fl -(\S+)( Ar \S+)?$", head, re.M)}


def complete_agent(words):
    script = (f". {TOP}/appliance/completion/landfall-agent; "
              f"COMP_WORDS=({' '.join(shlex.quote(w) for w in ['landfall-agent', *words])}); "
              f"COMP_CWORD={len(words)}; _landfall_agent; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    result = run("bash", "-c", script)
    check(not result.stderr, f"completion of landfall-agent {words}: {result.stderr}")
    return set(result.stdout.split())


def check_agent():
    text = run(AGENT, "--help").stdout
    helped = set(re.findall(r"^  ([a-z]+) ", text.split("\ncommands:\n")[1].split("\n\n")[0], re.M))
    manned, general = agent_in_man()
    check(helped == set(manned), f"landfall-agent: help has {helped}, man page {set(manned)}")
    check(options_in_help(text, "options") == general, "landfall-agent: general options differ")
    check(complete_agent([""]) == helped, f"landfall-agent: completion {complete_agent([''])}")
    for name in helped:
        result = run(AGENT, name, "--help")
        check(result.returncode == 0 and not result.stderr, f"landfall-agent {name} --help fails")
        options = options_in_help(result.stdout, "options")
        check(options == manned[name],
              f"landfall-agent {name}: help has {options}, man page {manned[name]}")
        wanted = {f"--{o}" for o in options} | {"--help", "--version"}
        offered = complete_agent([name, "--"])
        check(offered == wanted, f"landfall-agent {name}: completion differs in {offered ^ wanted}")
        for option, takes_value in options.items():
            if takes_value:
                check(run(AGENT, name, f"--{option}").returncode == 2,
                      f"landfall-agent {name} --{option} without value is no usage error")
        for word in ("--frob", "word"):
            check(run(AGENT, name, word).returncode == 2, f"landfall-agent {name} {word}")
    check(run(AGENT, "--version").stdout.startswith("landfall-agent "), "landfall-agent --version")
    for words in ([], ["frob"], ["enroll"], ["enroll", "--appliance", "a:1", "--machine", "m"]):
        check(run(AGENT, *words).returncode == 2, f"landfall-agent {words} is no usage error")


def keys_of_config():
    """(section, key) pairs of the table in config_keys.c."""
    source = (TOP / "appliance/config_keys.c").read_text(encoding="utf-8")
    pairs = set(re.findall(r"\bKEY\((\w+), (\w+), CONFIG_", source))
    pairs |= set(re.findall(r'\{ "(\w+)", "(\w+)", CONFIG_', source))
    return pairs


def check_config_manual():
    source = (TOP / "appliance/man/landfall.conf.5").read_text(encoding="utf-8")
    told, section = set(), None
    for line in source.splitlines():
        if match := re.match(r"\.Ss Sections? (\w+)", line):
            section = match[1]
        elif (match := re.match(r"\.It Cm (.*)", line)) and section:
            told |= {(section, key) for key in match[1].split(" , ")}
    auths = {"sharedkey", "sas", "managed-identity", "client-secret", "workload-identity"}
    told = {(s, k) for s, k in told if s != "policy" and k not in auths}
    check(told == keys_of_config(), f"landfall.conf(5) differs in {told ^ keys_of_config()}")


def check_errors():
    """Without a daemon: exit 6 with the way to mend it; nonsense: exit 2 with a suggestion."""
    with tempfile.TemporaryDirectory() as work:
        result = run(LANDFALL, "--socket", f"{work}/none", "status")
        check(result.returncode == 6, f"status without a daemon: exit {result.returncode}")
        check(f"{work}/none" in result.stderr and "systemctl start landfalld" in result.stderr
              and "\n  → " in result.stderr, f"status without a daemon says {result.stderr!r}")
        result = run(LANDFALL, "--socket", f"{work}/none", "--json", "status")
        check(result.returncode == 6 and '"exit":6' in result.stdout and not result.stderr,
              f"--json without a daemon: {result.stdout!r} {result.stderr!r}")
    for words, near in ((["machin", "list"], "machine list"), (["point", "crate"], "point create"),
                        (["statsu"], "status"), (["drill", "start"], None)):
        result = run(LANDFALL, *words)
        check(result.returncode == 2, f"{words}: exit {result.returncode}")
        check(not near or f'did you mean "landfall {near}"' in result.stderr,
              f"{words}: {result.stderr!r}")
    for words in ([], ["machine"], ["machine", "show"], ["machine", "show", "a", "b"],
                  ["status", "--json=1"], ["verify", "-x"], ["policy", "set", "x", "novalue"],
                  ["inspect"], ["inspect", "m", "--close", "1"], ["clone", "remove"],
                  ["status", "--watch", "--watch"]):
        check(run(LANDFALL, *words).returncode == 2, f"{words} is no usage error")


def check_nouns(table):
    """`landfall machine --help` tells the commands that begin with it."""
    for noun in {name.split()[0] for name in table if " " in name}:
        result = run(LANDFALL, noun, "--help")
        block = result.stdout.split("\ncommands:\n", 1)[-1].split("\n\n")[0].splitlines()
        wanted = [name for name in table if name.startswith(noun + " ")]
        check(result.returncode == 0 and len(block) == len(wanted) and
              all(any(line.startswith(f"  {name} ") for line in block) for name in wanted),
              f"{noun} --help: exit {result.returncode}: {result.stdout}{result.stderr}")


def main():
    table, general = check_landfall()
    check_nouns(table)
    check_completion(table, general)
    check_landfalld()
    check_agent()
    check_config_manual()
    check_errors()
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
