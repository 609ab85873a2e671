"""The ten files of bench/csvs.py: `init` finds the right columns, and every row is accounted for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from steelyard import recipe
from steelyard.artefact import Inputs, Store, Watch
from steelyard.cli.asking.first import answers_for, map_of
from steelyard.data import clean
from steelyard.run import check_data
from steelyard.run.planning.sources import data_settings

BENCH = Path(__file__).resolve().parents[2] / "bench" / "csvs.py"
spec = importlib.util.spec_from_file_location("csvs", BENCH)
csvs = importlib.util.module_from_spec(spec)
sys.modules["csvs"] = csvs
spec.loader.exec_module(csvs)


@pytest.mark.parametrize("name", csvs.FILES)
def test_init_reads_the_file_and_every_row_is_accounted_for(tmp_path, name):
    if "workbook" in name:
        pytest.importorskip("openpyxl")
    made = csvs.FILES[name](tmp_path)
    answers = answers_for(tmp_path, [made.path], "demo", "job", map_of(made.map), ask=False)
    (file,) = answers.data
    assert not file.unmapped
    if not made.map:
        assert file.map == made.guess
    assert file.compare == made.compare
    (tmp_path / "steelyard.yaml").write_text(recipe.draft(answers), encoding="utf-8")
    loaded = recipe.load(tmp_path)
    assert loaded.gate.abilities[file.ability].compare == made.compare

    checked = check_data(loaded)
    assert csvs.faults_of(made, checked) == []
    out = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    clean(Inputs(), data_settings(loaded), out, Watch())
    account = json.loads((out.folder / "account.json").read_text())
    assert csvs.faults_of(made, account) == []
    rows = [json.loads(line) for name in ("train", "test")
            for line in (out.folder / f"{name}.jsonl").read_text().splitlines()]  # fmt: skip
    assert len(rows) == account["kept"] and all(row["messages"][-1]["role"] == "assistant" for row in rows)
    texts = [m["content"] for row in rows for m in row["messages"]]
    assert made.question in texts and made.answer in texts
    if "tool" in name or "JSON in" in name:
        assert all(row["tools"] and row["messages"][1]["tool_calls"] for row in rows)


def test_the_bench_notices_a_lost_row(tmp_path):
    made = csvs.own_headings(tmp_path)
    account = {
        "read": 212,
        "kept": 200,
        "dropped": 12,
        "by_reason": made.dropped,
        "train": 180,
        "held_out": 20,
    }
    assert csvs.faults_of(made, account) == []
    assert csvs.faults_of(made, account | {"read": 211}) and csvs.faults_of(made, account | {"train": 179})
    assert csvs.faults_of(made, account | {"by_reason": {"duplicate": 12}})
