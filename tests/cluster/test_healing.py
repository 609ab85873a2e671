"""Healing decisions: two sources, probes, lemons, the freeze, restarts that end, and whose fault it was."""

from __future__ import annotations

import pytest
from playing import told

from steelyard.cluster import (
    POLICIES,
    ClockJumped,
    Decision,
    DeviceBack,
    DeviceLost,
    Event,
    Exited,
    Fleet,
    ProbeResult,
    Signal,
    Stalled,
    Submit,
    blame,
)


def running(devices: int = 16, size: int = 4) -> Fleet:
    state, _ = told(Fleet(devices, 0, POLICIES["tide"]), Submit(0.0, "a", size, size, size))
    return state


def kinds(said: list[Decision]) -> list[str]:
    return [decision.kind for decision in said]


def test_one_source_alone_takes_no_device() -> None:
    state, said = told(running(), *(Signal(t, 0, "heartbeat") for t in (10.0, 20.0, 30.0)))
    assert set(kinds(said)) == {"probe"}
    state, said = told(state, ProbeResult(40.0, 0, True), Signal(50.0, 0, "kernel log"))
    assert kinds(said) == ["probe"]  # the probe cleared it: the first source is forgotten


def test_two_sources_that_agree_isolate_and_the_job_goes_on_elsewhere() -> None:
    state, said = told(running(), Signal(10.0, 0, "heartbeat"), Signal(20.0, 0, "kernel log", "Xid 79"))
    assert kinds(said) == ["probe", "preempt", "isolate", "probe", "start"]
    assert said[1].deadline_s == 15.0 and not said[1].lost  # it works still: the job saves first
    assert 0 not in said[-1].devices
    state, said = told(state, ProbeResult(90.0, 0, True))
    assert kinds(said) == ["readmit"]


def test_signals_long_apart_do_not_agree() -> None:
    _, said = told(running(), Signal(10.0, 0, "heartbeat"), Signal(2_000.0, 0, "kernel log"))
    assert kinds(said) == ["probe", "probe"]


def test_a_probe_that_fails_isolates_then_asks_for_repair() -> None:
    state, said = told(running(), Signal(10.0, 9, "heartbeat"), ProbeResult(20.0, 9, False))
    assert kinds(said) == ["probe", "isolate", "probe"]
    state, said = told(state, ProbeResult(80.0, 9, False))
    assert kinds(said) == ["repair"]
    _, said = told(state, ProbeResult(85.0, 9, True), DeviceBack(90.0, 9))
    assert kinds(said) == ["readmit"]


def test_the_third_isolation_in_thirty_days_makes_a_lemon_until_a_person_clears_it() -> None:
    state, said = running(), []
    for day in range(3):
        at = day * 86_400.0
        state, said = told(state, Signal(at, 9, "x"), Signal(at + 1, 9, "y"), ProbeResult(at + 60, 9, True))
    assert kinds(said) == ["probe", "isolate", "retire"]
    _, said = told(state, DeviceBack(300_000.0, 9))
    assert kinds(said) == ["readmit"]


def test_many_suspects_at_once_are_the_network() -> None:
    state, said = running(devices=80), []
    for node in range(10):
        state, more = told(state, Signal(10.0 + node, node * 8, "heartbeat"))
        said += more
    assert kinds(said).count("warn") == 1
    state, said = told(state, *(Signal(30.0, node * 8, "ssh") for node in range(10)))
    assert "isolate" not in kinds(said)


def test_of_three_nodes_two_that_are_suspect_at_once_are_the_network() -> None:
    state = Fleet(3, 0, POLICIES["shared"], ("a", "b", "c"))
    state, said = told(
        state, Signal(10.0, 0, "heartbeat"), Signal(11.0, 1, "heartbeat"), Signal(12.0, 1, "ssh")
    )
    assert kinds(said) == ["probe", "warn", "probe"]
    _, said = told(state, ProbeResult(13.0, 0, True), Signal(14.0, 1, "kernel log"))
    assert "isolate" in kinds(said)  # one alone is no network


def test_a_device_that_comes_back_is_the_last_to_be_used_again() -> None:
    state, _ = told(Fleet(3, 0, POLICIES["shared"]), DeviceLost(1.0, 0), DeviceBack(2.0, 0))
    for name in "abc":
        state, _ = told(state, Submit(3.0, name, 1, 1, 1))
    assert state.jobs["c"].devices == (0,)


def test_a_failed_job_rests_longer_each_time_and_is_stopped_at_the_third_same_failure() -> None:
    state, at = running(), 100.0
    for rest_s in (1.0, 2.0):
        state, said = told(state, Exited(at, "a", 1, "Traceback (most recent call last): KeyError", 41))
        assert kinds(said) == ["preempt"] and said[0].lost and said[0].reason == "job: traceback"
        state, said = told(state, Event(at + rest_s - 0.5))
        assert said == []
        state, said = told(state, Event(at + rest_s))
        assert kinds(said) == ["start"]
        at += rest_s + 2
    _, said = told(state, Exited(at, "a", 1, "Traceback (most recent call last): KeyError", 41))
    assert kinds(said) == ["stop"] and "step 41" in said[0].reason


def test_a_job_that_ran_well_rests_a_second_again() -> None:
    state, at = running(), 100.0
    for turn in range(12):
        state, said = told(state, Exited(at, "a", 137, "", turn), Event(at + 1.0))
        assert kinds(said) == ["preempt", "start"]
        at += 30.0


def test_what_a_job_cannot_help_never_stops_it() -> None:
    state, at = running(), 100.0
    for rest_s in (1.0, 2.0, 4.0, 8.0, 16.0):
        state, said = told(state, Exited(at, "a", 5, "disk.full: cannot write state", 41), Event(at + rest_s))
        assert kinds(said) == ["preempt", "start"] and said[0].reason == "storage: prune"
        at += rest_s + 1


def test_a_stopped_job_is_woken_once_and_then_starts_again() -> None:
    state, said = told(running(), Stalled(10.0, "a", True, 7), Stalled(20.0, "a", True, 9))
    assert kinds(said) == ["wake", "wake"]
    state, said = told(state, Stalled(30.0, "a", True, 9))
    assert kinds(said) == ["preempt"] and said[0].lost and said[0].reason.startswith("node")
    state, said = told(state, Event(31.0), Stalled(200.0, "a", False, 9))
    assert kinds(said) == ["start", "preempt"] and said[1].reason == "unknown"


def test_a_clock_that_jumps_touches_no_job() -> None:
    _, said = told(running(), ClockJumped(10.0, 3_600.0))
    assert kinds(said) == ["warn"] and "+3600 s" in said[0].reason


def test_failures_at_other_steps_go_on() -> None:
    state = running()
    for turn in range(8):
        state, said = told(state, Exited(100.0 * (turn + 1), "a", 1, "killed", turn))
        assert kinds(said) == ["preempt"]
        state, said = told(state, Event(100.0 * (turn + 1) + 64))
        assert kinds(said) == ["start"]


def test_a_job_that_waits_cannot_fail_twice() -> None:
    _, said = told(running(), Exited(10.0, "a", 1, "x", 1), Exited(10.1, "a", 1, "x", 1))
    assert kinds(said) == ["preempt"]


@pytest.mark.parametrize(
    ("code", "words", "ranks", "of", "whose"),
    [
        (137, "oom_kill 1", 1, 4, "job"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", 1, 4, "job"),
        (1, "loss is nan at step 7", 1, 4, "device"),
        (1, "loss is nan at step 7", 4, 4, "data"),
        (1, "the loss of step 41 of 900 is nan", 0, 4, "data"),
        (1, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus", 1, 4, "device"),
        (1, "NCCL watchdog: collective timeout", 1, 4, "link"),
        (1, "NCCL watchdog: collective timeout", 4, 4, "switch"),
        (1, "NCCL watchdog: collective timeout", 0, 4, "link"),
        (1, "OSError: [Errno 28] No space left on device", 1, 1, "storage"),
        (1, "digest mismatch in step-40", 1, 1, "storage"),
        (5, "memory.exhausted: step 4 got no memory", 1, 1, "job"),
        (5, "disk.full: no space is left on the disk", 1, 1, "storage"),
        (1, "heartbeat lost, stopped again", 1, 1, "node"),
        (1, "Traceback (most recent call last): ZeroDivisionError", 1, 1, "job"),
        (-9, "", 1, 1, "unknown"),
    ],
)
def test_whose_fault_it_was(code: int, words: str, ranks: int, of: int, whose: str) -> None:
    assert blame(code, words, ranks, of).whose == whose
