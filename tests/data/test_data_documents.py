"""Documents as rows: text by structure, with its place; what is damaged, locked or hostile is named."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from papers import docx_with, encrypted, joined, pdf, warc

import steelyard.data.reading.documents.outside as outside
from steelyard.data import Row, Unreadable, clean_files, rows
from steelyard.data.reading.documents.blocks import Block
from steelyard.data.reading.documents.passages import passages
from steelyard.errors import WrongUse


def read(path, **more):
    """Passages as (heading path, text), and what could not be read as its reason."""
    return [
        (r.raw["heading"], r.text) if isinstance(r, Row) else r.why for r in rows({"path": str(path), **more})
    ]


MANUAL = """---
title: Pump
---
# Pump P-7

Pumps water.

## Returns

You may return it within 30 days.

| part | price |
| --- | --- |
| seal | 4 EUR |

```sh
pump --stop  # all
```

Refunds
-------

- by bank
- in 14 days
"""


def test_markdown_is_cut_under_its_headings_and_stays_as_written(tmp_path):
    path = tmp_path / "manual.md"
    path.write_text(MANUAL)
    assert read(path, chars=125) == [
        (["Pump P-7"], "# Pump P-7\n\nPumps water.\n\n## Returns\n\nYou may return it within 30 days.\n\n"
         "| part | price |\n| --- | --- |\n| seal | 4 EUR |"),
        (["Pump P-7"], "```sh\npump --stop  # all\n```\n\nRefunds\n-------\n\n- by bank\n- in 14 days"),
    ]  # fmt: skip


PAGE = """<html><head><title>Shop</title><script>var a = 1</script></head><body>
<nav><ul><li>Home</li><li>Sign in</li></ul></nav>
<div role="main"><h1>Returns &amp; refunds</h1><p>Send it back<br>within <b>30</b> days.</p>
<ul><li>by post<li>by courier</ul><div hidden>never shown</div>
<table><tr><th>part</th><th>price</th></tr><tr><td>seal</td><td>4&nbsp;EUR</td></tr></table>
<pre>a  = 1
b = 2</pre><p>LONG</p></div><footer>© Shop, all rights reserved</footer></body></html>"""


def test_html_gives_what_a_reader_came_for(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE.replace("LONG", "A pump is a machine. " * 12))
    ((heading, text),) = read(path)
    assert heading == ["Returns & refunds"]
    assert text.startswith(
        "Returns & refunds\n\nSend it back\nwithin 30 days.\n\n- by post\n- by courier\n\n"
    )
    assert "part | price\nseal | 4 EUR\n\na  = 1\nb = 2\n\nA pump" in text
    assert not any(word in text for word in ("Home", "rights", "var a", "never shown"))


def test_html_names_its_encoding(tmp_path):
    path = tmp_path / "old.html"
    path.write_bytes('<meta charset="latin-1"><p>Größe des Gehäuses: 3 m'.encode("latin-1"))
    assert read(path) == [([], "Größe des Gehäuses: 3 m")]


def test_text_is_cut_at_paragraphs_and_sentences(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("第一句话。" * 30 + "\n\nA short one.\n", encoding="gb18030")
    texts = [text for _, text in read(path, chars=100)]
    assert "".join(texts).count("第一句话。") == 30 and all(len(t) <= 100 for t in texts)
    assert all(text.startswith("第一句话。") for text in texts[:2]) and texts[-1].endswith("A short one.")


FOOT = (9, 50, 30, "Pump manual, page {}")
TEXT = [(11, 50, 720, "You may return a pump within 30 days of deliv-"),
        (11, 50, 706, "ery, if it was unused."), (11, 50, 670, "A second paragraph."),
        (11, 50, 640, "Part"), (11, 200, 640, "Price"),
        (11, 50, 626, "Seal"), (11, 200, 626, "4 EUR")]  # fmt: skip


PARTS = ("Seal", "Ring", "Hose", "Valve")


def manual(pages: int = 4, odd_page: int = 0) -> bytes:
    def page(n: int) -> list:
        text = [(size, x, y, t.replace("pump", PARTS[n]).replace("Seal", PARTS[n])) for size, x, y, t in TEXT]
        return [(20, 50, 750, f"Chapter {n + 1}"), *text, (*FOOT[:3], FOOT[3].format(n + 1))]

    return pdf([page(n) for n in range(pages)], odd_page)


def test_pdf_gives_headings_paragraphs_tables_and_pages(tmp_path):
    path = tmp_path / "manual.pdf"
    path.write_bytes(manual())
    got = [r for r in rows({"path": str(path), "chars": 200})]
    assert [r.raw["page"] for r in got] == [1, 2, 3, 4]
    assert got[2].raw["heading"] == ["Chapter 3"] and got[2].id == "manual.pdf:3"
    assert got[2].text == (
        "Chapter 3\n\nYou may return a Hose within 30 days of delivery, if it was unused.\n\n"
        "A second paragraph.\n\nPart | Price\nHose | 4 EUR"
    )


def test_docx_gives_headings_lists_and_tables(tmp_path):
    from docx import Document

    document = Document()
    document.add_heading("退货", 1)
    document.add_paragraph("三十天内可以退货。")
    document.add_heading("Details", 2)
    document.add_paragraph("by post", style="List Bullet")
    document.add_paragraph("by courier", style="List Bullet")
    table = document.add_table(2, 2)
    for cell, text in zip([c for row in table.rows for c in row.cells], "abcd", strict=True):
        cell.text = text
    document.save(path := tmp_path / "a.docx")
    assert read(path, chars=45) == [
        (["退货"], "退货\n\n三十天内可以退货。"),
        (["退货", "Details"], "Details\n\n- by post\n- by courier\n\na | b\nc | d"),
    ]


@pytest.mark.parametrize("name", ["crawl.warc", "crawl.warc.gz"])
def test_warc_gives_its_pages_with_their_addresses(tmp_path, name):
    warc(tmp_path / name, [
        ("http://a.example/", "text/html; charset=utf-8", "<h1>One</h1><p>第一页".encode()),
        ("http://a.example/x.png", "image/png", b"\x89PNG"),
        ("http://a.example/big", "text/html", b"<p>" + b"x" * (9 << 20)),
        ("http://a.example/2", "text/plain", b"Two."),
    ])  # fmt: skip
    got = list(rows(str(tmp_path / name)))
    assert [(r.raw["url"], r.text) for r in got if isinstance(r, Row)] == [
        ("http://a.example/", "One\n\n第一页"), ("http://a.example/2", "Two."),
    ]  # fmt: skip
    assert [r.kind for r in got if isinstance(r, Unreadable)] == ["unreadable_page"]


# ------------------------------------------------------------------ damaged, locked, hostile


def endless_tree() -> bytes:
    """Pages whose children are themselves, and say that there are a billion."""
    tree = b"<< /Type /Pages /Kids [1 0 R 1 0 R] /Count 1000000000 >>"
    return joined([tree, b"<< /Type /Catalog /Pages 1 0 R >>"])


def pdf_bomb() -> bytes:
    """A page of 80 MB in 80 kB."""
    packed = zlib.compress(b"0 0 m " * 14_000_000)
    page = b"<< /Type /Page /Parent 3 0 R /MediaBox [0 0 9 9] /Contents 1 0 R /Resources << >> >>"
    stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed) + packed + b"\nendstream"
    tree = b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"
    return joined([stream, page, tree, b"<< /Type /Catalog /Pages 3 0 R >>"])


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "ha ha ha ha ha ha ha ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + ']><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r>'
    "<w:t>&i;</w:t></w:r></w:p></w:body></w:document>"
).encode()


def faults_of(path) -> list[str]:
    """What is said of the file; never more than a screen of text comes out of it."""
    try:
        got = list(rows(str(path), lenient=True))
    except WrongUse as e:
        return [e.why]
    assert sum(len(r.text) for r in got if isinstance(r, Row)) < 1000
    return [r.why for r in got if isinstance(r, Unreadable)]


HOSTILE = {
    "locked.pdf": (lambda p: p.write_bytes(encrypted(manual(1))), "encrypted"),
    "torn.pdf": (lambda p: p.write_bytes(b"%PDF-1.4\n1 0 obj <<"), "no whole PDF"),
    "tree.pdf": (lambda p: p.write_bytes(endless_tree()), ""),
    "bomb.pdf": (lambda p: p.write_bytes(pdf_bomb()), ""),
    "scan.pdf": (lambda p: p.write_bytes(pdf([[]])), "pictures"),
    "bomb.docx": (lambda p: docx_with(p, "word/document.xml", bytes(65 << 20)), "unpacks to more"),
    "laughs.docx": (lambda p: docx_with(p, "word/document.xml", LAUGHS), None),
    "old.docx": (lambda p: p.write_bytes(b"\xd0\xcf\x11\xe0 old"), "old format"),
    "no.docx": (lambda p: p.write_bytes(b"PK nothing"), "no whole DOCX"),
    "torn.warc": (lambda p: p.write_bytes(b"WARC/9.9 nothing\r\n\r\n"), "breaks off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_read_is_named_once(tmp_path, name):
    make, why = HOSTILE[name]
    make(tmp_path / name)
    faults = faults_of(tmp_path / name)
    if why is not None:
        assert len(faults) == 1 and why in faults[0]


def test_a_document_has_only_so_much_time_and_memory(tmp_path, monkeypatch):
    (tmp_path / "bomb.pdf").write_bytes(pdf_bomb())
    monkeypatch.setattr(outside, "MEMORY_BYTES", 120 << 20)
    assert len(faults_of(tmp_path / "bomb.pdf")) == 1


def test_one_page_that_cannot_be_read_leaves_the_others(tmp_path):
    (tmp_path / "a.pdf").write_bytes(manual(3, odd_page=2))
    got = list(rows({"path": str(tmp_path / "a.pdf"), "chars": 200}))
    assert [r.raw["page"] for r in got if isinstance(r, Row)] == [1, 3]
    (fault,) = [r for r in got if isinstance(r, Unreadable)]
    assert fault.kind == "unreadable_page" and "page 2" in fault.why


# ------------------------------------------------------------------ a folder of everything


def test_a_folder_with_documents_is_cleaned_and_every_fault_named(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "manual.pdf").write_bytes(manual())
    (folder / "locked.pdf").write_bytes(encrypted(manual(1)))
    (folder / "guide.md").write_text(MANUAL)
    (folder / "README.md").write_text("# What this folder is")
    (folder / "rows.jsonl").write_text(
        json.dumps({"prompt": "How long?", "completion": "Thirty days."}) + "\n"
    )
    report = clean_files(folder, tmp_path / "out")
    assert report["faults"] == {"locked.pdf": "it is encrypted and asks for a password"}
    assert report["in"] == report["kept"] + report["dropped"] and report["unreadable"] == 1
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {"id": "locked.pdf:1", "reasons": ["unreadable_file"],
            "evidence": {"why": "it is encrypted and asks for a password"}} in dropped  # fmt: skip
    (row, *_) = [json.loads(line) for line in (tmp_path / "out" / "guide.jsonl").read_text().splitlines()]
    assert row["id"] == "guide.md:1" and row["heading"][0] == "Pump P-7"
    assert not (tmp_path / "out" / "README.jsonl").exists()


def test_a_recipes_folder_of_rows_leaves_documents_beside_them(tmp_path):
    (tmp_path / "notes.txt").write_text("about the rows")
    assert [r.text for r in rows(str(tmp_path))] == ["about the rows"]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a row"}) + "\n")
    assert [r.text for r in rows(str(tmp_path))] == ["a row"]


# ------------------------------------------------------------------ passages

BLOCKS = st.builds(
    lambda kind, text, level: Block.heading(text, level) if kind == "heading" else Block(text, kind),
    st.sampled_from(["heading", "text", "text", "table", "code"]),
    st.text(st.characters(codec="utf-8", exclude_categories="CZ") | st.sampled_from(" .\n。"),
            min_size=1, max_size=150),
    st.integers(1, 4),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(BLOCKS, max_size=12), st.integers(20, 80))
def test_passages_lose_nothing_and_keep_their_bound(blocks, chars):
    got = list(passages(blocks, chars))
    tables = [len(b.text) for b in blocks if b.kind == "table"]
    above = sum(len(b.text) + 2 for b in blocks if b.kind == "heading")
    assert all(len(p["text"]) <= max([2 * chars, *tables]) + above + 2 for p in got)
    last = max((n for n, b in enumerate(blocks) if b.kind != "heading" and b.text.strip()), default=-1)
    written = "".join("".join(p["text"] for p in got).split())
    for block in blocks[: last + 1]:
        if block.kind == "text":
            assert all(word in written for word in block.text.split() if len(word) < chars // 2)
