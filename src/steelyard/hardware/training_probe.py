"""How fast this machine trains: real steps on small random models, each in a fresh process, for the planner.

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
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from ..processes import peak_rss_bytes

SMALL = {"hidden": 576, "ffn": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64, "vocab": 49152}
WIDE = {"hidden": 1024, "ffn": 2816, "heads": 16, "kv_heads": 8, "head_dim": 64, "vocab": 49152}
LORA, FULL = {"finetuning_type": "lora"}, {"finetuning_type": "full"}
# 16 layers are 57 MB of weights: what fits into the last-level cache would promise too much.
CELLS: tuple[dict[str, Any], ...] = (
    {**SMALL, **LORA, "layers": 2, "tokens": 512},
    {**SMALL, **FULL, "layers": 2, "tokens": 512},
    {**SMALL, **LORA, "layers": 16, "tokens": 512},
    {**SMALL, **LORA, "layers": 2, "tokens": 2048},
    {**WIDE, **LORA, "layers": 2, "tokens": 512},
    {**SMALL, **FULL, "layers": 6, "tokens": 512},
)
REPEATS = 4

Cell = dict[str, Any]
Rows = list[dict[str, Any]]


class Rehearsal(Protocol):
    """A training run on a random model of a cell's sizes, step by step."""

    seq_len: int  # tokens of each row
    answer_tokens: int  # of a micro-batch

    def micro_step(self) -> None: ...
    def update(self) -> None: ...
    def save(self) -> int: ...  # bytes of one saved state
    def write(self) -> None: ...


def probe_training(
    child: Sequence[str], limit_s: float = 20.0, dtype: str = "bf16", threads: int | None = None
) -> Rows:
    """Rows as above. A cell that fails is left out: the planner then widens its interval.

    `child`: the command of a process that takes a cell as JSON and the time of its start, and prints what
    `time_cell` gives.
    """
    rows: Rows = []
    until = time.monotonic() + limit_s
    common = {"dtype": dtype, "threads": threads or os.cpu_count() or 1, "lora_rank": 8}
    last_s = 0.0  # of the last cell, not the slowest: the first child reads its libraries from the disk
    for cell in CELLS:
        if time.monotonic() + last_s > until:
            break
        started = time.monotonic()
        measured = _in_child(child, {**cell, **common}, max(1.0, until - started))
        last_s = time.monotonic() - started
        rows.extend(measured[1 if rows else 0 :])  # the start once
    return rows


def _in_child(child: Sequence[str], cell: Cell, timeout_s: float) -> Rows:
    command = [*child, json.dumps(cell), str(time.time())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return []
    return json.loads(done.stdout)


def time_cell(cell: Cell, born_s: float, rehearse: Callable[[Cell, Path], Callable[[], Rehearsal]]) -> Rows:
    """The rows of one cell: the start, and the micro-step. `born_s`: clock time when the process started.

    `rehearse(cell, folder)` writes the random model and gives what loads it.
    """
    start = {"op": "train_start", "s": time.time() - born_s, "rss_bytes": peak_rss_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        run, load_s = _timed(rehearse(cell, Path(folder)))
        micro_s, optimiser_s = [], []
        for _ in range(REPEATS + 1):
            micro_s.append(_timed(run.micro_step)[1])
            optimiser_s.append(_timed(run.update)[1])
        checkpoint_bytes, checkpoint_s = _timed(run.save)
        _, write_s = _timed(run.write)
    micro = {
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
    return [start, micro]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started
