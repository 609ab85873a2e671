"""A network of any family that transformers has, in a child of the environment that holds it.

Trap: the child ends with the THREAD that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import Lacking, no_memory
from .environment import TRL_QUIET, trl_missing, trl_python

STOP_S = 5.0


class TransformersNetwork:
    """The model in `folder`, computed in `dtype` (float32, bfloat16); ids in, logits out."""

    def __init__(self, folder: Path, dtype: str = "float32", threads: int = 0) -> None:
        """Raises Lacking without such an environment, without memory, or for a model that it cannot load."""
        if why := trl_missing():
            raise not_here(why)
        ours, theirs = Pipe()
        child = Path(__file__).with_name("child.py")
        self._line = ours
        self._child = subprocess.Popen(
            [str(trl_python()), "-I", str(child), str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what the libraries print belongs to the log
            pass_fds=(theirs.fileno(),),
            env=os.environ | TRL_QUIET,
        )
        theirs.close()
        try:
            self._ask("load", folder=str(folder), dtype=dtype, threads=threads)
        except BaseException:
            self.close()
            raise

    def prefill(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """[V] f32 after a prompt, whose keys and values the slot keeps."""
        return self._array("prefill", slot=slot, ids=list(ids))[0]

    def decode(self, slots: Sequence[int], ids: Sequence[int]) -> np.ndarray:
        """[N, V] f32 after a token more of each slot."""
        return self._array("decode", slots=list(slots), ids=list(ids))

    def drop(self, slot: int) -> None:
        self._ask("drop", slot=slot)

    def score(self, ids: Sequence[int], top: int) -> dict[str, Any]:
        """{"logprobs": of ids[1:], "top_ids", "top_logprobs": the likeliest at each place}."""
        return self._ask("score", ids=list(ids), top=top)

    def teach(self, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """[T + 1, 4] f64: a row of the gate's exact reference for each place of the answer."""
        return self._array("teach", prompt=list(prompt), answer=list(answer))

    def route(self, ids: Sequence[int]) -> None:
        """Count what the routers of a mixture of experts pick for these tokens."""
        self._ask("route", ids=list(ids))

    def routed(self) -> tuple[list[int], np.ndarray]:
        """Layers that have a router, and what it picked so far: [L, 2 + E, E] f64, see child.py."""
        told = self._ask("routed")
        array = np.frombuffer(self._line.recv_bytes(), told["type"]).reshape(told["shape"])
        return told["layers"], array

    def close(self) -> None:
        self._line.close()
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _array(self, op: str, **question: Any) -> np.ndarray:
        told = self._ask(op, **question)
        return np.frombuffer(self._line.recv_bytes(), told["type"]).reshape(told["shape"])

    def _ask(self, op: str, **question: Any) -> dict[str, Any]:
        try:
            self._line.send_bytes(json.dumps({"op": op, **question}).encode())
            answer: dict[str, Any] = json.loads(self._line.recv_bytes())
        except (EOFError, OSError) as error:
            raise Lacking(
                "model.transformers_died", "the process of transformers ended early",
                why="most often the machine ran out of memory",
                hint="free memory, then run the same command again",
            ) from error  # fmt: skip
        if "failed" in answer:
            raise no_memory() if answer["memory"] else not_loaded(answer["failed"])
        return answer


def not_here(why: str) -> Lacking:
    return Lacking(
        "model.no_transformers", "this family is run by transformers, which is not installed here",
        why=why, hint="steelyard engines install trl",
    )  # fmt: skip


def not_loaded(why: str) -> Lacking:
    return Lacking(
        "model.transformers_failed", "transformers could not run this model",
        why=why, hint="its own words stand in the log: steelyard logs",
    )  # fmt: skip
