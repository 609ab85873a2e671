"""Who writes a form. What a form is: steelyard/forms.py, the one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..forms import FORMS, Form
from ..model import Grouped, export_openvino

__all__ = ["FORMS", "Form", "write"]


def write(form: str, folder: Path, out: Path, matrices: Mapping[str, Grouped] | None = None) -> None:
    """The served folder of a checkpoint, `form.json` included; `matrices` were calibrated."""
    export_openvino(folder, out, form, matrices)
