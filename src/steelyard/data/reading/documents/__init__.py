"""Documents as records: passages of text with their headings, and page or address where there is one.

To add a format: its blocks in a file here, a line in READERS and in SUFFIXES of reading/files.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..opened import Broken, Record
from .blocks import Block
from .html import declared, html_blocks
from .outside import docx_blocks, pdf_blocks
from .passages import PASSAGE_CHARS, passages
from .plain import markdown_blocks, text_blocks, whole_text
from .warc import warc_pages

__all__ = ["PASSAGE_CHARS", "READERS", "declared", "document_records"]

Part = tuple[dict[str, Any], Iterable[Block | Broken]]  # what is said of each of its passages, and its blocks


def alone(blocks: Callable[[Path, str], Iterable[Block | Broken]]) -> Callable[[Path, str], Iterator[Part]]:
    """A file that is one document."""
    return lambda path, encoding: iter([({}, blocks(path, encoding))])


def pages_of(path: Path, encoding: str) -> Iterator[Part]:
    for address, page in warc_pages(path):
        yield ({"url": address} if address else {}), ([page] if isinstance(page, Broken) else page)


READERS: dict[str, Callable[[Path, str], Iterator[Part]]] = {
    "txt": alone(text_blocks),
    "md": alone(markdown_blocks),
    "html": alone(lambda path, encoding: html_blocks(whole_text(path, encoding))),
    "pdf": alone(lambda path, _: pdf_blocks(path)),
    "docx": alone(lambda path, _: docx_blocks(path)),
    "warc": pages_of,
}


def document_records(path: Path, format: str, encoding: str, chars: int = PASSAGE_CHARS) -> Iterator[Record]:
    """(number, {"text", "heading", "page"?, "url"?}) of every passage. Raises WrongUse, Lacking."""
    number = 0
    for about, blocks in READERS[format](path, encoding):
        for record in records_of(blocks, chars):
            number += 1
            yield number, record if isinstance(record, Broken) else record | about


def records_of(blocks: Iterable[Block | Broken], chars: int) -> Iterator[dict[str, Any] | Broken]:
    """Passages, after what could not be read on the way to each."""
    broken: list[Broken] = []

    def readable() -> Iterator[Block]:
        for block in blocks:
            if isinstance(block, Broken):
                broken.append(block)
            else:
                yield block

    for passage in passages(readable(), chars):
        yield from broken
        broken.clear()
        yield passage
    yield from broken
