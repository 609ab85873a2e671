"""The gate's exact reference in a child of its own, which keeps the networks it has loaded.

As a program (`python -m steelyard.run.service.references FD PARENT`) it is that child: `up` has no torch.
Where a network does not fit into the free memory, it is read layer by layer (gate.exact_reference decides).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...artefact import Watch
from ...errors import Lacking, Problem
from ...processes import die_with_parent
from ..child.children import CHILD_ENV, Tail, log_output

CACHED_NETWORKS = 2  # at once, in FP32


@dataclass(frozen=True, slots=True)
class Model:
    """Which network: see gate.exact_reference."""

    folder: Path
    served: Path | None = None
    of: Path | None = None


CACHE: dict[Model, Any] = {}


class References:
    """Asks the child; it is started by the first question and ends with `close`."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch or Watch()
        self._child: subprocess.Popen[bytes] | None = None
        self._tail: Tail | None = None
        self._line: Connection | None = None

    def ask(self, model: Model, answers: list[tuple[list[int], list[int]]]) -> Any:
        """One array [T + 1, 4] an answer, each given with its prompt.

        Raises Lacking where the child was killed, else what it raised.
        """
        return self._answer(model, "answers", answers)

    def deviation(self, model: Model, texts: Sequence[Any]) -> Any:
        """Along which directions the server's log-probabilities of continued texts deviate."""
        return self._answer(model, "texts", list(texts))

    def _answer(self, model: Model, kind: str, content: list[Any]) -> Any:
        if self._line is None:
            self._line = self._start()
        try:
            self._line.send((model, kind, content))
            answer, raised = self._line.recv()
        except (EOFError, OSError) as error:
            raise Lacking(
                "gate.reference_died",
                "the process of the exact reference ended early",
                why="most often the machine ran out of memory",
                hint="free memory, then run the same command again",
            ) from error
        if raised:
            raise Problem.from_json(*raised)
        return answer

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        output, words = os.pipe()
        command = [
            sys.executable,
            "-m",
            "steelyard.run.service.references",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        self._child = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env=os.environ | CHILD_ENV,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
        os.close(words)
        self._tail = Tail(output)
        theirs.close()
        return Connection(ours.detach())

    def close(self) -> None:
        """Let the child go: its memory is no part of what follows."""
        if self._line is not None and self._child is not None:
            self._line.close()
            self._child.terminate()
            self._child.wait()
            if self._tail:
                log_output(self.watch, "gate:exact_reference", self._child.returncode, self._tail.text())
        self._line = self._child = self._tail = None


def reference_of(model: Model) -> Any:
    """Loaded, or from the cache, where the least recently used one gives way to a new one."""
    from ...gate import exact_reference

    cached = CACHE.pop(model, None)
    if cached is None and len(CACHE) == CACHED_NETWORKS:
        del CACHE[next(iter(CACHE))]
    CACHE[model] = cached or exact_reference(model.folder, served=model.served, of=model.of)
    return CACHE[model]


def answer_of(model: Model, kind: str, content: list[Any]) -> tuple[Any, tuple[dict[str, Any], int] | None]:
    """(answer, None), or (None, an error of ours as its document and exit code): `up` raises it anew."""
    try:
        reference = reference_of(model)
        return (reference(content) if kind == "answers" else reference.deviation(content)), None
    except Problem as error:
        return None, (error.as_json(), error.exit_code)


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    line = Connection(int(sys.argv[1]))
    while True:
        try:
            question = line.recv()
        except EOFError:
            return
        line.send(answer_of(*question))


if __name__ == "__main__":
    main()
