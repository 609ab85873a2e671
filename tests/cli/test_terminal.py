"""Progress off a terminal, and Ctrl-C in two steps."""

from __future__ import annotations

import os
import signal
import time

import pytest

from steelyard.cli import terminal
from steelyard.cli.output import table


def test_ctrl_c_once_asks_twice_stops(capsys) -> None:
    with pytest.raises(KeyboardInterrupt), terminal.Terminal() as watch:
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.stop
        assert "Ctrl-C again stops now" in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_a_step_without_a_safe_point_is_stopped_anyway(monkeypatch) -> None:
    monkeypatch.setattr(terminal, "STOP_WITHIN_S", 1)
    with pytest.raises(KeyboardInterrupt), terminal.Terminal():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_handlers_and_alarm_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with terminal.Terminal() as watch:
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.stop
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.alarm(0) == 0


def test_one_plain_line_now_and_then(capsys, monkeypatch) -> None:
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0)
    monkeypatch.setattr("steelyard.artefact.Progress.EVERY_S", 0)
    with terminal.Terminal() as watch, watch.progress("train", total=200, unit="tokens") as bar:
        bar.advance(100, loss=0.51234)
    told = capsys.readouterr().err
    assert "  train: 50 %, 100 tokens" in told and "loss 0.512" in told and "left" in told
    assert "\x1b" not in told


def test_steps_are_told_and_a_reused_one_once(capsys) -> None:
    with terminal.Terminal() as watch:
        watch.log("step.start", step="clean")
        watch.log("step.reused", step="clean", hash="x")
        watch.log("step.end", step="clean", state="reused")
        watch.log("checkpoint.published", step=3)
    assert capsys.readouterr().err.splitlines() == ["clean ...", "clean: unchanged, reused"]


def test_columns_of_chinese_are_aligned() -> None:
    assert table(("key", "n"), [("客服", 1.0), ("desk", 20.5)]) == [
        "  key      n",
        "  客服     1",
        "  desk  20.5",
    ]


def test_an_outcome_tells_the_service_first_and_what_next_last(tmp_path) -> None:
    from steelyard.cli.runs import outcome_lines
    from steelyard.run import Outcome, StepRecord

    step = StepRecord("train", "done", predicted={"wall_s": 90.0}, measured={"wall_s": 101.0, "steps": 7})
    outcome = Outcome("20261124-1", str(tmp_path), [step])
    outcome.scores = {"base": {"客服": 0.01}, "tuned": {"客服": 0.935}, "served": {"客服": 0.93}}
    outcome.service = {"url": "http://127.0.0.1:8000", "pid": 7}
    outcome.report = "report.html"
    lines = outcome_lines(outcome, tmp_path / "recipe.yaml")
    assert lines[0].startswith("live: http://127.0.0.1:8000/v1")
    assert "  客服     1.0 %  93.5 %  93.0 %" in lines
    assert any("90 s" in line and "1 min 41 s" in line for line in lines)
    assert lines[-1].startswith("next: steelyard chat http://127.0.0.1:8000")


def test_a_plan_is_shown_step_by_step_and_then_by_device() -> None:
    # A real plan needs a calibrated machine; its parts stand in for it here.
    from types import SimpleNamespace as Some

    from steelyard.cli.runs import plan_lines
    from steelyard.units import around

    step = {
        "wall_s": around(90, 0.2, "s", "calibrated"),
        "peak_rss_bytes": around(2e9, 0.1, "bytes", "modelled"),
    }
    best = {"device": "xeon-8380", "devices": 1, "fits": True, "why_not": None, "settings": {"tp": 2}}
    best |= {"time_s": around(60, 0.5, "s", "fitted").as_json()}
    best |= {"cost_usd": around(1.5, 0.5, "USD", "fitted").as_json(), "memory_bytes_per_device": None}
    lost = best | {"device": "gaudi2", "fits": False, "why_not": "over budget", "cost_usd": None}
    plans = Some(as_json=lambda: {"plans": [best, lost], "best": 0})
    ready = Some(local=Some(steps={"train": step}), plans=plans, machine=Some(cpu_model="Zen 4"))
    assert plan_lines(ready) == [
        "on this machine (Zen 4):",
        "  step   time  memory  cost",
        "  train  90 s  2.0 GB     -",
        "   device     n  time  80 % interval    cost     80 % interval  memory  known by  why",
        ">  xeon-8380  1  60 s   40 s .. 90 s  $ 1.50  $ 1.00 .. $ 2.25       -  fitted",
        "  1 more in --json",
        "settings: tp 2",
    ]
