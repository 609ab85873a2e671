"""A function that is pure, over items in order, on the nodes of a Ray cluster: answers come in order too.

    this process -frames-> ray_child (the Python that has Ray) -calls-> an actor a core of each node
                                                               -frames-> worker.py (steelyard's Python there)

Items and answers travel pickled, and only this process and the workers look into them. Work of a lost node is
done again by another; a node that comes takes part. Not here: what is computed.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...artefact import Watch, code_of
from ...errors import Lacking, Stopped, Where, no_cluster
from ...model import TRL_QUIET, check_ray, trl_python
from ...trust import keys_folder, ray_environment
from ..nodes import check_reachable, cluster_address
from .ray_child.frames import read_frame, write_frame

CHILD = Path(__file__).with_name("ray_child")
AHEAD = 3  # items a place that are under way: one in work, one that waits there, one on its way
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")  # they would show it our packages
WHERE = Where(field="--ray")

Mapper = Callable[[Callable[[Any], Any], Iterator[Any]], Iterator[tuple[Any, Any]]]


@contextmanager
def on_nodes(address: str, code: str, watch: Watch) -> Iterator[Mapper]:
    """`map(function, items)` -> (item, answer) in order, once; `code`: the call ("room:name") whose rooms and
    packages must be equal on every node. An error that the function raises is raised here.

    Raises Lacking without Ray, keys or nodes, for a node with other code, and where no node is left.
    """
    check_ray(WHERE)
    environment = ray_environment(keys_folder())
    head = cluster_address((), address)
    check_reachable(head, environment)
    with tempfile.TemporaryFile() as words:
        child = _started(head, environment, words)
        try:
            yield Session(child, head, words, watch, code).map
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(BrokenPipeError):
                    cast(BinaryIO, pipe).close()


def _started(head: str, more: Mapping[str, str], words: BinaryIO) -> subprocess.Popen[bytes]:
    """The process that knows Ray; what its libraries say goes to `words`."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return subprocess.Popen(
        [str(trl_python()), str(CHILD), head, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        env=inherited | TRL_QUIET | dict(more),
    )


@dataclass(slots=True)
class Session:
    """What is under way, and what has come back before its turn."""

    child: subprocess.Popen[bytes]
    head: str
    words: BinaryIO
    watch: Watch
    code: str
    places: int = 0  # that work; told by the child whenever it changes
    sent: int = 0
    items: dict[int, Any] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)

    def map(self, function: Callable[[Any], Any], items: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        asked = {"call": self.code, "code": code_of(self.code)}
        self.tell(b"c", 0, json.dumps(asked).encode())
        self.tell(b"f", 0, pickle.dumps(function, pickle.HIGHEST_PROTOCOL))
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
            write_frame(self.child.stdin, kind, number, body)
        except BrokenPipeError:
            while True:
                self.hear()  # its last word

    def hear(self) -> None:
        """One thing that the child tells; it says something every second."""
        frame = read_frame(self.child.stdout)
        if frame is None:
            raise no_cluster(self.head, f"the process that asked it ended: {self.last_words()}")
        kind, number, body = frame
        if kind == b"a":
            self.answers[number] = body
        elif kind == b"e":
            raise error_of(body)
        elif kind == b"x":
            raise problem_of(json.loads(body), self.head)
        elif kind == b"n":
            told = json.loads(body)
            self.places = told.pop("places")
            self.watch.log("cluster.nodes", **told)
        if self.watch.stop:
            raise Stopped("run.stopped", "the work was stopped", hint="run the same command again")

    def last_words(self) -> str:
        self.words.seek(0)
        lines = re.findall(r"^\w.*$", self.words.read().decode("utf-8", "replace"), re.MULTILINE)
        return lines[-1][:300] if lines else f"exit code {self.child.wait()}"


def error_of(body: bytes) -> BaseException:
    """What a worker raised."""
    error = pickle.loads(body)
    return error if isinstance(error, BaseException) else RuntimeError(error)


def problem_of(told: dict[str, Any], head: str) -> Lacking:
    """The child's last word as an error of ours."""
    kind, host, why = told["kind"], told.get("host", ""), told.get("why", "")
    if kind == "differs":
        return Lacking(
            "cluster.host_differs",
            f"the host {host} runs other code",
            where=WHERE,
            why=why,
            hint="install the same steelyard with the same extras there and here, then start the node again",
        )
    if kind == "nobody":
        return Lacking(
            "cluster.hosts_lost",
            "no host of the cluster is left that works",
            where=WHERE,
            why=why,
            hint="steelyard cluster start ADDRESS --head HEAD there, then run the same command again",
        )
    if kind == "deadly":
        return Lacking(
            "cluster.item",
            "the same piece of work ended three processes",
            where=WHERE,
            why=why,
            hint="see whether their hosts had memory left; without --ray the same work is done here",
        )
    return no_cluster(head, why)
