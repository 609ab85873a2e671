"""What is simulated: a fleet, a policy, faults; and the same with one thing changed (`what if`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from ..deciding import POLICIES, Policy
from .account import Account
from .events_file import events_file
from .faults import drawn_faults, listed_faults
from .simulator import RESTART_S, simulate
from .traces import Fault, TraceJob, check_fit, read_faults, read_jobs, read_load

PUBLISHED = "published"
WHAT_IF = "devices=+50, serving=-8, lend=22-6, policy=fixed, faults=published, rigid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """`serving` of the `devices` are serving's. `faults`: none, published (a rate), or a file."""

    devices: int
    serving: int
    policy: str = "tide"
    rigid: bool = False
    lend: str = ""  # hours of the day in which devices may be lent, "22-6"; empty: all
    faults: str = ""
    seed: int = 0
    restart_s: float = RESTART_S

    def __post_init__(self) -> None:
        _check(self)

    @property
    def rules(self) -> Policy:
        rules = POLICIES[self.policy]
        return replace(rules, lend_hours=_hours(self.lend)) if self.lend else rules

    def document(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "restart_s"}


def _check(setup: Setup) -> None:
    def wrong(flag: str, message: str, hint: str) -> WrongUse:
        return WrongUse("simulate.setup", message, where=Where(field=flag), hint=hint)

    if setup.serving < 0 or setup.devices <= setup.serving:
        message = f"{setup.serving} of {setup.devices} devices are serving's: training owns none"
        raise wrong("--devices", message, "--devices counts all, --serving those among them that serve")
    simulated = [name for name, policy in POLICIES.items() if not policy.shares]  # a trace has no teams
    if setup.policy not in simulated:
        raise wrong("--policy", f"no policy {setup.policy}", ", ".join(simulated))
    if setup.lend:
        _hours(setup.lend)
    if not setup.restart_s >= RESTART_S:
        message = f"a restart of {setup.restart_s:g} s: the save of a called-back job alone may take 15 s"
        raise wrong("--restart-s", message, f"{RESTART_S:g} or more")


def _hours(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,2})-(\d{1,2})", text)
    if not match or max(map(int, match.groups())) > 24 or match[1] == match[2]:
        message = f"lend={text}: two hours of the day are meant"
        raise WrongUse(
            "simulate.setup", message, where=Where(field="--lend"), hint="22-6: from 22:00 to 6:00"
        )
    return int(match[1]), int(match[2])


def changed(setup: Setup, question: str) -> Setup:
    """The setup with what a question changes: "devices=+50", "lend=22-6", "rigid". Raises WrongUse."""
    for part in question.split(","):
        name, equals, value = (text.strip() for text in part.partition("="))
        setup = replace(setup, **{name: _value(setup, name, value, bool(equals))})  # type: ignore[arg-type]
    return setup


def _value(setup: Setup, name: str, value: str, given: bool) -> object:
    if name == "rigid" and not given:
        return True
    if name in ("devices", "serving") and re.fullmatch(r"[+-]?\d{1,9}", value):
        return int(value) + (getattr(setup, name) if value[0] in "+-" else 0)
    if name in ("lend", "policy", "faults") and given:
        return value
    message = f"what if {name}={value}: not a question" if given else f"what if {name}: not a question"
    raise WrongUse("simulate.what_if", message, where=Where(field="--what-if"), hint=WHAT_IF)


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs by submission and the need of serving, a minute each; `file` is that of the jobs."""

    jobs: list[TraceJob]
    loads: list[int]
    file: str


def read_trace(jobs: Path, load: Path, setup: Setup) -> Trace:
    """Both files. Raises WrongUse with file and line for the first fault."""
    return Trace(read_jobs(jobs), read_load(load, setup.serving), str(jobs))


def run_setup(trace: Trace, setup: Setup, events: Path | None = None) -> Account:
    """Simulate it; the file of events is written whole or not at all. Raises WrongUse."""
    rules = setup.rules
    elastic = rules.elastic and not setup.rigid
    check_fit(
        trace.jobs, setup.devices - setup.serving, lambda job: job.least if elastic else job.gpus, trace.file
    )
    if max(trace.loads) > setup.serving:
        message = f"{max(trace.loads)} devices are needed, serving has {setup.serving}"
        raise WrongUse("simulate.setup", message, where=Where(field="--serving"), hint="--serving more")
    faults = _faults(setup)
    with events_file(events) as write:
        return simulate(
            trace.jobs, trace.loads, setup.devices, setup.serving, rules,
            faults=faults, restart_s=setup.restart_s, rigid=setup.rigid, write=write,
        )  # fmt: skip


def _faults(setup: Setup) -> Iterator[Fault]:
    if setup.faults in ("", "none"):
        return iter(())
    if setup.faults == PUBLISHED:
        return drawn_faults(setup.devices, setup.seed)
    return listed_faults(read_faults(Path(setup.faults), setup.devices))
