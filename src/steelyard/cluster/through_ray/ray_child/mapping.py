"""Pieces of work in, answers out, over all nodes: actors of Ray, one a core.

Nodes that come take part; what a lost one had is done again. Ray tells of a lost node within half a minute.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from .assignment import DEADLY, Assignment
from .nodes import Failed, Tell, differences, first_line

LOOK_S = 5.0  # for nodes that have come or gone
TICK_S = 1.0  # between two words to the parent, which may be asked to stop
NOBODY_S = 120.0  # without any place


@dataclass(eq=False)
class Open:
    """A place that was opened on a node."""

    number: int
    node: str
    address: str
    actor: Any
    ready: bool = False


@dataclass
class Mapping:
    nodes: Any
    inbox: SimpleQueue[tuple[Any, ...]]
    tell: Tell
    work: Assignment = field(default_factory=Assignment)
    places: dict[int, Open] = field(default_factory=dict)
    opened: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by node
    call: str = ""
    code: dict[str, Any] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset()  # addresses of the nodes that work; none named = all
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
            self.hosts = frozenset(asked["hosts"])
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
        cores = self.cores()
        for place in [p for p in self.places.values() if (p.node, p.address) not in cores]:
            self.lose(place, "the node has gone")
        for (node, address), count in sorted(cores.items()):
            here = sum(p.node == node for p in self.places.values())
            for _ in range(count - here if self.failures[node] < DEADLY else 0):
                self.open(node, address)
        if not self.places and all(self.failures[node] >= DEADLY for node, _ in cores):
            why = self.why or "no node of the cluster has a core for work (--num-cpus 0)"
            raise Failed("nobody", why=why)

    def cores(self) -> dict[tuple[str, str], int]:
        """Of the nodes that are to work."""
        every: dict[tuple[str, str], int] = self.nodes.cores()
        return {node: count for node, count in every.items() if not self.hosts or node[1] in self.hosts}

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
