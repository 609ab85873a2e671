"""Teams, budgets and deadlines of a file of jobs.

teams: {search: {share: 2, budget: 30h}, desk: {}}
budget: 40h                       # device hours of all jobs; or {usd: 60} with usd_per_device_hour: 1.5
jobs: [{name: a, recipe: a.yaml, team: search, priority: 1, deadline: 8h, takes: 3h}]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, Protocol

from ...errors import WrongUse
from ...units import parse_s

EVERY_S = 60.0
HIGHEST = 100  # priority


class Wrong(Protocol):
    def __call__(self, field: str, message: str, hint: str) -> WrongUse: ...


@dataclass(frozen=True, slots=True)
class Agreed:
    """As the event Terms has it: name, share, budget in device seconds or None."""

    teams: tuple[tuple[str, float, float | None], ...] = ()
    budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """The last devices of the file are serving's, and lent to jobs while it needs less. `every_s`: how often
    its need is measured; the forecast looks two of these ahead."""

    devices: int = 0
    every_s: float = EVERY_S


def read_serving(value: Any, devices: int, wrong: Wrong) -> Serving:
    hint = "serving: {devices: 1, every: 60s}"
    if not isinstance(value, Mapping) or set(value) - {"devices", "every"}:
        raise wrong("serving", "it has devices and, if other than a minute, every", hint)
    count = value.get("devices", 0)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= devices:
        raise wrong("serving.devices", f"{count} of {devices} devices", hint)
    every_s = seconds(value.get("every", EVERY_S), "serving.every", wrong)
    if every_s < 1:
        raise wrong("serving.every", f"{every_s} s", "1s or more")
    return Serving(count, every_s)


def read_terms(document: Mapping[str, Any], wrong: Wrong) -> Agreed:
    usd = document.get("usd_per_device_hour")
    if usd is not None and not (_is_number(usd) and usd > 0):
        raise wrong("usd_per_device_hour", f"{usd} is no price", "usd_per_device_hour: 1.5")
    teams = document.get("teams", {})
    if not isinstance(teams, Mapping):
        raise wrong("teams", "it is a table of names", "teams: {search: {share: 2}, desk: {}}")
    rows = [_team(str(name), row or {}, usd, wrong) for name, row in teams.items()]
    return Agreed(tuple(rows), _budget(document.get("budget"), usd, "budget", wrong))


def _team(name: str, row: Any, usd: float | None, wrong: Wrong) -> tuple[str, float, float | None]:
    if name in ("", "*") or not isinstance(row, Mapping) or set(row) - {"share", "budget"}:
        raise wrong(f"teams.{name}", "a team has a name, share and budget", "{share: 2, budget: 30h}")
    share = row.get("share", 1.0)
    if not _is_number(share) or not 0 < share < inf:
        raise wrong(f"teams.{name}.share", f"{share} is no share", "a number above 0")
    return name, float(share), _budget(row.get("budget"), usd, f"teams.{name}.budget", wrong)


def _budget(value: Any, usd: float | None, field: str, wrong: Wrong) -> float | None:
    """In device seconds."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        budget_s = seconds(value, field, wrong)
    elif set(value) != {"usd"} or not _is_number(value["usd"]):
        raise wrong(field, "a budget is device hours, or {usd: 60}", "budget: 40h")
    elif usd is None:
        raise wrong(field, "nobody knows what a device costs", "usd_per_device_hour: 1.5 at the top")
    else:
        budget_s = value["usd"] / usd * 3_600
    if not 0 < budget_s < inf:
        raise wrong(field, "nothing can run on it", "more than 0, or no budget")
    return float(budget_s)


def read_team(row: Mapping[str, Any], terms: Agreed, wrong: Wrong) -> str:
    names = [name for name, *_ in terms.teams]
    team = str(row.get("team", ""))
    if names and team not in names:
        why = f"no team {team}" if team else "whose job is it?"
        raise wrong("team", why, ", ".join(names))
    if team and not names:
        raise wrong("team", "the file has no teams", f"teams: {{{team}: {{}}}} at the top")
    return team


def read_priority(row: Mapping[str, Any], wrong: Wrong) -> int:
    value = row.get("priority", 0)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > HIGHEST:
        raise wrong("priority", f"{value} is no priority", f"-{HIGHEST} to {HIGHEST}; the higher goes first")
    return value


def read_deadline(row: Mapping[str, Any], wrong: Wrong) -> tuple[float | None, bool]:
    """Seconds from now; whether it is a date, which holds whenever the file is read."""
    value = row.get("deadline")
    if value is None:
        return None, False
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return seconds(value, "deadline", wrong), False
    at = at if at.tzinfo else at.astimezone()  # without a zone: that of this machine
    return (at - datetime.now(UTC)).total_seconds(), True


def read_takes(row: Mapping[str, Any], wrong: Wrong) -> float | None:
    return None if row.get("takes") is None else seconds(row["takes"], "takes", wrong)


def seconds(value: Any, field: str, wrong: Wrong) -> float:
    try:
        return parse_s(value if isinstance(value, int | float) else str(value))
    except WrongUse as error:
        raise wrong(field, error.message, error.hint or "8h") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
