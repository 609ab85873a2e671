"""Open a cluster over ssh, say how it is, end it: hosts side by side, one error each, the rest goes on.

examine (doctor) -> look -> install where steelyard is missing -> the head -> the others
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

from ...artefact import Watch, sha256_of, write_durably
from ...doctor import ask, ask_here, examine
from ...errors import Lacking, Problem, Where, WrongUse, trace_of
from ...older import read_as
from ...places import data_folder
from ...trust import make_keys
from .hosts_file import Host, Hosts
from .ssh import Runners

AT_ONCE = 32
LOOK_S, SEND_S, INSTALL_S, START_S, STOP_S = 60.0, 3600.0, 3600.0, 90.0, 60.0
TRIES = 3  # of Ray's start
OLDEST = (3, 11)
KEY_FILES = ("ca.crt", "node.crt", "node.key", "token")
_NOTING = Lock()


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one host. `state`: up, already, stopped, down, unknown, failed or left."""

    host: Host
    state: str
    problem: Problem | None = None
    notes: tuple[str, ...] = ()  # symptoms of the doctor that kept it out or not

    def document(self) -> dict[str, Any]:
        """As --json has it."""
        shown = {"host": self.host.address, "ssh": self.host.ssh, "state": self.state}
        told = self.problem.as_json() if self.problem else {}
        return shown | {"notes": list(self.notes)} | told


@dataclass
class _Opening:
    """The hosts on their way: who is still in, and what is known of each."""

    cluster: Hosts
    watch: Watch
    runners: Runners = field(default_factory=Runners)
    failed: dict[Host, Problem] = field(default_factory=dict)
    facts: dict[Host, dict[str, Any]] = field(default_factory=dict)
    notes: dict[Host, tuple[str, ...]] = field(default_factory=dict)
    states: dict[Host, str] = field(default_factory=dict)
    call: str = field(default_factory=lambda: token_hex(16))  # what it starts is known by it

    def left(self) -> list[Host]:
        """Hosts that have not failed."""
        return [host for host in self.cluster.hosts if host not in self.failed]

    def each(self, hosts: Iterable[Host], do: Callable[[Host], None]) -> None:
        """Side by side; whatever goes wrong with one keeps that one out."""

        def alone(host: Host) -> None:
            try:
                do(host)
            except Problem as problem:
                self.fail(host, problem)
            except Exception as error:  # a rule of the doctor's, an answer of another shape: the rest goes on
                self.fail(host, _unforeseen(host, error))

        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            try:
                list(pool.map(alone, list(hosts)))
            except BaseException:
                self.runners.end()
                raise

    def fail(self, host: Host, problem: Problem) -> None:
        self.failed[host] = problem
        self.watch.log("cluster.failed", host=host.address, code=problem.code)

    def order(self, host: Host, do: str, within_s: float, **more: Any) -> dict[str, Any]:
        wheels = more.pop("sent", ())
        words = {"do": do, "cluster": self.cluster.name} | more
        return self.runners.order(host, words, within_s, wheels)


def _unforeseen(host: Host, error: Exception) -> Problem:
    """No text of the error's own but the system's: it may quote what was read there."""
    said = f"{error.strerror or error}" if isinstance(error, OSError) else type(error).__name__
    text = f"{host.address} could not be seen to: {said}"
    why = next((line.strip() for line in reversed(trace_of(error).splitlines()) if " line " in line), said)
    hint = "steelyard doctor, there or with --host, may tell more; else please report it"
    return Lacking("cluster.unforeseen", text, where=host.where, why=why, hint=hint)


def open_hosts(cluster: Hosts, watch: Watch | None = None) -> list[Row]:
    """Every host that can be a node is one afterwards; a row for each, in the order of the file.

    What already runs is left alone; where the head is started, the others join it anew, and their jobs go on.
    Interrupted, it ends what it has started. Raises WrongUse for wheels that are none."""
    opening = _Opening(cluster, watch or Watch())
    wheels = _wheels(cluster.wheels) if cluster.wheels else {}
    try:
        opening.each(opening.left(), lambda host: _examine(opening, host))
        opening.each(opening.left(), lambda host: _look(opening, host, wheels))
        opening.each(opening.left(), lambda host: _same_as_head(opening, host))
        if cluster.head not in opening.failed:
            keys = _keys(cluster)
            opening.each([cluster.head], lambda host: _start(opening, host, keys))
        if cluster.head not in opening.failed:
            anew = opening.states[cluster.head] == "up"
            opening.each(opening.left()[1:], lambda host: _start(opening, host, keys, anew))
    except BaseException:
        _undo(opening)
        raise
    return [_row(opening, host) for host in cluster.hosts]


def _row(opening: _Opening, host: Host) -> Row:
    state = "failed" if host in opening.failed else opening.states.get(host, "left")
    return Row(host, state, opening.failed.get(host), opening.notes.get(host, ()))


def _undo(opening: _Opening) -> None:
    """End what this call has started."""
    begun = _Opening(opening.cluster, opening.watch)
    started = [host for host, state in opening.states.items() if state in ("up", "starting")]
    begun.each(reversed(started), lambda host: _stop(begun, host, opening.call))


# ------------------------------------------------------------------ fit, and alike


def _examine(opening: _Opening, host: Host) -> None:
    """The doctor's findings: a bad one keeps the host out, unless its file says despite."""
    asked = ask_here(host.address, host.python) if host.local else ask([host.ssh], host.python)[0]
    if asked.problem is not None:
        raise asked.problem
    facts = asked.facts or {}
    found = [finding for finding in examine(facts) if finding.level != "ok"]
    opening.notes[host] = tuple(finding.symptom for finding in found)
    for finding in found:
        if finding.level == "bad" and finding.name not in host.despite:
            text = f"{host.address}: {finding.symptom}"
            hint = f"{finding.fix}; or despite: [{finding.name}] at this host"
            raise Lacking("cluster.unfit", text, where=host.where, why=finding.cause, hint=hint)
    have = str(facts.get("python", {}).get("version", ""))
    if have and tuple(int(part) for part in have.split(".")[:2]) < OLDEST:
        hint = "name a newer one: {address: ..., python: /usr/bin/python3.11}"
        text = f"{host.python} of {host.address} is {have}, and steelyard needs 3.11 or later"
        raise Lacking("cluster.python_old", text, where=host.where, hint=hint)


def _look(opening: _Opening, host: Host, wheels: Mapping[Path, str]) -> None:
    """What is there; installed where it is missing, or where an earlier release was installed so."""
    name = hashlib.sha256(json.dumps(sorted(wheels.values())).encode()).hexdigest()[:16] if wheels else None
    facts = opening.order(host, "look", LOOK_S, wheels=name)
    own = version("steelyard")
    if wheels and (facts["steelyard"] is None or (facts["ours"] and facts["steelyard"] != own)):
        facts = _install(opening, host, wheels, str(name), bool(facts.get("wheels")))
    if facts["steelyard"] is None:
        text = f"{host.address} has no steelyard"
        hint = "wheels: DIR in the file installs it from there; or pip install it and name its python:"
        raise Lacking("cluster.not_installed", text, where=host.where, hint=hint)
    if facts["steelyard"] != own:
        text = f"{host.address} has steelyard {facts['steelyard']}, here it is {own}"
        hint = f"install {own} there, or wheels: DIR in the file, which installs it from there"
        raise Lacking("cluster.version", text, where=host.where, hint=hint)
    if facts["ray"] is None:
        hint = "there: steelyard engines install trl --ray"
        text = f"{host.address} has no Ray beside its steelyard"
        raise Lacking("cluster.host_no_ray", text, where=host.where, hint=hint)
    opening.facts[host] = facts


def _install(
    opening: _Opening, host: Host, wheels: Mapping[Path, str], name: str, there: bool
) -> dict[str, Any]:
    opening.watch.log("cluster.installing", host=host.address, wheels=len(wheels))
    if not there:
        sums = {path.name: digest for path, digest in wheels.items()}
        opening.order(host, "receive", SEND_S, wheels=name, files=sums, sent=tuple(wheels))
    return opening.order(host, "install", INSTALL_S, wheels=name, version=version("steelyard"))


def _same_as_head(opening: _Opening, host: Host) -> None:
    """Ray wants the same release and the same Python, the training the same packages."""
    head = opening.facts.get(opening.cluster.head)
    if head is None or host == opening.cluster.head:
        return
    own = opening.facts[host]
    pairs = {"Python": (own["python"], head["python"]), "ray": (own["ray"], head["ray"])}
    pairs |= {name: (own["packages"].get(name), value) for name, value in head["packages"].items()}
    if other := [f"{name} {a}, {b} on the head" for name, (a, b) in pairs.items() if a != b]:
        hint = "install the head's versions there: steelyard engines install trl --ray, of one release"
        text = f"{host.address} has other versions than the head"
        raise Lacking("cluster.versions", text, where=host.where, why="; ".join(other), hint=hint)


def _wheels(folder: Path) -> dict[Path, str]:
    """{file: SHA-256}. Raises WrongUse where steelyard of this release is not among them."""
    found = sorted(folder.glob("*.whl")) or sorted(folder.glob("wheels/*.whl"))
    own = version("steelyard")
    if not any(path.name.startswith(f"steelyard-{own}-") for path in found):
        text = f"{folder} has no wheel of steelyard {own}"
        hint = "pip wheel . --wheel-dir DIR makes one"
        raise WrongUse("cluster.wheels", text, where=Where(str(folder), field="wheels"), hint=hint)
    return {path: sha256_of(path) for path in found}


# ------------------------------------------------------------------ nodes


def folder_of(name: str) -> Path:
    """Of a cluster, here: its keys, and which hosts were opened."""
    return data_folder() / "clusters" / name


def _keys(cluster: Hosts) -> dict[Host, dict[str, str]]:
    """Each host's files, made where it has none; the CA's key stays here."""
    folder = folder_of(cluster.name) / "keys"
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lacking = [host.address for host in cluster.hosts if not (folder / host.address / "token").exists()]
    for address in lacking:
        _unfinished(folder / address)
    make_keys(folder, lacking)
    return {
        host: {name: (folder / host.address / name).read_text() for name in KEY_FILES}
        for host in cluster.hosts
    }


def _unfinished(folder: Path) -> None:
    """Away with what an interrupted call left of one host's keys."""
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _start(opening: _Opening, host: Host, keys: Mapping[Host, Mapping[str, str]], anew: bool = False) -> None:
    """`anew`: what runs there has joined a head that is no more."""
    cluster, facts = opening.cluster, opening.facts[host]
    is_head = host == cluster.head
    head = None if is_head else f"{cluster.head.address}:{cluster.port}"
    _note(cluster, [host])
    if not anew and _runs(cluster, host, head, facts["node"]):
        opening.states[host] = "already"
        return opening.watch.log("cluster.host", host=host.address, state="already")
    opening.states[host] = "starting"
    answer = opening.order(
        host, "start", START_S * TRIES + STOP_S,
        address=host.address, cpus=host.cpus, interpreter=facts["interpreter"], keys=facts["keys"],
        node=f"{host.address}:{cluster.port}" if is_head else host.address,
        head=head, secrets=dict(keys[host]), wait_s=START_S, tries=TRIES, anew=anew, call=opening.call,
    )  # fmt: skip
    opening.states[host] = "already" if answer["already"] else "up"
    opening.watch.log("cluster.host", host=host.address, state=opening.states[host])


def _runs(cluster: Hosts, host: Host, head: str | None, node: Mapping[str, Any] | None) -> bool:
    """Whether it was seen to be this very node."""
    wanted = {"cluster": cluster.name, "address": host.address, "head": head, "alive": True}
    return node is not None and all(node.get(name) == value for name, value in wanted.items())


def _noted(cluster: Hosts) -> list[Host]:
    """Hosts that were opened under this name, as they were reached."""
    try:
        rows = json.loads((folder_of(cluster.name) / "opened.json").read_text())
        return [read_as(Host, row) for row in rows]
    except (OSError, ValueError, TypeError):
        return []


def _note(cluster: Hosts, more: Sequence[Host], less: Sequence[Host] = ()) -> None:
    """Before a host is started, and after it was ended."""
    with _NOTING:
        gone = {host.address for host in [*less, *more]}
        kept = [host for host in _noted(cluster) if host.address not in gone]
        names = ("address", "ssh", "python", "local")
        rows = [{name: getattr(host, name) for name in names} for host in [*kept, *more]]
        path = folder_of(cluster.name) / "opened.json"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, json.dumps(rows).encode())


# ------------------------------------------------------------------ end, state


def close(cluster: Hosts, watch: Watch | None = None) -> list[Row]:
    """End what was started on every host of the file, or opened under its name before; the head last."""
    every = _every(cluster)
    closing = _Opening(replace(cluster, hosts=tuple(every)), watch or Watch())
    closing.each(every[1:], lambda host: _stop(closing, host))
    closing.each(every[:1], lambda host: _stop(closing, host))
    return [_row(closing, host) for host in every]


def _stop(closing: _Opening, host: Host, call: str | None = None) -> None:
    """`call`: end only what that one has started."""
    answer = closing.order(host, "stop", STOP_S, call=call)
    closing.states[host] = "stopped" if answer["stopped"] else "down"
    if not answer["left"]:
        _note(closing.cluster, (), [host])


def states(cluster: Hosts, watch: Watch | None = None) -> list[Row]:
    """Whether each is a node of this cluster now: up, down, or unknown where it does not answer."""
    every = _every(cluster)
    asking = _Opening(replace(cluster, hosts=tuple(every)), watch or Watch())
    asking.each(every, lambda host: _state(asking, host))
    rows = [_row(asking, host) for host in every]
    return [replace(row, state="unknown") if row.problem else row for row in rows]


def _state(asking: _Opening, host: Host) -> None:
    node = asking.order(host, "state", LOOK_S)["node"]
    ours = bool(node) and node["cluster"] == asking.cluster.name
    asking.states[host] = "up" if ours and node["alive"] else "down"


def _every(cluster: Hosts) -> list[Host]:
    addresses = {host.address for host in cluster.hosts}
    return [*cluster.hosts, *(host for host in _noted(cluster) if host.address not in addresses)]
