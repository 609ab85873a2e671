from __future__ import annotations

import errno
import json
import re
import sys
from pathlib import Path

import pytest

import steelyard.cli.main  # noqa: F401 (the door's `main` hides the module)
from steelyard.errors import from_os_error, writing_in

ROOT = Path(__file__).resolve().parents[1]


def test_a_full_disk_without_a_file_is_told_of_the_folder():
    with pytest.raises(OSError) as caught, writing_in("/runs/desk"):
        raise OSError(errno.ENOSPC, "No space left on device")
    problem = from_os_error(caught.value)
    assert problem is not None and problem.code == "disk.full" and problem.where.file == "/runs/desk"


def test_a_file_that_is_named_stays():
    with pytest.raises(OSError) as caught, writing_in("/runs/desk"):
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/desk/model.bin")
    assert caught.value.filename == "/runs/desk/model.bin"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        SystemError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_no_memory_is_no_bug(error, monkeypatch, capsys):
    def verb(arguments):
        raise error

    module = sys.modules["steelyard.cli.main"]
    monkeypatch.setattr(module, "_verb", verb)
    monkeypatch.setattr(module.options.OPTIONS, "json", False)  # given back: `run` sets it
    assert module.run(["devices", "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "memory.exhausted"


def test_no_hint_names_a_package_that_no_index_has() -> None:
    """`steelyard` is installed from its checkout alone."""
    pages = [*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")]
    wrong = [str(p) for p in pages if re.search(r"pip install '?steelyard", p.read_text(encoding="utf-8"))]
    assert len(pages) > 100 and wrong == []


def test_a_file_where_a_folder_has_to_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as raised:
        (tmp_path / "file" / "below").mkdir()
    problem = from_os_error(raised.value)
    assert problem is not None and problem.code == "disk.no_folder" and problem.exit_code == 5
