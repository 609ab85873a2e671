"""Every format, shape and encoding that a user's file may have, read through the door."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import zipfile

import pytest

from steelyard.data import Row, Source, Unreadable, rows, sniff
from steelyard.errors import WrongUse

CHAT = [{"role": "user", "content": "退款多久到账？"}, {"role": "assistant", "content": "三个工作日。"}]
PAIRS = [("退款多久到账？", "三个工作日。"), ('He said "hi",\nthen left', "ok; done"), ("café 3,5", "naïve")]


def write_csv(path, header, lines, encoding="utf-8", delimiter=",", **more):
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(lines)


def read(path, **source):
    return list(rows(Source(path=str(path), **source)))


def turns(row):
    return [(m["role"], m["content"]) for m in row.messages]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": CHAT}, [("user", "退款多久到账？"), ("assistant", "三个工作日。")]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, [("user", "a")]),
        ({"prompt": "a", "completion": "b"}, [("user", "a"), ("assistant", "b")]),
        (
            {"prompt": "a", "completion": 7, "system": "s"},
            [("system", "s"), ("user", "a"), ("assistant", "7")],
        ),
        (
            {
                "prompt": [{"role": "user", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}],
            },
            [("user", "a"), ("assistant", "b")],
        ),
        ({"instruction": "i", "input": "x", "output": "o"}, [("user", "i\nx"), ("assistant", "o")]),
        ({"instruction": "i", "input": "", "output": "o"}, [("user", "i"), ("assistant", "o")]),
        (
            {"instruction": "i", "output": "o", "history": [["q", "a"]]},
            [("user", "q"), ("assistant", "a"), ("user", "i"), ("assistant", "o")],
        ),
        (
            {
                "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
                "system": "s",
            },
            [("system", "s"), ("user", "a"), ("assistant", "b")],
        ),
        ({"question": "a", "answer": "b"}, [("user", "a"), ("assistant", "b")]),
    ],
)
def test_jsonl_shapes(tmp_path, record, expected):
    (tmp_path / "a.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n")
    (row,) = read(tmp_path / "a.jsonl", ability="x")
    assert turns(row) == expected and row.ability == "x" and row.text is None


def test_text_rows_and_a_list_in_one_json_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\r\n\n{"text": "two"}')
    (tmp_path / "b.json").write_text(json.dumps([{"instruction": "i", "output": "o"}] * 2))
    assert [(r.text, r.line) for r in read(tmp_path / "a.jsonl")] == [("one", 2), ("two", 4)]
    assert len(read(tmp_path / "b.json")) == 2


def test_accept_and_compare_stay_with_their_row(tmp_path):
    record = {"messages": CHAT, "accept": ["3 天"], "compare": "label"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    (row,) = read(tmp_path / "a.jsonl")
    assert row.as_json()["accept"] == ["3 天"] and row.as_json()["compare"] == "label"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_encodings_are_detected_and_stated(tmp_path, encoding, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"prompt": a, "completion": b}, ensure_ascii=False) for a, b in PAIRS[:1] * 20]
        path.write_bytes("\n".join(lines).encode(encoding))
    else:
        write_csv(path, ["prompt", "completion"], PAIRS[:1] * 20, encoding)
    found = read(path)
    assert [turns(r) for r in found] == [[("user", PAIRS[0][0]), ("assistant", PAIRS[0][1])]] * 20
    assert sniff(path).encoding.startswith(
        encoding.removesuffix("-sig") if encoding != "utf-16" else "utf-16"
    )


def test_latin_text_is_not_taken_for_chinese(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "Ça été déjà réglé, à bientôt, élève"}'.encode("latin-1"))
    with pytest.raises(WrongUse) as caught:
        read(tmp_path / "a.jsonl")
    assert caught.value.code == "data.undecodable" and caught.value.where.line == 1
    (row,) = read(tmp_path / "a.jsonl", encoding="latin-1")
    assert row.text.startswith("Ça été")


def test_a_few_broken_lines_do_not_change_the_encoding(tmp_path):
    lines = [json.dumps({"text": f"第{i}行"}, ensure_ascii=False).encode() for i in range(9)]
    lines[4] = '{"text": "第四行"}'.encode()[:-6] + b'"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = read(tmp_path / "a.jsonl")
    assert [r.kind for r in found if isinstance(r, Unreadable)] == ["broken_encoding"]
    assert found[4].line == 5 and len(found) == 9


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_round_trip(tmp_path, delimiter):
    write_csv(tmp_path / "a.csv", ["prompt", "completion"], PAIRS, delimiter=delimiter)
    assert [turns(r) for r in read(tmp_path / "a.csv")] == [[("user", a), ("assistant", b)] for a, b in PAIRS]


def test_xlsx_and_parquet_round_trip(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    pyarrow = pytest.importorskip("pyarrow")
    book = openpyxl.Workbook()
    book.active.append(["问题", "回复", "n"])
    for n, pair in enumerate(PAIRS):
        book.active.append([*pair, n])
    book.create_sheet("other").append(["a"])
    book.save(tmp_path / "a.xlsx")
    import pyarrow.parquet as parquet

    table = {"问题": [a for a, _ in PAIRS], "回复": [b for _, b in PAIRS], "n": [1.0, 2.5, None]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"messages": [CHAT, CHAT]}), tmp_path / "chat.parquet")
    for name in ("a.xlsx", "a.parquet"):
        found = read(tmp_path / name, map={"user": "问题", "assistant": "回复"})
        assert [turns(r) for r in found] == [[("user", a), ("assistant", b)] for a, b in PAIRS]
    assert [r.text for r in read(tmp_path / "a.parquet", map={"text": "n"})] == ["1", "2.5", ""]
    assert len(read(tmp_path / "chat.parquet")) == 2


SHEET = "xl/worksheets/sheet1.xml"
ROW = b'<row r="1"><c r="A1" t="inlineStr"><is><t>text</t></is></c></row>'


def changed_book(path, part, content) -> None:
    """A workbook of one row, one of its parts replaced."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["text"])
    book.save(path.with_suffix(".good"))
    with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w", 8) as bad:
        for name in {*good.namelist(), part}:
            bad.writestr(name, content if name == part else good.read(name))


def sheet_of_xml(rows: bytes) -> bytes:
    space = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    return (
        b"<worksheet "
        + space
        + b'><dimension ref="A1:ZZZ99999999"/><sheetData>'
        + rows
        + b"</sheetData></worksheet>"
    )


@pytest.mark.parametrize(
    ("part", "content", "why"),
    [
        ("xl/sharedStrings.xml", bytes(40 << 20), "a bomb"),
        (SHEET, sheet_of_xml(ROW + b'<row r="999999999999999"><c r="A9"><v>1</v></c></row>'), "rows"),
        (SHEET, sheet_of_xml(ROW + b'<row><c r="ZZZ2"><v>1</v></c></row>' * 60), "cells"),
    ],
)
def test_a_workbook_that_expands_is_one_clear_error(tmp_path, monkeypatch, part, content, why):
    monkeypatch.setattr("steelyard.data.reading.workbook.SHEET_CELLS", 1_000_000)
    changed_book(tmp_path / "b.xlsx", part, content)
    with pytest.raises(WrongUse, match="cannot be read") as caught:
        list(rows(Source(path="b.xlsx", map={"text": "text"}), tmp_path))
    assert why in caught.value.why


def test_a_workbook_with_a_wrong_dimension_and_a_gap_is_read(tmp_path):
    changed_book(tmp_path / "b.xlsx", SHEET, sheet_of_xml(ROW + ROW.replace(b"1", b"7")))
    found = read(tmp_path / "b.xlsx", map={"text": "text"})
    assert [(r.text, r.id) for r in found] == [("text", "b.xlsx:7")]


def test_gzip_globs_folders_and_names(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.jsonl.gz", "a.jsonl.gz"):
        with gzip.open(tmp_path / "in" / name, "wt") as file:
            file.write('{"text": "x"}\n{"text": "y"}\n')
    (tmp_path / "in" / "notes.rtf").write_text("no data")
    for pattern in ("in/*.jsonl.gz", "in"):
        found = list(rows(Source(path=pattern), tmp_path))
        assert [r.id for r in found] == [
            "in/a.jsonl.gz:1", "in/a.jsonl.gz:2", "in/b.jsonl.gz:1", "in/b.jsonl.gz:2",
        ]  # fmt: skip


def test_a_thread_column_joins_rows_to_conversations(tmp_path):
    lines = [
        ("T1", "你好", "您好"), ("T2", "坏了", "换新"), ("T1", "多久", "三天"), ("", "单独", "好"),
        ("T2", "谢谢", ""),
    ]  # fmt: skip
    write_csv(tmp_path / "a.csv", ["工单号", "问题", "回复"], lines, "gb18030")
    found = read(tmp_path / "a.csv", map={"user": "问题", "assistant": "回复", "thread": "工单号"})
    assert [[c for _, c in turns(r)] for r in found] == [
        ["你好", "您好", "多久", "三天"], ["坏了", "换新", "谢谢"], ["单独", "好"],
    ]  # fmt: skip
    assert [r.line for r in found] == [2, 3, 5]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"text": "cut', "broken_json"),
        ("[1, 2]", "wrong_shape"),
        ('{"txet": "a"}', "wrong_shape"),
        ('{"text": 3}', "wrong_shape"),
        ('{"messages": "no"}', "wrong_shape"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "wrong_shape"),
        ('{"messages": [{"content": "a"}]}', "wrong_shape"),
        ('{"messages": [{"role": "user", "content": {"a": 1}}]}', "wrong_shape"),
        ('{"prompt": {"a": 1}, "completion": "b"}', "wrong_shape"),
    ],
)
def test_a_bad_line_is_told_by_kind_and_never_quoted(tmp_path, line, kind):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + '\n{"text": "good"}\n')
    found = read(tmp_path / "a.jsonl")
    assert [type(r) for r in found] == [Row, Unreadable, Row]
    assert (found[1].kind, found[1].line) == (kind, 2) and "cut" not in found[1].why


def test_csv_rows_of_the_wrong_width_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\na,b,c\n\na\n")
    assert [(r.line, isinstance(r, Row)) for r in read(tmp_path / "a.csv")] == [
        (2, True),
        (3, False),
        (5, False),
    ]


def columns(tmp_path, name="a.csv"):
    write_csv(tmp_path / name, ["问题描述", "客服回复", "工单"], [("a", "b", "c")])
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "code", "hint"),
    [
        ({"path": "gone.csv"}, "data.missing_file", "a.csv"),
        ({"path": "nofolder/gone.csv"}, "data.missing_file", ""),
        ({"path": "*.tsv"}, "data.missing_file", ""),
        ({"path": "empty"}, "data.missing_file", ""),
        ({"path": "notes.rtf"}, "data.unknown_format", ".jsonl"),
        ({"path": "a.csv"}, "data.no_shape", "map:"),
        (
            {"path": "a.csv", "map": {"user": "问题描写", "assistant": "客服回复"}},
            "data.missing_column",
            "问题描述",
        ),
        ({"path": "a.csv", "map": {"usr": "问题描述"}}, "data.unknown_map_word", "user"),
        ({"path": "a.csv", "map": {"thread": "工单"}}, "data.map_incomplete", "user"),
        ({"path": "a.csv", "format": "alpacca"}, "data.unknown_format", "alpaca"),
        ({"path": "a.csv", "encoding": "utf-9"}, "data.unknown_encoding", "gb18030"),
        ({"path": "twice.csv"}, "data.column_twice", ""),
        ({"path": "no.xlsx"}, "data.unreadable_file", ""),
        ({"path": "no.parquet"}, "data.unreadable_file", ""),
        ({"path": "cut.jsonl.gz"}, "data.unreadable_file", ""),
        ({"path": "book.xlsx", "sheet": "两月"}, "data.missing_sheet", "一月"),
    ],
)
def test_one_clear_error_each(tmp_path, source, code, hint):
    columns(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.rtf").write_text("x")
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    (tmp_path / "no.xlsx").write_bytes(b"PK no")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 9000)[:-20])
    if source["path"] == "book.xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        book.active.title = "一月"
        book.save(tmp_path / "book.xlsx")
    with pytest.raises(WrongUse) as caught:
        list(rows(source, tmp_path))
    problem = caught.value
    assert problem.code == code and hint in problem.hint and problem.message and problem.where.file


def test_sniff_tells_what_init_needs(tmp_path):
    found = sniff(columns(tmp_path))
    assert (found.format, found.shape, found.rows) == ("csv", None, 1)
    assert [c.name for c in found.columns] == ["问题描述", "客服回复", "工单"]
    assert [c.samples for c in found.columns] == [("a",), ("b",), ("c",)]
    assert found.guess.map == {"user": "问题描述", "assistant": "客服回复"}
    (tmp_path / "b.jsonl").write_text('{"messages": []}\n{\n')
    assert (sniff(tmp_path / "b.jsonl").shape, sniff(tmp_path / "b.jsonl").unreadable) == ("messages", 1)


def test_the_room_opens_without_heavy_packages():
    code = (
        "import sys, steelyard.data; "
        "bad = {'torch', 'pyarrow', 'openpyxl', 'tokenizers', 'transformers'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
