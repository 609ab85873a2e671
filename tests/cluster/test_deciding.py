"""The core: no device twice, the old state untouched, the same events the same decisions, nothing impure."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playing import told

import steelyard.cluster
from steelyard.cluster import (
    POLICIES,
    Cancel,
    Decision,
    DeviceBack,
    DeviceLost,
    Event,
    Exited,
    Fleet,
    Load,
    ProbeResult,
    Signal,
    Submit,
    Tick,
    advance,
    checkpoint_every_s,
    step,
)

TRAINING, SERVING = 12, 8
IMPURE = {"os", "io", "pathlib", "shutil", "subprocess", "socket", "time", "random", "sqlite3", "threading"}


def fleet(policy: str = "tide") -> Fleet:
    return Fleet(TRAINING, SERVING, POLICIES[policy])


def submit(t_s: float, job: str, gpus: int, least: int = 0, most: int = 0) -> Submit:
    return Submit(t_s, job, gpus, least or gpus, most or gpus)


def quiet_hours(state: Fleet, need: int, minutes: int, start: int = 0) -> tuple[Fleet, list[Decision]]:
    said: list[Decision] = []
    for minute in range(start, start + minutes):
        state, decisions = told(state, Load(minute * 60.0, need), Tick(minute * 60.0))
        said += decisions
    return state, said


KINDS = [
    *["submit", "minute"] * 3, "exit", "cancel", "lost", "back", "fail", "fail", "signal", "signal", "probe",
]  # fmt: skip


@st.composite
def histories(draw) -> list[Event]:
    """Any order of events; jobs end, are cancelled, devices fail and come back."""
    events: list[Event] = []
    t_s = 0.0
    for number in range(draw(st.integers(1, 60))):
        t_s += draw(st.sampled_from([0.0, 1.0, 60.0, 700.0, 4_000.0]))
        job = f"j{draw(st.integers(0, number))}"
        gpus = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(KINDS))
        device = draw(st.integers(0, TRAINING + SERVING - 1))
        if kind == "submit":
            least, most = draw(st.integers(1, gpus)), draw(st.integers(gpus, 12))
            events.append(Submit(t_s, f"j{number}", gpus, least, most, draw(st.integers(0, 5)) == 0))
        elif kind == "minute":
            events += [Load(t_s, draw(st.integers(0, SERVING))), Tick(t_s)]
        else:
            events.append(
                {
                    "exit": Exited(t_s, job), "cancel": Cancel(t_s, job), "lost": DeviceLost(t_s, device),
                    "back": DeviceBack(t_s, device), 
                    "fail": Exited(t_s, job, 1, "Xid 79", gpus, 1, device),
                    "signal": Signal(t_s, device, f"source {gpus}"),
                    "probe": ProbeResult(t_s, device, gpus > 3),
                }[kind]
            )  # fmt: skip
    return events


class Watched:
    """What a driver that does as it is told would hold. Raises AssertionError where it cannot be done."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[int, ...]] = {}
        self.lent: set[int] = set()
        self.down: set[int] = set()

    def do(self, decision: Decision, bounds: dict[str, Submit]) -> None:
        if decision.kind in ("start", "resize"):
            assert (decision.job in self.held) == (decision.kind == "resize")
            self.held[decision.job] = decision.devices
            asked = bounds[decision.job]
            assert asked.least <= len(decision.devices) <= asked.most
        elif decision.kind in ("preempt", "finish", "stop"):
            self.held.pop(decision.job, None)
        elif decision.kind == "lend":
            assert not self.lent & set(decision.devices)
            self.lent |= set(decision.devices)
        elif decision.kind == "reclaim":
            assert set(decision.devices) <= self.lent
            self.lent -= set(decision.devices)
        elif decision.kind == "isolate":
            self.down |= set(decision.devices)
            self.lent -= set(decision.devices)
        elif decision.kind == "readmit":
            self.down -= set(decision.devices)
        used = [device for devices in self.held.values() for device in devices]
        assert len(used) == len(set(used)), f"a device is used twice after {decision}"
        assert not self.down & set(used)
        assert all(device < TRAINING or device in self.lent for device in used)


@given(histories(), st.sampled_from(["tide", "fixed", "backfill"]))
@settings(max_examples=60, deadline=None)
def test_no_device_is_used_twice_and_replay_is_the_live_run(events: list[Event], policy: str) -> None:
    state, live = fleet(policy), Watched()
    replayed = fleet(policy)
    bounds = {event.job: event for event in events if isinstance(event, Submit)}
    for event in events:
        before = state.copy()
        after, decisions = step(state, event)
        assert step(before, event)[1] == decisions, "the old state has changed"
        assert advance(replayed, event) == decisions
        for decision in decisions:
            live.do(decision, bounds)
        state = after
    count = len(state.free_training) + len(state.free_lent) + len(state.holder) + len(state.at_serving)
    assert count + len(state.down) == TRAINING + SERVING


def test_decisions_are_numbered_and_carry_the_epoch() -> None:
    state = replace(fleet(), epoch=7)
    _, said = told(state, submit(0, "a", 4), submit(1, "b", 4))
    assert [(d.seq, d.epoch, d.kind) for d in said] == [(1, 7, "start"), (2, 7, "start")]


def test_time_that_goes_back_is_refused() -> None:
    state, _ = step(fleet(), Tick(60.0))
    with pytest.raises(ValueError, match="time goes back"):
        step(state, Tick(59.0))


def test_an_elastic_job_makes_room_before_another_waits() -> None:
    _, said = told(fleet(), submit(0, "a", 12, 6), submit(1, "b", 6))
    assert [(d.kind, d.job, len(d.devices)) for d in said] == [
        ("start", "a", 12),
        ("resize", "a", 6),
        ("start", "b", 6),
    ]


def test_a_new_job_takes_the_place_of_one_that_has_used_much() -> None:
    state, _ = told(fleet(), submit(0, "old", 12))
    state, said = told(state, submit(300, "early", 1))
    assert said == []  # it has only just begun: it keeps its devices for ten minutes
    state, said = told(state, Tick(1_200.0))
    assert [(d.kind, d.job) for d in said] == [("preempt", "old"), ("start", "early")]
    assert said[0].deadline_s == 15.0 and said[0].reason == "displaced"


def test_a_fixed_partition_neither_shrinks_nor_displaces_nor_lends() -> None:
    state, said = told(fleet("fixed"), submit(0, "a", 12, 6), submit(1, "b", 6))
    assert [d.kind for d in said] == ["start"]
    state, said = quiet_hours(state, 0, 200, start=1)
    assert said == []


def test_devices_are_lent_slowly_and_called_back_at_once() -> None:
    state, said = quiet_hours(fleet(), 2, 10)
    assert {d.kind for d in said} == {"lend"}
    state, said = told(state, Load(600.0, 8), Tick(600.0))
    assert [(d.kind, len(d.devices)) for d in said] == [("reclaim", 5)]


def test_the_least_loss_comes_first_when_devices_are_called_back() -> None:
    """Idle ones, then what a job has above its share; the gang is left alone."""
    state, _ = told(fleet(), submit(0, "gang", 12))
    state, _ = quiet_hours(state, 2, 10)
    state, said = told(state, submit(601, "wide", 1, 1, 3))
    assert [len(d.devices) for d in said] == [1]
    state, said = quiet_hours(state, 2, 15, start=11)
    assert ("resize", "wide", 3) in [(d.kind, d.job, len(d.devices)) for d in said]
    state, said = told(state, Load(1_600.0, 3), Tick(1_600.0))
    assert [(d.kind, d.job, len(d.devices)) for d in said] == [("resize", "wide", 2), ("reclaim", "", 3)]


def test_a_filler_takes_what_is_left_and_goes_first() -> None:
    filler = Submit(0.0, "clean", 12, 1, 12, True)
    _, said = told(fleet(), filler, submit(1, "job", 8))
    assert [(d.kind, d.job) for d in said] == [
        ("start", "clean"),
        ("preempt", "clean"),
        ("start", "job"),
        ("start", "clean"),
    ]
    assert len(said[-1].devices) == 4


def test_a_lost_device_costs_its_job_only_the_time_since_a_checkpoint() -> None:
    state, _ = told(fleet(), submit(0, "a", 4))
    state, said = told(state, DeviceLost(100.0, 0))
    assert [(d.kind, d.lost) for d in said] == [("preempt", True), ("isolate", False), ("start", False)]
    assert 0 not in said[-1].devices
    state, said = told(state, DeviceLost(101.0, 0))
    assert said == []


@given(st.integers(1, 4_096), st.floats(1e-12, 1e-3), st.floats(0.1, 60))
def test_checkpoints_stay_within_their_bounds(devices: int, rate: float, save_s: float) -> None:
    every_s = checkpoint_every_s(devices, rate, save_s)
    assert 60 <= every_s <= 1_800


def test_young() -> None:
    """C = 5 s, M = 3 h: sqrt(2 C M) = 329 s."""
    assert checkpoint_every_s(1, 1 / (3 * 3_600.0)) == pytest.approx(329, abs=1)


def test_the_core_is_pure() -> None:
    for path in (Path(steelyard.cluster.__file__).parent / "deciding").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & IMPURE, path.name
