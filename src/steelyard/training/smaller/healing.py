"""What a smaller model learns from the one that it was made of: the steps `heal` and `qat`.

Apart from `train`, whose key would hold the rounding's code and packages else.
"""

from __future__ import annotations

from pathlib import Path

from steelyard.artefact import Draft, Figures, Inputs, Settings, Watch
from steelyard.compression import calibrated_matrices
from steelyard.errors import WrongUse
from steelyard.model import GRID, write_grid

from ..step import train


def heal(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Train the artefact `base`, a pruned model, on what the artefact `teacher`, the model that it was cut
    from, says of the rows of `dataset`. Raises what `train` does."""
    teacher = inputs.artefacts["teacher"]
    told = {"teacher": str(teacher.path()), "teacher_hash": teacher.hash}
    return train(inputs, {**settings, **told}, out, watch)


def qat(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Train the artefact `base` while its matrices compute as the 4 bits of `settings["form"]`, on what the
    artefact `teacher`, the tuned model, says of the rows of `dataset`. The integers that it begins with are
    calibrated by those rows. Raises what `heal` does."""
    grid = str(grid_of(inputs, settings, out, watch))
    return heal(inputs, {**settings, "grid": grid}, out, watch)


def grid_of(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Path:
    """The file of the calibrated integers; kept in the scratch for the next attempt."""
    kept = out.scratch.read(GRID)
    if kept is not None:
        return kept
    rows = inputs.artefacts["dataset"].path("train.jsonl")
    matrices, _ = calibrated_matrices(
        settings["form"], inputs.artefacts["base"].path(), rows, watch, settings.get("threads")
    )
    if matrices is None:
        raise WrongUse("data.no_rows", "no row can be taught", hint="give rows of messages or text")
    path = out.folder / GRID
    write_grid(matrices, path)
    out.scratch.write(GRID, path)
    path.unlink(missing_ok=True)
    written = out.scratch.read(GRID)
    assert written is not None
    return written
