"""The file of jobs: which run, on how many devices, each with the command that does it.

devices: 2                      # or a list: [{by: [numactl, --cpunodebind=0]}, {by: [numactl, ...]}]
                                # on the nodes of a cluster: [{on: 10.0.0.2}, {on: 10.0.0.3}]
jobs:
  - {name: desk, recipe: desk.yaml}
  - {name: other, command: [python, train.py], devices: 1, filler: true}
policy: tide                    # without teams and limits: who has used least goes first; jobs may have
                                # devices: {least: 1, usual: 2, most: 4}

Teams, budgets, deadlines, and devices that serving lends: terms.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from .terms import (
    Agreed,
    Serving,
    read_deadline,
    read_priority,
    read_serving,
    read_takes,
    read_team,
    read_terms,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST = 1_024  # devices of one machine, jobs of one file
KEYS = {
    "name", "recipe", "command", "devices", "filler", "team", "priority", "deadline", "takes", "gives_way",
}  # fmt: skip
TOP = {"jobs", "devices", "serving", "policy", "teams", "budget", "usd_per_device_hour"}
LIVE = ("shared", "tide")  # policies that jobs can be run by
SIZES = ("least", "usual", "most")
BESIDE = (sys.executable, "-m", "steelyard.run.path.beside")  # lets a command give way to services
EXAMPLE = "jobs: [{name: desk, recipe: desk.yaml}]"
UNTIL = ("--until", "train", "--yes", "--json")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """`command` runs in `folder`; started again after its end it has to say at once that it is done.

    `devices`: least, usual and most; other than one number only where the policy resizes jobs.
    `deadline_s`: seconds from when it is first taken in. `takes_s`: as long as its owner thinks it runs.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    sizes: tuple[int, int, int] = (1, 1, 1)
    filler: bool = False
    team: str = ""
    priority: int = 0
    deadline_s: float | None = None
    takes_s: float | None = None
    due_by_date: bool = False

    @property
    def devices(self) -> int:
        """As many as it usually has."""
        return self.sizes[1]


@dataclass(frozen=True, slots=True)
class JobsFile:
    """`devices`: of each the words that everything on it is started by, most often none; `nodes`: of each the
    node that it is of, or nothing at all for this machine."""

    file: Path
    devices: tuple[tuple[str, ...], ...]
    jobs: tuple[JobSpec, ...]
    terms: Agreed = field(default_factory=Agreed)
    serving: Serving = field(default_factory=Serving)
    nodes: tuple[str, ...] = ()
    policy: str = LIVE[0]

    @property
    def shares(self) -> bool:
        """Whether anything in it needs the policy that knows of teams and limits."""
        asked = any(job.team or job.priority or job.deadline_s is not None for job in self.jobs)
        return asked or bool(self.terms.teams or self.terms.budget_s)


def read_jobs_file(file: Path) -> JobsFile:
    """Raises WrongUse with file, line and field."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        document = YAML(typ="rt").load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _wrong(file, None, "", f"cannot read {file}: {error.strerror}", EXAMPLE) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise _wrong(file, line, "", f"this is not YAML: {error.problem}", EXAMPLE) from error
    except (YAMLError, ValueError) as error:
        raise _wrong(file, None, "", "this is not YAML in UTF-8", EXAMPLE) from error
    if not isinstance(document, Mapping) or not isinstance(document.get("jobs"), Sequence):
        raise _wrong(file, 1, "jobs", "a list of jobs is missing", EXAMPLE)
    if unknown := set(map(str, document)) - TOP:
        raise _wrong(file, None, min(unknown), "no such key", ", ".join(sorted(TOP)))

    def wrong(field: str, message: str, hint: str) -> WrongUse:
        return _wrong(file, None, field, message, hint)

    terms = read_terms(document, wrong)
    devices = _devices(file, document.get("devices", 1))
    rows = document["jobs"]
    jobs = tuple(_job(file, row, n, _line(rows, n), len(devices), terms) for n, row in enumerate(rows))
    names = [job.name for job in jobs]
    if not jobs or len(jobs) > MOST:
        raise _wrong(file, None, "jobs", f"{len(jobs)} jobs", f"1 to {MOST}")
    for n, name in enumerate(names):
        if name in names[:n]:
            text, hint = f"two jobs are called {name}", "each needs a name of its own"
            raise _wrong(file, _line(rows, n), f"jobs.{n}.name", text, hint)
    serving = Serving()
    if "serving" in document:
        serving = read_serving(document["serving"], len(devices), wrong)
    nodes = _nodes(file, document.get("devices"))
    policy = str(document.get("policy", LIVE[0]))
    spec = JobsFile(file.absolute(), devices, jobs, terms, serving, nodes, policy)
    _check_policy(spec, wrong)
    return spec


def _check_policy(spec: JobsFile, wrong: Any) -> None:
    if spec.policy not in LIVE:
        raise wrong("policy", f"{spec.policy} is no policy", " or ".join(LIVE))
    if spec.policy == "tide" and spec.shares:
        text = "the tide knows no teams, budgets, priorities and deadlines"
        raise wrong("policy", text, "policy: shared, or none of them")
    ranges = (job.name for job in spec.jobs if len(set(job.sizes)) > 1)
    if spec.policy != "tide" and (name := next(ranges, None)):
        raise wrong("policy", f"{name} has a range of devices, and nothing resizes it", "policy: tide")


def _line(rows: Any, n: int) -> int | None:
    marks = getattr(rows, "lc", None)
    return marks.item(n)[0] + 1 if marks is not None else None


def _wrong(file: Path, line: int | None, field: str, message: str, hint: str) -> WrongUse:
    return WrongUse("jobs.file", message, where=Where(str(file), line, field or None), hint=hint)


def _devices(file: Path, value: Any) -> tuple[tuple[str, ...], ...]:
    hint = "devices: 2, or a list: [{by: [taskset, -c, '0']}]"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
        return ((),) * value
    if not isinstance(value, Sequence) or isinstance(value, str) or not 1 <= len(value) <= MOST:
        raise _wrong(file, None, "devices", f"{value} is no number of devices and no list", hint)
    for n, row in enumerate(value):
        if not isinstance(row, Mapping) or set(row) - {"by", "on"} or not _words(row.get("by", [])):
            raise _wrong(file, _line(value, n), f"devices.{n}", "a device has words in `by`", hint)
    return tuple(tuple(map(str, row.get("by", []))) for row in value)


def _nodes(file: Path, rows: Any) -> tuple[str, ...]:
    """Of each device its node; nothing where none has one."""
    rows = rows if isinstance(rows, Sequence) and not isinstance(rows, str) else []
    nodes = tuple(str(row.get("on") or "") for row in rows)
    if not any(nodes):
        return ()
    if (n := next((n for n, node in enumerate(nodes) if not node), None)) is not None:
        hint = "devices: [{on: 10.0.0.2}, {on: 10.0.0.3}]"
        raise _wrong(file, _line(rows, n), f"devices.{n}.on", "either each device has a node, or none", hint)
    return nodes


def _words(value: Any) -> bool:
    plain = isinstance(value, Sequence) and not isinstance(value, str)
    return plain and all(isinstance(word, str | int | float) for word in value)


def _job(file: Path, row: Any, n: int, line: int | None, devices: int, terms: Agreed) -> JobSpec:
    def wrong(field: str, message: str, hint: str) -> WrongUse:
        return _wrong(file, line, f"jobs.{n}.{field}".rstrip("."), message, hint)

    if not isinstance(row, Mapping):
        raise wrong("", "a job is a table", EXAMPLE)
    if unknown := set(row) - KEYS:
        raise wrong(str(min(map(str, unknown))), "no such key", ", ".join(sorted(KEYS)))
    name = str(row.get("name", ""))
    if not NAME.fullmatch(name):
        raise wrong("name", f"{name!r} is no name", "letters, digits, . _ -, at most 64")
    if ("recipe" in row) == ("command" in row):
        raise wrong("", "a job has a recipe or a command", EXAMPLE)
    sizes, filler = _sizes(row.get("devices", 1), devices, wrong), row.get("filler", False)
    if not isinstance(filler, bool):
        raise wrong("filler", f"{filler} is not true or false", "filler: true")
    folder = file.absolute().parent
    deadline_s, by_date = read_deadline(row, wrong)
    return JobSpec(
        name, _command(row, folder, wrong), folder, sizes, filler, read_team(row, terms, wrong),
        read_priority(row, wrong), deadline_s, read_takes(row, wrong), by_date,
    )  # fmt: skip


def _sizes(value: Any, devices: int, wrong: Any) -> tuple[int, int, int]:
    """A number, or least, usual and most: what is left out is as the usual."""
    hint = f"1 to {devices}, or {{least: 1, usual: 2, most: 4}}"
    rows = dict(value) if isinstance(value, Mapping) else {"usual": value}
    if "usual" not in rows or set(rows) - set(SIZES):
        raise wrong("devices", "a range has a usual number, and least or most", hint)
    least, usual, most = (rows.get(name, rows["usual"]) for name in SIZES)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (least, usual, most))
    if not (whole and 1 <= least <= usual <= most <= devices):
        raise wrong("devices", f"{value} of {devices} devices", hint)
    return least, usual, most


def _command(row: Mapping[str, Any], folder: Path, wrong: Any) -> tuple[str, ...]:
    gives_way = row.get("gives_way", "recipe" in row)
    if not isinstance(gives_way, bool) or ("recipe" in row and not gives_way):
        raise wrong("gives_way", f"{gives_way} is not for this job", "of a recipe: resources.give_way in it")
    if "recipe" in row:
        recipe = folder / str(row["recipe"])
        if not recipe.is_file():
            raise wrong("recipe", f"there is no recipe {recipe}", "a path from this file's folder")
        return (sys.executable, "-m", "steelyard", "up", str(recipe), *UNTIL)
    command = row["command"]
    if not _words(command) or not command:
        raise wrong("command", "a command is a list of words", "command: [python, train.py]")
    return (*(BESIDE if gives_way else ()), *map(str, command))
