"""Packed files, Arrow, data sets as Hugging Face saves them; lines without end, files that are torn."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

import steelyard.data.reading.opened as opened
from steelyard.cli.app import make
from steelyard.data import Row, Source, clean_files, needed_files, rows, sniff
from steelyard.errors import WrongUse

PAIRS = [{"prompt": f"What is item {n}?", "completion": f"Item {n} is number {n * 7}."} for n in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()
TABLE = pyarrow.Table.from_pylist(PAIRS)


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, "zstd", asbytes=True)


def texts(path) -> list[str]:
    return [r.messages[0]["content"] for r in rows(str(path)) if isinstance(r, Row)]


ASKED = [row["prompt"] for row in PAIRS]
CSV = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in PAIRS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.zst", zstd(JSONL)), ("a.jsonl.gz", gzip.compress(JSONL)), ("a.csv.zst", zstd(CSV.encode())),
        ("two.jsonl.zst", zstd(JSONL[:400]) + zstd(JSONL[400:])),
        ("a.json.zst", zstd(json.dumps(PAIRS).encode())),
        ("wide.csv.zst", zstd(CSV.encode("utf-16"))),
    ],
)  # fmt: skip
def test_packed_lines_are_the_same_rows(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert texts(tmp_path / name) == ASKED
    assert sniff(tmp_path / name).rows == 20


def test_a_torn_zstd_file_is_named(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(JSONL)[:-30])
    with pytest.raises(WrongUse) as caught:
        texts(tmp_path / "a.jsonl.zst")
    assert caught.value.code == "data.unreadable_file"


# ------------------------------------------------------------------ Hugging Face


def saved(folder, table, shards: int = 2) -> None:
    """As `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    step = -(-len(table) // shards)
    for n, name in enumerate(names):
        with (
            pyarrow.OSFile(str(folder / name), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as to,
        ):
            to.write_table(table.slice(n * step, step))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"prompt": {"dtype": "string"}}}))


def test_a_saved_data_set_gives_its_shards(tmp_path):
    saved(tmp_path / "set", TABLE)
    assert texts(tmp_path / "set") == ASKED


def test_of_saved_splits_training_takes_train(tmp_path):
    saved(tmp_path / "set" / "test", TABLE.slice(15), 1)
    saved(tmp_path / "set" / "train", TABLE.slice(0, 15))
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "train"]}))
    assert texts(tmp_path / "set") == ASKED[:15] and texts(tmp_path / "set" / "test") == ASKED[15:]
    report = clean_files(tmp_path / "set", tmp_path / "out")
    assert (report["in"], report["faults"]) == (20, {})


def test_a_cleaned_folder_gives_its_rows_alone(tmp_path):
    """Not what was dropped, nor the report; a file of that name that holds rows is one like others."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_bytes(JSONL + b'{"text": ""}\n')
    clean_files(tmp_path / "in", tmp_path / "out")
    assert {"dropped.jsonl", "report.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    kept = texts(tmp_path / "out")
    assert kept and set(kept) <= set(ASKED)
    again = clean_files(tmp_path / "out", tmp_path / "again")
    assert (again["in"], again["dropped"]) == (len(kept), 0)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "dropped.jsonl").write_bytes(JSONL)
    assert texts(tmp_path / "own") == ASKED


def test_what_another_machine_needs_to_read_a_data_set(tmp_path):
    saved(tmp_path / "set", TABLE)
    (tmp_path / "set" / ".env").write_text("KEY=1")
    taken = [path.name for path in needed_files(Source(path="set"), tmp_path)]
    assert sorted(taken) == sorted(p.name for p in (tmp_path / "set").iterdir() if p.name != ".env")


def test_a_repository_of_the_hub_gives_its_shards_without_its_card(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Card")
    pyarrow.parquet.write_table(TABLE.slice(0, 15), tmp_path / "data" / "train-00000-of-00001.parquet")
    pyarrow.parquet.write_table(TABLE.slice(15), tmp_path / "data" / "test-00000-of-00001.parquet")
    assert texts(tmp_path) == ASKED[:15]
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "dataset_infos.json").write_text("{}")
    (tmp_path / "lone" / "rows.jsonl").write_bytes(JSONL)
    assert texts(tmp_path / "lone") == ASKED


def test_a_data_set_picked_by_an_index_is_refused(tmp_path):
    saved(tmp_path / "set", TABLE)
    state = {"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    with pytest.raises(WrongUse, match="cannot be read") as caught:
        texts(tmp_path / "set")
    assert "flatten_indices" in caught.value.why


def test_rows_of_a_describing_name_are_rows(tmp_path):
    for name in ("state.json", "license.jsonl", "notice.csv"):
        (tmp_path / name).write_bytes(CSV.encode() if name.endswith("csv") else JSONL)
    (tmp_path / "LICENSE.txt").write_text("Apache")
    (tmp_path / "README.zh-CN.md").write_text("# 说明")
    assert len(texts(tmp_path)) == 60 and clean_files(tmp_path, tmp_path / "out")["in"] == 60


def test_arrow_as_a_file_is_read_too(tmp_path):
    with (
        pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pyarrow.ipc.new_file(file, TABLE.schema) as to,
    ):
        to.write_table(TABLE)
    assert texts(tmp_path / "a.arrow") == ASKED


# ------------------------------------------------------------------ bad input, all in one folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A torn Parquet, a CSV in two encodings, a line without end, a folder that is closed; one good file."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.jsonl").write_bytes(JSONL)
    pyarrow.parquet.write_table(TABLE, folder / "torn.parquet")
    torn = (folder / "torn.parquet").read_bytes()
    (folder / "torn.parquet").write_bytes(torn[: len(torn) // 2])
    lines = [f"第{n}件货物在哪里？,第{n}件货物在路上。\n" for n in range(9)]
    mixed = b"prompt,completion\n" + "".join(lines[:6]).encode() + "".join(lines[6:]).encode("gb18030")
    (folder / "mixed.csv").write_bytes(mixed)
    monkeypatch.setattr(opened, "LINE_BYTES_MAX", 1 << 20)
    monkeypatch.setattr("steelyard.data.reading.files.LINE_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(opened.bounded, "__defaults__", (1 << 20,))
    wide = json.dumps({"prompt": "x" * (3 << 20), "completion": "y"}) + "\n"
    (folder / "wide.jsonl").write_text(
        wide + json.dumps({"prompt": "Is it short?", "completion": "It is."}) + "\n"
    )
    (folder / "closed").mkdir()
    (folder / "closed" / "hidden.jsonl").write_bytes(JSONL)
    close(folder / "closed", monkeypatch)
    return folder


def close(folder, monkeypatch) -> None:
    """Root may list any folder: there the refusal of the system is feigned."""
    folder.chmod(0)
    listed = os.scandir

    def refuse(path="."):
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_each_fault_is_named_and_the_rest_goes_on(folder, tmp_path):
    report = clean_files(folder, tmp_path / "out")
    (folder / "closed").chmod(0o700)
    assert sorted(report["faults"]) == ["closed", "torn.parquet"]
    assert report["by_reason"] == {"broken_encoding": 3, "too_long": 1, "unreadable_file": 2}
    assert report["kept"] == 20 + 6 + 1 and report["unreadable"] == 6
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {d["id"]: d.get("evidence") for d in dropped if "too_long" in d["reasons"]} == {
        "wide.jsonl:1": {"why": "the line has more than 1 MiB"}
    }


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--strict"], 4)])
def test_strict_says_so_by_its_exit_code(folder, tmp_path, flags, code):
    order = ["clean", "--input", str(folder), "--output", str(tmp_path / "out"), *flags]
    answer = CliRunner().invoke(make(order), order)
    (folder / "closed").chmod(0o700)
    assert answer.exit_code == code, answer.output
    assert (tmp_path / "out" / "good.jsonl").exists()


def test_one_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(WrongUse) as caught:
        clean_files(tmp_path / "torn.parquet", tmp_path / "out")
    assert caught.value.code == "data.unreadable_file" and caught.value.where.file.endswith("torn.parquet")


def test_a_line_without_end_is_not_held(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(b'{"text": "')
        file.truncate(70 << 20)
    (fault,) = rows(str(tmp_path / "a.jsonl"))
    assert fault.kind == "too_long"
