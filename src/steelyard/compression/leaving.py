"""What leaves as a file of another program: GGUF and AWQ, rounded by the user's rows where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..artefact import Watch
from ..errors import Lacking
from ..model import Tokenizer
from .awq import awq_group, write_awq
from .gguf import needs_llamacpp, write_gguf_form
from .rows import calibration_rows

TOKENS = 8192  # of the user's rows, as calibrate.py takes


def gguf_leaves(folder: Path, file: Path, form: str, rows: Path | None, scratch: Path, watch: Watch) -> int:
    """Write `file`; how many tokens of `rows` (a train.jsonl) weighed the inputs of its matrices.

    `scratch`: where the weighing is kept for a call that goes on. Raises WrongUse, Lacking, Stopped.
    """
    ids = _ids(folder, rows) if needs_llamacpp(form) else []
    weights = _importance(folder, ids, scratch / "importance.npz", watch) if ids else None
    write_gguf_form(folder, file, form, watch, weights)
    return sum(map(len, ids))


def awq_leaves(folder: Path, out: Path, rows: Path | None, watch: Watch) -> int:
    """Write the folder `out`; how many tokens of `rows` its rounding looked at. Raises as above."""
    size, ids = awq_group(folder), _ids(folder, rows)
    rounded = None
    if ids:
        _check_torch()
        from .calibrate import calibrate

        rounded = calibrate(folder, ids, size, watch)
    write_awq(folder, out, rounded)
    return sum(map(len, ids))


def _ids(folder: Path, rows: Path | None) -> list[list[int]]:
    return calibration_rows(rows, Tokenizer(folder), TOKENS) if rows else []


def _importance(folder: Path, ids: list[list[int]], kept: Path, watch: Watch) -> dict[str, np.ndarray]:
    if kept.is_file():
        with np.load(kept) as weights:
            return dict(weights)
    _check_torch()
    from .input_squares import importance

    weights = importance(folder, ids, watch)
    part = kept.with_name(f".{kept.name}")
    np.savez(part, **weights)  # type: ignore[arg-type]
    os.replace(part, kept)
    return weights


def _check_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise Lacking(
            "export.no_torch", "rounding by your rows needs torch, which is not installed here",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[cpu]', or --form Q8_0",
        )  # fmt: skip
