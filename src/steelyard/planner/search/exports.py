"""What carries a plan out: its training and its service as launch writes them, and the figures expected.

Not here: which stack says what (launch), the writing of files (run).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from steelyard.errors import WrongUse
from steelyard.hardware import Device, Devices
from steelyard.launch import Earlier, Training, platform_of
from steelyard.units import Figure

from ..job.fill import learning_rate
from ..job.plans import Plan
from ..job.request import Request
from ..job.terms import EVALUATED_SHARE, LORA_RANK
from ..physics.sizes import in_host
from ..published.cell_faults import COLUMNS
from ..published.cells import needed, number
from .launches import service_setup
from .search import HERE
from .stages import TRAIN

USUAL = {"lora_rank": LORA_RANK, "lora_alpha": 2 * LORA_RANK, "warmup_ratio": 0.03, "weight_decay": 0.0}
PHASES = {"pretrain": "pretrain", "continue": "pretrain", "prefer": "dpo", "distil": "distil"}
EXPECTED = ("expected", "low", "high", "provenance")


STAGE_JOBS = {"pt": "continue", "sft": "sft", "dpo": "prefer", "kto": "prefer", "orpo": "prefer"}
STAGE_JOBS |= {"distil": "distil"}


def planned_training(
    p: Plan, request: Request, devices: Devices, stages: Sequence[Mapping[str, Any]] = ()
) -> list[Training]:
    """The plan's training with every setting, a stage each; [] where it trains nothing, or on this machine.

    `stages`: of a recipe the hyper-parameters of each, with its `tokens`; without any those that are usual at
    the model's width. A stage starts from what the one before it wrote.
    """
    if request.serves or p.device == HERE or "steps" not in p.settings:
        return []
    if sampling := [stage["stage"] for stage in stages if stage["stage"] not in STAGE_JOBS]:
        text = f"a plan with stage: {sampling[0]} is not exported yet"
        raise WrongUse("plan.export_stage", text, hint="export the recipe without this stage, or run it here")
    if len(stages) < 2:
        return [_training(p, request, devices, stages[0] if stages else {}, {})]
    made: list[Training] = []
    whole = sum(stage["tokens"] for stage in stages)
    for stage in stages:
        own = _own(p, stage, stage["tokens"] / whole)
        made.append(_training(p, request, devices, stage, own, after=_earlier(made)))
    return made


def _earlier(made: Sequence[Training]) -> Earlier | None:
    """The last one that was made."""
    if not made:
        return None
    return Earlier(place=f"train-{len(made)}", steps=int(made[-1]["steps"]), lora=made[-1].lora)


def _own(p: Plan, stage: Mapping[str, Any], share: float) -> dict[str, Any]:
    """What a stage has of its own: what it trains, on what, and its share of the plan's steps."""
    steps = p.settings["steps"] * p.settings["seq_len"] * share / stage["max_length"]
    kind = stage["finetuning_type"]
    job = STAGE_JOBS[stage["stage"]]
    return {"finetuning_type": kind, "seq_len": stage["max_length"], "steps": max(1, ceil(steps)), "job": job}


def _training(
    p: Plan,
    request: Request,
    devices: Devices,
    stage: Mapping[str, Any],
    own: Mapping[str, Any],
    after: Earlier | None = None,
) -> Training:
    device = devices.find(p.device)
    hosts = ceil(p.devices / _per_host(request, devices, device))
    lora = own.get("finetuning_type", request.finetuning_type) != "full"
    rates = {"learning_rate": _rate(request, lora)} | USUAL
    rates |= {name: stage[name] for name in rates if stage.get(name) is not None}
    if not lora:
        rates |= {"lora_rank": 0, "lora_alpha": 0}
    return Training(
        model=request.name,
        after=after,
        family=request.shape.family,
        sizes={name: int(getattr(request.shape, name)) for name in SIZES},
        platform=str(platform_of(device.vendor, device.kind)),
        device=p.device,
        hosts=hosts,
        per_host=ceil(p.devices / hosts),
        step_s=_train_s(p) / p.settings["steps"],
        settings=dict(p.settings) | rates | {"job": request.job, "evaluated": EVALUATED_SHARE} | dict(own),
    )


def _rate(request: Request, lora: bool) -> float:
    """To pre-train what a model of that size took: 6e-4 at 125 M weights, 0.6e-4 at 175 B (Brown et al. 2020,
    table 2.1); else the usual one to fine-tune.
    """
    if request.job == "pretrain":
        return float(f"{6e-4 * (request.shape.active_params / 125e6) ** -0.318:.1e}")
    return learning_rate(request.shape, lora)


SIZES = (
    *("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "experts", "experts_per_token"),
    "tied",
)


def _per_host(request: Request, devices: Devices, device: Device) -> int:
    return max([o.each for o in request.own if devices.find(o.device).id == device.id] or [in_host(device)])


def _train_s(p: Plan) -> float:
    for step in p.steps or ():
        if step["step"] == TRAIN:
            return float(step["time_s"])
    return p.time_s.value if p.time_s else 0.0


# ------------------------------------------------------------------ what is expected


def expected_rows(p: Plan, request: Request) -> list[dict[str, str]]:
    """The plan's figures as rows of published results, each with its interval and an empty `value`.

    The columns are those of `validate`: measured values, once filled in, are compared with what was expected
    here, and teach the planner one's own stack.
    """
    rows = [*_training_rows(p, request), *_service_rows(p, request)]
    return [{name: row.get(name, "") for name in (*COLUMNS, "framework", "value", *EXPECTED)} for row in rows]


def compared(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Rows of `expected_rows` whose `value` was filled in: {"rows", "measured", "inside"}.

    Raises WrongUse where a row has no figure expected.
    """
    told = [_compared(row) for row in rows]
    measured = [row for row in told if row["measured"] is not None]
    return {"rows": told, "measured": len(measured), "inside": sum(row["inside"] for row in measured)}


def _compared(row: Mapping[str, str]) -> dict[str, Any]:
    expected, low, high = (needed(row, name) for name in EXPECTED[:3])
    value = number(row, "value")
    return {
        "id": row["id"],
        "metric": row["metric"],
        "unit": row["unit"],
        "expected": expected,
        "low": low,
        "high": high,
        "provenance": row.get("provenance") or "modelled",
        "measured": value,
        "ratio": value / expected if value is not None else None,
        "inside": low <= value <= high if value is not None else None,
    }


def _training_rows(p: Plan, request: Request) -> list[dict[str, str]]:
    if request.serves or "steps" not in p.settings or p.time_s is None:
        return []
    s, step_s = p.settings, _train_s(p) / p.settings["steps"]
    time = p.time_s * (step_s / p.time_s.value)
    tokens = s["global_batch"] * s["seq_len"] / p.devices
    rate = Figure(tokens / time.value, tokens / time.high, tokens / time.low, "tokens/s", time.provenance)
    setup = {
        "phase": _phase(request), "precision": s["precision"], "devices": p.devices, "dp": s["dp"],
        "tp": s["tp"], "pp": s["pp"], "cp": s["cp"], "micro_batch": s["micro_batch"],
        "global_batch": s["global_batch"], "seq_len": s["seq_len"], "recompute": s["recompute"],
        "zero_stage": s["zero"], "weight_bits": 16,
    }  # fmt: skip
    figures = [("step_time_s", "s", time), ("tokens_per_s_per_device", "tokens/s/device", rate)]
    if p.memory_bytes_per_device:
        figures.append(("peak_memory_bytes_per_device", "bytes", p.memory_bytes_per_device))
    return [_row(p.device, request, setup, *figure) for figure in figures]


def _phase(request: Request) -> str:
    tuned = {"lora": "lora", "qlora": "qlora"}.get(request.finetuning_type)
    return tuned or PHASES.get(request.job, "finetune")


def _service_rows(p: Plan, request: Request) -> list[dict[str, str]]:
    device, setup = service_setup(p)
    if setup is None:
        return []
    count = setup["tp"] * setup["pp"] * setup["dp"] * setup["replicas"]
    words = {
        "phase": "serve", "precision": "bf16" if setup["weights"] in ("int8", "int4") else setup["weights"],
        "weight_bits": {"fp8": 8, "int8": 8, "int4": 4, "fp4": 4, "f32": 32}.get(setup["weights"], 16),
        "kv_bits": setup["kv_bits"], "devices": count, "tp": setup["tp"], "pp": setup["pp"],
        "prompt_len": request.prompt_tokens, "output_len": request.output_tokens,
        "concurrency": setup["batch"] * setup["replicas"],
    }  # fmt: skip
    units = {"ttft_s": "s", "tpot_s": "s", "output_tok_s": "tokens/s"}
    names = {"output_tok_s": "output_tokens_per_s"}
    figures = _service_figures(p, units)
    return [_row(device, request, words, names.get(n, n), units[n], f) for n, f in figures.items()]


def _service_figures(p: Plan, names: Mapping[str, str]) -> dict[str, Figure]:
    """Of a service its own; of a recipe's step its values, as wide as its plan says or as the whole."""
    if p.service:
        return {name: p.service[name] for name in names if name in p.service}
    step: Mapping[str, Any] = next((s for s in reversed(p.steps or ()) if s["step"] == "serve"), {})
    of = p.time_s
    wide = of.high / of.value if of and of.value else 1.0
    provenance = of.provenance if of else "modelled"
    return {
        name: Figure(step[name], step[name] / wide, step[name] * wide, unit, provenance)
        for name, unit in names.items()
        if name in step
    }


def _row(
    device: str, request: Request, setup: Mapping[str, Any], metric: str, unit: str, figure: Figure
) -> dict[str, str]:
    shape = request.shape
    sizes: Sequence[str] = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
    row: dict[str, Any] = {name: getattr(shape, name) for name in sizes} | dict(setup)
    row |= {"id": f"plan-{metric}", "model": request.name, "params_b": round(shape.params / 1e9, 4)}
    row |= {"device": device, "metric": metric, "unit": unit, "provenance": figure.provenance}
    row |= {"expected": f"{figure.value:.6g}", "low": f"{figure.low:.6g}", "high": f"{figure.high:.6g}"}
    return {name: str(value) for name, value in row.items()}
