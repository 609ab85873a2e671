"""PDF and DOCX by a child within limits; what it sends becomes blocks, or what cannot be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from ..opened import DOCUMENTS, Broken, lacking, unreadable_file
from . import child
from .blocks import Block, items
from .pages import Line, PdfPage, blocks_of_pages

MEMORY_BYTES = 2 << 30
OPEN_S, PART_S = 60, 20  # of processor time, so that a busy machine reads the same
CHARS_MAX = 64 << 20
PACKAGES = {"pypdf": "pypdf", "docx": "python-docx"}


def pdf_blocks(path: Path) -> Iterator[Block | Broken]:
    """Raises WrongUse: encrypted, torn, over the limits, or without any text."""
    pages = []
    with parts_of(path, "pdf") as parts:
        for part in parts:
            if "why" in part:
                yield Broken("unreadable_page", part["why"])
            else:
                pages.append(PdfPage(part["page"], [Line(*line) for line in part["lines"]]))
    if pages and not any(page.lines for page in pages):
        raise unreadable_file(path, "it has no text: its pages are pictures")
    yield from blocks_of_pages(pages)


def docx_blocks(path: Path) -> Iterator[Block | Broken]:
    held: list[str] = []
    with parts_of(path, "docx") as parts:
        for part in parts:
            if part["kind"] == "item" and part["text"].strip():
                held.append(part["text"].strip())
                continue
            if held:
                yield items(held)
                held = []
            yield block_of(part)
    if held:
        yield items(held)


def block_of(part: dict[str, Any]) -> Block:
    if part["kind"] == "table":
        return Block.table(part["rows"])
    if part["kind"] == "heading":
        return Block.heading(part["text"], part["level"])
    return Block(part["text"].strip())


@contextmanager
def parts_of(path: Path, form: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The child's parts, as they come; it ends with the block."""
    limits = [str(n) for n in (MEMORY_BYTES, OPEN_S, PART_S)]
    command = [sys.executable, "-P", child.__file__, form, str(path), *limits]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing)
    try:
        yield read_parts(process, path)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def read_parts(process: subprocess.Popen[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """Raises WrongUse for what the whole file is guilty of."""
    assert process.stdout
    chars = 0
    for line in process.stdout:
        part = orjson.loads(line)
        if "lacking" in part:
            raise lacking(PACKAGES.get(part["lacking"], part["lacking"]), path.suffix[1:].upper(), DOCUMENTS)
        if "why" in part and "page" not in part:
            raise unreadable_file(path, part["why"])
        chars += len(line)
        if chars > CHARS_MAX:
            raise unreadable_file(path, f"its text has more than {CHARS_MAX >> 20} MiB")
        yield part
    if process.wait():
        raise unreadable_file(path, f"reading it took more than {PART_S} s for a page, or broke off")
