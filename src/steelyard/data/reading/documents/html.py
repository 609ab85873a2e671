"""HTML as blocks: what a reader came for, by its marks. Menus, scripts and footers are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..opened import DOCUMENTS, lacking
from .blocks import Block, items

SKIPPED = {"script", "style", "noscript", "template", "svg", "nav", "footer", "aside", "iframe",
           "object", "canvas", "button", "select", "textarea", "dialog", "head", "audio", "video",
           "datalist"}  # fmt: skip
SKIPPED_ROLES = {"navigation", "contentinfo", "search", "banner", "dialog", "menu"}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = {"p", "div", "section", "article", "main", "header", "body", "html", "dl", "dt", "dd", "blockquote",
          "figure", "figcaption", "hr", "address", "center", "details", "summary", "fieldset", "form", "tr",
          "td", "th", "li"}  # fmt: skip
CELL_CHARS_MAX = 500  # a longer cell is no cell: the table only lays the page out
MAIN_CHARS = 200  # of a main part that is taken for the page
DECLARED = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


def declared(head: bytes) -> str | None:
    """The encoding that a page names in its first bytes."""
    match = DECLARED.search(head)
    return match[1].decode("ascii", "replace") if match else None


def html_blocks(text: str) -> Iterator[Block]:
    """Of the page's main part where it has one. Never raises for what a page may hold."""
    try:
        import lxml.html
    except ImportError as e:
        raise lacking("lxml", "HTML", DOCUMENTS) from e
    if not text.strip():
        return
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True)
    try:
        root = lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (lxml.etree.ParserError, lxml.etree.XMLSyntaxError):
        return  # it has no element
    page = Page()
    page.visit(main_of(root))
    page.flush()
    title = " ".join((root.findtext(".//title") or "").split())
    if title and page.blocks and not any(b.kind == "heading" and b.level == 1 for b in page.blocks):
        yield Block.heading(title, 1)
    yield from page.blocks


def main_of(root: Any) -> Any:
    for part in root.xpath("//main | //*[@role='main']") or root.xpath("//article")[:1]:
        if len("".join(part.itertext())) >= MAIN_CHARS:
            return part
    body = root.find("body")
    return root if body is None else body


@dataclass(slots=True)
class Page:
    """Blocks so far, and the words of the one under way."""

    blocks: list[Block] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def flush(self) -> None:
        text = inline("".join(self.words))
        self.words = []
        if text:
            self.blocks.append(Block(text))

    def visit(self, node: Any) -> None:
        if not isinstance(node.tag, str) or is_skipped(node):
            return
        handler = HANDLERS.get(node.tag)
        if handler is not None:
            self.flush()
            handler(self, node)
        elif node.tag == "br":
            self.words.append("\v")
        else:
            self.inside(node)

    def inside(self, node: Any) -> None:
        if node.tag in BLOCKS:
            self.flush()
        self.words.append(node.text or "")
        for child in node:
            self.visit(child)
            self.words.append(child.tail or "")
        if node.tag in BLOCKS:
            self.flush()

    def heading(self, node: Any) -> None:
        if text := text_in(node):
            self.blocks.append(Block.heading(text, HEADINGS[node.tag]))

    def code(self, node: Any) -> None:
        self.blocks.append(Block("".join(node.itertext()).strip("\n"), "code"))

    def points(self, node: Any) -> None:
        """A list; one whose points are paragraphs or tables is read as these."""
        if node.xpath(".//p | .//table | .//pre | .//h2 | .//h3"):
            self.inside(node)
            self.flush()
        elif lines := [text for li in node.iter("li") if (text := text_in(li, own="li"))]:
            self.blocks.append(items(lines))

    def table(self, node: Any) -> None:
        rows = [[text_in(cell) for cell in row if cell.tag in ("td", "th")] for row in rows_of(node)]
        longest = max((len(cell) for row in rows for cell in row), default=0)
        columns = max(map(len, rows), default=0)
        if node.xpath(".//table") or longest > CELL_CHARS_MAX or columns < 2:
            self.inside(node)
            self.flush()
        else:
            self.blocks.append(Block.table(rows))


HANDLERS = {**dict.fromkeys(HEADINGS, Page.heading), "pre": Page.code, "ul": Page.points, "ol": Page.points,
            "table": Page.table}  # fmt: skip


def rows_of(table: Any) -> Iterator[Any]:
    for part in table:
        if part.tag == "tr":
            yield part
        elif part.tag in ("thead", "tbody", "tfoot"):
            yield from (row for row in part if row.tag == "tr")


def is_skipped(node: Any) -> bool:
    if node.tag in SKIPPED or node.get("role") in SKIPPED_ROLES:
        return True
    return "hidden" in node.attrib or node.get("aria-hidden") == "true"


def text_in(node: Any, own: str = "") -> str:
    """The words of an element on one line; those of nested elements `own` left out."""
    words: list[str] = []

    def gather(part: Any) -> None:
        words.append(part.text or "")
        for child in part:
            if isinstance(child.tag, str) and child.tag not in (own, *SKIPPED):
                gather(child)
            words.append(f" {child.tail or ''}" if child.tag in ("br", own, *BLOCKS) else child.tail or "")

    gather(node)
    return inline("".join(words)).replace("\n", " ")


def inline(text: str) -> str:
    """White space as a browser shows it; a line break stays one."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\v"))))
