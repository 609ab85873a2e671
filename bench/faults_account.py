"""The account of a bench of faults: what the journal blames, what was lost, which goal was missed.

Blame: each action that the journal has needs a fault whose kind it fits (EXPECTED), of that job or device,
from the fault until AFTER_S after it has healed; each of a kind's words explains one action a fault. An
action without one is unexplained; a fault of which the first word was never said has the wrong blame.

Goodput: steps that were done, times the median step, over the wall from the first step to the last.

Bound: what no way of healing can avoid with these checkpoints and these restarts (of first order, after Young
1974, Communications of the ACM 17(9)):

    1 - C / tau - sum over the faults of (a * tau / 2 + b * R) / wall

C       the wall that a save adds: the mean of two steps in a row with a save before the first, less the
        mean of two without one, not below 0. Two: the step after it makes up for what its pace allows. Steps
        in a fault are left out
tau     from one save to the next: save_steps median steps, and C
R       a restart: the median over killed workers from the kill to their first step, less that step
a, b    by kind (LOSES). What ends a worker loses half of tau on average, and a restart; where its last
        checkpoint is spoilt too (flip), the one before counts, one tau more. A job on a slow device saves
        before it moves: a restart alone. A frozen worker, a cut, a clock, a driver that ends: nothing

`formula_bound` is the same where each of the faults costs half of tau and a restart, as the published formula
has it (Kokolis et al. 2024, arXiv 2410.21680): the goal asks for the one above, which is stricter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

GOAL = 0.97  # of the bound
BEFORE_S, AFTER_S = 0.2, 5.0
BLAMES = ("preempt", "stop", "wake", "isolate", "repair", "retire", "warn")  # a question (probe) is none
# Of each kind: what the journal has to say (one of these), and what else it may.
EXPECTED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kill": (("preempt unknown",), ()),
    "freeze": (("wake node: stopped by a signal",), ()),
    "disk": (("preempt storage: prune",), ()),
    "flip": (("signal storage",), ("preempt unknown", "probe")),
    "slow": (
        ("isolate probe failed",),
        # repair: it was slow still when it was probed again; retire: the third time for this device
        ("signal steps", "probe", "preempt device isolated", "readmit", "repair", "retire isolated"),
    ),
    "oom": (("preempt job: host_memory",), ()),
    "clock": (("warn node",), ()),
    "driver": (("lease",), ()),
    "cut": (("signal heartbeat",), ("probe",)),
    "node": (
        ("isolate device lost", "preempt node"),  # whether it is found lost before it is there again
        ("preempt device lost", "readmit", "signal heartbeat", "probe", "repair"),
    ),
}
LOSES = {"kill": (1, 1), "disk": (1, 1), "flip": (3, 1), "oom": (1, 1), "node": (1, 1), "slow": (0, 1)}
RESTARTS = ("kill", "flip")  # the attempt in which they strike says nothing more
EVERYWHERE = ("clock", "driver")  # they are of no job and of no device


@dataclass
class Fault:
    """`until`: the monotonic second at which it was seen to have healed, or was given up."""

    kind: str
    job: str
    mono: float = 0.0
    until: float = 0.0
    device: int = -1
    step: int = -1
    healed_s: float | None = None
    first_step_s: float | None = None  # to the first step of any number
    said: list[str] = field(default_factory=list)
    right: bool = False


class Growing:
    """The whole JSON lines of a file that grows; each is read once."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.rows: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            self.offset += whole
            for line in data[:whole].splitlines():
                with suppress(ValueError):
                    self.rows.append(json.loads(line))
        return self.rows


# ------------------------------------------------------------------ blame


def words_for(fault: Fault, row: dict[str, Any]) -> str | None:
    """Which of its kind's words this is; None where it is none, or of another job or device."""
    wanted, more = EXPECTED[fault.kind]
    words = next((words for words in (*wanted, *more) if row["what"].startswith(words)), None)
    if words is None or (row["job"] and row["job"] != fault.job):
        return None
    ours = row["job"] or fault.device in row["devices"] or fault.kind in EVERYWHERE
    return words if ours else None


def blamed(said: Sequence[dict[str, Any]], faults: Sequence[Fault]) -> list[str]:
    """The actions that no fault explains; each fault gets what is said of it."""
    strange, spent = [], set[tuple[int, str]]()
    for row in said:
        is_blame = row["what"].split()[0] in BLAMES
        for number, words in _explaining(row, faults):
            if not is_blame or (number, words) not in spent:
                spent.add((number, words))
                faults[number].said.append(row["what"])
                break
        else:
            if is_blame:
                strange.append(f"{row['what']} {row['job'] or row['devices']}")
    for fault in faults:
        fault.right = any(what.startswith(EXPECTED[fault.kind][0]) for what in fault.said)
    return strange


def _explaining(row: dict[str, Any], faults: Sequence[Fault]) -> Iterator[tuple[int, str]]:
    """Numbers of the faults that it may be said of, the last one first, and the words of their kinds."""
    for number in range(len(faults) - 1, -1, -1):
        fault = faults[number]
        if fault.mono - BEFORE_S <= row["mono"] <= fault.until + AFTER_S and (words := words_for(fault, row)):
            yield number, words


# ------------------------------------------------------------------ goodput and its bound


def restart_of(faults: Sequence[Fault]) -> float:
    """From the kill to the first step, median; 0 where nothing was killed, so that the bound is higher."""
    restarts = [f.first_step_s for f in faults if f.kind in RESTARTS and f.first_step_s]
    return median(restarts) if restarts else 0.0


def goodput(
    rows: list[dict[str, Any]], faults: Sequence[Fault], save_steps: int, restart_s: float
) -> dict[str, float]:
    """`rows`: all lines of one job's reports, in order of time; `faults`: its own. Empty without steps."""
    stepped = [row for row in rows if "step" in row]
    times = [b["mono"] - a["mono"] for a, b in pairwise(rows) if _follows(a, b)]
    if not times:
        return {}
    step_s, save_s = median(times), saving(rows, faults)
    tau_s = save_steps * step_s + save_s
    wall_s = stepped[-1]["mono"] - stepped[0]["mono"]
    each_s = max(0.0, restart_s - step_s)
    losses = [LOSES.get(fault.kind, (0, 0)) for fault in faults]
    lost_s = sum(a * tau_s / 2 + b * each_s for a, b in losses)
    bound = 1 - save_s / tau_s - lost_s / wall_s
    by_formula = 1 - save_s / tau_s - len(faults) * (tau_s / 2 + each_s) / wall_s
    steps = stepped[-1]["step"] - stepped[0]["step"]
    share = steps * step_s / wall_s
    return {
        "steps": steps, "step_s": round(step_s, 4), "save_s": round(save_s, 4), "tau_s": round(tau_s, 2),
        "wall_s": round(wall_s, 1), "half_intervals": sum(a for a, _ in losses),
        "restarted": sum(b for _, b in losses), "unavoidable_s": round(lost_s, 1), "goodput": round(share, 4),
        "bound": round(bound, 4), "of_bound": round(share / bound, 4) if bound > 0 else 0.0,
        "formula_bound": round(by_formula, 4),
    }  # fmt: skip


def _follows(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return "step" in a and "step" in b and a["attempt"] == b["attempt"]


def saving(rows: list[dict[str, Any]], faults: Sequence[Fault]) -> float:
    """Seconds that a save adds to the two steps after it; 0 where none was undisturbed."""
    with_one: list[float] = []
    without: list[float] = []
    steps: list[tuple[dict[str, Any], bool]] = []  # and whether a save came before it, after the last one
    saved = False
    for row in rows:
        saved |= "saved" in row
        if "step" in row:
            steps.append((row, saved))
            saved = False
    for (a, before), (_, first), (c, second) in zip(steps, steps[1:], steps[2:], strict=False):
        if before or second or a["attempt"] != c["attempt"] or _in_fault(a["mono"], c["mono"], faults):
            continue
        (with_one if first else without).append(c["mono"] - a["mono"])
    return max(0.0, mean(with_one) - mean(without)) if with_one and without else 0.0


def _in_fault(begin: float, end: float, faults: Sequence[Fault]) -> bool:
    return any(begin <= fault.until and fault.mono <= end for fault in faults)


# ------------------------------------------------------------------ the goals


def short(document: dict[str, Any], faults: int) -> list[str]:
    """The names of the goals that were missed, of so many faults that were to be injected."""
    met = {
        "faults": document["faults"] >= max(1, faults),
        "healed": document["healed"] == document["faults"],
        "right_blame": document["right_blame"] == document["faults"],
        "unexplained": not document["unexplained"],
        "equal_weights": bool(document["equal_weights"]) and all(document["equal_weights"]),
        "replayed_equal": bool(document["replayed_events"]) and document["replayed_equal"],
        "of_bound": all(job.get("of_bound", 0.0) >= GOAL for job in document["jobs"].values()),
    }
    return [name for name, well in met.items() if not well]
