"""A function that is pure, over items in order, on the nodes of a Ray cluster: answers come in order too.

Items and answers travel pickled to an actor a core of each node (through_ray). Work of a lost node is done
again by another; a node that comes takes part. Not here: what is computed.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...artefact import Watch
from ...errors import Lacking, Stopped, Where, no_cluster
from ..through_ray import RayProcess, differs, ray_process

AHEAD = 3  # items a place that are under way: one in work, one that waits there, one on its way

Mapper = Callable[[Callable[[Any], Any], Iterator[Any]], Iterator[tuple[Any, Any]]]


@contextmanager
def on_nodes(
    address: str, code: str, watch: Watch, hosts: Sequence[str] = (), field: str = "--ray"
) -> Iterator[Mapper]:
    """`map(function, items)` -> (item, answer) in order, once; `code`: the call ("room:name") whose rooms and
    packages must be equal on every node. With `hosts`, addresses, no other node works. An error that the
    function raises is raised here.

    Raises Lacking, at `field`, without Ray, keys or nodes, for a node with other code, and where no node is
    left.
    """
    where = Where(field=field)
    with ray_process(address, "mapping", where) as process:
        yield Session(process, watch, code, hosts, where).map


@dataclass(slots=True)
class Session:
    """What is under way, and what has come back before its turn."""

    process: RayProcess
    watch: Watch
    code: str
    hosts: Sequence[str]
    where: Where
    places: int = 0  # that work; told by the child whenever it changes
    sent: int = 0
    items: dict[int, Any] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)

    def map(self, function: Callable[[Any], Any], items: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        self.process.begin(self.code, pickle.dumps(function, pickle.HIGHEST_PROTOCOL), self.hosts)
        while not self.places:
            self.hear()
        turn = 0
        for item in items:
            self.items[self.sent] = item
            self.tell(b"i", self.sent, pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
            self.sent += 1
            while self.sent - turn >= AHEAD * max(1, self.places):
                yield self.turn(turn)
                turn += 1
        while turn < self.sent:
            yield self.turn(turn)
            turn += 1

    def turn(self, number: int) -> tuple[Any, Any]:
        """The item and its answer, waited for. Raises what the function raised."""
        while number not in self.answers:
            self.hear()
        return self.items.pop(number), pickle.loads(self.answers.pop(number))

    def tell(self, kind: bytes, number: int, body: bytes) -> None:
        try:
            self.process.tell(kind, number, body)
        except BrokenPipeError:
            while True:
                self.hear()  # its last word

    def hear(self) -> None:
        """One thing that the child tells; it says something every second."""
        kind, number, body = self.process.hear()
        if kind == b"a":
            self.answers[number] = body
        elif kind == b"e":
            raise error_of(body)
        elif kind == b"x":
            raise problem_of(json.loads(body), self.process.head, self.where)
        elif kind == b"n":
            told = json.loads(body)
            self.places = told.pop("places")
            self.watch.log("cluster.nodes", **told)
        if self.watch.stop:
            raise Stopped("run.stopped", "the work was stopped", hint="run the same command again")


def error_of(body: bytes) -> BaseException:
    """What a worker raised."""
    error = pickle.loads(body)
    return error if isinstance(error, BaseException) else RuntimeError(error)


def problem_of(told: dict[str, Any], head: str, where: Where) -> Lacking:
    """The child's last word as an error of ours."""
    kind, host, why = told["kind"], told.get("host", ""), told.get("why", "")
    if kind == "differs":
        return differs(host, why, where)
    if kind == "nobody":
        return Lacking(
            "cluster.hosts_lost",
            "no host of the cluster is left that works",
            where=where,
            why=why,
            hint="steelyard cluster start ADDRESS --head HEAD there, then run the same command again",
        )
    if kind == "deadly":
        return Lacking(
            "cluster.item",
            "the same piece of work ended three processes",
            where=where,
            why=why,
            hint=f"see whether their hosts had memory left; without {where.field} the same work is done here",
        )
    return no_cluster(head, why)
