"""`validate RESULTS.csv`: predict every published row from its setup alone, and score where a value stands.

Columns as in the facts table `results-dev.csv`. `value` and `note` are never looked at by a prediction;
a row that cannot be predicted is refused with a reason. Pure: rows and catalogue come in as values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Device, Devices

from . import inference_rows, training_rows
from .cells import Models, Row, number, rates_of, sizes_of
from .constants import PRIORS, Constants, family, groups
from .inference import ServeSetup
from .sizes import Hardware, Sizes
from .training import TrainSetup

TRAIN_PHASES = ("pretrain", "finetune")
SERVE_PHASES = ("serve", "decode", "prefill")
REQUIRED = ("id", "phase", "model", "layers", "hidden", "heads", "device", "devices", "metric", "unit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one phase that can be predicted, as arrays of one length."""

    phase: str  # train | serve
    ids: list[str]
    groups: list[dict[str, str]]  # device family, software stack and device of each row
    metrics: np.ndarray
    sizes: Sizes
    hardware: Hardware
    setup: TrainSetup | ServeSetup
    replicas: np.ndarray
    decode_only: np.ndarray
    peak16: np.ndarray  # FLOP/s that a published MFU refers to

    def constants(self, logs: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Each constant of the phase as an array over the rows."""
        known = Constants(logs=logs)
        names = [n for n in PRIORS if n.startswith(self.phase)]
        return {n: np.array([known.value(n, g) for g in self.groups]) for n in names}

    def predict(self, constant: dict[str, np.ndarray]) -> np.ndarray:
        """Values in the unit of each row's metric."""
        return (training_rows if self.phase == "train" else inference_rows).values_of(self, constant)


# ------------------------------------------------------------------ one row in


def read_rows(
    rows: Sequence[Row], devices: Devices, models: Models
) -> tuple[dict[str, Table], dict[str, str]]:
    """Tables of the phases, and id -> reason for each row that cannot be predicted."""
    taken: dict[str, list[tuple[Row, Device, dict, dict, dict]]] = {"train": [], "serve": []}
    refused: dict[str, str] = {}
    for row in rows:
        try:
            phase, parts = _row(row, devices, models)
            taken[phase].append((row, *parts))
        except WrongUse as e:
            refused[row.get("id", "")] = e.message
    return {phase: _table(phase, found) for phase, found in taken.items() if found}, refused


def _row(row: Row, devices: Devices, models: Models) -> tuple[str, tuple[Device, dict, dict, dict]]:
    phase = "train" if row.get("phase") in TRAIN_PHASES else "serve"
    if row.get("phase") not in (*TRAIN_PHASES, *SERVE_PHASES):
        raise WrongUse("results.phase", f"the phase {row.get('phase')!r} is not known")
    metrics = (training_rows if phase == "train" else inference_rows).METRICS
    if metrics.get(row["metric"]) != row["unit"]:
        raise WrongUse("results.metric", f"{row['metric']} in {row['unit']} is not known for {row['phase']}")
    device = devices.find(row["device"])
    hardware = rates_of(row, device)
    if phase == "train":
        setup = training_rows.setup_of(row)
        return phase, (device, sizes_of(row, models, setup["seq_len"]), hardware, setup)
    sizes = sizes_of(row, models, number(row, "prompt_len", 512.0) or 512.0)
    return phase, (device, sizes, hardware, inference_rows.setup_of(row, sizes, hardware))


def _table(phase: str, found: list[tuple[Row, Device, dict, dict, dict]]) -> Table:
    def column(at: int, name: str) -> np.ndarray:
        return np.array([entry[at][name] for entry in found], float)  # type: ignore[index]

    def build(cls: type, at: int, drop: tuple[str, ...] = ()) -> Any:
        return cls(**{name: column(at, name) for name in found[0][at] if name not in drop})  # type: ignore[index,union-attr]

    setup = build(TrainSetup if phase == "train" else ServeSetup, 4, ("replicas",))
    return Table(
        phase=phase,
        ids=[row["id"] for row, *_ in found],
        groups=[groups(device, row.get("framework") or "") for row, device, *_ in found],
        metrics=np.array([row["metric"] for row, *_ in found]),
        sizes=build(Sizes, 2),
        hardware=build(Hardware, 3),
        setup=setup,
        replicas=column(4, "replicas") if phase == "serve" else np.ones(len(found)),
        decode_only=np.array([row["phase"] == "decode" for row, *_ in found]),
        peak16=column(3, "peak16"),
    )


# ------------------------------------------------------------------ values out


# ------------------------------------------------------------------ score


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One row's answer: a value with its 80 % interval, or the reason why there is none."""

    id: str
    value: float | None
    low: float | None
    high: float | None
    reason: str | None

    def as_json(self) -> dict[str, Any]:
        """As OUT.json of `validate --predictions`."""
        return {"id": self.id, "value": self.value, "low": self.low, "high": self.high, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Predictions in the order of the rows, and how far off they are by phase and device family."""

    predictions: list[Prediction]
    groups: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """{"rows", "predicted", "groups": {name: {...}}, "worst": [...]} without the predictions."""
        predicted = sum(p.value is not None for p in self.predictions)
        reasons: dict[str, int] = {}
        for p in self.predictions:
            if p.reason:
                reasons[p.reason] = reasons.get(p.reason, 0) + 1
        return {
            "rows": len(self.predictions),
            "predicted": predicted,
            "refused": reasons,
            "groups": self.groups,
        }


def predict_results(
    rows: Sequence[Row], devices: Devices, models: Models, constants: Constants
) -> list[Prediction]:
    """A prediction for each row, in order. Looks at neither `value` nor `note`."""
    placed = [{**row, "id": str(place)} for place, row in enumerate(rows)]  # ids of a file may repeat
    tables, refused = read_rows(placed, devices, models)
    found = {
        place: Prediction(id="", value=None, low=None, high=None, reason=why)
        for place, why in refused.items()
    }
    for phase, table in tables.items():
        values = table.predict(table.constants(constants.logs))
        for place, value, kin in zip(table.ids, values.tolist(), table.groups, strict=True):
            wide = exp(constants.spread(phase, kin))
            found[place] = Prediction(id="", value=value, low=value / wide, high=value * wide, reason=None)
    return [replace(found[str(place)], id=row.get("id", "")) for place, row in enumerate(rows)]


def score_results(rows: Sequence[Row], devices: Devices, models: Models, constants: Constants) -> Scores:
    """Predict every row and, where `value` is filled, score it by phase, device family and source."""
    predictions = predict_results(rows, devices, models, constants)
    found: dict[str, list[tuple[float, bool]]] = {}
    asked: dict[str, int] = {}
    for row, p in zip(rows, predictions, strict=True):
        if not (row.get("value") or "").strip():
            continue
        for name in _groups(row, devices):
            asked[name] = asked.get(name, 0) + 1
            if p.value and p.low and p.high:
                truth = float(row["value"])
                found.setdefault(name, []).append((p.value / truth, p.low <= truth <= p.high))
    return Scores(
        predictions=predictions, groups={n: _score(asked[n], found.get(n, [])) for n in sorted(asked)}
    )


def _groups(row: Row, devices: Devices) -> list[str]:
    phase = "train" if row["phase"] in TRAIN_PHASES else "serve"
    try:
        kin = family(devices.find(row["device"]))
    except WrongUse:
        kin = "unknown"
    return [phase, f"{phase}/{kin}", f"source/{row.get('source', '')}"]


def _score(asked: int, pairs: list[tuple[float, bool]]) -> dict[str, float]:
    if not pairs:
        return {"rows": asked, "predicted": 0.0}
    ratio = np.array([r for r, _ in pairs])
    error = np.abs(ratio - 1)
    return {
        "rows": asked,
        "predicted": len(pairs) / asked,
        "mape": float(error.mean()),
        "median": float(np.median(error)),
        "within_20": float((error <= 0.2).mean()),
        "bias": float(exp(np.log(ratio).mean()) - 1),
        "coverage": float(np.mean([inside for _, inside in pairs])),
    }


def by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each source."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get("source") or "", []).append(row)
    return found


def log_values(rows: Sequence[Row]) -> dict[str, float]:
    """id -> logarithm of the measured value, where it is filled and positive."""
    return {
        r["id"]: log(float(r["value"]))
        for r in rows
        if (r.get("value") or "").strip() and float(r["value"]) > 0
    }
