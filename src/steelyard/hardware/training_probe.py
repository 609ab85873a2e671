"""How fast this machine trains: real steps on small random models, a process each, for the planner.

Rows (SI units, medians after a warm-up):

    {"op": "train_start", "s", "rss_bytes"}            a process that has imported torch and the training room
    {"op": "train_micro", "finetuning_type", "dtype", "layers", "hidden", "heads", "kv_heads", "head_dim",
     "ffn", "vocab", "lora_rank", "tokens", "seq_len", "answer_tokens", "threads",
     "s"            forward and backward of one micro-batch of `tokens`, `answer_tokens` of them with logits
     "optimiser_s"  one clip + AdamW + master-to-copy
     "load_s"       folder to ready network and optimiser
     "write_s"      tuned model written (LoRA: merged, and the adapter)
     "checkpoint_s", "checkpoint_bytes"    one state saved, fsync included
     "rss_bytes"}   the process's peak after the steps and the write

Cells run in the order below until `limit_s` is spent; two layer counts, token counts and widths give slopes.
What a step is, training says (`Rehearsal`): this room only times it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NoReturn, Protocol

from ..processes import die_with_parent, peak_rss_bytes

Cell = dict[str, Any]

SMALL = {"hidden": 576, "ffn": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64, "vocab": 49152}
WIDE = {"hidden": 1024, "ffn": 2816, "heads": 16, "kv_heads": 8, "head_dim": 64, "vocab": 49152}
# 16 layers are 57 MB of weights: what fits into the last-level cache would promise too much.
CELLS: dict[str, tuple[Cell, ...]] = {
    "lora": (
        {**SMALL, "layers": 2, "tokens": 512},
        {**SMALL, "layers": 16, "tokens": 512},
        {**SMALL, "layers": 2, "tokens": 2048},
        {**WIDE, "layers": 2, "tokens": 512},
    ),
    "full": ({**SMALL, "layers": 2, "tokens": 512}, {**SMALL, "layers": 6, "tokens": 512}),
}
REPEATS = 4

Rows = list[dict[str, Any]]


class Rehearsal(Protocol):
    """A training run on a random model of a cell's sizes, step by step."""

    seq_len: int  # tokens of each row
    answer_tokens: int  # of a micro-batch

    def micro_step(self) -> None: ...
    def update(self) -> None: ...
    def save(self) -> int: ...  # bytes of one saved state
    def write(self) -> None: ...


Rehearse = Callable[[Cell, Path], Callable[[], Rehearsal]]


def probe_training(
    child: Sequence[str],
    limit_s: float = 20.0,
    finetuning_type: str = "lora",
    dtype: str = "bf16",
    threads: int | None = None,
) -> Rows:
    """Rows as above. A cell that fails is left out: the planner then widens its interval.

    `child`: the command of a process that takes an order as JSON and the time of its start, and calls
    `time_cells`.
    """
    common = {"finetuning_type": finetuning_type, "dtype": dtype, "lora_rank": 8}
    common["threads"] = threads or os.cpu_count() or 1
    order = {"limit_s": limit_s, "cells": [{**cell, **common} for cell in CELLS[finetuning_type]]}
    command = [*child, json.dumps(order), str(time.time())]
    try:
        text = subprocess.run(command, capture_output=True, timeout=2 * limit_s, check=False).stdout
    except subprocess.TimeoutExpired as e:
        text = e.stdout or b""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def time_cells(order: dict[str, Any], born_s: float, rehearse: Rehearse) -> None:
    """Print the rows of an order, a JSON line each. `born_s`: clock time when the process started.

    Each cell is a fork of this process, which has imported torch: its peak of memory is a fresh process's,
    and the imports are paid once. No further cell starts that would end after `limit_s`.
    """
    print(json.dumps({"op": "train_start", "s": time.time() - born_s, "rss_bytes": peak_rss_bytes()}))
    until, last_s = time.monotonic() + order["limit_s"], 0.0
    for cell in order["cells"]:
        began = time.monotonic()
        if began + last_s > until:
            break
        sys.stdout.flush()
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            _time_cell_and_exit(cell, parent, rehearse)
        os.waitpid(pid, 0)
        last_s = time.monotonic() - began


def _time_cell_and_exit(cell: Cell, parent: int, rehearse: Rehearse) -> NoReturn:
    code = 1
    try:
        die_with_parent(parent)
        print(json.dumps(time_cell(cell, rehearse)), flush=True)
        code = 0
    finally:
        os._exit(code)


def time_cell(cell: Cell, rehearse: Rehearse) -> dict[str, Any]:
    """The row of one cell. `rehearse(cell, folder)` writes the random model and gives what loads it."""
    with tempfile.TemporaryDirectory() as folder:
        run, load_s = _timed(rehearse(cell, Path(folder)))
        micro_s, optimiser_s = [], []
        for _ in range(REPEATS + 1):
            micro_s.append(_timed(run.micro_step)[1])
            optimiser_s.append(_timed(run.update)[1])
        checkpoint_bytes, checkpoint_s = _timed(run.save)
        _, write_s = _timed(run.write)
    return {
        "op": "train_micro",
        **cell,
        "seq_len": run.seq_len,
        "answer_tokens": run.answer_tokens,
        "s": median(micro_s[1:]),
        "optimiser_s": median(optimiser_s[1:]),
        "load_s": load_s,
        "write_s": write_s,
        "checkpoint_s": checkpoint_s,
        "checkpoint_bytes": checkpoint_bytes,
        "rss_bytes": peak_rss_bytes(),
    }


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started
