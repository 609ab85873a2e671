"""Texts and Markdown as blocks; of Markdown each block as it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..opened import DOCUMENTS, binary, bounded, lacking, unreadable_file
from .blocks import Block

WHOLE_BYTES_MAX = 64 << 20
FRONT = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)  # YAML that names title, tags ...
BLOCKS = {"fence": "code", "code_block": "code", "table_open": "table"}


def whole_text(path: Path, encoding: str) -> str:
    """The text of a file of at most 64 MiB. Raises WrongUse."""
    with binary(path) as file:
        data = file.read(WHOLE_BYTES_MAX + 1)
    if len(data) > WHOLE_BYTES_MAX:
        raise unreadable_file(path, f"it has more than {WHOLE_BYTES_MAX >> 20} MiB")
    return data.decode(encoding, "replace").removeprefix("\ufeff").replace("\r\n", "\n")


def text_blocks(path: Path, encoding: str) -> Iterator[Block]:
    """Paragraphs: lines up to a blank one; of any size, as a stream."""
    import io

    held: list[str] = []
    with io.TextIOWrapper(binary(path), encoding, "replace") as lines:
        for line, _ in bounded(lines, 1 << 20):
            if line.strip():
                held.append(line.rstrip().removeprefix("\ufeff"))
            if held and (not line.strip() or len(held) >= 1000):
                yield Block("\n".join(held))
                held = []
    if held:
        yield Block("\n".join(held))


def markdown_blocks(path: Path, encoding: str) -> Iterator[Block]:
    try:
        from markdown_it import MarkdownIt
    except ImportError as e:
        raise lacking("markdown-it-py", "Markdown", DOCUMENTS) from e
    text = FRONT.sub("", whole_text(path, encoding).replace("\r", "\n"))
    lines = text.split("\n")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for number, token in enumerate(tokens):
        if token.level or token.map is None or token.type == "hr":
            continue
        written = "\n".join(lines[token.map[0] : token.map[1]]).strip("\n")
        if token.type == "heading_open":
            title = " ".join(tokens[number + 1].content.split())
            yield Block(written, "heading", int(token.tag[1]), None, title)
        else:
            yield Block(written, BLOCKS.get(token.type, "text"))  # type: ignore[arg-type]
