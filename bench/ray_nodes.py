"""Three machines that train together, each in a network namespace of its own: what a lost one costs.

    sudo python bench/ray_nodes.py [--cases one quiet process worker node freeze cut one-long comes strangers]
                                   [--keep]

A tiny random Llama (tests/training/tiny.py), full fine-tuning in f32, three micro-batches a step. Token and
TLS are on, as `steelyard cluster` makes them. Of each case: SHA-256 of the model beside that of one process,
and the seconds from the kill to the next step after it.

quiet     nothing happens
process   kill -9 of a training process of another machine
worker    kill -9 of Ray's worker there, which takes its training along
node      kill -9 of everything of that machine: its Ray, its worker, its training; it comes back after 20 s
freeze    SIGSTOP to everything of that machine; SIGCONT after 60 s
cut       its link is down for 60 s
comes     a third machine comes while two train, for five times as long as the others, as one-long does alone
strangers with another token, of another CA, with a certificate of another CA: what each gets

Linux with `ip`, as root, and Ray in the environment of trl (steelyard engines install trl --ray). Protocol:
one run a case, one thread a process. Prints one JSON document with machine and versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import namespaces

TESTS = Path(__file__).parents[1] / "tests" / "training"
NAMES = ("steelray1", "steelray2", "steelray3")
BRIDGE, LINKS = "steelraybr", "srv"
ADDRESSES = ("10.77.12.1", "10.77.12.2", "10.77.12.3")
HEAD = f"{ADDRESSES[0]}:6379"
BACK_S = 20.0  # until a killed node is started again
AWAY_S = 60.0  # that a frozen or unreachable one stays so
SETTINGS = {
    "engine": "trl", "dtype": "f32", "finetuning_type": "full", "learning_rate": 1e-3, "max_length": 64,
    "grad_accum": 3, "num_train_epochs": 12, "threads": 1, "checkpoint_steps": 10,
}  # fmt: skip


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--inside":
        return inside(json.loads(sys.argv[2]))
    args = arguments()
    root = Path(tempfile.mkdtemp(prefix="sr", dir="/tmp"))  # short: names of sockets are
    try:
        with network(), cluster(root) as nodes:
            rows = [measured(case, root, nodes) for case in args.cases if case != "strangers"]
            strangers = refused(root) if "strangers" in args.cases else []
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "os": platform.platform()}
    document = {"bench": "ray_nodes", "rows": rows, "strangers": strangers, "machine": machine}
    print(json.dumps(document | {"versions": versions()}, indent=2))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = ["one", "quiet", "process", "worker", "node", "freeze", "cut", "one-long", "comes", "strangers"]
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs")
    return parser.parse_args()


def versions() -> dict[str, str]:
    from steelyard.model import trl_package, trl_versions

    return trl_versions() | {"ray": str(trl_package("ray")), "python": platform.python_version()}


# ------------------------------------------------------------------ three machines


def network() -> AbstractContextManager[None]:
    return namespaces.network(BRIDGE, LINKS, dict(zip(NAMES, ADDRESSES, strict=True)))


class Nodes:
    """`steelyard cluster start` on each machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: dict[int, subprocess.Popen[bytes]] = {}
        self.timers: list[threading.Timer] = []

    def later(self, act: Callable[[], None]) -> None:
        self.timers.append(threading.Timer(AWAY_S, act))
        self.timers[-1].start()

    def mend(self) -> None:
        """All three again: what was held goes on, and what has ended meanwhile is started."""
        while self.timers:
            self.timers.pop().join()
            time.sleep(BACK_S)  # one that was thought dead notices, and ends
        for number, child in list(self.started.items()):
            if child.poll() is not None:
                self.kill(number)
                self.start(number)

    def start(self, number: int) -> None:
        """And wait until it is a node: one after another; on busy cores Ray gives up after 30 s."""
        for _ in range(5):
            if self.begin(number):
                return
        raise SystemExit(f"{ADDRESSES[number]} does not become a node: see {self.root}")

    def begin(self, number: int) -> bool:
        log = self.root / f"node{number}-{time.monotonic_ns()}.log"
        head = ["--head", HEAD] if number else []
        words = ["-m", "steelyard", "cluster", "start", ADDRESSES[number], *head, "--num-cpus", "1"]
        with log.open("wb") as file:
            self.started[number] = subprocess.Popen(
                ["ip", "netns", "exec", NAMES[number], sys.executable, *words],
                env=environment(self.root, number),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        while "Ray runtime started" not in log.read_text("utf-8", "replace"):
            if self.started[number].poll() is not None:
                del self.started[number]
                return False
            time.sleep(0.2)
        return True

    def kill(self, number: int) -> None:
        """All of its processes, at once."""
        child = self.started.pop(number)
        every = descendants(child.pid)
        for pid in every:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()


@contextmanager
def cluster(root: Path) -> Iterator[Nodes]:
    sys.path.insert(0, str(TESTS))
    import tiny

    tiny.model(root / "base")
    tiny.dataset(root / "data")
    with up(root, 3) as nodes:
        say("3 nodes")
        yield nodes


@contextmanager
def up(root: Path, count: int) -> Iterator[Nodes]:
    """The first `count` nodes, with keys of their own, until the block ends."""
    from steelyard.trust import make_keys

    make_keys(root / "keys", ADDRESSES)
    nodes = Nodes(root)
    try:
        for number in range(count):
            nodes.start(number)
        yield nodes
    finally:
        for number in list(nodes.started):
            nodes.kill(number)


def environment(root: Path, number: int) -> dict[str, str]:
    own = {"STEELYARD_CLUSTER_KEYS": str(root / "keys" / ADDRESSES[number]), "RAY_TMPDIR": str(root / "ray")}
    return os.environ | own | {"STEELYARD_CACHE": str(root / "cache")}


def descendants(pid: int) -> list[int]:
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


# ------------------------------------------------------------------ a training


def inside(job: dict[str, Any]) -> None:
    """In the first machine's namespace: one training, its events as lines."""
    sys.path.insert(0, str(TESTS))
    import tiny

    from steelyard.artefact import Progress, Watch
    from steelyard.training import train
    from steelyard.training.engines.trl import engine

    class Telling(Watch):
        def log(self, event: str, **fields: Any) -> None:
            print(json.dumps({"event": event, **fields}), flush=True)

        def show(self, progress: Progress, closed: bool = False) -> None:
            print(json.dumps({"done": progress.done}), flush=True)

    Progress.EVERY_S = 0.0
    root = Path(job["root"])
    inputs, settings, draft = tiny.step(root / job["name"], root / "base", root / "data", **job["settings"])
    with mock.patch.object(engine, "order_for", all_and_soon if job["name"] == "comes" else engine.order_for):
        figures = train(inputs, settings, draft, Telling())
    digest = hashlib.sha256((draft.folder / "model.safetensors").read_bytes()).hexdigest()
    print(json.dumps({"sha256": digest, "steps": figures["steps"]}), flush=True)


def all_and_soon(address: str, hosts: list[str], run: str) -> dict[str, Any]:
    """All nodes that there are; one that comes is taken in after 5 s rather than 5 min."""
    from steelyard.training.engines.trl.hosts import order_for

    return order_for(address, [], run) | {"grow_s": 5.0}


def measured(case: str, root: Path, nodes: Nodes) -> dict[str, Any]:
    hosts = {} if case in ("one", "one-long") else {"hosts": list(ADDRESSES), "ray": HEAD}
    long = {"num_train_epochs": 60} if case in ("one-long", "comes") else {}
    if case == "comes":
        nodes.kill(2)
        time.sleep(60)  # until Ray knows
    begun, seen = time.monotonic(), Seen(KILLS.get(case), nodes)
    job = {"name": case, "root": str(root), "settings": SETTINGS | hosts | long}
    words = [sys.executable, str(Path(__file__).resolve()), "--inside", json.dumps(job)]
    with (root / f"{case}.log").open("wb") as log:
        child = subprocess.Popen(
            ["ip", "netns", "exec", NAMES[0], *words],
            env=environment(root, 0),
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert child.stdout is not None
        for line in child.stdout:
            seen.line(json.loads(line))
    seen.row |= {"case": case, "exit": child.wait(), "wall_s": round(time.monotonic() - begun, 1)}
    say(json.dumps(seen.row))
    for back in seen.threads:
        back.join()
    nodes.mend()
    return seen.row


class Seen:
    """What is told of a training; the kill at a checkpoint, and the next step after it."""

    def __init__(self, kill: Callable[[Nodes], None] | None, nodes: Nodes) -> None:
        self.kill, self.nodes = kill, nodes
        self.row: dict[str, Any] = {"groups": []}
        self.at, self.ready, self.done = 0.0, 0.0, 0.0
        self.threads: list[threading.Thread] = []

    def line(self, said: dict[str, Any]) -> None:
        now = time.monotonic()
        if said.get("event") == "train.checkpoint" and said["step"] >= 20 and self.kill and not self.at:
            self.at = now
            self.kill(self.nodes)
            if len(self.nodes.started) < 3:
                self.threads.append(threading.Thread(target=self.back))
                self.threads[-1].start()
        if said.get("event") == "train.regrouping":
            self.row["noticed_s"] = self.row.get("noticed_s", round(now - self.at, 1))
            self.row["joined"] = self.row.get("joined", 0) + len(said["joined"])
        if said.get("event") == "train.hosts":
            self.row["groups"].append(len(said["hosts"]))
            self.ready = now if self.at else 0.0
            self.done = -1.0
        if "done" in said and self.ready and self.done >= 0 and said["done"] > self.done:
            self.row.setdefault("next_step_s", round(now - self.at, 1))
        if "done" in said:
            self.done = said["done"]
        self.row |= {name: said[name] for name in ("sha256", "steps") if name in said}

    def back(self) -> None:
        time.sleep(BACK_S)
        self.nodes.start(2)


def kill_process(nodes: Nodes) -> None:
    every = descendants(nodes.started[2].pid)
    os.kill(next(pid for pid in every if b"RANK=2\0" in environ(pid)), signal.SIGKILL)


def kill_worker(nodes: Nodes) -> None:
    every = descendants(nodes.started[2].pid)
    os.kill(next(pid for pid in every if b"ray::Host" in cmdline(pid)), signal.SIGKILL)


def freeze(nodes: Nodes) -> None:
    every = descendants(nodes.started[2].pid)
    for pid in every:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in every:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    nodes.later(go_on)


def cut(nodes: Nodes) -> None:
    namespaces.ip("link", "set", f"{LINKS}2", "down")
    nodes.later(lambda: namespaces.ip("link", "set", f"{LINKS}2", "up", check=False))


KILLS: dict[str, Callable[[Nodes], None]] = {
    "process": kill_process,
    "worker": kill_worker,
    "node": lambda nodes: nodes.kill(2),
    "freeze": freeze,
    "cut": cut,
    "comes": lambda nodes: None,
}


def environ(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def cmdline(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


# ------------------------------------------------------------------ strangers

ASK = """
import sys, time
from steelyard.errors import Problem
from steelyard.cluster import check_reachable
from steelyard.training import hosts_there
from steelyard.trust import keys_folder, ray_environment
begun = time.monotonic()
try:
    check_reachable(sys.argv[1], ray_environment(keys_folder()))
    print("let in", hosts_there(sys.argv[1], (), "cpu"))
except Problem as problem:
    print(f"refused after {time.monotonic() - begun:.1f} s: {problem.code}: {problem.why}")
"""


def refused(root: Path) -> list[dict[str, str]]:
    """What each stranger gets, and a friend."""
    from steelyard.trust import make_keys

    make_keys(root / "other", [ADDRESSES[1]])
    good, other = root / "keys" / ADDRESSES[1], root / "other" / ADDRESSES[1]
    mixed = {
        "friend": {},
        "another token": {"token": other},
        "another CA": dict.fromkeys(("ca.crt", "node.crt", "node.key"), other),
        "certificate of another CA, trusting this one": dict.fromkeys(("node.crt", "node.key"), other),
    }
    rows = []
    for who, files in mixed.items():
        folder = root / who.replace(" ", "-")
        shutil.copytree(good, folder)
        for name, source in files.items():
            shutil.copy(source / name, folder / name)
        own = environment(root, 1) | {"STEELYARD_CLUSTER_KEYS": str(folder)}
        words = ["ip", "netns", "exec", NAMES[1], sys.executable, "-c", ASK, HEAD]
        done = subprocess.run(words, env=own, stdout=subprocess.PIPE, text=True)
        rows.append({"who": who, "gets": done.stdout.strip()})
        say(json.dumps(rows[-1]))
    return rows


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
