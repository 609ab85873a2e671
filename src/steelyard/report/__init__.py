"""The report of a run, from plain data: the document of `up --json` and what its artefacts add.

One HTML file that needs no network, and its picture alone as SVG. It can be made without a run:
`render(document)` takes any document of that shape. Not here: what the figures mean (planner, gate).
"""

from __future__ import annotations

from .facts import facts_of, read_document, save
from .page import render, write_report
from .pictures import picture

__all__ = ["facts_of", "picture", "read_document", "render", "save", "write_report"]
