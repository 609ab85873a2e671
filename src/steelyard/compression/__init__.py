"""Make a checkpoint smaller; say what it lost. What the quality is worth, the gate decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching
from ..forms import FORMS, Form

if TYPE_CHECKING:
    from .awq import awq_group, widen_awq
    from .export import export_form
    from .gguf import GGUF_FORMS
    from .leaving import awq_leaves, gguf_leaves
    from .pruning import prune
    from .rounding import rounded_groups, rounded_rows
    from .step import calibrated_matrices, compress

FILES = {
    "GGUF_FORMS": "gguf",
    "awq_group": "awq",
    "awq_leaves": "leaving",
    "calibrated_matrices": "step",
    "compress": "step",
    "export_form": "export",
    "gguf_leaves": "leaving",
    "prune": "pruning",
    "widen_awq": "awq",
    "rounded_groups": "rounding",
    "rounded_rows": "rounding",
}

__all__ = [
    "FORMS",
    "GGUF_FORMS",
    "Form",
    "awq_group",
    "awq_leaves",
    "calibrated_matrices",
    "compress",
    "export_form",
    "gguf_leaves",
    "prune",
    "rounded_groups",
    "rounded_rows",
    "widen_awq",
]

__getattr__ = fetching(__name__, FILES)
