"""The driver's line to all nodes: what is asked of one comes back later, or it is said that nothing will."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from ....errors import Problem, no_cluster
from ...through_ray import RayProcess
from .there import CALL, answer

SILENT_S = 60.0  # the process that knows Ray says something every second, while Ray answers it

Then = Callable[[Any], None]
Lost = Callable[[str, str], None]  # kind (lost, differs), why


@dataclass(slots=True)
class Link:
    """Answers are handed out by `hear`, in the thread that calls it."""

    process: RayProcess
    inbox: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    asked: dict[int, tuple[Then, Lost]] = field(default_factory=dict)
    number: int = 0
    alive: dict[str, str] | None = None  # address -> Ray's id of the node there; None: it has not said yet
    heard_s: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        self.process.begin(CALL, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self.inbox.put(self.process.hear())
            except Problem as problem:
                return self.inbox.put(problem)
            except (OSError, ValueError):  # our end is closed
                return

    def ask(self, address: str, name: str, words: tuple[Any, ...], then: Then, lost: Lost) -> None:
        """`then` gets the answer, `lost` is called where none comes."""
        self.number += 1
        self.asked[self.number] = then, lost
        body = address.encode() + b"\0" + pickle.dumps((name, words), pickle.HIGHEST_PROTOCOL)
        with suppress(BrokenPipeError):  # then `hear` gets its last word
            self.process.tell(b"i", self.number, body)

    def hear(self, within_s: float = 0.0) -> None:
        """All that has come. Raises Lacking where the cluster does not answer any more."""
        try:
            self._take(self.inbox.get(timeout=within_s) if within_s else self.inbox.get_nowait())
            while True:
                self._take(self.inbox.get_nowait())
        except Empty:
            pass
        if time.monotonic() - self.heard_s > SILENT_S:
            raise no_cluster(self.process.head, f"it has said nothing for {SILENT_S:.0f} s")

    def _take(self, said: Any) -> None:
        if isinstance(said, Problem):
            raise said
        self.heard_s = time.monotonic()
        kind, number, body = said
        if kind == b"n":
            self.alive = json.loads(body)
        elif kind == b"x":
            raise no_cluster(self.process.head, json.loads(body).get("why", ""))
        else:
            self._answered(kind, number, body)

    def _answered(self, kind: bytes, number: int, body: bytes) -> None:
        then, lost = self.asked.pop(number)
        if kind == b"a":
            return then(pickle.loads(body))
        if kind == b"e":
            return lost("failed", str(pickle.loads(body)))
        told = json.loads(body)
        lost(told["kind"], told["why"])
