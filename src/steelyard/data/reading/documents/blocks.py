"""A document as blocks in their order: headings, paragraphs, tables. Every format is read into these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["heading", "text", "table", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """`text` is as it stood, or plain; a heading of `level` 1 is the highest."""

    text: str
    kind: Kind = "text"
    level: int = 0
    page: int | None = None
    title: str = ""  # of a heading: without its marks

    @staticmethod
    def heading(text: str, level: int, page: int | None = None) -> Block:
        plain = " ".join(text.split())
        return Block(plain, "heading", max(1, level), page, plain)

    @staticmethod
    def table(rows: Sequence[Sequence[str]], page: int | None = None) -> Block:
        """Cells with bars between them, a row a line."""
        return Block("\n".join(" | ".join(row) for row in rows if any(row)), "table", 0, page)


def items(lines: Sequence[str], page: int | None = None) -> Block:
    """A list: its points, a line each."""
    return Block("\n".join(f"- {line}" for line in lines), "text", 0, page)
