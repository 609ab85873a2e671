"""Traces of jobs, of a serving load and of faults, from CSV. What is wrong is named with file and line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ...errors import Where, WrongUse

JOB_COLUMNS = ("job_id", "submit_s", "gpus", "duration_s")
JOB_MORE = ("status", "min_gpus", "max_gpus", "filler")
LOAD_COLUMNS, LOAD_MORE = ("t_s", "need"), ("rps",)
FAULT_COLUMNS, FAULT_MORE = ("t_s", "device", "down_s"), ()
MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class TraceJob:
    """`duration_s` on `gpus` devices; the scheduler never gets to know it."""

    id: str
    submit_s: float
    gpus: int
    duration_s: float
    least: int
    most: int
    filler: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A device is down from `t_s` for `down_s`."""

    t_s: float
    device: int
    down_s: float


class Row:
    """One line of a trace; what is wrong with it is raised with file, line and column."""

    def __init__(self, file: str, line: int, values: dict[str, str]) -> None:
        self.file, self.line, self.values = file, line, values

    def wrong(self, column: str, message: str, hint: str) -> WrongUse:
        return WrongUse(
            "trace.value", message, where=Where(self.file, line=self.line, field=column), hint=hint
        )

    def number(self, column: str, least: float, default: float | None = None) -> float:
        text = self.values.get(column, "").strip()
        if not text and default is not None:
            return default
        value = _float(text)
        if value is None:
            message = f"{column} is empty" if not text else f"{column} is no number: {text[:40]}"
            raise self.wrong(column, message, f"give a number of at least {least:g}")
        if value < least:
            raise self.wrong(column, f"{column} is {text}", f"give a number of at least {least:g}")
        return value

    def whole(self, column: str, least: int, default: int | None = None) -> int:
        value = self.number(column, least, default)
        if value != int(value):
            raise self.wrong(column, f"{column} is {value:g}", "give a whole number")
        return int(value)


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _rows(path: Path, needed: Sequence[str], more: Sequence[str]) -> Iterator[Row]:
    """Raises WrongUse for a file that is none, a column too many or too few, a line of another width."""
    file = str(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as source:
            reader = csv.reader(source, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(file, header, needed, more)
            for values in reader:
                line = reader.line_num
                if len(values) != len(header):
                    message = f"{len(values)} values under {len(header)} columns"
                    raise WrongUse(
                        "trace.width", message, where=Where(file, line=line), hint="mend or remove the line"
                    )
                yield Row(file, line, dict(zip(header, values, strict=True)))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        hint = "give the path of a CSV file that can be read"
        raise WrongUse("trace.file", f"cannot read {file}", where=Where(file), hint=hint) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise WrongUse(
            "trace.file", "this is no CSV in UTF-8", where=Where(file), why=str(error),
            hint="save it as CSV with commas",
        ) from error  # fmt: skip


def _check_header(file: str, header: list[str], needed: Sequence[str], more: Sequence[str]) -> None:
    where = Where(file, line=1)
    columns = f"columns: {', '.join(needed)}" + (f"; may be there: {', '.join(more)}" if more else "")
    for name in header:
        if name not in (*needed, *more) or header.count(name) > 1:
            what = "twice" if header.count(name) > 1 else "unknown"
            raise WrongUse("trace.column", f"column {what}: {name[:40]}", where=where, hint=columns)
    for name in needed:
        if name not in header:
            raise WrongUse("trace.column", f"column missing: {name}", where=where, hint=columns)


def read_jobs(path: Path) -> list[TraceJob]:
    """Jobs by time of submission. Without `min_gpus` and `max_gpus` a job is rigid. Raises WrongUse."""
    jobs: list[TraceJob] = []
    lines: dict[str, int] = {}
    for row in _rows(path, JOB_COLUMNS, JOB_MORE):
        job = _job(row)
        if job.id in lines:
            raise row.wrong("job_id", f"job {job.id} is of line {lines[job.id]} too", "give each job a name")
        lines[job.id] = row.line
        jobs.append(job)
    if not jobs:
        raise WrongUse("trace.empty", "no job in it", where=Where(str(path)), hint="give a row for each job")
    return sorted(jobs, key=lambda job: job.submit_s)


def _job(row: Row) -> TraceJob:
    name = row.values["job_id"].strip()
    if not name:
        raise row.wrong("job_id", "job_id is empty", "give each job a name")
    gpus = row.whole("gpus", 1)
    least, most = row.whole("min_gpus", 1, gpus), row.whole("max_gpus", 1, gpus)
    if not least <= gpus <= most:
        message = f"min_gpus {least}, gpus {gpus}, max_gpus {most} are out of order"
        raise row.wrong("min_gpus", message, "min_gpus <= gpus <= max_gpus")
    submit_s, duration_s = row.number("submit_s", 0), row.number("duration_s", 0)
    filler = row.whole("filler", 0, 0) > 0
    return TraceJob(name, submit_s, gpus, duration_s, least, most, filler)


def read_load(path: Path, serving: int) -> list[int]:
    """Devices needed in each minute, the first at 0 s. Raises WrongUse for a gap or more than `serving`."""
    needs: list[int] = []
    for row in _rows(path, LOAD_COLUMNS, LOAD_MORE):
        t_s, expected = row.number("t_s", 0), len(needs) * MINUTE_S
        if t_s != expected:
            message = f"t_s is {t_s:g}, {expected} comes next"
            raise row.wrong("t_s", message, "one row a minute from 0 s, none left out")
        need = row.whole("need", 0)
        if need > serving:
            raise row.wrong("need", f"{need} devices are needed, serving has {serving}", "--serving more")
        needs.append(need)
    if not needs:
        raise WrongUse("trace.empty", "no minute in it", where=Where(str(path)), hint="one row a minute")
    return needs


def read_faults(path: Path, devices: int) -> list[Fault]:
    """Faults by time. Raises WrongUse."""
    faults = []
    for row in _rows(path, FAULT_COLUMNS, FAULT_MORE):
        device = row.whole("device", 0)
        if device >= devices:
            raise row.wrong("device", f"device {device} of {devices}", f"0 to {devices - 1}")
        faults.append(Fault(row.number("t_s", 0), device, row.number("down_s", 1)))
    return sorted(faults, key=lambda fault: fault.t_s)


def check_fit(jobs: Sequence[TraceJob], training: int, size: Callable[[TraceJob], int], file: str) -> None:
    """Raises WrongUse for a job that training's own devices could never run."""
    for job in jobs:
        if size(job) > training:
            raise WrongUse(
                "trace.too_wide", f"job {job.id} needs {size(job)} devices, training owns {training}",
                where=Where(file, field="gpus"), hint="--devices more, --serving fewer, or leave the job out",
            )  # fmt: skip
