"""`validate RESULTS.csv`: predict every published row from its setup alone, and score where a value stands.

Columns as in the facts table `results-dev.csv`. `value` and `note` are never looked at by a prediction;
a row that cannot be predicted is refused with a reason. Pure: rows and catalogue come in as values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Device, Devices

from .constants import PRIORS, Constants, family, groups
from .roofline import (
    DEFAULT_NIC_BYTES_PER_S,
    RECOMPUTE,
    USABLE_MEMORY,
    Hardware,
    ServeSetup,
    Sizes,
    TrainSetup,
    forward_flops,
    serve_s,
    total,
    train_step_s,
)

TRAIN_METRICS = {
    "tokens_per_s_per_device": "tokens/s/device",
    "tflops_per_device": "TFLOPS/device",
    "step_time_s": "s",
    "mfu": "fraction",
    "samples_per_s": "samples/s",
}
SERVE_METRICS = {"output_tokens_per_s": "tokens/s", "ms_per_output_token": "ms", "ttft_ms": "ms"}
TRAIN_PHASES = ("pretrain", "finetune")
SERVE_PHASES = ("serve", "decode", "prefill")
REQUIRED = ("id", "phase", "model", "layers", "hidden", "heads", "device", "devices", "metric", "unit")
OFFERED_BATCH = 256  # requests in flight when all are offered at once (the default of vLLM and its kin)

Row = Mapping[str, str]
Models = Mapping[str, Mapping[str, Any]]


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
        return _train_values(self, constant) if self.phase == "train" else _serve_values(self, constant)


# ------------------------------------------------------------------ one row in


def number(row: Row, column: str, default: float | None = None) -> float | None:
    """A cell as a number. Raises WrongUse where it is none, or negative."""
    cell = (row.get(column) or "").strip()
    if not cell:
        return default
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise WrongUse("results.bad_cell", f"{column} is {cell!r}, not a size", hint="a number of 0 or more")
    return value


def needed(row: Row, column: str) -> float:
    """A cell that must hold a positive number."""
    value = number(row, column)
    if not value:
        raise WrongUse(
            "results.bad_cell", f"{column} is empty", hint="the row cannot be predicted without it"
        )
    return value


def _sizes(row: Row, models: Models, seq_len: float) -> dict[str, float]:
    known = models.get(row["model"], {})
    layers, hidden, heads = (needed(row, c) for c in ("layers", "hidden", "heads"))
    kv_heads = number(row, "kv_heads") or heads
    head_dim = float(known.get("head_dim") or hidden / heads)
    ffn, vocab = number(row, "ffn", 4 * hidden) or 4 * hidden, number(row, "vocab", 32000.0) or 32000.0
    dense = layers * hidden * ((2 * heads + 2 * kv_heads) * head_dim + 3 * ffn) + 2 * vocab * hidden
    params = (number(row, "params_b") or dense / 1e9) * 1e9
    kv = float(known.get("kv_bytes_per_token_16bit") or 4 * layers * kv_heads * head_dim)
    active = _active(row, known, params, dense)
    return {
        "params": params,
        "active": max(1e6, active - vocab * hidden),
        "idle": params - active,
        "layers": layers,
        "hidden": hidden,
        "attention_flops": 2 * layers * heads * head_dim * seq_len,
        "kv_bytes": kv * (number(row, "kv_bits") or 16) / 16,
        "vocab": vocab,
    }


def _active(row: Row, known: Mapping[str, Any], params: float, dense: float) -> float:
    if known.get("active_b"):
        return float(known["active_b"]) * 1e9
    if found := re.search(r"-a(\d+(?:\.\d+)?)b", row["model"].lower()):
        return float(found[1]) * 1e9
    if params > 1.6 * dense:
        raise WrongUse(
            "results.experts",
            f"{row['model']} has more weights than its sizes explain, and its experts are unknown",
        )
    return params


def _hardware(row: Row, device: Device) -> dict[str, float]:
    peak = device.peak_flops(row.get("precision") or "bf16")
    if not peak:
        raise WrongUse("results.no_peak", f"no peak is published for {device.id} at {row.get('precision')}")
    return {
        "peak": peak,
        "bandwidth": device.memory_bytes_per_s,
        "memory": device.memory_bytes,
        "scaleup": max(device.scaleup_bytes_per_s / 2, 8e9),  # PCIe where there is no link
        "scaleout": device.scaleout_bytes_per_s or DEFAULT_NIC_BYTES_PER_S,
        "node": number(row, "devices_per_node") or device.scaleup_devices,
        "peak16": device.peak_flops("bf16") or peak,
    }


def _train_setup(row: Row) -> dict[str, float]:
    devices = needed(row, "devices")
    t, p = number(row, "tp") or 1.0, number(row, "pp") or 1.0
    d = number(row, "dp") or max(1.0, devices / (t * p))
    micro = number(row, "micro_batch") or 1.0
    return {
        "devices": devices,
        "t": t,
        "p": p,
        "micro_batch": micro,
        "global_batch": number(row, "global_batch") or micro * d * max(8.0, 4 * p),
        "seq_len": needed(row, "seq_len"),
        "recompute": float(RECOMPUTE.get(row.get("recompute") or "none", 0)),
        "zero": number(row, "zero_stage", 1.0) or 0.0,
        "low_precision": float((row.get("precision") or "") in ("fp8", "fp4")),
        "lora": float("lora" in (row.get("framework") or "").lower()),
    }


def _serve_setup(row: Row, sizes: dict[str, float], hardware: dict[str, float]) -> dict[str, float]:
    devices = needed(row, "devices")
    t = number(row, "tp") or 1.0
    p = number(row, "pp") or (devices if not row.get("tp") else 1.0)
    prompt = number(row, "prompt_len", 512.0) or 512.0
    output = number(row, "output_len", 128.0) or 128.0
    bits = number(row, "weight_bits") or 16.0
    asked = number(row, "concurrency") or number(row, "micro_batch") or OFFERED_BATCH
    room = USABLE_MEMORY * hardware["memory"] * t * p - sizes["params"] * bits / 8
    fits = room / (sizes["kv_bytes"] * (prompt + output / 2))
    # A published run did run: where the sum says it cannot, the offload or swap is not known.
    return {
        "t": t,
        "p": p,
        "batch": max(1.0, min(asked, fits)),
        "prompt": prompt,
        "output": max(1.0, output),
        "weight_bits": bits,
        "replicas": max(1.0, devices / (t * p)),
    }


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
    metrics = TRAIN_METRICS if phase == "train" else SERVE_METRICS
    if metrics.get(row["metric"]) != row["unit"]:
        raise WrongUse("results.metric", f"{row['metric']} in {row['unit']} is not known for {row['phase']}")
    device = devices.find(row["device"])
    hardware = _hardware(row, device)
    if phase == "train":
        setup = _train_setup(row)
        return phase, (device, _sizes(row, models, setup["seq_len"]), hardware, setup)
    sizes = _sizes(row, models, number(row, "prompt_len", 512.0) or 512.0)
    return phase, (device, sizes, hardware, _serve_setup(row, sizes, hardware))


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
        hardware=build(Hardware, 3, ("peak16",)),
        setup=setup,
        replicas=column(4, "replicas") if phase == "serve" else np.ones(len(found)),
        decode_only=np.array([row["phase"] == "decode" for row, *_ in found]),
        peak16=column(3, "peak16"),
    )


# ------------------------------------------------------------------ values out


def _train_values(table: Table, constant: dict[str, np.ndarray]) -> np.ndarray:
    setup = table.setup
    assert isinstance(setup, TrainSetup)
    step = total(train_step_s(table.sizes, setup, table.hardware, constant))
    tokens = setup.global_batch * setup.seq_len
    rate = tokens / step / setup.devices
    model_flops = 3 * forward_flops(table.sizes) * rate  # what papers call model FLOPs: no recomputation
    each = {
        "tokens_per_s_per_device": rate,
        "tflops_per_device": model_flops / 1e12,
        "step_time_s": step,
        "mfu": model_flops / table.peak16,
        "samples_per_s": setup.global_batch / step,
    }
    return np.select([table.metrics == name for name in each], list(each.values()))


def _serve_values(table: Table, constant: dict[str, np.ndarray]) -> np.ndarray:
    setup = table.setup
    assert isinstance(setup, ServeSetup)
    parts = serve_s(table.sizes, setup, table.hardware, constant)
    prefill = parts["prefill"]["compute"] * setup.batch + parts["prefill"]["launch"] + parts["prefill"]["tp"]
    step = total(parts["decode"])
    shared = np.where(table.decode_only, 0.0, (setup.batch - 1) * parts["prefill"]["compute"] / setup.output)
    each = {
        "output_tokens_per_s": table.replicas * setup.batch * setup.output / (prefill + setup.output * step),
        "ms_per_output_token": 1e3 * (step + shared),
        "ttft_ms": 1e3 * prefill,
    }
    return np.select([table.metrics == name for name in each], list(each.values()))


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
            wide = exp(constants.spread(phase, _unseen(constants, phase, kin)))
            found[place] = Prediction(id="", value=value, low=value / wide, high=value * wide, reason=None)
    return [replace(found[str(place)], id=row.get("id", "")) for place, row in enumerate(rows)]


def _unseen(constants: Constants, phase: str, kin: Mapping[str, str]) -> bool:
    """Neither this device family nor this stack was among the rows of the fit."""
    seen = {key.split("@")[1] for key in constants.logs if key.startswith(phase) and "@" in key}
    return not seen & {f"family:{kin['family']}", f"stack:{kin['stack']}"}


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
