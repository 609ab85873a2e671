"""A document's blocks as passages of a bounded length, each under its headings.

A passage begins at a heading where the one before has enough; a heading never ends one. A table stays whole
up to four times the bound, then it is cut between rows, with its head again. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .blocks import Block

PASSAGE_CHARS = 2000  # about 500 tokens: a question needs no more, and packing joins them for training
ENOUGH = 4  # of this part of the bound a passage is one of its own when a heading comes
TABLE_BOUNDS = 4
SENTENCE = re.compile(r"(?<=[.!?。！？；])(?:\s+|(?<=[。！？；]))|\n+")


def passages(blocks: Iterable[Block], chars: int = PASSAGE_CHARS) -> Iterator[dict[str, Any]]:
    """{"text", "heading": [titles, highest first], "page"?} in order."""
    cut = Cutter(chars)
    for block in blocks:
        for piece in pieces(block, chars):
            yield from cut.take(piece)
    yield from cut.rest()


@dataclass(slots=True)
class Cutter:
    """What is held for the next passage, and the headings above the place that is read."""

    chars: int
    held: list[Block] = field(default_factory=list)
    above: list[tuple[int, str]] = field(default_factory=list)  # (level, title)
    under: list[tuple[str, ...]] = field(default_factory=list)  # the headings of each held block that is none
    length: int = 0

    def take(self, block: Block) -> Iterator[dict[str, Any]]:
        if block.kind == "heading":
            if self.under and self.length >= self.chars // ENOUGH:
                yield self.passage()
            self.above = [one for one in self.above if one[0] < block.level] + [(block.level, block.title)]
            self.hold(block)
            return
        if self.under and self.length + len(block.text) > self.chars:
            last = self.headings_at_end()
            yield self.passage()
            for heading in last:
                self.hold(heading)
        self.hold(block)
        self.under.append(tuple(title for _, title in self.above))

    def hold(self, block: Block) -> None:
        self.held.append(block)
        self.length += len(block.text) + 2

    def headings_at_end(self) -> list[Block]:
        """Taken off what is held: they belong to what follows."""
        count = len(self.held)
        while count and self.held[count - 1].kind == "heading":
            count -= 1
        last, self.held = self.held[count:], self.held[:count]
        return last

    def passage(self) -> dict[str, Any]:
        text = "\n\n".join(block.text for block in self.held)
        page = next((block.page for block in self.held if block.page is not None), None)
        common = shared(self.under)
        self.held, self.under, self.length = [], [], 0
        return {"text": text, "heading": common} | ({} if page is None else {"page": page})

    def rest(self) -> Iterator[dict[str, Any]]:
        """The last one; headings with nothing under them are left out."""
        self.headings_at_end()
        if self.held:
            yield self.passage()


def shared(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The headings that all of them begin with."""
    level = 0
    while level < min(map(len, paths)) and len({path[level] for path in paths}) == 1:
        level += 1
    return list(paths[0][:level])


# ------------------------------------------------------------------ a block over the bound


def pieces(block: Block, chars: int) -> Iterator[Block]:
    """The block, or its parts where it is longer than a passage may be."""
    if not block.text.strip():
        return
    if block.kind == "heading":
        yield replace(block, text=block.text[:chars], title=block.title[:chars])
    elif block.kind == "table":
        parts = table_parts(block.text, chars) if len(block.text) > TABLE_BOUNDS * chars else [block.text]
        yield from (replace(block, text=part) for part in parts)
    elif len(block.text) <= chars:
        yield block
    else:
        cuts = block.text.split("\n") if block.kind == "code" else SENTENCE.split(block.text)
        joint = "\n" if block.kind == "code" or "\n" in block.text else " "
        yield from (replace(block, text=part) for part in packed(cuts, chars, joint))


def table_parts(text: str, chars: int) -> Iterator[str]:
    head, *rows = text.split("\n")
    if rows and not rows[0].strip("|-: \t"):  # the rule under the head of a Markdown table
        head, rows = f"{head}\n{rows[0]}", rows[1:]
    head = head[: chars // 2]
    for part in packed(rows, chars - len(head) - 1, "\n"):
        yield f"{head}\n{part}"


def packed(cuts: Sequence[str], chars: int, joint: str) -> Iterator[str]:
    """As many as fit, joined; one that is too long by itself is cut hard."""
    held = ""
    for cut in cuts:
        for at in range(0, len(cut), chars):
            part = cut[at : at + chars]
            if held and len(held) + len(joint) + len(part) > chars:
                yield held
                held = part
            else:
                held = f"{held}{joint}{part}" if held else part
    if held:
        yield held
