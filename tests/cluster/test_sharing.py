"""Teams, priorities, budgets and deadlines in the core: who starts, who gives way, what is never passed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playing import told

from steelyard.cluster import (
    POLICIES,
    Decision,
    DeviceBack,
    DeviceLost,
    Due,
    Event,
    Exited,
    Fleet,
    Load,
    Outlook,
    Submit,
    Terms,
    Tick,
    step,
)

HOUR_S = 3_600.0


def fleet(devices: int = 4) -> Fleet:
    return Fleet(devices, 0, POLICIES["shared"])


def job(t_s: float, name: str, size: int = 1, team: str = "", priority: int = 0, deadline_s=None) -> Submit:
    return Submit(t_s, name, size, size, size, False, team, priority, deadline_s)


def filler(t_s: float, name: str) -> Submit:
    return Submit(t_s, name, 1, 1, 1, True)


def kinds(said: list[Decision], *wanted: str) -> list[tuple[str, str]]:
    return [(one.kind, one.job) for one in said if one.kind in wanted]


def test_a_higher_priority_takes_the_place_of_as_few_as_will_do() -> None:
    state, _ = told(fleet(), job(0, "a", 1), job(0, "b", 3))
    state, said = told(state, job(10, "urgent", 2, priority=1))
    assert kinds(said, "preempt", "start") == [("preempt", "b"), ("start", "urgent")]
    assert said[0].deadline_s == 15 and not said[0].lost  # in time to save
    assert state.free == 1
    _, said = told(state, job(11, "more", 4, priority=1))
    assert not said  # it is no higher than `urgent`: nobody goes for nothing


def test_a_gang_that_waits_long_holds_what_gets_free_but_not_from_fillers() -> None:
    hours = POLICIES["shared"].hold_s
    state, _ = told(fleet(3), job(0, "a", 2), job(0, "b", 1), job(1, "gang", 3))
    state, said = told(state, job(hours + 2, "late"), filler(hours + 2, "f"), Exited(hours + 3, "b"))
    assert kinds(said, "start") == [("start", "f")]
    _, said = told(state, Exited(hours + 4, "a"))
    assert kinds(said, "preempt", "start") == [("preempt", "f"), ("start", "gang")]


def test_a_gang_for_which_too_few_devices_are_well_holds_up_nobody() -> None:
    hours = POLICIES["shared"].hold_s
    state, said = told(
        fleet(3), DeviceLost(0, 2), job(1, "gang", 3), job(hours + 2, "a"), filler(hours + 2, "f")
    )
    assert kinds(said, "start") == [("start", "a"), ("start", "f")]
    assert [one.reason for one in said if one.kind == "warn"] == ["gang needs 3 devices, 2 are well"]
    state, said = told(state, DeviceBack(hours + 9, 2), Exited(hours + 9, "a"))
    assert ("start", "gang") in kinds(said, "start")


def test_fillers_go_first_and_for_any_job() -> None:
    state, said = told(fleet(2), filler(0, "f"), filler(0.5, "g"), job(1, "a"))
    assert kinds(said, "preempt") == [("preempt", "g")]  # the one that has run least
    state, said = told(state, job(2, "b"))
    assert kinds(said, "preempt", "start") == [("preempt", "f"), ("start", "b")]


def test_teams_get_their_shares_whoever_came_first() -> None:
    """One team has filled the fleet; once its jobs have run for a stint another gets what is its own."""
    shares = Terms(0, (("few", 1.0, None), ("many", 3.0, None)), None)
    state, _ = told(fleet(), shares, *(job(1, f"few{n}", 1, "few") for n in range(6)))
    state, said = told(state, *(job(2, f"many{n}", 1, "many") for n in range(6)), Tick(500))
    assert not said
    state, said = told(state, Tick(700))
    assert [one.job[:3] for one in said if one.kind == "preempt"] == ["few"] * 3
    assert [one.job[:4] for one in said if one.kind == "start"] == ["many"] * 3
    for minute in range(12, 40):  # and nobody is moved again
        state, said = told(state, Tick(60.0 * minute))
        assert not said


def test_who_had_least_for_a_share_is_next() -> None:
    shares = Terms(0, (("a", 1.0, None), ("b", 1.0, None)), None)
    state, _ = told(fleet(1), shares, job(0, "a0", 1, "a"), job(1, "a1", 1, "a"), job(2, "b0", 1, "b"))
    _, said = told(state, Exited(100, "a0"))
    assert kinds(said, "start") == [("start", "b0")]


def test_a_job_that_may_miss_its_deadline_goes_first() -> None:
    state, _ = told(fleet(1), job(0, "runs"), job(1, "first"), job(2, "due", deadline_s=1_000.0))
    state, said = told(state, Outlook(3, "due", 900.0), Exited(4, "runs"))
    assert kinds(said, "start") == [("start", "due")]
    state, said = told(state, Outlook(200, "due", 900.0), Outlook(260, "due", 900.0))
    assert [one.reason for one in said] == ["due would end 2 min after its deadline"]  # once


def test_a_deadline_ends_a_job_in_time_to_save() -> None:
    state, _ = told(fleet(1), job(0, "due", deadline_s=100.0), job(0, "next"))
    assert state.due_s == 85.0
    state, said = told(state, Event(84.0))
    assert not said
    _, said = told(state, Event(85.0))
    assert kinds(said, "stop", "start") == [("stop", "due"), ("start", "next")]
    _, said = told(state, Due(84.5, "due", 300.0), Event(200.0))
    assert not said


def test_a_spent_budget_of_a_team_ends_nobody_elses_work_and_more_lets_it_go_on() -> None:
    terms = Terms(0, (("a", 1.0, HOUR_S), ("b", 1.0, None)), None)
    state, _ = told(fleet(4), terms, job(0, "a0", 2, "a"), job(0, "b0", 1, "b"))
    said = []
    while not said:  # as the driver does: time is told when something is due
        state, said = told(state, Event(state.due_s))
    assert state.now_s == HOUR_S / 2 - 15
    assert kinds(said, "preempt", "start") == [("preempt", "a0")]
    assert said[0].reason == "the budget of team a is spent" and said[0].deadline_s == 15
    state, said = told(state, job(1_900, "small", 1, "a"), Tick(2_000))
    assert not said and state.teams.of("a").spent_s <= HOUR_S
    _, said = told(state, Terms(2_100, (("a", 1.0, 2 * HOUR_S), ("b", 1.0, None)), None))
    assert kinds(said, "start") == [("start", "a0"), ("start", "small")]


def test_the_budget_of_all_ends_all_at_one_moment_in_time_to_save_also_where_each_team_has_its_own() -> None:
    terms = Terms(0, (("a", 1.0, HOUR_S), ("b", 1.0, HOUR_S)), 600.0)
    state, _ = told(fleet(4), terms, job(0, "a0", 2, "a"), job(0, "b0", 1, "b"), job(0, "b1", 1, "b"))
    assert state.due_s == 135.0
    state, said = told(state, Event(135.0))
    assert kinds(said, "preempt") == [("preempt", "a0"), ("preempt", "b0"), ("preempt", "b1")]
    assert {one.reason for one in said} == {"the budget of all jobs is spent"}
    assert state.teams.spent_s == 600.0 - 4 * 15.0 and state.teams.due_s == float("inf")


def test_what_will_not_do_is_told_before_it_is_spent() -> None:
    _, said = told(fleet(), Terms(0, (), HOUR_S), job(0, "a", 2), Outlook(60, "a", 2 * HOUR_S))
    assert [one.reason for one in said if one.kind == "warn"] == [
        "the budget will not do: 3.0 device hours are missing"
    ]


def test_a_budget_is_compared_with_the_need_of_those_whom_it_pays_for() -> None:
    """Each team's own account with its own jobs, the one of all with all of them."""
    own = Terms(0, (("a", 1.0, HOUR_S), ("b", 1.0, 50 * HOUR_S)), None)
    state, said = told(
        fleet(), own, job(0, "a0", 1, "a"), job(0, "b0", 1, "b"), Outlook(60, "b0", 40 * HOUR_S)
    )
    assert not kinds(said, "warn")
    state, said = told(state, Outlook(60, "a0", 1_800.0))
    assert not kinds(said, "warn")
    state, said = told(state, Outlook(120, "a0", 100 * HOUR_S), Outlook(180, "a0", 100 * HOUR_S))
    assert [one.reason for one in said] == ["the budget of team a will not do: 99.0 device hours are missing"]
    both = Terms(0, (("a", 1.0, 10 * HOUR_S), ("b", 1.0, None)), 20 * HOUR_S)
    state, said = told(
        fleet(), both, job(0, "a0", 1, "a"), job(0, "b0", 1, "b"), Outlook(0, "b0", 15 * HOUR_S)
    )
    state, more = told(state, Outlook(0, "a0", 4 * HOUR_S))
    assert not kinds([*said, *more], "warn")
    _, said = told(state, Outlook(0, "a0", 9 * HOUR_S))
    assert [one.reason for one in said] == ["the budget will not do: 4.0 device hours are missing"]


def test_what_a_job_has_done_since_it_said_how_long_it_needs_is_not_counted_again() -> None:
    terms = Terms(0, (), 2 * HOUR_S)
    state, _ = told(
        fleet(), terms, job(0, "a"), job(0, "b"), Outlook(0, "a", 3_500.0), Outlook(0, "b", 3_500.0)
    )
    _, said = told(state, Outlook(3_000, "a", 500.0), Outlook(3_000, "b", 500.0))
    assert not said


def test_a_team_that_the_terms_no_longer_name_has_no_budget_and_starts_again() -> None:
    state, _ = told(fleet(), Terms(0, (("a", 2.0, HOUR_S), ("b", 1.0, None)), None), job(0, "a0", 4, "a"))
    state, said = told(state, Event(state.due_s), Tick(2_000))
    assert kinds(said, "preempt", "start") == [("preempt", "a0")]
    state, said = told(state, Terms(2_100, (("b", 1.0, None),), None), Event(10_000))
    assert kinds(said, "preempt", "start") == [("start", "a0")]
    account = state.teams.of("a")
    assert (account.share, account.budget_s) == (1.0, None) and account.spent_s > HOUR_S / 2


# ------------------------------------------------------------------ devices that serving lends


def lends(training: int, serving: int, *jobs: Submit) -> Fleet:
    """All of serving's devices are lent, since it has needed none."""
    state = Fleet(training, serving, POLICIES["shared"])
    for minute in range(1, 7):
        state, _ = told(state, Load(60.0 * minute, 0), Tick(60.0 * minute))
    return told(state, *jobs)[0]


def test_a_job_on_a_device_that_is_called_back_ends_there_and_begins_on_a_free_one() -> None:
    state = lends(1, 1, job(400, "a"), job(401, "b"))
    assert state.jobs["b"].devices == (1,)
    state, _ = told(state, Exited(410, "a"))
    state, said = told(state, Load(420, 1), Tick(420))
    assert [(one.kind, one.job, one.devices) for one in said] == [
        ("preempt", "b", ()), ("reclaim", "", (1,)), ("start", "b", (0,)),
    ]  # fmt: skip
    assert said[0].deadline_s == 15 and not said[0].lost


def test_called_back_are_devices_of_fillers_then_of_lower_priorities_and_the_others_keep_theirs() -> None:
    jobs = job(400, "own"), job(401, "high", priority=1), job(402, "low"), filler(403, "filler")
    state = lends(1, 3, *jobs)
    assert state.jobs["own"].lent == [] or state.jobs["high"].lent == []
    gone = []
    for minute, need in ((7, 0), (8, 1), (9, 1)):
        state, said = told(state, Load(60.0 * minute, need), Tick(60.0 * minute))
        gone += kinds(said, "preempt")
    assert gone[:2] == [("preempt", "filler"), ("preempt", "low")] and "own" in state.jobs


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["submit", "end", "minute"]), st.integers(0, 3), st.integers(-1, 1)),
        max_size=60,
    )
)
def test_a_job_of_a_fleet_that_keeps_sizes_holds_what_it_was_started_on(rows) -> None:
    """So a driver that knows start and preempt alone never lets two have one device, serving among them."""
    state, now_s, running, serves = Fleet(2, 3, POLICIES["shared"]), 0.0, {}, {2, 3, 4}
    for number, (what, pick, priority) in enumerate(rows):
        now_s += 60.0
        events: list[Event] = [Load(now_s, pick), Tick(now_s)]
        if what == "submit":
            events = [Submit(now_s, f"{number}", 1 + pick, 1, 5, pick == 3, "", priority)]
        elif what == "end" and running:
            events = [Exited(now_s, sorted(running)[pick % len(running)])]
        state, said = told(state, *events)
        for one in said:
            if one.kind == "start":
                running[one.job] = set(one.devices)
            elif one.kind in ("preempt", "finish", "stop"):
                running.pop(one.job, None)
            elif one.kind == "lend":
                serves -= set(one.devices)
            elif one.kind == "reclaim":
                serves |= set(one.devices)
        held = [device for devices in running.values() for device in devices]
        assert len(held) == len(set(held)) and not serves & set(held)
        assert running == {name: set(job.devices) for name, job in state.jobs.items() if job.size}


EVENTS = st.lists(
    st.tuples(
        st.floats(0.0, 900.0), st.sampled_from(["submit", "tick", "end", "fail", "time"]), st.integers(0, 9),
        st.integers(1, 4), st.sampled_from(["a", "b", "c"]), st.integers(-1, 1), st.booleans(),
    ),
    max_size=60,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.floats(600.0, 40_000.0))
def test_no_budget_is_passed_no_device_is_held_twice_and_nothing_waits_beside_a_free_device(rows, budget_s):
    """Time is told when it is due, as the driver does."""
    state, _ = told(
        fleet(), Terms(0.0, (("a", 1.0, budget_s / 2), ("b", 2.0, None), ("c", 0.5, None)), budget_s)
    )
    now_s, names = 0.0, []
    for wait_s, what, pick, size, team, priority, is_filler in rows:
        until_s = now_s + wait_s
        while state.due_s < until_s:
            state, _ = told(state, Event(max(state.due_s, state.now_s)))
            fits(state, budget_s)
        now_s = until_s
        name = names[pick % len(names)] if names else ""
        event: Event = Tick(now_s)
        if what == "submit":
            names.append(name := f"{len(names)}")
            event = Submit(now_s, name, size, size, size, is_filler, team, priority, None)
        elif what in ("end", "fail") and name in state.jobs and state.jobs[name].size:
            event = Exited(now_s, name, int(what == "fail"), f"{now_s}")
        elif what == "time":
            event = Event(now_s)
        before = state
        state, said = step(state, event)
        assert step(before, event)[1] == said
        fits(state, budget_s)
        if what == "tick":
            some_device_serves_the_queue(state)


def fits(state: Fleet, budget_s: float) -> None:
    held = [device for job in state.jobs.values() for device in job.devices]
    assert len(held) == len(set(held)) and set(held) == set(state.holder)
    assert len(held) + state.free == state.training
    saving_s = 15.0 * len(held)
    assert state.teams.spent_s + saving_s <= budget_s + 15.0 * state.training + 1e-3
    assert state.teams.spent_s <= budget_s + 1e-3
    assert state.teams.of("a").spent_s <= budget_s / 2 + 1e-3
    assert state.queued == sum(1 for j in state.jobs.values() if not (j.size or j.rests or j.filler))


def some_device_serves_the_queue(state: Fleet) -> None:
    for waiting in state.jobs.values():
        if not (waiting.size or waiting.rests) and waiting.gpus <= state.free:
            held_for = any(
                state.now_s - other.submit_s >= 1_800.0 and other.gpus > state.free
                for other in state.jobs.values() if not (other.size or other.rests)
            )  # fmt: skip
            assert held_for or not state.teams.pays(waiting.team, 15.0 * waiting.gpus)


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"shared"}))
def test_other_policies_know_no_teams(policy) -> None:
    state = Fleet(1, 0, POLICIES[policy])
    state, said = told(state, Terms(0, (), 10.0), job(0, "a", deadline_s=20.0), Event(5_000.0))
    assert kinds(said, "start", "stop", "preempt") == [("start", "a")]
