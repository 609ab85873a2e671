"""Lines of PDF pages as blocks: headings by size, paragraphs by the space between lines, tables by cells.

A PDF says where letters stand, not what they are. What stands at the head or foot of most pages is left
out. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from .blocks import Block

HEADING_SIZE = 1.15  # of the body's size
HEADING_CHARS = 200
LEVELS = 6
GAP = 1.7  # sizes from line to line, from which a new paragraph begins
EDGE_LINES = 2
EDGE_PAGES = 3
DIGITS = re.compile(r"\d+")
CJK_END = re.compile(r"[\u2e80-\u9fff\uff00-\uffef]$")


@dataclass(frozen=True, slots=True)
class Line:
    size: float
    x: float
    y: float
    cells: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.cells)


@dataclass(frozen=True, slots=True)
class PdfPage:
    number: int
    lines: list[Line]


def blocks_of_pages(pages: Sequence[PdfPage]) -> Iterator[Block]:
    levels, body = sizes_of(pages)
    running = running_lines(pages)
    for page in pages:
        lines = [
            line for n, line in enumerate(page.lines)
            if line.size in levels or not is_running(page, n, running)
        ]  # fmt: skip
        yield from blocks_of_lines(lines, page.number, levels, body)


def sizes_of(pages: Sequence[PdfPage]) -> tuple[dict[float, int], float]:
    """(level of each size that is a heading's, the size of most letters)."""
    letters: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            letters[line.size] += len(line.text)
    body = max(letters, key=lambda size: (letters[size], -size), default=0.0)
    larger = sorted((size for size in letters if size >= HEADING_SIZE * body), reverse=True)
    return {size: min(level, LEVELS) for level, size in enumerate(larger, 1)}, body


def edge(line: Line) -> str:
    """A line but for its numbers: page 3 is page 4."""
    return DIGITS.sub("#", line.text)


def edges(page: PdfPage) -> set[int]:
    count = len(page.lines)
    return {n for n in range(count) if n < EDGE_LINES or n >= count - EDGE_LINES}


def running_lines(pages: Sequence[PdfPage]) -> set[str]:
    often = Counter(text for page in pages for text in {edge(page.lines[n]) for n in edges(page)})
    return {text for text, n in often.items() if n >= max(EDGE_PAGES, len(pages) / 2)}


def is_running(page: PdfPage, number: int, running: set[str]) -> bool:
    text = edge(page.lines[number])
    return number in edges(page) and (text in running or not text.strip("#-–—·. /|"))


# ------------------------------------------------------------------ one page


def blocks_of_lines(
    lines: Sequence[Line], page: int, levels: dict[float, int], body: float
) -> Iterator[Block]:
    kinds = [kind_of(lines, n, levels) for n in range(len(lines))]
    breaks = [n and starts_anew(lines[n - 1], lines[n], kinds[n - 1], kinds[n]) for n in range(len(lines))]
    part = 0
    parts = [part := part + bool(broken) for broken in breaks]
    for _, numbers in groupby(range(len(lines)), key=lambda n: parts[n]):
        own = list(numbers)
        yield block_of([lines[n] for n in own], kinds[own[0]], page, levels)


def kind_of(lines: Sequence[Line], number: int, levels: dict[float, int]) -> str:
    """A lone line with wide gaps is none of a table."""
    line = lines[number]
    beside = [lines[n] for n in (number - 1, number + 1) if 0 <= n < len(lines)]
    if len(line.cells) > 1 and any(len(other.cells) > 1 for other in beside):
        return "table"
    return "heading" if line.size in levels and len(line.text) <= HEADING_CHARS else "text"


def starts_anew(before: Line, line: Line, kind_before: str, kind: str) -> bool:
    if kind != kind_before or (kind == "heading" and line.size != before.size):
        return True
    step = before.y - line.y
    return kind != "table" and (step <= 0 or step > GAP * max(line.size, before.size, 1.0))


def block_of(lines: Sequence[Line], kind: str, page: int, levels: dict[float, int]) -> Block:
    if kind == "table":
        return Block.table([line.cells for line in lines], page)
    text = joined([line.text for line in lines])
    if kind == "heading":
        return Block.heading(text, levels[lines[0].size], page)
    return Block(text, "text", 0, page)


def joined(lines: Sequence[str]) -> str:
    """Lines as a paragraph: a hyphen at an end joins, Chinese needs no space."""
    text = ""
    for line in lines:
        if text.endswith("-") and len(text) > 1 and text[-2].isalpha() and line[:1].islower():
            text = text[:-1] + line
        else:
            text += ("" if not text or CJK_END.search(text) else " ") + line
    return text
