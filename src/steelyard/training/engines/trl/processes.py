"""The processes of the child: started together, heard as one, ended together.

One process, or several that find each other by a file and talk over the loopback; each dies with its parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ....artefact import Watch
from ....errors import Lacking
from ....lines import each_line_of_pipe
from ....model import TRL_QUIET, trl_python

CHILD = Path(__file__).with_name("child")
LAST_WORD_S = 5.0  # for the others, once one has ended with an error
# glibc keeps what a step has freed for the next one.
CHILD_ENV = TRL_QUIET | {
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "GOMP_SPINCOUNT": "1000",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS adds in no fixed order
    "PYTHONNOUSERSITE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(16 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")  # they would show it our packages


class Processes:
    """`count` children of one order; a context that leaves none behind. `more`: variables of theirs."""

    def __init__(self, order: Path, count: int, hf_home: Path, more: Mapping[str, str] | None = None) -> None:
        self.reading, writing = os.pipe()
        self.children: list[subprocess.Popen[bytes]] = []
        self.ended: list[subprocess.Popen[bytes]] = []  # by us
        self.failed, self.failed_at = 0, 0.0
        environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        environment |= CHILD_ENV | {"HF_HOME": str(hf_home)} | dict(more or {})
        command = [str(trl_python()), str(CHILD), str(order), str(writing), str(os.getpid())]
        try:
            for rank in range(count):
                own = environment | place(rank, count)
                self.children.append(_started(command, writing, own, answered=rank == 0))
        except OSError:
            self.__exit__()
            raise
        finally:
            os.close(writing)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
        for child in self.children:
            child.wait()
            if child.stdin is not None:
                with suppress(BrokenPipeError):
                    child.stdin.close()
        os.close(self.reading)

    def messages(self, watch: Watch) -> Iterator[dict[str, Any]]:
        """JSON lines of all, until all have ended; on `watch.stop` the first is asked once to end after this
        step, and tells the others. Where one has failed the others, which wait for it, are ended."""
        asked = False

        def tick() -> None:
            nonlocal asked
            if watch.stop and not asked:
                self.children[0].send_signal(signal.SIGTERM)
                asked = True
            self.end_the_rest()

        yield from map(json.loads, each_line_of_pipe(self.reading, tick))
        for child in self.children:
            child.wait()

    def answer(self, value: Any) -> None:
        """To what the first has asked. One that has died meanwhile is noticed by its end."""
        pipe = self.children[0].stdin
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.write(json.dumps(value).encode() + b"\n")
            pipe.flush()

    def end_the_rest(self) -> None:
        if not self.code():
            return
        self.failed_at = self.failed_at or time.monotonic()
        if time.monotonic() > self.failed_at + LAST_WORD_S:
            for child in self.children:
                if child.poll() is None:
                    child.kill()
                    self.ended.append(child)

    def code(self) -> int:
        """Exit code of the first that failed; 0 where none has."""
        self.failed = self.failed or next((code for child in self.children if (code := child.poll())), 0)
        return self.failed

    def killed(self) -> bool:
        """Whether one of them was, not by us: the kernel takes what needs the most memory.

        One that dies closes its sockets, and the others fail, a moment before it has ended."""
        deadline = time.monotonic() + LAST_WORD_S
        while True:
            codes = [child.poll() for child in self.children if child not in self.ended]
            if -signal.SIGKILL in codes:
                return True
            if None not in codes or time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def ended(why: str) -> Lacking:
    return Lacking(
        "train.engine_failed",
        f"the training engine trl ended with {why}",
        why="its libraries could not train this model with these settings",
        hint="their own words stand in the log: steelyard logs",
    )


def place(rank: int, count: int) -> dict[str, str]:
    """What tells a process which of how many it is."""
    if count == 1:
        return {}
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {name: str(value) for name, value in names.items()} | {"GLOO_SOCKET_IFNAME": loopback}


def _started(
    command: list[str], writing: int, environment: dict[str, str], answered: bool
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if answered else subprocess.DEVNULL,
        stdout=2,  # what the libraries print belongs to the log of this step
        pass_fds=(writing,),
        env=environment,
    )
