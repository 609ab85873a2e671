"""Make a checkpoint smaller; say what it lost. What the quality is worth, the gate decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching
from ..forms import FORMS, Form

if TYPE_CHECKING:
    from .export import export_form
    from .pruning import prune
    from .rounding import rounded_groups, rounded_rows
    from .step import compress

FILES = {
    "compress": "step",
    "export_form": "export",
    "prune": "pruning",
    "rounded_groups": "rounding",
    "rounded_rows": "rounding",
}

__all__ = ["FORMS", "Form", "compress", "export_form", "prune", "rounded_groups", "rounded_rows"]

__getattr__ = fetching(__name__, FILES)
