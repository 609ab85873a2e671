"""The step: a checkpoint in, a folder that an engine serves out."""

from __future__ import annotations

from pathlib import Path

from ..artefact import Draft, Figures, Inputs, Settings, Watch
from ..errors import WrongUse
from ..forms import FORMS
from ..model import GRID, Grouped, Tokenizer, read_grid
from ..shape import read
from .export import export_form
from .rows import calibration_rows


def compress(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write `inputs.artefacts["checkpoint"]` in `settings["form"]` into `out`.

    A calibrated form computes with `settings["threads"]` and reads the rows of `inputs.artefacts["dataset"]`;
    where there is no dataset (a model served as it is) it is rounded to nearest, and form.json says so.
    Figures: bytes (of the payload's weights), ratio (to bf16: 0.5 is half as large), calibration_tokens.
    Raises WrongUse, Stopped.
    """
    form = settings["form"]
    if form not in FORMS:
        raise WrongUse("compress.form_unknown", f"no form {form!r}", hint=f"one of {', '.join(FORMS)}")
    folder = inputs.artefacts["checkpoint"].path()
    dataset = inputs.artefacts.get("dataset")
    rows = dataset.path() / "train.jsonl" if dataset and FORMS[form].calibrated else None
    matrices, tokens = calibrated_matrices(form, folder, rows, watch, settings.get("threads"))
    with watch.progress("compress", total=1, unit="model") as bar:
        export_form(folder, out.folder, form, matrices)
        bar.advance(1)
    stored = _stored_bytes(out.folder)
    ratio = stored / read(folder).weight_bytes("bf16")
    return {"bytes": float(stored), "ratio": ratio, "calibration_tokens": float(tokens)}


def _stored_bytes(folder: Path) -> int:
    """Of the graph's constants; of the checkpoint's tensors where it is served as it is."""
    graph = folder / "openvino_model.bin"
    return sum(file.stat().st_size for file in ([graph] if graph.exists() else folder.glob("*.safetensors")))


def calibrated_matrices(
    form: str, folder: Path, rows_file: Path | None, watch: Watch, threads: int | None = None
) -> tuple[dict[str, Grouped] | None, int]:
    """The matrices of a calibrated form and the tokens they were fitted on; None: to the nearest.

    `threads`: to compute with; sums of others have other last bits. A checkpoint that has learnt its rounding
    brings them along. Raises Stopped.
    """
    spec = FORMS[form]
    if spec.trained and (folder / GRID).exists():
        return read_grid(folder / GRID), 0
    if rows_file is None:
        return None, 0
    from .calibrate import CALIBRATION_TOKENS, calibrate

    rows = calibration_rows(rows_file, Tokenizer(folder), CALIBRATION_TOKENS)
    if not rows:  # none that can be taught: to nearest, and form.json says so
        return None, 0
    return calibrate(folder, rows, spec.group or 0, watch, threads), sum(map(len, rows))
