"""The pages: each is in both indexes, and no link of theirs leads nowhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
INDEXES = [ROOT / "docs/README.md", ROOT / "docs/README.zh.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def linked(page: Path) -> set[Path]:
    links = LINK.findall(page.read_text("utf-8"))
    return {(page.parent / link).resolve() for link in links if not link.startswith(("http:", "https:"))}


def test_every_page_is_in_both_indexes() -> None:
    pages = {page for part in ("how-to", "why") for page in (ROOT / "docs" / part).glob("*.md")}
    for index in INDEXES:
        left_out = {page.name for page in pages - linked(index)} - {"claims.md", "claims.zh.md"}
        assert not left_out, f"{index.name} leaves out {left_out}"


def test_no_link_leads_nowhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    nowhere = {
        f"{page.relative_to(ROOT)}: {link}" for page in pages for link in linked(page) if not link.exists()
    }
    assert not nowhere
