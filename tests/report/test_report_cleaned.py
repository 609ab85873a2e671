"""The page of a cleaned set: one file, no script, hostile rows as text, both languages."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser

import pytest

from steelyard.data import clean_files, open_set, page_facts
from steelyard.report import render_cleaned
from tests.data.test_data_whole import edited, prose, write

HOSTILE = "</blockquote><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \"'&lt; \u202e\x00"


class Tags(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.names, self.text = [], set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    dice = random.Random(2)
    texts = [prose(dice) for _ in range(12)]
    texts[2] += HOSTILE
    rows = [{"id": f"{HOSTILE}{n}", "text": text, "licence": HOSTILE} for n, text in enumerate(texts)]
    rows += [{"id": "near", "text": edited(dice, texts[4], 0.05)}, {"id": "twice", "text": texts[2]}]
    clean_files(write(folder / "rows.jsonl", rows), folder / "out", settings={"off": ["html", "marks"]})
    return page_facts(open_set(folder / "out"), max_length=64)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hostile_rows_stay_text(facts, language):
    page = render_cleaned(facts, language)
    read = Tags(page)
    assert not {"script", "img", "link", "iframe", "object"} & set(read.tags)
    assert not {name for name in read.names if name.startswith("on") or name in ("src", "href")}
    assert "<script>alert(1)</script>" in read.text and "{{ 7 * 7 }}" in read.text
    assert "\u202e" not in page and "\\u202e" in read.text and "\x00" not in page
    assert not re.search(r"https?://|url\(|@import", page)
    assert read.tags.count("details") == len(facts["samples"]) and read.tags.count("mark") >= 1


def test_it_is_in_chinese(facts):
    page = render_cleaned(facts, "zh")
    for word in ("保留与丢弃", "近似重复对照", "样本", "行超过 max_length 64"):
        assert word in page
    text = Tags(page).text
    assert not re.search(
        r"[Rr]ows|[Ss]amples|[Ll]engths|[Ll]anguage", re.sub(r"rows\.jsonl|Somebody", "", text)
    )


def test_the_shares_and_lengths_stand_in_it(facts):
    page = Tags(render_cleaned(facts)).text
    assert f"{facts['kept']} kept, {facts['dropped']} dropped" in page
    assert f"{facts['lengths']['over']} rows are longer than max_length 64" in page
