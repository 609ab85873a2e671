"""Make a checkpoint smaller; say what it lost. What the quality is worth, the gate decides."""

from .forms import FORMS, Form
from .step import compress

__all__ = ["FORMS", "Form", "compress"]
