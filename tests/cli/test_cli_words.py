"""Every error says what happened and what to do, in both languages; the reference is made from the source."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from steelyard.cli.telling import messages, options
from steelyard.cli.telling.output import error_lines
from steelyard.errors import Where, WrongUse

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = json.loads((ROOT / "src" / "steelyard" / "cli" / "zh.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    before = dict(os.environ)  # the page is made in English, of a width of its own
    sys.path.insert(0, str(ROOT / "docs"))  # its neighbours
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "docs"))
    os.environ.clear()
    os.environ.update(before)


def test_every_code_says_what_happened_and_what_to_do(build) -> None:
    rows = build.described()
    assert len(rows) > 180
    assert [code for (code, _), (message, hint) in rows.items() if not message or not hint] == []


def test_every_code_has_a_chinese_text(build, monkeypatch) -> None:
    """Its own, or that of its kind; nearly all have their own."""
    monkeypatch.setattr(options.OPTIONS, "language", "zh")
    codes = {code for code, _ in build.described()}
    assert sorted(code for code in codes if not messages.title(code)) == []
    assert len(codes - set(CATALOGUE["errors"])) <= 0.05 * len(codes)


def test_a_chinese_error_never_mixes_both_languages_in_a_line(monkeypatch) -> None:
    monkeypatch.setattr(options.OPTIONS, "language", "zh")
    problem = WrongUse(
        "recipe.unknown_key", "unknown key trian at the top of a recipe", where=Where("r.yaml", 2, "trian"),
        hint="did you mean train?",
    )  # fmt: skip
    first, original, at, fix = error_lines(problem)
    assert first == "错误： 配方中有未知的字段   [recipe.unknown_key]"
    assert original.startswith("  原文： unknown key") and at.endswith("r.yaml:2, trian")
    assert fix == "  办法： 是否指 train？"


def test_what_is_chinese_already_needs_no_original(monkeypatch) -> None:
    monkeypatch.setattr(options.OPTIONS, "language", "zh")
    lines = error_lines(
        WrongUse("chat.empty", messages.say("there is no prompt"), hint="steelyard chat demo '你好'")
    )
    assert len(lines) == 2 and "原文" not in lines[0]


@pytest.mark.parametrize("pattern", sorted(CATALOGUE["hints"]))
def test_patterns_of_hints_are_sound(pattern: str) -> None:
    groups = re.compile(pattern).groups
    used = [int(n) for n in re.findall(r"\\(\d)", CATALOGUE["hints"][pattern])]
    assert all(n <= groups for n in used)
