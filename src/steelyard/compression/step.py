"""The step: a checkpoint in, a folder that an engine serves out."""

from __future__ import annotations

from pathlib import Path

from ..artefact import Draft, Figures, Inputs, Settings, Watch
from ..errors import WrongUse
from ..shape import read
from .forms import FORMS


def compress(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write `inputs.artefacts["checkpoint"]` in `settings["form"]` into `out`.

    Figures: bytes (of the payload's weights), ratio (to bf16: 0.5 is half as large). Raises WrongUse.
    """
    form = settings["form"]
    if form not in FORMS:
        raise WrongUse("compress.form_unknown", f"no form {form!r}", hint=f"one of {', '.join(FORMS)}")
    folder = inputs.artefacts["checkpoint"].path()
    with watch.progress("compress", total=1, unit="model") as bar:
        FORMS[form].write(folder, out.folder)
        bar.advance(1)
    stored = _bytes(out.folder, "*.bin")
    return {"bytes": float(stored), "ratio": stored / read(folder).weight_bytes("bf16")}


def _bytes(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))
