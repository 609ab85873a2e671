"""What each step of `up` will take on this machine: time, memory, speed, price.

Counts of work from sizes and settings, times rates from calibration, times what the ledger has taught about
this machine. Nothing here changes a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log
from typing import Any

from steelyard.hardware import UNDISTURBED, Calibration, Machine
from steelyard.ledger import Row
from steelyard.shape import Shape
from steelyard.units import Figure, weakest

from ..job.cost import Price, cost_figure, price_here
from ..job.facts import DataFacts, Fill
from ..job.forms import stored_bytes
from ..job.pruned import shape_left
from .engines import spread_of, teaching
from .local_serve import engine_row
from .served import compress_step, gate_step, serve_step
from .stages import picking_steps, pruning_steps, qat_steps, stage_step, training_step
from .step import UP_BYTES, WORKER_BYTES, Step

MODEL_VERSION = 4  # raise it when raw predictions change: older ledger rows then teach nothing
UNITS = {
    "wall_s": "s",
    "step_s": "s",
    "ttft_s": "s",
    "tpot_s": "s",
    "peak_rss_bytes": "bytes",
    "cost_usd": "USD",
    "score_kept": "share",
}
PRIORS = {"score_kept": "vendor"}  # provenance, until the ledger has a row of it
LEDGER_PRIOR_ROWS = 2.0  # so many rows without error the prediction counts for against the ledger
# Half an 80 % interval, as a factor less one; of what is not named, by where the rates come from.
SPREAD = {"peak_rss_bytes": 0.12, "steps": 0.0, "tokens": 0.01, "score_kept": 0.2}
SPREAD_TIME = {"calibrated": 0.2, "modelled": 0.5}
# Cleaning 600, 6,000 and 60,000 rows of 236 bytes: 0.24, 0.43, 2.3 s on two Zen 4 cores, in 97 to 109 MB.
CLEAN_S, CLEAN_ROWS_PER_S, CLEAN_BYTES_PER_S = 0.4, 60_000.0, 3.2e6
# The tables and arrays of a batch; the sketches of all rows, which go to a file beyond that.
CLEAN_BYTES, CLEAN_BYTES_A_BYTE, CLEAN_BYTES_MOST = 30e6, 10.0, 400e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """Predictions by step under the keys of the contract; `parts` of each time sum to it."""

    steps: Mapping[str, Mapping[str, Figure]]
    raw: Mapping[str, Mapping[str, float]]  # before the ledger's correction
    parts: Mapping[str, Mapping[str, float]]
    disk_bytes: float
    room_bytes: float = inf  # the machine's memory
    facts: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    stages: tuple[Mapping[str, Figure], ...] = ()  # of `train`, which is all of them together
    raw_stages: tuple[Mapping[str, float], ...] = ()

    def of(self, step: str, part: int | None = None) -> Mapping[str, Figure]:
        """The figures of a step; of a training the stage `part` (from 0) alone, where that is named."""
        if step == "train" and part is not None and part < len(self.stages):
            return self.stages[part]
        return self.steps.get(step, {})

    def features(self, step: str, part: int | None = None) -> dict[str, Any]:
        """What the ledger keeps beside a row, so that the next plan can learn from it; `part` as in `of`."""
        stage = step == "train" and part is not None and part < len(self.raw_stages)
        raw = self.raw_stages[part] if stage and part is not None else self.raw.get(step, {})
        return {"model_version": MODEL_VERSION, "raw": dict(raw), **self.facts}

    @property
    def time_s(self) -> Figure:
        """Of all steps."""
        return self._whole("wall_s", "s")

    @property
    def wall_s(self) -> float:
        """Seconds of all steps."""
        return self.time_s.value

    @property
    def cost_usd(self) -> Figure:
        """Money for all steps."""
        return self._whole("cost_usd", "USD")

    @property
    def memory_bytes(self) -> float:
        """The most that any step holds."""
        return self.peak_bytes.value

    @property
    def peak_bytes(self) -> Figure:
        """Of the step that holds the most."""
        return max((f["peak_rss_bytes"] for f in self.steps.values()), key=lambda f: f.value)

    def _whole(self, name: str, unit: str) -> Figure:
        figures = [f[name] for f in self.steps.values() if name in f]
        low, value, high = (sum(getattr(f, end) for f in figures) for end in ("low", "value", "high"))
        return Figure(value, low, high, unit, weakest(*(f.provenance for f in figures)))


def predict(
    filled: Fill,
    shape: Shape,
    machine: Machine,
    calibration: Calibration,
    facts: DataFacts,
    ledger_rows: Sequence[Row] = (),
    price_usd_per_h: float | None = None,
) -> Local:
    """Time and memory of clean, train, compress, gate and serve here; where planned of prune and heal.

    `ledger_rows` are of this machine. The price is the user's own, else the machine's share of the
    nearest catalogued device.
    """
    left = shape_left(shape, filled.settings)
    stages = filled.settings["train"]
    trained = [stage_step(settings, shape, calibration, facts) for settings in stages]
    parts = {
        "clean": _clean(facts),
        "train": training_step(trained),
        **picking_steps(filled, shape, calibration, facts),
        **pruning_steps(filled, shape, left, calibration, facts),
        **qat_steps(filled, shape, left, calibration, facts),
        "compress": compress_step(filled, left),
        "gate": gate_step(filled, left, calibration, facts, whole=shape),
        "serve": serve_step(filled, left, calibration, facts),
    }
    raw = {step: part.figures for step, part in parts.items()}
    provenance = "calibrated" if calibration.of("train_micro") or calibration.of("decode") else "modelled"
    price = price_here(machine, filled.price_usd_per_h if price_usd_per_h is None else price_usd_per_h)
    wide = SPREAD_TIME[provenance] / calibration.share  # what was corrected for others' work is less sure
    rows = teaching(ledger_rows, stages)
    more = {"train": max((spread_of(stage) for stage in stages), default=0.0)}

    def figures_of(step: str, figures: Mapping[str, float]) -> dict[str, Figure]:
        return _figures(step, figures, rows, provenance, wide + more.get(step, 0.0), price)

    return Local(
        steps={step: figures_of(step, figures) for step, figures in raw.items()},
        raw=raw,
        stages=tuple(figures_of("train", stage.figures) for stage in trained),
        raw_stages=tuple(stage.figures for stage in trained),
        parts={step: part.parts for step, part in parts.items()},
        price=price,
        disk_bytes=_disk_bytes(filled, shape, facts),
        room_bytes=machine.memory_bytes,
        facts=_known(engine_row(left, filled.settings["compress"]["form"]), left, calibration, facts),
    )


def _known(row: Mapping[str, Any], left: Shape, calibration: Calibration, facts: DataFacts) -> dict[str, Any]:
    """What the ledger keeps of every step."""
    known = {"rows": facts.rows, "tokens": facts.tokens, "calibration": calibration.hash}
    return {"shape": {**row, "params": left.params}, **known}


def explain(local: Local) -> dict[str, dict[str, float]]:
    """Where each second goes: parts of every step's time, summing to the prediction before the ledger."""
    return {step: dict(parts) for step, parts in local.parts.items()}


def _clean(facts: DataFacts) -> Step:
    rows = facts.rows + facts.held_out
    parts = {"start": CLEAN_S, "read": facts.bytes / CLEAN_BYTES_PER_S, "rows": rows / CLEAN_ROWS_PER_S}
    held = CLEAN_BYTES + min(CLEAN_BYTES_A_BYTE * facts.bytes, CLEAN_BYTES_MOST)
    return Step.of(parts, UP_BYTES + WORKER_BYTES + held)


def _disk_bytes(filled: Fill, shape: Shape, facts: DataFacts) -> float:
    """Artefacts of all steps, a checkpoint's state, and room for a draft beside each."""
    form = filled.settings["compress"]["form"]
    full = any(s["finetuning_type"] == "full" for s in filled.settings["train"])
    state = 12.0 * shape.params if full else 0.2 * shape.params
    stages = len(filled.settings["train"])
    left = shape_left(shape, filled.settings)
    served = stored_bytes(left, form) + 2.0 * shape.params
    if any("lift" in stage for stage in filled.settings["train"]):  # another way, what all have learnt
        served += 2.0 * shape.params + state
    if "prune" in filled.settings:
        served += 2.0 * left.params
    if "heal" in filled.settings:  # healed, and two checkpoints of every weight that is trained
        whole = filled.settings["heal"]["finetuning_type"] == "full"
        served += (2.0 + (24.0 if whole else 0.4)) * left.params
    return 3.0 * facts.bytes + stages * 2.0 * shape.params + 2 * state * bool(stages) + served


def _figures(
    step: str, raw: Mapping[str, float], rows: Sequence[Row], provenance: str, wide: float, price: Price
) -> dict[str, Figure]:
    figures = {}
    for name, value in raw.items():
        factor, row_count = learnt(step, name, rows)
        spread = SPREAD.get(name, wide) / (1 + row_count) ** 0.5
        origin = "modelled" if provenance == "modelled" else "calibrated"
        origin = PRIORS.get(name, origin) if not row_count else origin
        corrected = value * factor
        unit = UNITS.get(name, "tokens/s" if name == "output_tok_s" else name)
        figures[name] = Figure(corrected, corrected / (1 + spread), corrected * (1 + spread), unit, origin)
    wall = figures["wall_s"]
    figures["cost_usd"] = cost_figure(wall, price, wall.value * price.usd_per_h.value / 3600)
    return figures


def learnt(step: str, name: str, rows: Sequence[Row]) -> tuple[float, int]:
    """Measured over predicted in the ledger, shrunk to 1 where rows are few; and how many rows there are.

    A geometric mean over the rows of this step, with LEDGER_PRIOR_ROWS rows of no error beside them. Steps
    that ran beside other work teach nothing.
    """
    if name in ("steps", "tokens"):
        return 1.0, 0
    logs = []
    for row in rows:
        raw = (row.features.get("raw") or {}).get(name)
        fresh = row.step == step and row.features.get("model_version") == MODEL_VERSION and _quiet(row)
        if fresh and raw and row.measured.get(name):
            logs.append(log(row.measured[name] / raw))
    if not logs:
        return 1.0, 0
    # Half the spread of one error in ten is a machine that was busy: bounded, so that it cannot mislead.
    logs = [max(-0.7, min(0.7, value)) for value in logs[-20:]]
    return exp(sum(logs) / (len(logs) + LEDGER_PRIOR_ROWS)), len(logs)


def _quiet(row: Row) -> bool:
    """Whether the step had the cores to itself: what others' work did to it says nothing of this machine."""
    return float(row.features.get("share", 1.0)) >= UNDISTURBED
