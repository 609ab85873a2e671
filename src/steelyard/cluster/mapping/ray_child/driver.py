"""Pieces of work in, answers out, over all nodes: actors of Ray, one a core. All that knows Ray stands here.

Nodes that come take part; what a lost one had is done again. Ray tells of a lost node within half a minute.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from .assignment import DEADLY, Assignment
from .frames import read_frame, write_frame
from .place import Place

CONNECT_S = 60.0  # Ray itself waits without end where certificates do not match
LOOK_S = 5.0  # for nodes that have come or gone
TICK_S = 1.0  # between two words to the parent, which may be asked to stop
NOBODY_S = 120.0  # without any place

Tell = Callable[[bytes, int, bytes], None]


class Failed(Exception):
    """What the parent turns into an error of its own."""

    def __init__(self, kind: str, **fields: Any) -> None:
        super().__init__(kind)
        self.fields = {"kind": kind, **fields}


def main(head: str, parent: int) -> None:
    if os.getppid() != parent:
        return
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Ray prints is no frame
    inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()

    def tell(kind: bytes, number: int, body: bytes) -> None:
        write_frame(out, kind, number, body)

    try:
        nodes = RayNodes(head, tell)
        Driver(nodes, inbox, tell).run()
    except Failed as failed:
        tell(b"x", 0, json.dumps(failed.fields).encode())
    except BrokenPipeError:
        pass
    out.flush()
    os._exit(0)  # Ray's own end takes seconds


def listen(inbox: SimpleQueue[tuple[Any, ...]]) -> None:
    """What the parent sends; its end is ours."""
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        inbox.put(("frame", *frame))
    os._exit(0)


@dataclass(eq=False)
class Open:
    """A place that was opened on a node."""

    number: int
    node: str
    address: str
    actor: Any
    ready: bool = False


@dataclass
class Driver:
    nodes: Any
    inbox: SimpleQueue[tuple[Any, ...]]
    tell: Tell
    work: Assignment = field(default_factory=Assignment)
    places: dict[int, Open] = field(default_factory=dict)
    opened: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by node
    call: str = ""
    code: dict[str, Any] = field(default_factory=dict)
    function: Any = None
    answered: bool = False
    why: str = ""  # the last place was lost
    looked: float = -LOOK_S
    worked: float = 0.0  # when there was a place last

    def run(self) -> None:
        """Without end: the parent closes its pipe when it has all answers. Raises Failed."""
        self.begin()
        told = self.worked = time.monotonic()
        while True:
            now = time.monotonic()
            self.look(now)
            for place in list(self.places.values()):
                self.hand_out(place, now)
            if now - told >= TICK_S:
                self.tell(b"t", 0, b"")
                told = now
            try:
                kind, *words = self.inbox.get(timeout=TICK_S)
            except Empty:
                continue
            getattr(self, kind)(*words)

    def begin(self) -> None:
        """Until the code and the function are known."""
        while self.function is None:
            kind, *words = self.inbox.get()
            getattr(self, kind)(*words)

    def frame(self, kind: bytes, number: int, body: bytes) -> None:
        if kind == b"i":
            self.work.add(number, body)
        elif kind == b"c":
            asked = json.loads(body)
            self.call, self.code = asked["call"], asked["code"]
        else:
            self.function = self.nodes.share(body)

    # -------------------------------------------------------------- places

    def look(self, now: float) -> None:
        """Places on nodes that have come; none on those that have gone."""
        if self.places:
            self.worked = now
        elif now - self.worked > NOBODY_S:
            raise Failed("nobody", why=self.why)
        if now - self.looked < LOOK_S:
            return
        self.looked = now
        cores = self.nodes.cores()
        for place in [p for p in self.places.values() if (p.node, p.address) not in cores]:
            self.lose(place, "the node has gone")
        for (node, address), count in sorted(cores.items()):
            here = sum(p.node == node for p in self.places.values())
            for _ in range(count - here if self.failures[node] < DEADLY else 0):
                self.open(node, address)
        if not self.places and all(self.failures[node] >= DEADLY for node, _ in cores):
            why = self.why or "no node of the cluster has a core for work (--num-cpus 0)"
            raise Failed("nobody", why=why)

    def open(self, node: str, address: str) -> None:
        self.opened += 1
        actor = self.nodes.open(node, self.call, self.function)
        place = self.places[self.opened] = Open(self.opened, node, address, actor)
        self.nodes.ask(actor, "begin", (), lambda future: self.inbox.put(("began", place, future)))

    def began(self, place: Open, future: Any) -> None:
        if place.number not in self.places:
            return
        error = future.exception()
        if error is not None:
            return self.lose(place, first_line(error))
        there = future.result()
        other = differences(self.code, there["code"])
        if other or not there["fits"]:
            why = other or "it cannot read what is to be done"
            if not self.answered:
                raise Failed("differs", host=place.address, why=why)
            self.failures[place.node] = DEADLY
            return self.lose(place, why)
        place.ready = True
        self.say_places()

    def lose(self, place: Open, why: str) -> None:
        if self.places.pop(place.number, None) is None:
            return
        self.why = f"{place.address}: {why}"
        self.failures[place.node] += 1
        self.work.lost(place.number)
        self.nodes.close(place.actor)
        self.say_places(lost=place.address)

    def say_places(self, **more: str) -> None:
        ready = [place for place in self.places.values() if place.ready]
        told = {"places": len(ready), "hosts": sorted({place.address for place in ready}), **more}
        self.tell(b"n", 0, json.dumps(told).encode())

    # -------------------------------------------------------------- work

    def hand_out(self, place: Open, now: float) -> None:
        while place.ready and (number := self.work.next_for(place.number, now)) is not None:
            self.give(place, number)

    def give(self, place: Open, number: int) -> None:
        body = self.work.pieces[number].body
        self.nodes.ask(
            place.actor, "work", (number, body), lambda f: self.inbox.put(("answer", place, number, f))
        )

    def answer(self, place: Open, number: int, future: Any) -> None:
        error = future.exception()
        if error is not None:
            return self.lose(place, first_line(error))
        kind, body = future.result()
        if kind == b"d":
            if self.work.died(place.number, number):
                raise Failed("deadly", why=f"the last on {place.address}, with exit code {body.decode()}")
            return
        self.answered = True
        self.failures[place.node] = 0
        if self.work.done(place.number, number):
            self.tell(kind, number, body)


def differences(asked: dict[str, Any], there: dict[str, Any]) -> str:
    """What of the code is other there, in words; nothing where it is equal."""
    packages, own = there.get("engines", {}), asked["engines"]
    names = sorted(name for name in {*own, *packages} if own.get(name) != packages.get(name))
    words = [f"{name} {packages.get(name)}, here {own.get(name)}" for name in names]
    words += ["its files of steelyard are not these"] if there.get("rooms") != asked["rooms"] else []
    return "; ".join(words)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:300]


# ------------------------------------------------------------------ Ray


class RayNodes:
    """Connected at once. Raises Failed where the cluster cannot be reached."""

    def __init__(self, head: str, tell: Tell) -> None:
        import ray
        import ray_child  # this package under the name that it runs by
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(ray_child)
        late = threading.Timer(CONNECT_S, give_up, (tell,))
        late.daemon = True
        late.start()
        try:
            ray.init(address=head, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise Failed("ray", why=first_line(error)) from error
        finally:
            late.cancel()

    def cores(self) -> dict[tuple[str, str], int]:
        """(id, address) of each node that is alive -> its cores; a node started with none does not work."""
        import ray

        alive = [n for n in ray.nodes() if n["Alive"]]
        found = {(n["NodeID"], n["NodeManagerAddress"]): int(n["Resources"].get("CPU", 0)) for n in alive}
        return {node: cores for node, cores in found.items() if cores}

    def open(self, node: str, call: str, function: Any) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return (
            ray.remote(Place)
            .options(num_cpus=0, max_restarts=0, scheduling_strategy=there)
            .remote(call, function)
        )

    def ask(self, actor: Any, name: str, words: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        getattr(actor, name).remote(*words).future().add_done_callback(then)

    def close(self, actor: Any) -> None:
        import ray

        ray.kill(actor)

    def share(self, body: bytes) -> Any:
        """Sent once to a node, whoever asks for it there."""
        import ray

        return ray.put(body)


def give_up(tell: Tell) -> None:
    why = f"no answer in {CONNECT_S:.0f} s: is it the same token and CA?"
    tell(b"x", 0, json.dumps({"kind": "ray", "why": why}).encode())
    os._exit(1)
