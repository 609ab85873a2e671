"""Progress off a terminal, and Ctrl-C in two steps."""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.cli.telling import terminal
from steelyard.cli.telling.output import _width, table
from steelyard.cli.telling.whole import Whole


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
    from steelyard.cli.verbs.runs import outcome_lines
    from steelyard.run import Outcome, StepRecord

    step = StepRecord("train", "done", predicted={"wall_s": 90.0}, measured={"wall_s": 101.0, "steps": 7})
    outcome = Outcome("20261124-1", str(tmp_path), [step])
    outcome.scores = {"base": {"客服": 0.01}, "tuned": {"客服": 0.935}, "served": {"客服": 0.93}}
    outcome.service = {"url": "http://127.0.0.1:8000", "pid": 7}
    outcome.report = "report.html"
    lines = outcome_lines(outcome, tmp_path / "recipe.yaml")
    assert lines[0].startswith("live: http://127.0.0.1:8000/v1")
    assert "  客服     1.0 %  93.5 %  93.0 %" in lines
    assert any("1 min 30 s" in line and "1 min 41 s" in line for line in lines)
    assert lines[-1].startswith("next: steelyard chat http://127.0.0.1:8000")


def test_a_plan_shows_this_machine_and_others_in_a_line(monkeypatch) -> None:
    from steelyard.cli.telling.plan_lines import plan_lines
    from steelyard.units import around

    monkeypatch.setenv("COLUMNS", "80")
    step = {
        "wall_s": around(90, 0.2, "s", "calibrated").as_json(),
        "peak_rss_bytes": around(2e9, 0.1, "bytes", "modelled").as_json(),
    }
    best = {"device": "xeon-8380", "devices": 1, "fits": True, "why_not": None, "settings": {"tp": 2}}
    best |= {"time_s": around(60, 0.5, "s", "fitted").as_json()}
    best |= {"cost_usd": around(1.5, 0.5, "USD", "fitted").as_json(), "memory_bytes_per_device": None}
    lost = best | {"device": "gaudi2", "fits": False, "why_not": "over budget", "cost_usd": None}
    document = {
        "machine": "Zen 4",
        "steps": {"train": step, "gate": {}},
        "facts": {"rows": 1800, "held_out": 200},
        "settings": {"train": [{"stage": "sft", "lora_rank": 16, "learning_rate": 8.7e-4}]},
        "origins": {"train.0.lora_rank": "recipe", "train.0.learning_rate": "plan: by width of the model"},
        "plans": {"plans": [best, *[lost] * 8], "best": 0},
    }
    assert plan_lines(document) == [
        "this machine (Zen 4): 1 min 30 s in all, at most 2.0 GB of memory",
        "  step         time   80 % interval  memory",
        "  train  1 min 30 s  1.2 .. 1.8 min  2.0 GB",
        "  1,800 rows to train on, 200 held out for the scores",
        "  setting        value    origin",
        "  stage          sft",
        "  lora_rank      16       recipe",
        "  learning_rate  0.00087  plan: by width of the model",
        "elsewhere, by the model: xeon-8380 in 1 min, $ 1.50",
        "  9 devices: steelyard plan RECIPE --all",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_long_last_column_is_broken_between_words(width: int) -> None:
    text = "costs 1.3 times as much, but is 1.4 times as fast, 78 GB"
    lines = table(
        ("device", "remark"),
        [("h100", text), ("费用", "费用为 1.4 倍，但速度为 1.2 倍，内存 73 GB")],
        wrap=width,
    )
    assert all(_width(line) <= width for line in lines)
    assert text.split() == [w for w in " ".join(lines).split() if w in text.split()][: len(text.split())]


def test_steps_count_themselves_and_say_rows_and_time(capsys) -> None:
    with terminal.Terminal() as watch:
        watch.log("step.start", step="clean", index=2, count=6, predicted_s=1.0, left_s=100.0)
        reasons = {"empty": 4, "duplicate": 10}
        watch.log("clean.done", rows_in=199, kept=185, dropped=14, by_reason=reasons)
        watch.log("step.end", step="clean", state="done", index=2, count=6, wall_s=0.41)
        watch.log("step.start", step="serve", index=6, count=6)
        watch.log("step.end", step="serve", state="failed", index=6, count=6, wall_s=3.0)
    assert capsys.readouterr().err.splitlines() == [
        "2 of 6  clean ...",
        "2 of 6  clean: done, 199 rows read, 185 kept, 14 dropped (duplicate 10, empty 4), 410 ms",
        "6 of 6  serve ...",
        "6 of 6  serve: failed",
    ]


def test_a_line_says_the_time_left_of_all(capsys, monkeypatch) -> None:
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0)
    monkeypatch.setattr("steelyard.artefact.Progress.EVERY_S", 0)
    with terminal.Terminal() as watch:
        watch.log("step.start", step="gate", index=5, count=6, predicted_s=300.0, left_s=310.0)
        with watch.progress("score tuned", total=200, unit="rows") as bar:
            bar.advance(100)
    line = [text for text in capsys.readouterr().err.splitlines() if "score tuned" in text][-1]
    assert "50 %, 100 rows" in line and line.endswith("5 min 10 s left of all")


SECONDS = st.floats(0.01, 1e4)


@given(SECONDS, st.floats(0, 1e4), st.floats(0.8, 1.2), st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_time_left_never_climbs_while_a_step_keeps_its_prediction(step_s, later_s, pace, shares) -> None:
    """A step that takes 0.8 to 1.2 of what was predicted of it."""
    whole = Whole()
    whole.begin({"index": 1, "count": 2, "predicted_s": step_s, "left_s": step_s + later_s}, 0.0)
    said = [whole.left_s(share * step_s * pace, share) for share in sorted(shares)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(said))
    assert all(left >= 0 for left in said)


def test_a_step_that_goes_wrong_is_seen() -> None:
    whole = Whole()
    whole.begin({"index": 1, "count": 1, "predicted_s": 100.0, "left_s": 100.0}, 0.0)
    assert whole.left_s(10.0, 0.1) == pytest.approx(90.0)
    assert whole.left_s(400.0, 0.5) > 150  # four times slower than predicted


def test_the_curves_of_a_training_stand_beside_its_bar(capsys, monkeypatch) -> None:
    """Live: the loss and that of held-out rows, each with its course so far."""
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0)
    watch = terminal.Terminal()
    with watch.progress("train", total=100, unit="tokens") as bar:
        bar.EVERY_S = 0
        for n in range(10):
            bar.advance(10, loss=9.0 - n, **({"eval_loss": 5.0 - n / 3} if n % 3 == 0 else {}))
        last = terminal.describe(bar, courses=watch.courses)
    assert "loss 0 █" in last
    assert "held-out loss 2 " in last and last.count("█") == 3
    assert "held-out loss" in capsys.readouterr().err


@given(st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_a_line_of_bars_is_short_and_spans_all_heights(values) -> None:
    bars = terminal.spark(values)
    assert len(bars) == (0 if len(values) < 3 else min(len(values), terminal.BARS_SHOWN))
    if len(set(bars)) > 1:
        assert terminal.BARS[0] in bars and terminal.BARS[-1] in bars


def test_what_cleaning_says_of_personal_data_is_shown(capsys):
    with terminal.Terminal() as watch:
        watch.log("clean.personal", values=4, rows=2)
        watch.log("clean.placeholders", rows=1, of=51)
    told = capsys.readouterr().err
    assert "4 values of personal data in 2 rows are taught as they are; clean: {pii: mask}" in told
    assert "1 of 51 training rows have an answer with a placeholder" in told
