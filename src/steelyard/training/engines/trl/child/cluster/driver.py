"""Attempt after attempt until the training is done: who takes part, what they have, what is lost.

Knows nothing of Ray (nodes.py does) and nothing of training: it starts the child on each machine, hands on
what its first process tells, and fetches checkpoints and result, which count when they lie here, whole.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints import sha256_of, whole
from ..looks import BEST
from ..telling import Failed, Told
from .files import MODEL, digest_of, listing, pieces, write
from .nodes import Lost, Node, RayNodes

POLL_S = 0.1
SILENT_S = 20.0  # without an answer a machine is lost
ANSWER_S = 60.0  # of an actor that is to be started, or of one that hashes a piece of work
HASH_S = 3600.0  # of a large model on a slow disk
LAST_WORD_S = 3.0  # for the others, once one has ended with an error
HOLD_S = 60.0  # until a lost machine is asked again: by then Ray knows what became of it
LOOK_S = 5.0  # for machines that have come
GROW_S = 300.0  # between two restarts that only take in machines: each costs about 20 s
FRUITLESS = 3  # attempts in a row without a new step
SENT = ("order.jsonl", "looks.jsonl", "held_out.jsonl", "init")  # of the driver's folder


def drive(job: dict[str, Any], tell: Told, stop: list[int]) -> None:
    """Until the training has ended. With `probe` it only says who is there."""
    asked: list[int] = []
    spec = job.pop("ray")
    nodes = RayNodes(spec["address"], job["device"], tell)
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))  # Ray has put its own there
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    if spec.get("probe"):
        tell(there=[node.address for node in nodes.alive()], hosts=probed(nodes, spec["hosts"]))
    else:
        Driver(job, spec, nodes, tell, stop, asked).run()


def members_of(nodes: Any, hosts: list[str], run: str) -> list[Member]:
    """Those of `hosts`, or of all, that answer. Raises Failed for the first that is not there."""
    there = nodes.alive()
    if missing := [host for host in hosts if host not in {node.address for node in there}]:
        raise Failed("host", host=missing[0], why="", there=[node.address for node in there])
    members = [Member(n, nodes.open(n, run)) for n in there if not hosts or n.address in hosts]
    calls = [(m, m.link.begin("facts")) for m in members]  # together: each starts a process
    for member, call in calls:
        try:
            member.facts = member.link.wait(call, ANSWER_S)
        except Lost as lost:
            raise Failed("host", host=member.node.address, why=str(lost), there=[]) from lost
    return members


def probed(nodes: Any, hosts: list[str]) -> list[dict[str, Any]]:
    members = members_of(nodes, hosts, "probe")
    found = [
        {"host": m.node.address, "places": m.node.places, "versions": m.facts["versions"]} for m in members
    ]
    for member in members:
        member.link.close()
    return found


@dataclass
class Member:
    """A machine of the attempt."""

    node: Node
    link: Any
    facts: dict[str, Any] = field(default_factory=dict)

    def ask(self, name: str, *words: Any, most_s: float = SILENT_S) -> Any:
        return self.link.wait(self.link.begin(name, *words), most_s)


@dataclass
class Driver:
    job: dict[str, Any]
    spec: dict[str, Any]  # address, hosts (none: all), environment, run, code
    nodes: Any
    tell: Told
    stop: list[int]
    stacks: list[int] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    coming: list[Member] = field(default_factory=list)
    held: dict[str, float] = field(default_factory=dict)  # nodes, and when they were lost
    highest: int = 0  # step that any attempt has done
    fruitless: int = 0
    base: dict[str, str] = field(default_factory=dict)  # SHA-256 of its files

    # -------------------------------------------------------------- attempts

    def run(self) -> None:
        self.work = Path(self.job["out"]).parent
        self.grown_at = time.monotonic()
        self.members = members_of(self.nodes, self.spec["hosts"], self.spec["run"])
        try:
            while not self.attempt():
                self.regroup()
        finally:
            self.forget()

    def attempt(self) -> bool:
        """Whether it was the last: the training is done, stopped, or failed by a fault of its own."""
        before, self.steps = self.highest, 0
        try:
            self.send()
            self.start()
            return self.follow()
        except Gone as gone:
            self.fruitless = 0 if self.highest > before else self.fruitless + 1
            return self.judge(gone)

    def forget(self) -> None:
        """Its rows and states leave the machines; the driver has what the next attempt needs."""
        for member, call in [(m, m.link.begin("forget")) for m in self.members]:
            with suppress(Lost):
                member.link.wait(call, ANSWER_S)

    def judge(self, gone: Gone) -> bool:
        """True: a fault of the training, which the parent hears; False: a loss. Raises Failed at a third."""
        fault = next((f for f in gone.failures if f["failed"] != "error"), None)
        if fault is not None:
            self.tell(**fault)
            return True
        if gone.for_memory:
            self.tell(failed="memory")
            return True
        lost, enough = bool(gone.lost) or -signal.SIGKILL in gone.codes, self.fruitless >= FRUITLESS
        if not lost and (not self.steps or enough):
            kind = f"exit code {next(filter(None, gone.codes), 0)}"
            self.tell(**(gone.failures or [{"failed": "error", "kind": kind, "at": "a host"}])[0])
            return True
        if enough:
            raise Failed("lost", times=FRUITLESS, hosts=[m.node.address for m in gone.lost])
        for member in gone.lost:
            self.held[member.node.id] = time.monotonic()
        return False

    def regroup(self) -> None:
        """Those that still answer, and those that have come. Raises Failed where nobody is left."""
        lost = [m.node.address for m in self.members if m.node.id in self.held]
        kept = []
        for member in self.members:
            if member.node.id in self.held:
                member.link.close()
                continue
            try:
                member.ask("end")
                kept.append(member)
            except Lost:
                self.held[member.node.id] = time.monotonic()
                lost.append(member.node.address)
        joined, self.coming = [m for m in self.coming if m.node.id not in self.held], []
        self.members = sorted(kept + joined, key=lambda m: (not m.node.here, m.node.address))
        self.tell(regrouping=self.addresses(), lost=lost, joined=[m.node.address for m in joined])
        deadline = time.monotonic() + 2 * HOLD_S
        while not self.members:
            if time.monotonic() > deadline:
                raise Failed("lost", times=1, hosts=lost)
            time.sleep(LOOK_S)
            self.members = self.newcomers()
        self.grown_at = time.monotonic()

    def addresses(self) -> list[str]:
        return [m.node.address for m in self.members]

    # -------------------------------------------------------------- what they need

    def send(self) -> None:
        """Code, base, order and the last checkpoint, to those that lack them. Raises Gone."""
        last = self.last_checkpoint()
        code = listing(Path(self.spec["code"]), (".py",))
        self.code = digest_of(code)
        self.each("keep_only", last.name if last else None)
        self.to_all("code", Path(self.spec["code"]), code)
        base = Path(self.job["base"])
        self.base = self.base or listing(base, MODEL)
        self.to_all("base", base, self.base, same=str(base))
        self.to_all("order", self.work, self.own_files())
        if last:
            names = {f"{last.name}/{n}": h for n, h in listing(last).items()}
            best = {f.name: sha256_of(f) for f in (self.work / "out").glob(BEST.format("*"))}
            self.to_all("out", self.work / "out", names | best)

    def own_files(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in SENT:
            path = self.work / name
            if path.is_file():
                found[name] = sha256_of(path)
            elif path.is_dir():
                found |= {f"{name}/{n}": h for n, h in listing(path).items()}
        return found

    def to_all(self, kind: str, folder: Path, hashes: dict[str, str], same: str = "") -> None:
        """Each file to the machines that have not got its bytes: read once, sent at once."""
        digest = digest_of(hashes)
        calls = [(m, m.link.begin("lacking", kind, hashes, same)) for m in self.members]
        lack = {id(m): set(self.answer(m, call, HASH_S)) for m, call in calls}
        for name in hashes:
            to = [m for m in self.members if name in lack[id(m)]]
            for at, piece in pieces(folder / name) if to else ():
                shared = self.nodes.share(piece)
                for m, call in [(m, m.link.begin("write", kind, digest, name, at, shared)) for m in to]:
                    self.answer(m, call, ANSWER_S)
        for member in self.members if any(lack.values()) else ():
            if self.answer(member, member.link.begin("lacking", kind, hashes, same), HASH_S):
                raise Failed("sent", host=member.node.address, what=kind)

    def each(self, name: str, *words: Any) -> None:
        for member, call in [(m, m.link.begin(name, *words)) for m in self.members]:
            self.answer(member, call, ANSWER_S)

    def answer(self, member: Member, call: Any, most_s: float) -> Any:
        try:
            return member.link.wait(call, most_s)
        except Lost as lost:
            raise Gone([member]) from lost

    def last_checkpoint(self) -> Path | None:
        folders = sorted((self.work / "out").glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
        return next((f for f in reversed(folders) if whole(f)), None)

    # -------------------------------------------------------------- one attempt

    def start(self) -> None:
        """A process a place, at most one for each micro-batch of a step."""
        counts, left = [], self.job["grad_accum"]
        for member in self.members:
            counts.append(min(member.node.places, left))
            left -= counts[-1]
        self.members = [m for m, count in zip(self.members, counts, strict=True) if count]
        first = self.members[0]
        port = self.answer(first, first.link.begin("free_port"), ANSWER_S)
        job = {**self.job, "rendezvous": f"tcp://{first.node.address}:{port}"}
        meeting = {"MASTER_ADDR": first.node.address, "MASTER_PORT": str(port)}  # accelerate asks for them
        moved = {str(self.work / "out"): "{work}/out", str(self.work / "result"): "{work}/result"}
        moved[str(self.work)] = "{work}/order"
        calls, rank, size = [], 0, sum(counts)
        for member, count in zip(self.members, counts, strict=False):
            words = [environment(rank + n, n, size, count) | meeting for n in range(count)]
            own = [{**self.spec["environment"], **each} for each in words]
            calls.append(
                (member, member.link.begin("start", job, moved, digest_of(self.base), self.code, own))
            )
            rank += count
        for member, call in calls:
            self.answer(member, call, ANSWER_S)
        self.started = self.looked = time.monotonic()
        self.told_stop = self.ready = False

    def follow(self) -> bool:
        """True at the end of the training or at a stop that was asked for; False to go on with others. Raises
        Gone."""
        while True:
            calls = [(m, m.link.begin("poll")) for m in self.members]
            for member, call in calls:
                report = self.answer(member, call, SILENT_S)
                for line in report["lines"]:
                    if "failed" in line:
                        raise self.ending([line])
                    ended = self.hear(member, line)
                    if ended is not None:
                        return ended
                if any(report["codes"]):
                    raise self.ending([])
            self.heed()
            time.sleep(POLL_S)

    def ending(self, failures: list[dict[str, Any]]) -> Gone:
        """One has failed: what the others say, and how they end, for a moment."""
        gone, deadline = Gone([], failures), time.monotonic() + LAST_WORD_S
        waiting = list(self.members)
        while waiting:
            for member in list(waiting):
                try:
                    report = member.ask("poll")
                except Lost:
                    gone.lost.append(member)
                    waiting.remove(member)
                    continue
                gone.failures += [line for line in report["lines"] if "failed" in line]
                if None in report["codes"] and time.monotonic() < deadline:
                    continue
                gone.codes += report["codes"]
                killed = -signal.SIGKILL in report["codes"]
                gone.for_memory |= killed and report["oom"] != member.facts["oom"]
                waiting.remove(member)
            time.sleep(POLL_S)
        return gone

    def hear(self, member: Member, line: dict[str, Any]) -> bool | None:
        """Hand it on; True or False where it is the last."""
        if "stopped" in line:
            if not self.stop:
                return False
            self.tell(**line)
            return True
        if "checkpoint" in line and not self.fetch_checkpoint(member, line["checkpoint"]):
            return None
        if "done" in line:
            self.fetch(member, "result", self.work / "result")
        if "step" in line:
            self.steps += 1
            self.highest = max(self.highest, line["step"])
        self.tell(**line)
        if "ready" in line:
            self.ready = True
            self.tell(hosts=self.addresses(), processes=sum(m.node.places for m in self.members))
        return True if "done" in line else None

    def heed(self) -> None:
        """A stop, stacks that are asked for, machines that have come."""
        if not self.ready:
            return  # a signal would end a child that has not yet said what to do at one
        if self.stacks:
            self.stacks.clear()
            for member in self.members:
                member.link.begin("signal", "SIGUSR1")
        now = time.monotonic()
        if now > self.looked + LOOK_S and not self.told_stop:
            self.looked = now
            if now > self.grown_at + self.spec.get("grow_s", GROW_S) and self.steps:
                self.coming = self.newcomers()
        if (self.stop or self.coming) and not self.told_stop:
            self.told_stop = True
            self.members[0].link.begin("signal", "SIGTERM")

    def newcomers(self) -> list[Member]:
        """Machines that are wanted, answer, and would get a micro-batch."""
        now, here = time.monotonic(), {m.node.id for m in self.members}
        room = self.job["grad_accum"] - sum(m.node.places for m in self.members)
        found = []
        for node in self.nodes.alive():
            wanted = not self.spec["hosts"] or node.address in self.spec["hosts"]
            if not wanted or node.id in here or now < self.held.get(node.id, -HOLD_S) + HOLD_S or room <= 0:
                continue
            member = Member(node, self.nodes.open(node, self.spec["run"]))
            try:
                member.facts = member.ask("facts", most_s=ANSWER_S)
            except Lost:
                self.held[node.id] = now
                continue
            if self.members and member.facts["versions"] != self.members[0].facts["versions"]:
                self.held[node.id] = now + 3600.0
                continue
            self.held.pop(node.id, None)
            found.append(member)
            room -= node.places
        return found

    # -------------------------------------------------------------- what comes back

    def fetch_checkpoint(self, member: Member, step: int) -> bool:
        """Whether it lies here, whole. One that was removed meanwhile is followed by another."""
        name = f"checkpoint-{step}"
        out = self.work / "out"
        part = out / f"part-{name}"
        try:
            self.fetch(member, f"out/{name}", part)
            for best in [n for n in self.listing(member, "out") if "/" not in n]:
                self.copy(member, "out", best, out / best)
        except FileNotFoundError:
            return False
        if not whole(part):
            return False
        shutil.rmtree(out / name, ignore_errors=True)
        part.rename(out / name)
        fd = os.open(out, os.O_RDONLY)
        os.fsync(fd)  # the rename too is on the disk
        os.close(fd)
        folders = sorted(out.glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
        for old in folders[:-2]:
            shutil.rmtree(old)
        return True

    def fetch(self, member: Member, kind: str, to: Path) -> None:
        """A whole folder. Raises Failed where other bytes come than were read there."""
        shutil.rmtree(to, ignore_errors=True)
        hashes = self.listing(member, kind)
        for name in hashes:
            self.copy(member, kind, name, to / name)
        if listing(to) != hashes:
            raise Failed("disk", folder=str(to))

    def listing(self, member: Member, kind: str) -> dict[str, str]:
        return dict(self.answer(member, member.link.begin("listing", kind), HASH_S))

    def copy(self, member: Member, kind: str, name: str, to: Path) -> None:
        at = 0
        while True:
            piece = self.answer(member, member.link.begin("read", kind, name, at), ANSWER_S)
            if at and not piece:
                return
            write(to, at, piece)
            at += len(piece)
            if not piece:
                return


@dataclass
class Gone(Exception):
    """The attempt is over: what was lost, what the processes said last, how they ended."""

    lost: list[Member] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)
    for_memory: bool = False


def environment(rank: int, local: int, size: int, local_size: int) -> dict[str, str]:
    if size == 1:
        return {}
    words = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": local_size}
    return {name: str(value) for name, value in words.items()}
