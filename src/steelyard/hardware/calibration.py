"""How fast this machine is, measured in under a minute and cached per fingerprint.

Own micro-benchmarks need numpy alone; what a training step or a served token costs is measured by
callables that `run` passes in, so that this room knows neither torch nor an engine. Each row carries the
share of the cores that its probe really had; a probe that others disturbed is taken again, a few times.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from steelyard.errors import Problem

from ..places import cache_folder
from ..units import show_s
from .contention import UNDISTURBED, cores_had, cpu_times
from .machine import Machine

SCHEMA = 2  # raise it when a probe measures something else under the same name
TRIES = 3  # of a probe that others disturb, over all plans; the best one is kept
AGAIN = 1.5  # times the limit: until then disturbed probes are taken once more in the same plan
LOOK_S = 0.25
Rows = list[dict[str, Any]]
Probe = Callable[[], Rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Measured rows of one machine; `skipped` says which probes did not run and why."""

    fingerprint: str
    rows: tuple[dict[str, Any], ...]
    taken: tuple[str, ...]  # names of the probes whose rows are in
    skipped: Mapping[str, str]
    measured_s: float  # 0 when everything came from the cache
    path: str
    tries: Mapping[str, int] = field(default_factory=dict)  # how often each probe was taken

    @property
    def share(self) -> float:
        """The least share of the cores that a probe had: below UNDISTURBED others computed beside it."""
        return min((row.get("share", 1.0) for row in self.rows), default=1.0)

    @property
    def hash(self) -> str:
        """SHA-256 of the rows: names this calibration in a plan."""
        return hashlib.sha256(json.dumps(self.rows, sort_keys=True).encode()).hexdigest()

    def of(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """Rows of one operation, those whose fields equal `fields`, as they would be with all cores."""
        rows = (r for r in self.rows if r.get("op") == op and all(r.get(k) == v for k, v in fields.items()))
        return [undisturbed(row) for row in rows]


def undisturbed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its seconds shorter, and its rates higher, by the share of the cores that it had."""
    share = row.get("share", 1.0)

    def corrected(name: str, value: Any) -> Any:
        if name.endswith("_per_s"):
            return value / share
        return value * share if name == "s" or name.endswith("_s") else value

    return {name: corrected(name, value) for name, value in row.items()}


def measure(
    machine: Machine, probes: Mapping[str, Probe] | None = None, limit_s: float = 60, *, fresh: bool = False
) -> Calibration:
    """Calibrate this machine, or read what was measured before on the same fingerprint.

    Only probes run that are not in the cache, or that others disturbed: those when it is quiet, TRIES times
    in all. A probe that raises is skipped, and `skipped` says why: a plan with wider intervals is better than
    none. No further probe starts once `limit_s` is over. One measurement at a time: others wait.
    """
    path = cache_folder() / f"calibration-{machine.fingerprint[:16]}.json"
    wanted: dict[str, Probe] = {"machine": lambda: machine_rows(machine), **(probes or {})}
    with _alone(path):
        previous = None if fresh else _read(path, machine.fingerprint)
        previous = previous or Calibration(
            fingerprint=machine.fingerprint,
            rows=(),
            taken=(),
            skipped={},
            measured_s=0,
            path=str(path),
        )
        missing = {name: call for name, call in wanted.items() if name not in previous.taken}
        missing |= _again(previous, wanted)
        if not missing:
            return previous
        done = _run(previous, missing, limit_s)
        _write(path, done)
        return done


def recall(machine: Machine) -> Calibration | None:
    """What was measured of this machine before; None where nothing is cached."""
    return _read(cache_folder() / f"calibration-{machine.fingerprint[:16]}.json", machine.fingerprint)


def _share(calibration: Calibration, probe: str) -> float:
    """Of the cores, what a probe had; 0 where it was never taken."""
    if probe not in calibration.taken:
        return 0.0
    return min((row.get("share", 1.0) for row in calibration.rows if row.get("probe") == probe), default=1.0)


def _again(calibration: Calibration, probes: Mapping[str, Probe]) -> dict[str, Probe]:
    """Those that were disturbed and not yet taken often enough; none while others still compute."""
    disturbed = {
        name: call
        for name, call in probes.items()
        if name in calibration.taken
        and _share(calibration, name) < UNDISTURBED
        and calibration.tries.get(name, 1) < TRIES
    }
    return disturbed if disturbed and free_now() else {}


def free_now() -> bool:
    """Whether others leave the cores alone, by a look of a quarter of a second."""
    before = cpu_times()
    time.sleep(LOOK_S)
    return cores_had(before, cpu_times()) >= UNDISTURBED


def _run(previous: Calibration, probes: Mapping[str, Probe], limit_s: float) -> Calibration:
    """Every probe once; then those that were disturbed once more, if it is quiet now and there is time."""
    start = time.monotonic()
    done, skipped = previous, dict[str, str]()
    for name, call in probes.items():
        if time.monotonic() - start > limit_s:
            skipped[name] = f"the limit of {show_s(limit_s)} was over"
            continue
        try:
            done = _with(done, name, *_taken(call))
        except Problem as e:
            skipped[name] = e.message
        except Exception as e:
            skipped[name] = f"{type(e).__name__}: {e}"
    for name, call in _again(done, probes).items():
        if name not in skipped and time.monotonic() - start < AGAIN * limit_s:
            with contextlib.suppress(Exception):  # it was taken before: what it gave then stays
                done = _with(done, name, *_taken(call))
    return replace(done, skipped=skipped, measured_s=time.monotonic() - start)


def _taken(call: Probe) -> tuple[Rows, float]:
    """A probe's rows, and the share of the cores that it had."""
    before = cpu_times()
    return call(), cores_had(before, cpu_times())


def _with(calibration: Calibration, probe: str, rows: Rows, share: float) -> Calibration:
    """The calibration with a probe's rows, in place of earlier ones that had less of the cores."""
    tries = {**calibration.tries, probe: calibration.tries.get(probe, 0) + 1}
    if probe in calibration.taken and share <= _share(calibration, probe):
        return replace(calibration, tries=tries)
    kept = [row for row in calibration.rows if row.get("probe") != probe]
    new = [{**row, "probe": probe, "share": round(share, 3)} for row in rows]
    taken = dict.fromkeys([*calibration.taken, probe])
    return replace(calibration, rows=(*kept, *new), taken=tuple(taken), tries=tries)


# ------------------------------------------------------------------ the cache


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(path.with_suffix(".lock").open("w")))
        except OSError:
            pass  # a read-only home must not forbid planning: measure, keep nothing
        yield


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # not POSIX: two plans may measure at once
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _read(path: Path, fingerprint: str) -> Calibration | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA or document["fingerprint"] != fingerprint:
            return None
        rows = tuple(dict(row) for row in document["rows"])
        return Calibration(
            fingerprint=fingerprint,
            rows=rows,
            taken=tuple(document["taken"]),
            skipped={},
            measured_s=0,
            path=str(path),
            tries=dict(document.get("tries") or {}),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged cache is measured again


def _write(path: Path, done: Calibration) -> None:
    document = {
        "schema": SCHEMA,
        "fingerprint": done.fingerprint,
        "taken": done.taken,
        "tries": dict(done.tries),
        "rows": done.rows,
    }
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        return  # the next plan measures again


# ------------------------------------------------------------------ own micro-benchmarks, numpy alone


def machine_rows(machine: Machine) -> Rows:
    """Memory bandwidth, FP32 GEMM at four sizes, a durable file write: about 3 s."""
    return [triad(machine), *gemms(), file_write()]


def _timed(call: Callable[[], Any], repeats: int = 5) -> float:
    """The fastest of some runs after a warm-up: what others do to the cores only ever adds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def triad(machine: Machine) -> dict[str, Any]:
    """Bytes a second of a = b + c over arrays of four times the last cache, one thread a core."""
    import numpy as np

    size = max(8 * 2**20, min(4 * machine.last_cache_bytes, machine.memory_free_bytes // 16) // 4)
    b, c, a = (np.ones(size, np.float32) for _ in range(3))
    cuts = np.linspace(0, size, machine.cores + 1, dtype=int)
    parts = list(itertools.pairwise(cuts))

    def add(part: tuple[int, int]) -> None:
        np.add(b[part[0] : part[1]], c[part[0] : part[1]], out=a[part[0] : part[1]])

    with ThreadPoolExecutor(machine.cores) as pool:
        seconds = _timed(lambda: list(pool.map(add, parts)))
    return {
        "op": "triad",
        "bytes": 12 * size,
        "threads": machine.cores,
        "s": seconds,
        "bytes_per_s": 12 * size / seconds,
    }


def gemms() -> Rows:
    """FP32 GEMM (m, 1024) x (1024, 1024) at four m: numpy's BLAS with its own threads."""
    import numpy as np

    k = n = 1024
    w = np.ones((k, n), np.float32)
    rows = []
    for m in (1, 8, 64, 512):
        x = np.ones((m, k), np.float32)
        seconds = _timed(partial(np.matmul, x, w), 7)
        rows.append(
            {
                "op": "gemm",
                "dtype": "f32",
                "m": m,
                "n": n,
                "k": k,
                "s": seconds,
                "flops_per_s": 2 * m * n * k / seconds,
            }
        )
    return rows


def file_write(size: int = 64 * 2**20) -> dict[str, Any]:
    """Bytes a second of writing and fsyncing a file in the temporary folder."""
    block = os.urandom(size)
    start = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    return {"op": "file_write", "bytes": size, "s": seconds, "bytes_per_s": size / seconds}
