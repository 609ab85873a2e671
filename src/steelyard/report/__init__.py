"""The report of a run, from plain data: the document of `up --json` and what its artefacts add.

Of a cleaned set and of a simulated fleet too.

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
    from .fleet import render_fleet, write_fleet

FILES = {"render_cleaned": "cleaned", "write_cleaned": "cleaned"}  # they need the room of data, and numpy
FILES |= {"render_fleet": "fleet", "write_fleet": "fleet"}

__all__ = [
    "facts_of", "picture", "read_document", "render", "render_cleaned", "render_fleet", "render_record",
    "save", "write_cleaned", "write_fleet", "write_report",
]  # fmt: skip

__getattr__ = fetching(__name__, FILES)
