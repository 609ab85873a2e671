"""WARC archives: each page of HTML or text as its blocks, with its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..opened import DOCUMENTS, Broken, lacking, unreadable_file
from .blocks import Block
from .html import declared, html_blocks

PAGE_BYTES_MAX = 8 << 20
TYPES = ("response", "resource", "conversion")


def warc_pages(path: Path) -> Iterator[tuple[str, list[Block] | Broken]]:
    """(address, blocks) of each page; pictures and the like are passed over. Raises WrongUse."""
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError as e:
        raise lacking("warcio", "WARC", DOCUMENTS) from e
    try:
        with open(path, "rb") as file:
            for record in ArchiveIterator(file):
                address = record.rec_headers.get_header("WARC-Target-URI") or ""
                if record.rec_type in TYPES and (page := page_of(record)) is not None:
                    yield address, page
    except (ArchiveLoadFailed, EOFError, ValueError) as e:
        raise unreadable_file(path, f"it breaks off: {type(e).__name__}", e) from e


def page_of(record: Any) -> list[Block] | Broken | None:
    kind = content_type(record)
    if not kind.startswith(("text/html", "application/xhtml", "text/plain")):
        return None
    try:
        data = record.content_stream().read(PAGE_BYTES_MAX + 1)
    except Exception as e:  # what a body may be packed by is warcio's and zlib's to refuse
        return Broken("unreadable_page", f"a page cannot be unpacked: {type(e).__name__}")
    if len(data) > PAGE_BYTES_MAX:
        return Broken("unreadable_page", f"a page has more than {PAGE_BYTES_MAX >> 20} MiB")
    text = decoded(data, kind)
    if kind.startswith("text/plain"):
        return [Block(part.strip()) for part in text.split("\n\n")]
    return list(html_blocks(text))


def content_type(record: Any) -> str:
    """Of the answer where there is one, else of the record."""
    headers = record.http_headers if record.http_headers is not None else record.rec_headers
    return (headers.get_header("Content-Type") or "").lower()


def decoded(data: bytes, kind: str) -> str:
    """By UTF-8 where it fits, else by what the answer or the page names."""
    for name in filter(None, ("utf-8", declared(kind.encode()), declared(data[:4096]), "gb18030")):
        with suppress(UnicodeDecodeError, LookupError):
            return data.decode(name)
    return data.decode("utf-8", "replace")
