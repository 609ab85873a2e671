"""A training run on a random model: what the calibration of a machine times, one cell a process.

Which cells, for how long and what is measured of them: hardware.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hardware import probe_training, time_cells

SEQ_LEN = 64  # tokens of each row
SIZES = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab")


def probe(
    limit_s: float = 20.0, finetuning_type: str = "lora", dtype: str = "bf16", threads: int | None = None
) -> list[dict[str, Any]]:
    """The calibration rows of this room, as hardware/training_probe.py describes them."""
    return probe_training([sys.executable, "-m", __name__], limit_s, finetuning_type, dtype, threads)


@dataclass(slots=True)
class Run:
    """hardware's `Rehearsal` over the loop of a real run."""

    loop: Any
    rows: list[Any]
    folder: Path
    answer_tokens: int
    seq_len: int = SEQ_LEN

    def micro_step(self) -> None:
        self.loop.micro_step(self.rows, self.answer_tokens)

    def update(self) -> None:
        self.loop.update(1e-4)
        self.loop.done += 1
        point = {"step": self.loop.done, "loss": 0.0, "tokens": 0}
        self.loop.curve.append(point)  # without one there is nothing to save

    def save(self) -> int:
        self.loop.save()
        return sum(p.stat().st_size for p in (self.folder / "scratch").iterdir())

    def write(self) -> None:
        self.loop.learnt.write(self.folder / "out", self.folder / "base")


def rehearse(cell: dict[str, Any], folder: Path) -> Callable[[], Run]:
    """Write a random model of the cell's sizes into `folder`; the call loads it, as the step does."""
    from ..model import write_random_model
    from .loop import settle

    settle(cell["threads"])
    write_random_model(folder / "base", **{name: cell[name] for name in SIZES})
    (folder / "out").mkdir()
    rows, answers = random_rows(cell["tokens"])
    return lambda: Run(_loop(cell, folder), rows, folder, answers)


def _loop(cell: dict[str, Any], folder: Path) -> Any:
    from ..artefact import Draft, Scratch, Watch
    from .loop import Loop
    from .packing import Schedule
    from .rows import Rows
    from .trainable import trainable

    settings = {**cell, "learning_rate": 1e-4, "lora_alpha": 16, "seed": 0}
    network, learnt = trainable(folder / "base", settings)
    out = Draft("checkpoint", "", "train", settings, [], folder / "out", Scratch(folder / "scratch"))
    return Loop(network, learnt, Rows(), Schedule((), 0, 0, 0), settings, out, Watch())


def random_rows(tokens: int) -> tuple[list[Any], int]:
    """Rows of SEQ_LEN tokens, the last quarter of each learnt, and how many that makes."""
    from array import array

    import torch

    from .rows import TrainingExample

    ids = torch.randint(0, 1000, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    mask = bytes([0] * (SEQ_LEN * 3 // 4) + [1] * (SEQ_LEN // 4))
    rows = [TrainingExample(array("i", ids[i : i + SEQ_LEN]), mask, "", 0) for i in range(0, tokens, SEQ_LEN)]
    return rows, tokens // 4


if __name__ == "__main__":
    import steelyard.training.loop  # noqa: F401 - torch and the loop are part of a start

    time_cells(json.loads(sys.argv[1]), float(sys.argv[2]), rehearse)
