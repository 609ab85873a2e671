"""The real command line in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.main import run as command
from steelyard.cli.telling import options

STEELYARD = [sys.executable, "-m", "steelyard"]


@pytest.fixture(autouse=True)
def flags_as_before(monkeypatch):
    """A command line run in this process sets the flags of the process: not for the next test."""
    for name, value in vars(options.Options()).items():
        monkeypatch.setattr(options.OPTIONS, name, value)


@pytest.fixture
def steelyard(tmp_path: Path):
    home = {
        "HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "STEELYARD_LEDGER": str(tmp_path / "ledger.db"),
        "STEELYARD_CACHE": str(tmp_path / "cache"),
        "LANG": "C.UTF-8",
    }
    base = {k: v for k, v in os.environ.items() if not k.startswith(("STEELYARD", "LC_")) and k != "LANG"}

    def run(
        *words: str, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*STEELYARD, *words],
            cwd=tmp_path,
            env=base | home | (env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def told(capsys, monkeypatch, tmp_path):
    """One command line in this process: exit code, and the document or the two streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, folder in (("STEELYARD_CACHE", "cache"), ("XDG_STATE_HOME", "state"), ("HOME", "home")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("STEELYARD_LANG", "en")

    def run(*words: str, as_json: bool = True) -> tuple[int, Any]:
        monkeypatch.setattr(options.OPTIONS, "settings", [])
        monkeypatch.setattr(options.OPTIONS, "quiet", False)
        code = command([*words, *(["--json"] if as_json else [])])
        out, err = capsys.readouterr()
        return code, json.loads(out) if as_json else (out, err)

    return run
