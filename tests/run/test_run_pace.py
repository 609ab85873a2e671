"""A training that will miss deadline or budget says so early, and does what the recipe says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from steelyard.artefact import FEWER_WAYS, SHORTER, Place, Progress, Scratch, Watch
from steelyard.recipe.recipe import Goal, Money
from steelyard.run.path.pace import SURE_S, Paced, missed


class Listening(Watch):
    def __init__(self):
        self.events, self.shown = [], 0

    def log(self, event, **fields):
        self.events.append((event, fields))

    def show(self, progress, closed=False):
        self.shown += 1


def run_with(begun_s, **goal):
    """What a run is to its pace: a goal, a price of 1 USD an hour, and when it began."""
    recipe = SimpleNamespace(goal=Goal(**goal), path=Path("recipe.yaml"))
    ready = SimpleNamespace(recipe=recipe, fill=SimpleNamespace(price_usd_per_h=1.0))
    run = SimpleNamespace(ready=ready, watch=Listening(), begun=time.monotonic() - begun_s, notes=[])
    run.watch.at(Place("train", 3, 6, later_s=100.0))
    run.note = lambda event, text, **fields: run.notes.append((event, text))
    return run


def shown(paced, share, after_s):
    bar = Progress(paced, "train", 1000.0, "tokens")
    bar.started -= after_s
    bar.done = 1000.0 * share
    paced.show(bar)


@pytest.mark.parametrize("on_miss", ["go_on", "stop"])
def test_a_deadline_is_missed_by_the_pace_and_told_once(on_miss):
    run = run_with(100.0, deadline_s=1000.0, on_miss=on_miss)
    paced = Paced(run)
    shown(paced, 0.5, 100.0)  # 100 s behind, 100 s left, 100 s after them
    assert not paced.missed and not paced.stop
    shown(paced, 0.05, 100.0)  # 1,900 s left
    shown(paced, 0.06, 110.0)
    ((event, text),) = run.notes
    assert event == "goal.missed" and "35 min" in text and "the deadline is" in text
    assert paced.stop == (on_miss == "stop") and run.watch.shown == 3
    refusal = paced.refusal()
    assert refusal.exit_code == 3 and "checkpoint is kept" in refusal.hint


def test_a_pace_is_believed_after_a_while():
    run = run_with(10.0, deadline_s=60.0)
    paced = Paced(run)
    shown(paced, 0.001, 2 * SURE_S)
    shown(paced, 0.03, SURE_S / 2)
    assert not run.notes


def test_a_budget_is_priced_as_the_plan_prices_it():
    run = run_with(0.0, budget=Money(amount=2.0, currency="USD"))
    assert missed(run, 3600.0) == "" and missed(run, 7201.0).endswith("the budget is 2.00 USD")


@pytest.mark.parametrize("on_miss, answer", [("shrink", ""), ("ask", "shrink")])
def test_a_training_is_shortened_to_what_is_done_in_time(on_miss, answer, tmp_path):
    run = run_with(100.0, deadline_s=1000.0, on_miss=on_miss)
    run.watch.ask = lambda question, answers, default: answer
    paced, scratch = Paced(run), Scratch(tmp_path)
    paced.log("train.planned", steps=500, ends_after=500)
    shown(paced, 0.05, 100.0)  # 1,900 s left of it, and 785 s of the deadline: 1000 - 100 - 100 - 15
    assert paced.missed and paced.stop
    paced.log("train.checkpoint", step=25)
    assert paced.shortens(scratch) and not paced.stop and not paced.missed
    ((at, end),) = json.loads(scratch.read(SHORTER).read_bytes())
    assert at == 25 and end == pytest.approx(25 + 475 * 0.95 * 785 / 1900, abs=2)
    assert [event for event, _ in run.notes] == ["goal.missed", "goal.shorter"]
    shown(paced, 0.5, 100.0)
    assert not paced.missed


def in_a_lift(run, tried=()):
    """Three ways of 1,000 tokens, the last of twice as many, and one that merges; the first is half done."""
    paced = Paced(run)
    left = {"alone": 1000, "gentle": 1000, "replay": 2000, "ties": 0}
    paced.log("train.ways", left={way: left[way] for way in left if way not in tried}, tried=list(tried))
    bar = Progress(paced, "gentle" if tried else "alone", 1000.0, "tokens")
    bar.started, bar.done = bar.started - 100.0, 500.0
    paced.show(bar)
    return paced


@pytest.mark.parametrize(
    ("deadline_s", "left_out"),
    [(1000.0, None), (900.0, ["replay", "ties"]), (500.0, ["gentle", "replay", "ties"]), (310.0, None)],
)
def test_a_lift_is_paced_by_all_its_ways_and_shrinks_by_the_last(deadline_s, left_out, tmp_path):
    """100 s are left of this way, 200 and 400 s of the next two, 100 s of what follows; 100 s are gone."""
    run = run_with(100.0, deadline_s=deadline_s, on_miss="shrink")
    paced, scratch = in_a_lift(run), Scratch(tmp_path)
    assert bool(paced.missed) == (deadline_s < 900.1) == paced.stop
    if left_out is None:
        assert not paced.shortens(scratch)
        assert deadline_s == 1000.0 or "no way would be done" in paced.refusal().why
        return
    assert paced.shortens(scratch) and not paced.stop
    assert json.loads(scratch.read(FEWER_WAYS).read_bytes()) == left_out and not scratch.read(SHORTER)
    assert [event for event, _ in run.notes] == ["goal.missed", "goal.fewer_ways"]


@pytest.mark.parametrize("on_miss", ["go_on", "stop"])
def test_a_lift_that_misses_says_so_and_stops_where_that_is_asked(on_miss, tmp_path):
    run = run_with(100.0, deadline_s=300.0, on_miss=on_miss)
    paced = in_a_lift(run, tried=["alone"])
    assert [event for event, _ in run.notes] == ["goal.missed"] and paced.stop == (on_miss == "stop")
    assert not paced.shortens(Scratch(tmp_path)) and paced.refusal().where.field == "goal.on_miss"


def test_a_way_that_has_begun_is_left_out_where_an_earlier_one_is_done(tmp_path):
    run = run_with(100.0, deadline_s=300.0, on_miss="shrink")
    paced, scratch = in_a_lift(run, tried=["alone"]), Scratch(tmp_path)
    assert paced.shortens(scratch)
    assert json.loads(scratch.read(FEWER_WAYS).read_bytes()) == ["gentle", "replay", "ties"]


def test_where_no_step_is_done_in_time_it_stops(tmp_path):
    run = run_with(900.0, deadline_s=1000.0, on_miss="shrink")
    paced = Paced(run)
    paced.log("train.planned", steps=500, ends_after=500)
    shown(paced, 0.05, 100.0)
    assert paced.stop and not paced.shortens(Scratch(tmp_path))
    assert "no step more" in paced.refusal().why


def test_without_a_person_a_question_is_answered_by_its_default(tmp_path):
    run = run_with(100.0, deadline_s=1000.0, on_miss="ask")
    paced = Paced(run)
    shown(paced, 0.05, 100.0)
    assert paced.missed and not paced.stop and paced.choice == "go_on"
