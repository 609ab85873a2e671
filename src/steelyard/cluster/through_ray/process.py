"""The process that knows Ray, our side: started by the Python that has Ray, asked by frames, ended.

    this process -frames-> ray_child -calls-> actors on the nodes -frames-> node_worker (steelyard's Python)

What travels is pickled, and only this process and those on the nodes look into it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ...artefact import code_of
from ...errors import Lacking, Where, no_cluster
from ...model import TRL_QUIET, check_ray, trl_python
from ...trust import keys_folder, ray_environment
from ..nodes import check_reachable, cluster_address
from .ray_child.frames import Frame, read_frame, write_frame

CHILD = Path(__file__).with_name("ray_child")
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")  # they would show it our packages
WHERE = Where(field="--ray")


@dataclass(slots=True)
class RayProcess:
    """`code`: the call ("room:name") whose rooms and packages must be equal on every node."""

    child: subprocess.Popen[bytes]
    head: str
    words: BinaryIO

    def begin(self, call: str, function: bytes, hosts: Sequence[str] = ()) -> None:
        """`function`, pickled, is what the processes on the nodes give their items to; with `hosts`,
        addresses, those of no other node work."""
        asked = {"call": call, "code": code_of(call), "hosts": list(hosts)}
        self.tell(b"c", 0, json.dumps(asked).encode())
        self.tell(b"f", 0, function)

    def tell(self, kind: bytes, number: int, body: bytes) -> None:
        """Raises BrokenPipeError where it has ended."""
        write_frame(self.child.stdin, kind, number, body)

    def hear(self) -> Frame:
        """The next that it tells. Raises Lacking where it has ended."""
        frame = read_frame(self.child.stdout)
        if frame is None:
            raise no_cluster(self.head, f"the process that asked it ended: {self.last_words()}")
        return frame

    def last_words(self) -> str:
        self.words.seek(0)
        lines = re.findall(r"^\w.*$", self.words.read().decode("utf-8", "replace"), re.MULTILINE)
        return lines[-1][:300] if lines else f"exit code {self.child.wait()}"


@contextmanager
def ray_process(address: str, what: str, where: Where = WHERE) -> Iterator[RayProcess]:
    """`what`: `mapping` (a function over items) or `asking` (of single nodes).

    Raises Lacking without Ray, keys, or a head at this address.
    """
    check_ray(where)
    environment = ray_environment(keys_folder())
    head = cluster_address((), address)
    check_reachable(head, environment)
    with tempfile.TemporaryFile() as words:
        child = _started(head, what, environment, words)
        try:
            yield RayProcess(child, head, words)
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(BrokenPipeError):
                    cast(BinaryIO, pipe).close()


def _started(head: str, what: str, more: Mapping[str, str], words: BinaryIO) -> subprocess.Popen[bytes]:
    """What its libraries say goes to `words`."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return subprocess.Popen(
        [str(trl_python()), str(CHILD), head, str(os.getpid()), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        env=inherited | TRL_QUIET | dict(more),
    )


def differs(host: str, why: str, where: Where = WHERE) -> Lacking:
    return Lacking(
        "cluster.host_differs",
        f"the host {host} runs other code",
        where=where,
        why=why,
        hint="install the same steelyard with the same extras there and here, then start the node again",
    )
