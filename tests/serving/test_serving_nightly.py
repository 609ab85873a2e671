"""When a refresh begins: once a night, in the quiet; its command is no harm to the service."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.serving.rolling import nightly
from steelyard.serving.rolling.nightly import Nightly, When

NOON = datetime(2026, 3, 2, 12)


def begun(every, load, hours=48, since=NOON):
    """Times at which it begins; `load(time)`: requests at once in that minute."""
    when, times = When(every, since), []
    for minute in range(1, hours * 60 + 1):
        now = since + timedelta(minutes=minute)
        if when.minute(now, load(now)):
            times.append(now)
    return times


def test_a_night_is_one_refresh_in_its_quiet():
    busy_until_two = lambda now: 0 if 2 <= now.hour < 7 else 5  # noqa: E731
    first, second = begun("night", busy_until_two)
    assert first.date() != second.date()
    assert all((t.hour, t.minute < 15) == (2, True) for t in (first, second))


def test_a_night_without_quiet_begins_at_four():
    assert [(t.hour, t.minute) for t in begun("night", lambda now: 3)] == [(4, 0), (4, 0)]


def test_a_time_of_the_day_and_a_time_between():
    assert [(t.day, t.hour, t.minute) for t in begun("03:30", lambda now: 9)] == [(3, 3, 30), (4, 3, 30)]
    assert len(begun(6 * 3600.0, lambda now: 9)) == 8


def test_a_machine_that_slept_past_its_time_begins_when_it_wakes():
    when = When("03:30", NOON)
    assert not when.minute(NOON + timedelta(minutes=1), 0)
    assert when.minute(NOON + timedelta(days=3), 0) and not when.minute(
        NOON + timedelta(days=3, minutes=1), 0
    )


@given(
    st.sampled_from(["night", "00:00", "23:59", "03:30"]),
    st.integers(0, 1439),
    st.integers(0, 9),
    st.integers(1, 96),
)
def test_never_twice_a_day(every, minute, load, hours):
    times = begun(every, lambda now: load if now.minute % 7 else 0, hours, NOON + timedelta(minutes=minute))
    assert all(later - earlier > timedelta(hours=20) for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "-c", "raise SystemExit(9)"], ["/no/such/program"], [sys.executable, "-c", "1"]],
)
def test_whatever_the_command_does_the_service_goes_on(command, monkeypatch, capfd):
    monkeypatch.setattr(nightly, "SAMPLE_S", 0.01)
    monkeypatch.setattr(nightly, "MINUTE_S", 0.02)

    async def run():
        one = Nightly("night", command, lambda: 0)
        calls = iter([True, *[False] * 10_000])
        one.when = type("When", (), {"minute": lambda self, now, most: next(calls)})()
        task = asyncio.create_task(one.run())
        while one.running is None:
            await asyncio.sleep(0.01)
        await one.running
        assert not task.done()
        task.cancel()

    asyncio.run(run())
    assert "refresh.started" in capfd.readouterr().err
