"""The pages: each is in both indexes, no link of theirs leads nowhere, and their recipes load."""

import re
from pathlib import Path

import pytest

from steelyard.errors import Problem
from steelyard.recipe import load, schema

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


BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
DATA = "data: [{path: rows.jsonl, ability: support}]\n"


def recipes() -> list[tuple[str, str]]:
    """(page, text) of the recipes in the pages, made whole; not what shows one field in several ways."""
    words, found = set(schema()["properties"]), []
    for page in [*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")]:
        for text in BLOCK.findall(page.read_text("utf-8")):
            whole = f"{'' if re.search('^model:', text, re.M) else 'model: demo'}\n{text}"
            whole += "" if re.search("^data:", text, re.M) else DATA
            own = re.findall(r"^(\w+):", text, re.MULTILINE)
            if own and set(own) <= words and len(own) == len(set(own)):
                found.append((page.name, whole))
    return found


@pytest.mark.parametrize(("page", "text"), recipes())
def test_the_recipes_of_the_pages_load(page: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    try:
        load(tmp_path / "recipe.yaml")
    except Problem as problem:
        assert problem.code == "recipe.unknown_ability", (page, problem.message)  # its data is not shown
