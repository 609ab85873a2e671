"""What the parent asks of single nodes, each answered by a process there; and which nodes are alive.

Frames from the parent: c, f as in `mapping`; i: ADDRESS, a zero byte, what is asked. To it: n (address ->
node of those that are alive, every second), a (an answer), e (what was raised there), l (none comes, why).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from .nodes import Tell, differences, first_line

LOOK_S = 1.0


@dataclass(eq=False)
class There:
    """The process on one node. `node`: Ray's name for it, another one each time it is started."""

    node: str
    address: str
    actor: Any
    ready: bool = False
    asked: dict[int, bytes] = field(default_factory=dict)  # what waits for an answer


@dataclass
class Asking:
    nodes: Any
    inbox: SimpleQueue[tuple[Any, ...]]
    tell: Tell
    there: dict[str, There] = field(default_factory=dict)  # by address
    alive: dict[str, str] = field(default_factory=dict)  # address -> node
    call: str = ""
    code: dict[str, Any] = field(default_factory=dict)
    function: Any = None

    def run(self) -> None:
        """Without end: the parent closes its pipe."""
        looked = -LOOK_S
        while True:
            if time.monotonic() - looked >= LOOK_S:
                self.look()
                looked = time.monotonic()
            try:
                kind, *words = self.inbox.get(timeout=LOOK_S)
            except Empty:
                continue
            getattr(self, kind)(*words)

    def look(self) -> None:
        self.alive = {address: node for node, address in self.nodes.cores()}
        for place in list(self.there.values()):
            if self.alive.get(place.address) != place.node:
                self.lose(place, "the node has gone")
        self.tell(b"n", 0, json.dumps(self.alive).encode())

    def frame(self, kind: bytes, number: int, body: bytes) -> None:
        if kind == b"i":
            address, _, words = body.partition(b"\0")
            self.ask(address.decode(), number, words)
        elif kind == b"c":
            asked = json.loads(body)
            self.call, self.code = asked["call"], asked["code"]
        else:
            self.function = self.nodes.share(body)

    def ask(self, address: str, number: int, words: bytes) -> None:
        if address not in self.alive:
            return self.unanswered(number, "lost", "it is no node of the cluster")
        place = self.there.get(address)
        if place is None:
            node = self.alive[address]
            place = There(node, address, self.nodes.open(node, self.call, self.function))
            self.there[address] = place
            self.nodes.ask(place.actor, "begin", (), lambda future: self.inbox.put(("began", place, future)))
        place.asked[number] = words
        if place.ready:
            self.give(place, number)

    def began(self, place: There, future: Any) -> None:
        if self.there.get(place.address) is not place:
            return
        error = future.exception()
        if error is not None:
            return self.lose(place, first_line(error))
        other = differences(self.code, future.result()["code"])
        if other:
            return self.lose(place, other, "differs")
        place.ready = True
        for number in list(place.asked):
            self.give(place, number)

    def give(self, place: There, number: int) -> None:
        words = (number, place.asked[number])
        self.nodes.ask(
            place.actor, "work", words, lambda f: self.inbox.put(("answered", place, number, f))
        )  # fmt: skip

    def answered(self, place: There, number: int, future: Any) -> None:
        if place.asked.pop(number, None) is None:
            return
        error = future.exception()
        if error is not None:
            self.unanswered(number, "lost", first_line(error))
            return self.lose(place, first_line(error))
        kind, body = future.result()
        if kind == b"d":  # the next one begins another process
            return self.unanswered(number, "lost", f"its process ended with exit code {body.decode()}")
        self.tell(kind, number, body)

    def lose(self, place: There, why: str, kind: str = "lost") -> None:
        if self.there.get(place.address) is not place:
            return
        del self.there[place.address]
        for number in list(place.asked):
            del place.asked[number]
            self.unanswered(number, kind, why)
        self.nodes.close(place.actor)

    def unanswered(self, number: int, kind: str, why: str) -> None:
        self.tell(b"l", number, json.dumps({"kind": kind, "why": why}).encode())
