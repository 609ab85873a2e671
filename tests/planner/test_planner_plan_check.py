from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "plan_check.py"


def run(tmp_path, predicted, measured, state="done"):
    step = {"step": "train", "state": state, "predicted": predicted, "measured": measured}
    document = tmp_path / "up.json"
    document.write_text(json.dumps({"steps": [step]}))
    return subprocess.run([sys.executable, str(SCRIPT), str(document)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("predicted", "measured", "code"),
    [
        ({"step_s": 1.1, "peak_rss_bytes": 1e9}, {"step_s": 1.0, "peak_rss_bytes": 1.1e9}, 0),
        ({"step_s": 1.3}, {"step_s": 1.0}, 1),
        ({"peak_rss_bytes": 1.2e9}, {"peak_rss_bytes": 1e9}, 1),
        ({"wall_s": 1.0}, {"wall_s": 4.0}, 0),
        ({"wall_s": 10.0}, {"wall_s": 20.0}, 1),
    ],
)
def test_figures_outside_their_limit_give_exit_1(tmp_path, predicted, measured, code):
    done = run(tmp_path, predicted, measured)
    assert done.returncode == code, done.stdout + done.stderr
    assert (
        ("outside" in done.stdout.splitlines()[1]) == bool(code)
        if len(done.stdout.splitlines()) > 2
        else True
    )


def test_nothing_measured_is_no_success(tmp_path):
    assert run(tmp_path, {"step_s": 1}, {}, "reused").returncode == 1
