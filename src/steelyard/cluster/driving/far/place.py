"""The devices of a cluster's nodes as the place of jobs: who answers, who is lost, what runs where.

A node is lost where three agree: it does not answer, Ray has it no more, and what runs on it is not heard in
the shared folder. While its attempts are heard a node that is cut off loses nothing.
"""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ....artefact import Watch, write_durably
from ....errors import Lacking, Where
from ....trust import address_of
from ...deciding import Decision, DeviceLost, Event, Signal
from ...through_ray import WHERE, differs, ray_process
from ..attempt import KILLED
from ..jobs_file import JobsFile
from ..journal import JOURNAL, LOCK, taken_over
from .attempt import OWNER, FarAttempt, claim, own, owner_of
from .link import Link

LOOK_S = 0.4
SILENT_S = 5.0  # without an answer, or a word of what runs there: a node that Ray has no more is lost
SIGNAL_S = 10.0  # without an answer: one signal against it
UNKNOWN_S = 60.0  # without an answer, though Ray has it: a probe says so
MEET_S = 60.0
DRIFT = 1e-3  # seconds a second by which two clocks may part: far more than they do
WORD = "shared.word"


@dataclass(slots=True)
class FarNode:
    """`sees`: None while nobody knows whether it shares the folder; why not, or empty."""

    address: str
    link: Link
    devices: list[int] = field(default_factory=list)
    sees: str | None = None
    asked: bool = False  # a question is under way
    asked_s: float = -math.inf
    answered_s: float = -math.inf
    ahead_s: float | None = None
    moved_s: float = 0.0  # when that was known last
    lost: bool = False
    apart: bool = False  # it was left out of jobs that had begun: it shares no folder, or runs other code
    signalled: bool = False
    ray: str = ""  # its id in Ray, when it told of attempts last
    attempts: dict[str, FarAttempt] = field(default_factory=dict)  # that it says something of, by folder
    probes: dict[int, Any] = field(default_factory=dict)  # answers; ... while there is none

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self.answered_s

    def act(self, folder: Path, what: str, epoch: int) -> None:
        self.tell("act", str(folder), what, epoch)

    def tell(self, name: str, *words: Any) -> None:
        """Something that has no answer: where it is not heard, the next look says how things stand."""
        self.link.ask(self.address, name, words, lambda _: None, lambda kind, why: None)

    def ask(self, name: str, words: tuple[Any, ...], then: Any) -> None:
        """One question at a time."""
        self.asked, self.asked_s = True, time.monotonic()

        def answered(answer: Any) -> None:
            self.asked, self.answered_s, self.signalled = False, time.monotonic(), False
            then(answer)

        def lost(kind: str, why: str) -> None:
            self.asked, self.ahead_s = False, None
            self.sees = f"differs: {why}" if kind == "differs" else why if kind == "failed" else None
            silent = self.silent_s > UNKNOWN_S  # for so long that this is an answer
            for number in self.probes:
                if self.probes[number] is ...:
                    self.probes[number] = None if silent else {}

        self.link.ask(self.address, name, words, answered, lost)

    def look(self) -> None:
        folders = [folder for folder, attempt in self.attempts.items() if attempt.begun]
        waits = [number for number, answer in self.probes.items() if answer is ...]
        self.ask("look", (folders, waits), self._looked)

    def _looked(self, told: dict[str, Any]) -> None:
        """The least difference of the clocks is the one with the least delay; it may grow as clocks drift."""
        now_s = time.monotonic()
        ahead_s, passed_s = now_s - told["mono"], now_s - self.moved_s
        drifted_s = ahead_s if self.ahead_s is None else self.ahead_s + DRIFT * passed_s
        self.ahead_s, self.moved_s = min(drifted_s, ahead_s), now_s
        before, self.ray = self.ray, (self.link.alive or {}).get(self.address, "")
        for folder, state in told["attempts"].items():
            if before not in ("", self.ray) and state["exit"] == (KILLED, ""):  # nobody noted that end
                state |= {"exit": (KILLED, "heartbeat lost: its node was started again")}
            if folder in self.attempts:
                self.attempts[folder].told = state | {"asked_s": self.asked_s}
                if not state["alive"]:
                    del self.attempts[folder]
        for number, answer in told["probes"].items():
            self.probes[number] = answer


@dataclass(slots=True)
class FarProbe:
    node: FarNode
    number: int

    def over(self) -> bool:
        return self.node.probes.get(self.number) is not ...

    def kill(self) -> None:
        self.node.tell("end_probe", self.number)

    def said(self) -> dict[str, Any] | None:
        answer = self.node.probes.pop(self.number, None)
        return answer if isinstance(answer, dict) else None


@dataclass(slots=True)
class OnRay:
    spec: JobsFile
    folder: Path
    link: Link
    watch: Watch
    nodes: dict[str, FarNode]
    of: list[FarNode]  # of each device
    epoch: int  # of the driver's lease
    word: str = field(default_factory=lambda: secrets.token_hex(16))
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def meet(self) -> None:
        """Until each node that is there has said that it shares the folder.

        Raises Lacking where one does not. Jobs that had begun go on without it, as without a node that is
        lost; it is asked again."""
        write_durably(self.folder / WORD, self.word.encode())
        until_s = time.monotonic() + MEET_S
        while time.monotonic() < until_s:
            self.link.hear(0.1)
            self._ask_all()
            there = self.there()
            if self.link.alive is not None and all(node.sees is not None for node in there):
                break
        apart = [node for node in self.there() if node.sees]
        if apart and not (self.is_again() and any(node.sees == "" for node in self.there())):
            raise self._refusal(apart[0])
        for node in apart:
            node.apart = True
            refusal = self._refusal(node)
            why = f"{refusal.message}: {refusal.why}; asked again"
            self.watch.log("jobs.omit", job="", devices=node.devices, why=why)
        if not any(node.sees == "" for node in self.there()):
            others = ", ".join(sorted(self.link.alive or ())) or "none"
            raise Lacking(
                "cluster.hosts_lost", "no node of these jobs is there", where=WHERE,
                why=f"asked for: {', '.join(self.nodes)}; nodes of the cluster: {others}",
                hint="steelyard cluster start ADDRESS --head HEAD there, then run the same command again",
            )  # fmt: skip

    def is_again(self) -> bool:
        """These jobs had begun before."""
        return (self.folder / JOURNAL).exists()

    def there(self) -> list[FarNode]:
        """Nodes that Ray has."""
        return [node for node in self.nodes.values() if node.address in (self.link.alive or ())]

    def _refusal(self, node: FarNode) -> Lacking:
        if node.sees and node.sees.startswith("differs: "):
            return differs(node.address, node.sees.removeprefix("differs: "))
        return Lacking(
            "jobs.shared", f"the node {node.address} does not share {self.folder} with this machine",
            where=Where(field="--workdir"), why=node.sees or "",
            hint="--workdir and the jobs' folder on a file system of all nodes, with locks: NFS 4 for one",
        )  # fmt: skip

    def _ask_all(self) -> None:
        for node in self.there():
            if node.asked or time.monotonic() - node.asked_s < LOOK_S:
                continue
            if node.sees == "":
                node.look()
            elif node.sees is None or time.monotonic() - node.asked_s > SIGNAL_S:  # mounted since, perhaps
                folders = sorted({str(job.folder) for job in self.spec.jobs})
                words = (str(self.folder / WORD), self.word, str(self.folder / LOCK), folders)
                node.ask("sees", words, lambda why, node=node: self._saw(node, why))

    def _saw(self, node: FarNode, why: str) -> None:
        if why == node.sees:
            return
        node.sees = why
        self.watch.log("jobs.node", job="", devices=node.devices, node=node.address, why=why)

    # ------------------------------------------------------------------ what happens

    def look(self, now_s: float, heard_s: Mapping[int, float]) -> Iterable[Event]:
        self.link.hear()
        self._ask_all()
        for node in self.nodes.values():
            if node.lost:
                node.lost = not (node.sees == "" and node.silent_s < SILENT_S)
                node.apart = node.apart and node.lost
            elif self._is_lost(node, heard_s):
                node.lost = True
                yield from (DeviceLost(now_s, device) for device in node.devices)
            elif node.silent_s > SIGNAL_S and not node.signalled:
                node.signalled = True
                what = f"no answer of {node.address}"
                yield from (Signal(now_s, device, "heartbeat", what) for device in node.devices)

    def _is_lost(self, node: FarNode, heard_s: Mapping[int, float]) -> bool:
        away = node.apart or node.address not in (self.link.alive or ())
        gone = node.silent_s > SILENT_S and away
        return gone and all(heard_s.get(device, math.inf) > SILENT_S for device in node.devices)

    # ------------------------------------------------------------------ what is decided

    def begin(
        self, job: str, seq: int, epoch: int, places: Mapping[str, Path], command: tuple[str, ...],
        devices: tuple[int, ...], more: Mapping[str, str], idle: bool = False,
    ) -> FarAttempt:  # fmt: skip
        """The folder is there before it is asked for, so that no later driver takes the same one. Raises
        Refused where one has taken it."""
        folder, node = places["folder"], self.of[devices[0]]
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise taken_over(self.folder) from error
        own(folder.parent, folder.name, epoch)
        attempt = FarAttempt(job, seq, folder, devices, node, epoch)
        node.attempts[str(folder)] = attempt
        paths = {name: str(path) for name, path in places.items()} | {"owner": str(folder.parent / OWNER)}
        hosts = ",".join(dict.fromkeys(self.of[device].address for device in devices))
        own_words = dict(more) | {"STEELYARD_HOSTS": hosts}
        words = (job, seq, epoch, paths, command, devices, own_words, idle, sys.executable)

        def begun(_: None) -> None:
            attempt.begun = True

        def lost(kind: str, why: str) -> None:
            if owner_of(folder.parent) == folder.name:  # else another attempt has the job by now
                own(folder.parent, "", epoch)  # should it have begun after all
            node.attempts.pop(str(folder), None)
            attempt.failed = f"{node.address}: {why}"

        self.link.ask(node.address, "begin", words, begun, lost)
        return attempt

    def find(self, decision: Decision, folder: Path) -> FarAttempt | None:
        if not (folder / "order.json").exists() or owner_of(folder.parent) != folder.name:
            return None
        node = self.of[decision.devices[0]]
        attempt = FarAttempt(
            decision.job, decision.seq, folder, decision.devices, node, self.epoch, begun=True
        )
        node.attempts[str(folder)] = attempt
        until_s = time.monotonic() + SIGNAL_S
        while node in self.there() and not attempt.told and time.monotonic() < until_s:
            self.link.hear(0.1)
            self._ask_all()
        return attempt

    def end_strays(self, job: str, wanted: Decision | None, folders: Iterable[Path]) -> None:
        """The job is theirs no more: their keepers read that."""
        folder = next((folder.parent for folder in folders), None)
        if folder is not None:
            claim(folder, wanted.seq if wanted else None, self.epoch)

    def answers(self, device: int) -> bool:
        node = self.of[device]
        return (node.sees == "" and node.silent_s < SILENT_S) or (
            not node.lost and node.silent_s > UNKNOWN_S and node in self.there()
        )

    def probe(self, device: int) -> FarProbe:
        node, number = self.of[device], next(self.numbers)
        node.probes[number] = ...
        node.tell("probe", number, self.spec.devices[device], str(self.folder))
        return FarProbe(node, number)


@contextmanager
def on_ray(spec: JobsFile, folder: Path, address: str, watch: Watch, epoch: int) -> Iterator[OnRay]:
    """Connected to the cluster with this head, by the lease of this epoch.

    Raises Lacking where it, its nodes or the folder that they share are not there."""
    with ray_process(address, "asking") as process:
        link = Link(process)
        nodes: dict[str, FarNode] = {}
        for device, name in enumerate(spec.nodes):
            where = address_of(name)
            nodes.setdefault(where, FarNode(where, link)).devices.append(device)
        of = [nodes[address_of(name)] for name in spec.nodes]
        place = OnRay(spec, folder, link, watch, nodes, of, epoch)
        link.begin()
        place.meet()
        yield place
