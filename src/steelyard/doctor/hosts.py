"""The probe on other hosts: one Python file through the user's own ssh, nothing installed there.

ssh keeps its own rules (config, keys, known_hosts). It may ask nothing (BatchMode) and forwards nothing.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from shutil import which
from subprocess import PIPE
from typing import Any

from ..errors import Lacking, Problem, Where, WrongUse
from .probe import KILLED_S
from .snapshot import SCHEMA

CONNECT_S, PROBE_S, AT_ONCE = 10, 60, 32
NOT_FOUND = 127  # as a shell says that there is no such program
OPTIONS = (
    "BatchMode=yes", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes", "PermitLocalCommand=no",
    f"ConnectTimeout={CONNECT_S}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One host: its snapshot, or why there is none."""

    name: str
    facts: dict[str, Any] | None
    problem: Problem | None = None


def ask(names: Iterable[str], python: str = "python3", kubernetes: bool = False) -> list[Asked]:
    """Probe hosts, all at once; in the order given, each once. One that fails says so, the rest goes on.

    Raises WrongUse for a name that ssh would read as an option, Lacking without ssh."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if not name.strip() or name.startswith("-") or any(char.isspace() for char in name):
            where, hint = Where(field="--host"), "example: --host user@10.0.0.7"
            raise WrongUse("doctor.host_name", f"{name!r} is no host", where=where, hint=hint)
    if which("ssh") is None:
        raise Lacking("doctor.no_ssh", "ssh is not installed", hint="apt install openssh-client")
    source = files("steelyard.doctor").joinpath("probe.py").read_bytes()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(lambda name: _ask(name, source, python, kubernetes), wanted))


def ask_here(name: str, python: str) -> Asked:
    """Probe this machine by a Python of it, as `ask` does others; `name` is what errors call it."""
    source = files("steelyard.doctor").joinpath("probe.py").read_bytes()
    return _run(name, [python, "-", "."], source, python)


def _ask(name: str, source: bytes, python: str, kubernetes: bool) -> Asked:
    command = ssh_command(name, f"{shlex.quote(python)} - .{' --kubernetes' if kubernetes else ''}")
    return _run(name, command, source, python)


def _run(name: str, command: list[str], source: bytes, python: str) -> Asked:
    try:
        child = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        return Asked(name, None, problem(name, NOT_FOUND, error.strerror or str(error), python))
    try:
        out, err = child.communicate(source, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        with suppress(subprocess.TimeoutExpired):  # one that waits in the kernel does not end by it
            child.wait(KILLED_S)
        return Asked(name, None, _unreachable(name, f"no answer within {PROBE_S} s"))
    received_s = time.time()
    text, said = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    facts = _read(text)
    if facts is None:
        return Asked(name, None, problem(name, child.returncode, said, python))
    facts["clock_off_s"] = float(facts.get("time_s", received_s)) - received_s
    return Asked(name, facts)


def ssh_command(name: str, there: str) -> list[str]:
    """The user's ssh that runs a command there: it asks nothing, and forwards nothing."""
    options = [word for option in OPTIONS for word in ("-o", option)]
    return ["ssh", "-T", *options, "--", name, there]


def _read(text: str) -> dict[str, Any] | None:
    """The snapshot in what a host printed, past a banner of its shell; None without one."""
    start = text.find('{"schema": "' + SCHEMA)
    if start < 0:
        return None
    try:
        facts, _ = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        return None
    return facts


def problem(name: str, code: int, said: str, python: str = "python3") -> Problem:
    """What ssh, or Python there, has said, as one error with what to do."""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"exit code {code}")
    where = Where(field=name)
    if "IDENTIFICATION HAS CHANGED" in said:
        hint = f"if the host was set up anew: ssh-keygen -R {_bare(name)}, then ssh {name} once by hand"
        message = f"{name} shows another host key than before"
        return Lacking("doctor.ssh_key_changed", message, where=where, why=last, hint=hint)
    if "Host key verification failed" in said:
        hint = f"ssh {name} once by hand and compare the fingerprint, or add it to known_hosts"
        return Lacking(
            "doctor.ssh_host_key", f"the host key of {name} is not known", where=where, why=last, hint=hint
        )
    if "Permission denied" in said and code == 255:
        hint = (
            f"ssh-copy-id {name}, or the right user and IdentityFile in ~/.ssh/config; a key with a "
            "passphrase: ssh-add"
        )
        return Lacking(
            "doctor.ssh_denied", f"{name} takes none of your keys", where=where, why=last, hint=hint
        )
    if code == 255:
        return _unreachable(name, last)
    if code in (126, 127) or "not found" in last:
        hint = "install Python 3.7 or later there, or name the one it has: --python /usr/bin/python3.11"
        return Lacking("doctor.no_python", f"{name} has no {python}", where=where, why=last, hint=hint)
    if "SyntaxError" in said or "future feature" in said:
        hint = "name a newer one: --python /usr/bin/python3.11"
        message = f"{python} of {name} is older than 3.7"
        return Lacking("doctor.python_old", message, where=where, why=last, hint=hint)
    hint = f"ssh {name} {python} - < the file probe.py of steelyard.doctor, to see all it says"
    return Lacking("doctor.probe", f"the probe failed on {name}", where=where, why=last[:300], hint=hint)


def _unreachable(name: str, why: str) -> Problem:
    hint = f"ssh {name}; is it on, is the name right, does a firewall drop port 22?"
    return Lacking(
        "doctor.ssh_unreachable", f"{name} does not answer", where=Where(field=name), why=why, hint=hint
    )


def _bare(name: str) -> str:
    """The host of USER@HOST or of an ssh:// address, as known_hosts has it."""
    host = name.removeprefix("ssh://").rpartition("@")[2].rstrip("/")
    address, colon, port = host.rpartition(":")
    return f"'[{address}]:{port}'" if colon and port.isdigit() and "]" not in address else host
