"""A model folder in any form, as an engine loads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..model import Grouped, export_openvino, family_of, write_transformers_folder
from .rounding import rounding


def export_form(
    folder: Path, out: Path, form: str = "bf16", matrices: Mapping[str, Grouped] | None = None
) -> None:
    """Write the Hugging Face folder `folder` in `form` into `out`, `form.json` included.

    `matrices`: those that a calibration has rounded, by name; without them int4 is rounded to nearest. The
    bytes follow from the weights, the form and OpenVINO's version: no place, no time. Raises WrongUse for a
    form or family that is not covered, Lacking without OpenVINO. A family that transformers runs keeps its
    checkpoint as it is.
    """
    if family_of(folder).foreign:
        write_transformers_folder(folder, out, form)
        return
    export_openvino(folder, out, form, rounding(matrices))
