"""`validate RESULTS.csv`: predict every published row from its setup alone, and score where a value stands.

Columns as in the facts table `results-dev.csv`. `value` and `note` are never looked at by a prediction;
a row that cannot be predicted is refused with a reason. Pure: rows and catalogue come in as values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import exp, hypot, inf, log
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Device, Devices, model_names, resolve

from ..physics.inference import ServeSetup, serve_s
from ..physics.sizes import NEEDED_LOW, TRAINED_HIGH, Hardware, Sizes, together
from ..physics.training import TrainSetup, train_memory_parts, train_step_s
from . import inference_rows, training_metrics, training_rows
from .cells import Models, Row, needed, number, rates_of, sizes_of
from .constants import PRIORS, Constants, groups
from .training_metrics import MEMORY

# A phase and what else it is called, without spaces and hyphens.
TRAIN_PHASES = {
    "pretrain": (
        "pretraining", "train", "training", "continue", "continuedpretrain", "continuedpretraining",
        "continuedtraining",
    ),
    "finetune": ("finetuning", "fullfinetune", "fullfinetuning", "sft", "supervisedfinetuning"),
    "lora": ("lorafinetune", "lorafinetuning", "peft"),
    "qlora": ("qlorafinetune", "qlorafinetuning"),
    "dpo": ("prefer", "preference", "preferencetraining"),
    "distil": ("distill", "distillation"),
}  # fmt: skip
SERVE_PHASES = {
    "serve": (
        "serving", "inference", "generate", "generation", "online", "onlineserving", "offline",
        "offlineinference", "throughput", "score", "scoring", "batchscoring",
    ),
    "prefill": ("prefilling", "promptprocessing"),
    "decode": ("decoding", "tokengeneration"),
}  # fmt: skip
PHASES = {word: name for name, others in (TRAIN_PHASES | SERVE_PHASES).items() for word in (name, *others)}
FROM_MODEL = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "params_b")
WORST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one phase that can be predicted, as arrays of one length."""

    phase: str  # train | serve | memory (of training)
    ids: list[str]
    groups: list[dict[str, str]]  # device family, software stack, its year, device, source of each row
    metrics: np.ndarray
    sizes: Sizes
    hardware: Hardware
    setup: TrainSetup | ServeSetup
    extra: Mapping[str, np.ndarray]  # what else a value depends on: replicas, factor of the unit, ...

    @property
    def peak16(self) -> np.ndarray:
        """FLOP/s that a published MFU refers to."""
        return np.asarray(self.hardware.peak16)

    def constants(self, constants: Constants) -> dict[str, np.ndarray]:
        """Each constant of the phase as an array over the rows."""
        return {n: self._column(constants, n) for n in PRIORS if n.startswith(self.phase)}

    def _column(self, constants: Constants, name: str) -> np.ndarray:
        by_group: dict[tuple[str, ...], float] = {}
        values = []
        for kin in self.groups:
            key = tuple(constants.keys(name, kin))
            if key not in by_group:
                by_group[key] = constants.value(name, kin)
            values.append(by_group[key])
        return np.array(values)

    def predict(self, constant: dict[str, np.ndarray]) -> np.ndarray:
        """Values in the unit of each row's metric."""
        if self.phase == "serve":
            return inference_rows.values_of(self, constant)
        if self.phase == "memory":
            return training_rows.memory_of(self)
        return training_rows.values_of(self, constant) * self.extra["factor"]

    def parts(self, constant: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Seconds of the step (training), of prefill and a token (serving) or bytes of one row, by parts."""
        if self.phase == "memory":
            assert isinstance(self.setup, TrainSetup)
            step = train_memory_parts(self.sizes, self.setup)
        elif self.phase == "train":
            assert isinstance(self.setup, TrainSetup)
            matured = training_rows.matured(constant, self.extra["age"])
            step = train_step_s(self.sizes, self.setup, self.hardware, matured)
        else:
            assert isinstance(self.setup, ServeSetup)
            both = serve_s(self.sizes, inference_rows.drafting(self, constant), self.hardware, constant)
            step = {f"{phase}_{k}": v for phase, parts in both.items() for k, v in parts.items()}
        return {k: float(np.broadcast_to(v, len(self.ids))[at]) for k, v in step.items()}


# ------------------------------------------------------------------ one row in


@dataclass(frozen=True, slots=True)
class _Parsed:
    row: Row
    device: Device
    metric: str
    sizes: Sizes
    hardware: dict[str, float]
    setup: dict[str, float]
    extra: dict[str, float]


def read_rows(
    rows: Sequence[Row], devices: Devices, models: Models
) -> tuple[dict[str, Table], dict[str, str]]:
    """Tables of the phases, and id -> reason for each row that cannot be predicted."""
    taken: dict[str, list[_Parsed]] = {"train": [], "serve": [], "memory": []}
    refused: dict[str, str] = {}
    names = model_names(models)
    for row in rows:
        try:
            parsed = from_catalogue(tidied(row), models, names)
            if parsed["phase"] in TRAIN_PHASES:
                read = _train_row(parsed, devices, models)
                taken["memory" if read.metric == MEMORY else "train"].append(read)
            else:
                taken["serve"].append(_serve_row(parsed, devices, models))
        except WrongUse as e:
            near = f"; {e.hint}" if e.code.endswith(".unknown") else ""
            refused[row.get("id", "")] = e.message + near
    return {phase: _table(phase, parsed) for phase, parsed in taken.items() if parsed}, refused


def tidied(row: Row) -> Row:
    """The row without spaces around its cells and with its phase as PHASES names it.

    Raises WrongUse for a phase that is neither training nor serving.
    """
    phase = phase_of(row)
    if not phase:
        raise WrongUse("results.phase", f"the phase {row.get('phase')!r} is not known")
    cells = {name: (cell or "").strip() for name, cell in row.items()}
    return cells | {"id": row.get("id") or "", "phase": phase}


def phase_of(row: Row) -> str | None:
    """The row's phase by its own name, however it is spelled."""
    return PHASES.get(re.sub(r"[^a-z]", "", (row.get("phase") or "").lower()))


def from_catalogue(row: Row, models: Models, names: Mapping[str, str]) -> Row:
    """The row with the catalogue's name of its model, and its sizes where the row's cells are empty."""
    name = resolve(names, row["model"])
    if name is None:
        return row
    catalogued = models[name]
    empty = {
        c: str(catalogued[c]) for c in FROM_MODEL if not (row.get(c) or "").strip() and catalogued.get(c)
    }
    return {**row, "model": name, **empty}


def _train_row(row: Row, devices: Devices, models: Models) -> _Parsed:
    metric, factor, power = training_metrics.metric_of(row)
    if metric == "step_time_s":
        needed(row, "global_batch")
    device = devices.find(row["device"])
    row = {**row, "device": device.id}
    hardware = rates_of({**row, "precision": training_rows.precision_of(row)}, device)
    hardware["node"] = training_rows.scale_up(device, hardware["node"])
    sizes = sizes_of(row, models, needed(row, "seq_len"))
    hardware["attention_share"] = training_rows.attention_share(row, hardware["attention_share"])
    setup = training_rows.setup_of(row, sizes, hardware)
    extra = {"factor": factor * setup["devices"] ** power, "age": training_rows.age_of(row)}
    extra["counted"] = training_rows.counted(row)
    return _Parsed(row, device, metric, sizes, hardware, setup, extra)


def _serve_row(row: Row, devices: Devices, models: Models) -> _Parsed:
    metric = inference_rows.metric_of(row)
    device = devices.find(row["device"])
    hardware = rates_of({**row, "precision": inference_rows.precision_of(row, device)}, device)
    if device.scaleup_topology == "mesh":  # the links go to that many peers, whatever the host holds
        hardware["node"] = float(max(1, device.scaleup_devices))
    else:
        hardware["node"] = training_rows.scale_up(device, hardware["node"])
    sizes = sizes_of(row, models, number(row, "prompt_len", 512.0) or 512.0)
    setup, extra = inference_rows.setup_of(row, sizes, hardware, device)
    extra |= {"factor": metric.factor, "per_device": float(metric.per_device)}
    return _Parsed(row, device, metric.kind, sizes, hardware, setup, extra)


def _table(phase: str, parsed: list[_Parsed]) -> Table:
    def columns(part: str) -> dict[str, np.ndarray]:
        entries = [getattr(entry, part) for entry in parsed]
        return {name: np.array([e[name] for e in entries], float) for name in entries[0]}

    setup = (ServeSetup if phase == "serve" else TrainSetup)(**columns("setup"))
    return Table(
        phase=phase,
        ids=[entry.row["id"] for entry in parsed],
        groups=[_kin(entry) for entry in parsed],
        metrics=np.array([entry.metric for entry in parsed]),
        sizes=together([entry.sizes for entry in parsed]),
        hardware=Hardware(**columns("hardware")),
        setup=setup,
        extra=columns("extra"),
    )


def _kin(entry: _Parsed) -> dict[str, str]:
    kin = groups(entry.device, entry.row.get("framework") or "")
    if entry.row.get("run"):
        return kin | {"run": entry.row["run"]}
    # One benchmark of several makers' devices runs a build of its own on each.
    return kin | {"source": re.sub(r"\s+", " ", f"{entry.row.get('source') or ''}/{kin['family']}")}


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
    worst: list[dict[str, Any]] = field(default_factory=list)  # place of the row, id, ratio, parts in seconds
    in_fit: int = 0  # rows that the constants were fitted to

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
            "in_fit": self.in_fit,
            "refused": reasons,
            "groups": self.groups,
            "worst": self.worst,
        }


def predict_results(
    rows: Sequence[Row], devices: Devices, models: Models, constants: Constants
) -> list[Prediction]:
    """A prediction for each row, in order. Looks at neither `value` nor `note`."""
    return _predict(rows, devices, models, constants)[0]


def _predict(
    rows: Sequence[Row], devices: Devices, models: Models, constants: Constants
) -> tuple[list[Prediction], dict[str, Table]]:
    placed = [{**row, "id": str(place)} for place, row in enumerate(rows)]  # ids of a file may repeat
    tables, refused = read_rows(placed, devices, models)
    predictions = {
        place: Prediction(id="", value=None, low=None, high=None, reason=why)
        for place, why in refused.items()
    }
    for phase, table in tables.items():
        values = table.predict(table.constants(constants))
        untold = np.broadcast_to(table.extra.get("untold", 0.0), values.shape)
        for place, value, kin, more in zip(table.ids, values.tolist(), table.groups, untold, strict=True):
            predictions[place] = _prediction(value, *_interval(phase, kin, constants, more))
    return [replace(predictions[str(place)], id=row.get("id", "")) for place, row in enumerate(rows)], tables


def _interval(phase: str, kin: Mapping[str, str], constants: Constants, untold: float) -> tuple[float, float]:
    """Low and high end of an 80 % interval over its middle; `untold`: what a row does not tell, in logs."""
    if phase == "memory":
        return NEEDED_LOW, TRAINED_HIGH
    wide = exp(hypot(constants.spread(phase, kin), untold))
    return 1 / wide, wide


def _prediction(value: float, low: float, high: float) -> Prediction:
    if not 0 < value < inf:
        return Prediction(id="", value=None, low=None, high=None, reason="a cell is too large to reckon with")
    return Prediction(id="", value=value, low=value * low, high=value * high, reason=None)


def score_results(
    rows: Sequence[Row],
    devices: Devices,
    models: Models,
    constants: Constants,
    fitted: Collection[str] = (),
) -> Scores:
    """Predict every row and, where `value` is filled, score it by phase, device family and source.

    `fitted`: the keys (`row_key`) of the rows that the constants were fitted to.
    """
    predictions, tables = _predict(rows, devices, models, constants)
    pairs_by_key: dict[str, list[tuple[float, bool]]] = {}
    in_fit: dict[str, list[bool]] = {}
    room: dict[str, list[bool]] = {}
    rooms = _rooms(tables)
    ratios: dict[int, float] = {}
    for place, (row, p) in enumerate(zip(rows, predictions, strict=True)):
        truth = measured(row)
        if truth is None:
            continue
        for name in _groups(row, devices):
            in_fit.setdefault(name, []).append(row_key(row) in fitted)
            if p.value and p.low and p.high:
                pairs_by_key.setdefault(name, []).append((p.value / truth, p.low <= truth <= p.high))
                ratios[place] = p.value / truth
                if place in rooms:
                    room.setdefault(name, []).append(rooms[place])
    return Scores(
        predictions=predictions,
        groups={n: _score(in_fit[n], pairs_by_key.get(n, []), room.get(n, [])) for n in sorted(in_fit)},
        worst=_worst(rows, ratios, tables, constants),
        in_fit=sum(row_key(row) in fitted for row in rows),
    )


def _rooms(tables: Mapping[str, Table]) -> dict[int, bool]:
    """Of the rows of memory, by place, whether the run is told to fit its device."""
    if "memory" not in tables:
        return {}
    table = tables["memory"]
    return dict(zip(map(int, table.ids), training_rows.has_room(table).tolist(), strict=True))


def row_key(row: Row) -> str:
    """A measured row by what it says, whatever its id: 10 hexadecimal digits."""
    cells = ("source", "model", "framework", "device", "devices", "prompt_len", "output_len", "concurrency")
    said = [(row.get(c) or "").strip() for c in (*cells, "seq_len", "metric")]
    value = measured(row)
    return blake2b("|".join([*said, f"{value:.6g}" if value else ""]).encode(), digest_size=5).hexdigest()


def measured(row: Row) -> float | None:
    """The row's value, None where it is empty or no positive number below infinity."""
    try:
        value = float(row.get("value") or 0)
    except ValueError:
        return None
    return value if 0 < value < inf else None


def _worst(
    rows: Sequence[Row], ratios: Mapping[int, float], tables: Mapping[str, Table], constants: Constants
) -> list[dict[str, Any]]:
    """The rows farthest off, with the seconds that their predictions are made of."""
    order = sorted(ratios, key=lambda place: -abs(log(ratios[place])))[:WORST]
    places = {int(i): (table, at) for table in tables.values() for at, i in enumerate(table.ids)}
    by_phase = {phase: table.constants(constants) for phase, table in tables.items()} if order else {}
    lines = []
    for place in order:
        table, at = places[place]
        parts = table.parts(by_phase[table.phase], at)
        lines.append(
            {"place": place, "id": rows[place].get("id", ""), "ratio": ratios[place], "parts": parts}
        )
    return lines


def _groups(row: Row, devices: Devices) -> list[str]:
    phase = "train" if phase_of(row) in TRAIN_PHASES else "serve"
    if phase == "train" and training_metrics.is_memory(row):
        phase = "memory"
    try:
        kin = devices.find(row["device"]).family
    except WrongUse:
        kin = "unknown"
    return [phase, f"{phase}/{kin}", f"source/{row.get('source', '')}"]


def _score(in_fit: list[bool], pairs: list[tuple[float, bool]], room: list[bool]) -> dict[str, float]:
    rows = {"rows": len(in_fit), "in_fit": float(np.mean(in_fit))}
    if not pairs:
        return rows | {"predicted": 0.0}
    ratio = np.array([r for r, _ in pairs])
    error = np.abs(ratio - 1)
    return (
        rows
        | {
            "predicted": len(pairs) / len(in_fit),
            "mape": float(error.mean()),
            "median": float(np.median(error)),
            "within_20": float((error <= 0.2).mean()),
            "bias": float(exp(np.log(ratio).mean()) - 1),
            "coverage": float(np.mean([inside for _, inside in pairs])),
        }
        | ({"told_to_fit": float(np.mean(room))} if room else {})
    )


def source_of(row: Row) -> str:
    """Who published a row."""
    return row.get("source") or ""


def by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each source."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(source_of(row), []).append(row)
    return by_name


def log_values(rows: Sequence[Row]) -> dict[str, float]:
    """id -> logarithm of the measured value, where it is filled and positive."""
    return {r["id"]: log(value) for r in rows if (value := measured(r)) is not None}
