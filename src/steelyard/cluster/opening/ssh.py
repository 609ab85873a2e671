"""One order carried out on one host: there.py to its Python, through the user's own ssh or here."""

from __future__ import annotations

import json
import shlex
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from ...doctor import ssh_command, ssh_problem
from ...errors import Lacking, Problem, Where
from .hosts_file import Host
from .there import ANSWER


class Runners:
    """Orders under way; all can be given up at once."""

    def __init__(self) -> None:
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._ended = False

    def end(self) -> None:
        """Whoever waits there is alone from now on, and undoes what it did."""
        with self._lock:
            self._ended = True
            for child in self._children:
                with suppress(OSError):
                    child.kill()

    @contextmanager
    def run(self, words: Sequence[str], where: Where) -> Iterator[subprocess.Popen[bytes]]:
        """A child with three pipes."""
        pipe = subprocess.PIPE
        with self._lock:
            if self._ended:
                raise Lacking("cluster.given_up", "given up", hint="run the same command again")
            try:
                child = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
            except OSError as error:  # ssh is not installed, a local host has no such Python
                text, hint = (
                    f"{words[0]} does not start here",
                    "install it, or name another python: in the file",
                )
                why = error.strerror or str(error)
                raise Lacking("cluster.no_program", text, where=where, why=why, hint=hint) from error
            self._children.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._children.discard(child)
            if child.poll() is None:
                child.kill()
            child.wait()

    def order(
        self, host: Host, order: Mapping[str, Any], within_s: float, wheels: Sequence[Path] = ()
    ) -> dict[str, Any]:
        """What the host answers. Raises Lacking for what went wrong on the way, or there."""
        source = files("steelyard.cluster.opening").joinpath("there.py").read_bytes()
        program = source + f"\nmain(json.loads({json.dumps(order)!r}))\n".encode()
        loader = f"import sys; exec(compile(sys.stdin.buffer.read({len(program)}), 'there.py', 'exec'))"
        there = f"{shlex.quote(host.python)} -c {shlex.quote(loader)}"
        words = [host.python, "-c", loader] if host.local else ssh_command(host.ssh, there)
        with self.run(words, host.where) as child:
            feeder = Thread(target=_feed, args=(child, program, wheels), daemon=True)
            said: list[bytes] = []
            listener = Thread(target=lambda: said.append(child.stderr.read()), daemon=True)  # type: ignore[union-attr]
            feeder.start()
            listener.start()
            answer = _answer(child, within_s)
            child.wait()
            listener.join(1)
        if answer is None:
            raise _no_answer(host, child.returncode, b"".join(said).decode("utf-8", "replace"), within_s)
        if failed := answer.get("failed"):
            raise _failed(host, *failed)
        return answer


def _feed(child: subprocess.Popen[bytes], program: bytes, wheels: Sequence[Path]) -> None:
    """The program, then the wheels as a tar."""
    assert child.stdin is not None
    with suppress(OSError):  # the host has gone: its last word says why
        child.stdin.write(program)
        child.stdin.flush()
        if wheels:
            with tarfile.open(fileobj=child.stdin, mode="w|") as archive:
                for path in wheels:
                    archive.add(path, path.name, recursive=False)
        child.stdin.close()


def _answer(child: subprocess.Popen[bytes], within_s: float) -> dict[str, Any] | None:
    """The last line, as JSON; None where there is none. A host that is silent for too long is given up."""
    from threading import Timer

    assert child.stdout is not None
    timer = Timer(within_s, child.kill)
    timer.start()
    try:
        for line in child.stdout:
            text = line.decode("utf-8", "replace")
            if text.startswith(ANSWER):
                with suppress(ValueError):  # cut off within the line
                    answer: dict[str, Any] = json.loads(text.removeprefix(ANSWER))
                    return answer
    finally:
        timer.cancel()
    return None


def _no_answer(host: Host, code: int, said: str, within_s: float) -> Problem:
    """Of a host that ended without its last word: ssh's own faults, else what it said last."""
    if not host.local and code in (126, 127, 255):
        return ssh_problem(host.ssh, code, said, host.python)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = f"not within {within_s:.0f} s" if code < 0 else (lines or [f"exit code {code}"])[-1][:300]
    hint = "run the same command again; steelyard cluster down HOSTS.yaml ends what is there"
    return Lacking(
        "cluster.no_answer", f"{host.address} gave no answer", where=host.where, why=why, hint=hint
    )


def _failed(host: Host, word: str, detail: str) -> Lacking:
    """What there.py could not do, as an error of ours."""
    name, where = host.address, host.where
    if word == "busy":
        text, hint = f"another steelyard cluster is at work on {name}", "run it again when that has ended"
        return Lacking("cluster.busy", text, where=where, hint=hint)
    if word == "sent":
        text = f"{name} received other bytes than were sent: {detail}"
        hint = "run the same command again; a second time: see to the disks on both sides"
        return Lacking("cluster.sent", text, where=where, hint=hint)
    if word == "install":
        text = f"steelyard could not be installed on {name}"
        hint = "the wheels must hold all that it needs, for the Python and CPU of that host"
        return Lacking("cluster.install", text, where=where, why=detail, hint=hint)
    if word == "in_use":
        text = f"{name} runs a node, or its jobs, from packages that this release changes"
        hint = "steelyard cluster down HOSTS.yaml, then up; or leave it with the release that it has"
        return Lacking("cluster.in_use", text, where=where, why=detail, hint=hint)
    if word == "taken":
        text = f"{name} is a node of the cluster {detail}"
        hint = "steelyard cluster down HOSTS.yaml with the file of that cluster, where it was opened"
        return Lacking("cluster.node_taken", text, where=where, hint=hint)
    if word == "keys":
        text, hint = (
            f"{name} has the keys of another cluster",
            f"move {detail} away there, if nothing uses it",
        )
        return Lacking("cluster.other_keys", text, where=where, hint=hint)
    if word == "start":
        text = f"Ray does not start on {name}"
        hint = "is its port free, do the hosts reach each other at these addresses? steelyard doctor --host"
        return Lacking("cluster.not_started", text, where=where, why=detail, hint=hint)
    text, hint = f"{name}: {detail}", "see to the disk and the rights of that home, then run it again"
    return Lacking("cluster.disk", text, where=where, hint=hint)
