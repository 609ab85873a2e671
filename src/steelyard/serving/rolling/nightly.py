"""When a service has its model refreshed, and the start of the command that does it.

The command outlives this process, which it may end: another service takes its place. Whatever becomes of it,
this one goes on serving. Not here: what a refresh is, and which command does it (run).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as clock

from ...forecast import Forecast
from ..base.log import log
from .command import run_command

NIGHT = "night"
FROM, LATEST, UNTIL = clock(1), clock(4), clock(6)  # of the night, by the clock of this machine
SAMPLE_S, MINUTE_S = 5.0, 60.0
MOST = 1_000_000


@dataclass(slots=True)
class When:
    """`every`: night, a time of the day (03:30), or seconds. Asked once a minute; no clock of its own."""

    every: str | float
    begun: datetime  # of the service, or of the last refresh
    looked: datetime = field(init=False)
    forecast: Forecast = field(default_factory=Forecast)

    def __post_init__(self) -> None:
        self.looked = self.begun

    def minute(self, now: datetime, most_at_once: int) -> bool:
        """Whether it begins now. `most_at_once`: requests under way in the minute that has just ended."""
        self.forecast.learn(most_at_once)
        expected, before = self.forecast.target(MOST), self.looked
        self.looked = now
        if not self._due(now, before, expected):
            return False
        self.begun = now
        return True

    def _due(self, now: datetime, before: datetime, expected: int) -> bool:
        if self.every == NIGHT:
            fresh = self.begun < datetime.combine(now, FROM)
            return fresh and FROM <= now.time() < UNTIL and (expected == 0 or now.time() >= LATEST)
        if isinstance(self.every, str):
            at = datetime.combine(now, clock.fromisoformat(self.every))
            return before < at <= now or before < at - timedelta(days=1)
        return now - self.begun >= timedelta(seconds=self.every)


class Nightly:
    """Follows the load, and starts the command when it is time: one at a time."""

    def __init__(self, every: str | float, command: Sequence[str], at_once: Callable[[], int]) -> None:
        self.command, self.at_once = command, at_once
        self.when = When(every, datetime.now())
        self.running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until it is cancelled; a command that was started then goes on alone."""
        while True:
            most = 0
            for _ in range(round(MINUTE_S / SAMPLE_S)):
                await asyncio.sleep(SAMPLE_S)
                most = max(most, self.at_once())
            due = self.when.minute(datetime.now(), most)
            if due and (self.running is None or self.running.done()):
                self.running = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        log("refresh.started")
        try:
            code, _ = await run_command(self.command)
            log("refresh.ended", code=code)
        except OSError as e:  # no memory, no process: the service does not fall with it
            log("refresh.not_started", why=e.strerror or str(e))
