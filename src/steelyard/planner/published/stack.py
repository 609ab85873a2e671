"""What a few measured rows of one's own stack teach: a device under an engine, calibrated.

Three rows of a stack are worth more than any table of kernels (planner.md section 11): from them the
published constants are moved for that device and stack alone, each as far as stacks are known to differ.
Also here: serving tables of AIConfigurator's systems data, read as rows of published results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Devices

from .cells import Models, Row
from .constants import OWN_SDS, Constants
from .fitting import descend
from .results import Table, log_values, read_rows

NOISE = 0.05  # log sd of a row about a model that knows its stack
SYSTEMS = {
    "h100_sxm": "h100-sxm", "h200_sxm": "h200", "b200_sxm": "b200", "b300_sxm": "b300",
    "a100_sxm": "a100-80-sxm", "l40s": "l40s",
}  # fmt: skip
BITS = {"fp8": 8, "fp8_block": 8, "nvfp4": 4, "int4_wo": 4, "bf16": 16, "fp4": 4, "int4": 4, "": 16}
FIRST_OF_2026 = {"vllm": (0, 15), "sglang": (0, 5, 8), "trtllm": (1, 3)}


def with_stack(constants: Constants, rows: Sequence[Row], devices: Devices, models: Models) -> Constants:
    """The constants, moved by measured rows for the devices and stacks that the rows name.

    Rows are those of `validate`, each with its value; three that differ in batch and lengths are enough.
    Raises WrongUse where none can be read.
    """
    truth = log_values(rows)
    tables, refused = read_rows([r for r in rows if r["id"] in truth], devices, models)
    if not tables:
        why = next(iter(refused.values()), "no row has a value")
        raise WrongUse(
            "stack.no_rows", f"no row to calibrate by: {why}", hint="three measured rows, with value"
        )
    logs = dict(constants.logs)
    for table in tables.values():
        logs |= own_logs(table, np.array([truth[i] for i in table.ids]), constants)
    return replace(constants, logs=logs, provenance="calibrated")


def own_logs(table: Table, truth: np.ndarray, constants: Constants) -> dict[str, float]:
    """Deviations of each device and stack of the table from these constants: {"name@own:...": log}."""
    start = table.constants(constants)
    stacks = [kin["own"] for kin in table.groups]
    names = [(name, own) for name in OWN_SDS if name.startswith(table.phase) for own in dict.fromkeys(stacks)]
    places = {pair: i for i, pair in enumerate(names)}
    sd = np.array([OWN_SDS[name] for name, _ in names])
    index = {
        name: np.array([[places[name, own] for own in stacks]]) for name in dict.fromkeys(n for n, _ in names)
    }
    weight = np.full(len(truth), 1 / NOISE)
    moved = descend(table, start, index, np.zeros(len(names)), sd, truth, weight)
    return {f"{name}@own:{own}": float(moved[i]) for (name, own), i in places.items()}


# ------------------------------------------------------------------ the serving tables


def serving_rows(table: Sequence[Mapping[str, str]], models: Models, names: Any) -> list[dict[str, str]]:
    """Rows of AIConfigurator's serving tables with the columns of published results, TPOT and TTFT apart.

    `names` finds a catalogued model's name or None. Left out: models without known sizes; replicated
    attention, groups of more than 8 devices and the GB200 rows, whose layouts and batches are not told.
    """
    rows = []
    for place, row in enumerate(table):
        model = names(row["model_path"])
        apart = row["attention_dp_size"] not in ("", "0", "1") or int(row["tp_size"]) > 8
        if model is None or apart or row["system"] not in SYSTEMS:
            continue
        base = _serving_row(row, model, models[model], place)
        for metric, column in (("ms_per_output_token", "silicon_tpot_ms"), ("ttft_ms", "silicon_ttft_ms")):
            each = {"id": f"{base['id']}-{metric[:4]}", "metric": metric, "value": row[column]}
            rows.append(base | each)
    return rows


def _serving_row(row: Mapping[str, str], model: str, sizes: Mapping[str, Any], place: int) -> dict[str, str]:
    bits = BITS[row["gemm_quant_mode"]] if row["gemm_quant_mode"] else BITS.get(row["precision"], 16)
    precision = "int4" if row["gemm_quant_mode"] == "int4_wo" else {16: "bf16", 8: "fp8", 4: "fp4"}[bits]
    stack = "/".join(row[c] for c in ("system", "model_path", "backend", "precision"))
    keep = ("params_b", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    return {
        "id": f"serving-{place}",
        "source": f"AIConfigurator systems data, {stack}",  # each was measured in a run of its own
        "stack": stack,
        "run": stack,
        "date": _year(row["backend"], row["backend_version"]),
        "phase": "serve",
        "model": model,
        **{name: str(sizes[name]) for name in keep},
        "precision": precision,
        "weight_bits": str(bits),
        "kv_bits": "8" if bits < 16 and row["backend"] == "trtllm" else "16",
        "device": SYSTEMS[row["system"]],
        "devices": row["tp_size"],
        "devices_per_node": "",
        "framework": row["backend"],
        "tp": row["tp_size"],
        "pp": "1",
        "prompt_len": row["isl"],
        "output_len": row["osl"],
        "concurrency": row["batch_size"],
        "unit": "ms",
    }


def _year(backend: str, version: str) -> str:
    """The year of a release, from its number."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    return "2026" if numbers and numbers >= FIRST_OF_2026.get(backend, (99,)) else "2025"


def typical_rows(rows: Sequence[Row], count: int = 3) -> list[int]:
    """Places of the rows that the others are nearest to, in batch, lengths and devices (k-medoids).

    Rows to measure first: they lie amid what will be asked, where extremes would teach their own oddities.
    """
    columns = ("concurrency", "prompt_len", "output_len", "tp")
    at = np.log([[float(r[c]) for c in columns] for r in rows])
    apart = np.abs(at[:, None] - at[None]).sum(axis=-1)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        chosen.append(_best(apart, chosen))
    for place in list(range(len(chosen))) * 5:
        chosen[place] = _best(apart, chosen[:place] + chosen[place + 1 :])
    return chosen


def _best(apart: np.ndarray, others: list[int]) -> int:
    """The row that, beside the others, leaves all rows nearest to a chosen one."""
    near = apart[others].min(axis=0) if others else np.full(len(apart), np.inf)
    return int(np.argmin(np.minimum(near, apart).sum(axis=1)))
