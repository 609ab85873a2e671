"""The report of a run, from plain data: the document of `up --json` and what its artefacts add; a set's.

One HTML file that needs no network, and its picture alone as SVG. It can be made without a run:
`render(document)` takes any document of that shape. Not here: what the figures mean (planner, gate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching
from .facts import facts_of, read_document, save
from .page import render, write_report
from .pictures import picture
from .processing import render_record

if TYPE_CHECKING:
    from .cleaned import render_cleaned, write_cleaned

FILES = {"render_cleaned": "cleaned", "write_cleaned": "cleaned"}  # they need the room of data, and numpy

__all__ = [
    "facts_of", "picture", "read_document", "render", "render_cleaned", "render_record", "save",
    "write_cleaned", "write_report",
]  # fmt: skip

__getattr__ = fetching(__name__, FILES)
