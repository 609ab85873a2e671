from __future__ import annotations

import subprocess
import sys

import pytest

from steelyard.errors import Lacking
from steelyard.ledger import Ledger, Row

ROW = Row(run="r1", step="train", machine="m", predicted={"wall_s": 2.0}, measured={"wall_s": 2.2})


def test_a_row_comes_back_as_written(tmp_path):
    ledger = Ledger(tmp_path / "deep" / "ledger.sqlite")
    assert ledger.rows() == []
    ledger.write(ROW)
    (found,) = ledger.rows(step="train", machine="m")
    assert found.predicted == {"wall_s": 2.0} and found.measured == {"wall_s": 2.2} and found.time_s > 1.7e9
    assert ledger.rows(step="clean") == []


def test_rows_are_chosen_by_plain_columns_only(tmp_path):
    with pytest.raises(ValueError, match="predicted"):
        Ledger(tmp_path / "l").rows(predicted="x")


def test_writers_in_many_processes_lose_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite"
    code = (
        "import sys; from pathlib import Path; from steelyard.ledger import Ledger, Row\n"
        "for i in range(10): Ledger(Path(sys.argv[1])).write(Row(run=sys.argv[2], step=str(i), machine='m'))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(4)]
    assert [c.wait() for c in children] == [0] * 4
    assert len(Ledger(path).rows()) == 40
    assert [r.step for r in Ledger(path).rows(run="2")] == [str(i) for i in range(10)]


def test_a_damaged_file_is_kept_aside_and_said(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(Lacking, match="damaged") as caught:
        Ledger(path).rows()
    assert caught.value.hint
    assert (tmp_path / "ledger.sqlite.damaged-1").read_bytes().startswith(b"no database")
    Ledger(path).write(ROW)
    assert len(Ledger(path).rows()) == 1
