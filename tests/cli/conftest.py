"""The real command line in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEELYARD = [sys.executable, "-m", "steelyard"]


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
