"""`plan`: for each device of the catalogue the settings that do the job for the least money.

Enumerates device counts, splits, micro-batches, ZeRO stages and recomputation as arrays, drops what does
not divide or fit, and keeps the cheapest in time. Serving searches tensor splits, batch and weight bits.
Not here: what this very machine takes (local.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, exp
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Device, Devices
from steelyard.shape import Shape
from steelyard.units import Figure, show_bytes, show_number, show_s

from .constants import Constants, groups, values
from .inference import ServeSetup, serve_memory_bytes, serve_s
from .sizes import USABLE_MEMORY, Hardware, Sizes, hardware_of, total
from .training import TrainSetup, train_memory_bytes, train_step_s

JOBS = ("pretrain", "continue", "sft", "prefer", "distil", "serve")
MOST_DEVICES = 1024
PATIENCE_S = 90 * 86400.0  # without a deadline: a plan that takes longer is none
POWER_SHARE = 0.9  # of the rated power that a device draws at work
PUE = 1.3  # power of the building over power of the machines; Uptime Institute 2023: 1.58 on average
SERVE_STACK = {"gpu": "vllm", "accelerator": "vllm", "cpu": "openvino"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be done: a model, a job, its tokens and its limits. Money in US dollars."""

    shape: Shape
    name: str = "model"
    job: str = "sft"
    tokens: float = 1e6  # to train on, or to generate when serving
    seq_len: int = 2048
    finetuning_type: str = "full"
    global_batch: int = 0  # sequences a step; 0 = chosen
    users: int = 1
    prompt_tokens: int = 128
    output_tokens: int = 64
    budget_usd: float | None = None
    deadline_s: float | None = None
    devices: tuple[str, ...] = ()  # only these; () = the whole catalogue
    data_bytes: float = 0.0
    eval_tokens: float = 0.0  # asked and answered by the gate
    recipe: str | None = None  # its name: plans then carry their steps

    def __post_init__(self) -> None:
        if self.job not in JOBS:
            raise WrongUse("plan.job", f"{self.job!r} is no job", hint=f"one of {', '.join(JOBS)}")
        if not self.tokens > 0:
            raise WrongUse("plan.tokens", "the number of tokens must be above 0", hint="--tokens 1e9")

    def as_json(self) -> dict[str, Any]:
        """The request without the shape's details."""
        known = {f: getattr(self, f) for f in self.__slots__ if f != "shape"}
        return known | {"params": self.shape.params, "devices": list(self.devices)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The best way found on one device. Without a price `cost_usd` is None."""

    device: str
    devices: int
    settings: Mapping[str, Any]
    time_s: Figure | None
    cost_usd: Figure | None
    energy_kwh: Figure | None
    memory_bytes_per_device: Figure | None
    fits: bool
    why_not: str | None
    parts: Mapping[str, float] = field(default_factory=dict)  # of time_s, in seconds; they sum to it
    steps: tuple[Mapping[str, Any], ...] | None = None
    shortfalls: Mapping[str, float] = field(default_factory=dict)  # limit -> needed over allowed, above 1

    def as_json(self) -> dict[str, Any]:
        """As the contract of `plan` has it."""
        figures = ("time_s", "cost_usd", "energy_kwh", "memory_bytes_per_device")
        document = {
            "device": self.device,
            "devices": self.devices,
            "settings": dict(self.settings),
            **{name: f.as_json() if (f := getattr(self, name)) else None for name in figures},
            "fits": self.fits,
            "why_not": self.why_not,
            "parts": dict(self.parts),
        }
        return document if self.steps is None else document | {"steps": [dict(s) for s in self.steps]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """One plan a device, best first; `best` and `frontier` are places in it. The caller sets `wall_s`."""

    request: Mapping[str, Any]
    plans: tuple[Plan, ...]
    best: int | None
    frontier: tuple[int, ...]
    considered: int
    divide: int
    fit: int
    wall_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The document of `plan --json`."""
        return {
            "request": dict(self.request),
            "plans": [p.as_json() for p in self.plans],
            "best": self.best,
            "frontier": list(self.frontier),
            "considered": self.considered,
            "divide": self.divide,
            "fit": self.fit,
            "wall_s": self.wall_s,
        }

    def shown(self) -> list[dict[str, str | int]]:
        """The table for people: what fits by cost, and why the others do not."""
        return [_shown(p) for p in self.plans]

    def tightest(self) -> tuple[str, float] | None:
        """The limit that keeps the nearest plan from fitting, and by which factor; None if one fits."""
        if self.best is not None:
            return None
        near = [max(p.shortfalls.items(), key=lambda kv: kv[1]) for p in self.plans if p.shortfalls]
        return min(near, key=lambda kv: kv[1], default=None)


def _shown(p: Plan) -> dict[str, str | int]:
    figures = {"time": p.time_s, "cost": p.cost_usd, "memory": p.memory_bytes_per_device}
    told = {name: show_number(f.value, f.unit) if f else "-" for name, f in figures.items()}
    return {"device": p.device, "devices": p.devices, **told, "why": p.why_not or "cheapest that fits"}


@dataclass(slots=True)
class _Count:
    considered: int = 0
    divide: int = 0
    fit: int = 0


def plan(request: Request, devices: Devices, constants: Constants, extra: Sequence[Plan] = ()) -> Plans:
    """A plan for every device, ranked: those that fit by cost and time, the unpriced and the unfit last.

    `extra` are plans made elsewhere, such as for this machine; they are ranked with the rest.
    """
    chosen = [devices.find(name) for name in request.devices] or list(devices)
    count = _Count()
    found = [_on_device(request, device, constants, count) for device in chosen]
    if request.recipe:  # every plan of a recipe has its steps, one that cannot be has none
        found = [p if p.steps is not None else replace(p, steps=()) for p in found]
    ranked = sorted([*extra, *found], key=_rank)
    best = next((i for i, p in enumerate(ranked) if p.fits and p.why_not is None), None)
    best = best if best is not None else next((i for i, p in enumerate(ranked) if p.fits), None)
    return Plans(
        request=request.as_json(),
        plans=tuple(_say_why(p, i, ranked, best) for i, p in enumerate(ranked)),
        best=best,
        frontier=frontier(ranked),
        considered=count.considered,
        divide=count.divide,
        fit=count.fit,
    )


def _rank(p: Plan) -> tuple[bool, float, bool, float, float]:
    """What fits by cost, then by time; what does not, the nearest first."""
    short = 0.0 if p.fits else max(p.shortfalls.values(), default=float("inf"))
    cost = p.cost_usd.value if p.cost_usd else float("inf")
    return (not p.fits, short, p.cost_usd is None, cost, p.time_s.value if p.time_s else float("inf"))


def _say_why(p: Plan, at: int, ranked: list[Plan], best: int | None) -> Plan:
    if p.why_not or at == best or best is None:
        return p
    top = ranked[best]
    if p.cost_usd is None:
        return replace(p, why_not="no list price is known")
    assert top.cost_usd and p.time_s and top.time_s
    more = (
        f"costs {p.cost_usd.value / top.cost_usd.value:.1f} times as much"
        if top.cost_usd.value
        else "costs more"
    )
    faster = top.time_s.value / p.time_s.value
    return replace(p, why_not=f"{more}, but is {faster:.1f} times as fast" if faster > 1.05 else more)


def frontier(plans: Sequence[Plan]) -> tuple[int, ...]:
    """Places of the plans that no other beats in both cost and time (Pareto), cheapest first."""
    priced = [
        (p.cost_usd.value, p.time_s.value, i)
        for i, p in enumerate(plans)
        if p.fits and p.cost_usd and p.time_s
    ]
    kept, fastest = [], float("inf")
    for _, time_s, i in sorted(priced):
        if time_s < fastest:
            kept.append(i)
            fastest = time_s
    return tuple(kept)


# ------------------------------------------------------------------ one device


def _on_device(request: Request, device: Device, constants: Constants, count: _Count) -> Plan:
    hardware = hardware_of(device)
    if hardware is None:
        return _no_plan(device, "no peak of its matrix units was ever published")
    search = _serve if request.job == "serve" else _train
    return search(request, device, hardware, constants, count)


def _no_plan(
    device: Device, why: str, shortfalls: Mapping[str, float] | None = None, need: float = 0.0
) -> Plan:
    memory = Figure(need, need * 0.85, need * 1.18, "bytes", "modelled") if need else None
    return Plan(
        device=device.id,
        devices=1,
        settings={},
        time_s=None,
        cost_usd=None,
        energy_kwh=None,
        memory_bytes_per_device=memory,
        fits=False,
        why_not=why,
        shortfalls=shortfalls or {},
    )


def _grid(device: Device) -> dict[str, np.ndarray]:
    """All combinations of devices, t, p, micro-batch, ZeRO stage and recomputation, as flat arrays."""
    most = MOST_DEVICES if device.scaleout_bytes_per_s or device.scaleup_devices > 1 else 8
    axes = {
        "devices": [2**i for i in range(11) if 2**i <= most],
        "t": [1, 2, 4, 8],
        "p": [1, 2, 4, 8, 16],
        "micro_batch": [1, 2, 4, 8, 16],
        "zero": [1, 3],
        "recompute": [1, 2],
    }
    columns = np.meshgrid(*(np.array(v, float) for v in axes.values()), indexing="ij")
    return {name: c.ravel() for name, c in zip(axes, columns, strict=True)}


def _batch(request: Request) -> float:
    """Sequences an optimiser step: as asked, else 64 ki tokens to fine-tune and 1 Mi tokens to pre-train."""
    if request.global_batch:
        return float(request.global_batch)
    tokens = 2**16 if request.job in ("sft", "prefer", "distil") else 2**20
    return max(1.0, 2.0 ** round(np.log2(tokens / request.seq_len)))


def _train(request: Request, device: Device, hardware: Hardware, constants: Constants, count: _Count) -> Plan:
    shape, grid, batch = request.shape, _grid(device), _batch(request)
    count.considered += len(grid["t"])
    d = grid["devices"] / (grid["t"] * grid["p"])
    even = (
        (d >= 1)
        & (shape.heads % grid["t"] == 0)
        & (shape.layers % grid["p"] == 0)
        & (batch % np.maximum(1, d * grid["micro_batch"]) == 0)
        & (grid["t"] <= max(1, hardware.node))
    )
    grid = {name: column[even] for name, column in grid.items()}
    count.divide += int(even.sum())
    setup = TrainSetup(
        **grid,
        global_batch=batch,
        seq_len=request.seq_len,
        lora=float(request.finetuning_type == "lora"),
        extra_forward=1.0 if request.job in ("prefer", "distil") else 0.0,
    )
    sizes = Sizes.of(shape, request.seq_len)
    memory = train_memory_bytes(sizes, setup)
    room = hardware.memory * USABLE_MEMORY
    fits = memory <= room
    count.fit += int(fits.sum())
    if not fits.any():
        need = float(memory.min())
        why = f"needs {need / room:.1f} times its memory even when split ({show_bytes(need)} a device)"
        return _no_plan(device, why, {"memory": need / room}, need)
    parts = train_step_s(sizes, setup, hardware, values(constants, "train", groups(device)))
    steps = request.tokens / (batch * request.seq_len)
    time_s = total(parts) * steps
    at = _choose(request, np.where(fits, time_s, np.inf), grid["devices"], device.price_usd_per_h)
    chosen = {name: int(column[at]) for name, column in grid.items()}
    spent = {name: float(np.broadcast_to(part, time_s.shape)[at] * steps) for name, part in parts.items()}
    settings = {
        "tp": chosen["t"],
        "pp": chosen["p"],
        "dp": max(1, chosen["devices"] // (chosen["t"] * chosen["p"])),
        "micro_batch": chosen["micro_batch"],
        "global_batch": int(batch),
        "zero": chosen["zero"],
        "recompute": {1: "selective", 2: "full"}[chosen["recompute"]],
        "precision": "bf16",
        "finetuning_type": request.finetuning_type,
        "seq_len": request.seq_len,
        "steps": ceil(steps),
    }
    return _finish(
        request,
        device,
        chosen["devices"],
        settings,
        spent,
        float(memory[at]),
        constants,
        "train",
    )


def _choose(request: Request, time_s: np.ndarray, devices: np.ndarray, price: float | None) -> int:
    """The cheapest candidate in time; where none is in time, the fastest."""
    limit = request.deadline_s or PATIENCE_S
    cost = time_s * devices * (price or 1.0)
    in_time = time_s <= limit
    if not in_time.any():
        return int(np.argmin(time_s))
    return int(np.lexsort((time_s, np.where(in_time, cost, np.inf)))[0])


def _serve(request: Request, device: Device, hardware: Hardware, constants: Constants, count: _Count) -> Plan:
    shape = request.shape
    splits = [2**i for i in range(7) if 2**i <= hardware.node]
    candidates = list(product(splits, (16, 8)))
    count.considered += len(candidates)
    even = [(t, bits) for t, bits in candidates if shape.heads % t == 0]
    count.divide += len(even)
    kv = shape.kv_bytes_per_token("bf16")
    t, bits = (np.array(column, float) for column in zip(*even, strict=True))
    setup = ServeSetup(
        t=t,
        batch=float(request.users),
        prompt=request.prompt_tokens,
        output=request.output_tokens,
        weight_bits=bits,
    )
    memory = serve_memory_bytes(shape, setup, kv)
    room = hardware.memory * USABLE_MEMORY
    fits = memory <= room
    count.fit += int(fits.sum())
    if not fits.any():
        need = float(memory.min())
        why = f"needs {need / room:.1f} times its memory ({show_bytes(need)} a device)"
        return _no_plan(device, why, {"memory": need / room}, need)
    constant = values(constants, "serve", groups(device, SERVE_STACK[device.kind]))
    one = serve_s(Sizes.of(shape, request.prompt_tokens), setup, hardware, constant)
    rounds = request.tokens / (request.users * request.output_tokens)
    prefill = {f"prefill_{k}": v * request.users * rounds for k, v in one["prefill"].items()}
    decode = {f"decode_{k}": v * request.output_tokens * rounds for k, v in one["decode"].items()}
    parts = prefill | decode
    time_s = total(parts)
    at = _choose(request, np.where(fits, time_s, np.inf), t, device.price_usd_per_h)
    spent = {k: float(np.broadcast_to(v, time_s.shape)[at]) for k, v in parts.items()}
    step = float(total(one["decode"])[at])
    settings = {
        "tp": int(t[at]),
        "pp": 1,
        "dp": 1,
        "weights": {16: "bf16", 8: "int8"}[int(bits[at])],
        "batch": request.users,
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "ttft_s": float(total(one["prefill"])[at]),
        "tpot_s": step,
        "output_tok_s": request.tokens / float(time_s[at]),
    }
    return _finish(request, device, int(t[at]), settings, spent, float(memory[at]), constants, "serve")


# ------------------------------------------------------------------ money, power, limits


def power_w(device: Device) -> float | None:
    """Mean draw of one device at work, with its share of the building."""
    return device.tdp_w * POWER_SHARE * PUE if device.tdp_w else None


def _finish(
    request: Request,
    device: Device,
    devices: int,
    settings: Mapping[str, Any],
    spent: Mapping[str, float],
    memory: float,
    constants: Constants,
    phase: str,
) -> Plan:
    """Put figures, limits and steps around the chosen candidate."""
    steps = _steps(request, device, devices, spent, constants) if request.recipe else None
    seconds = sum(s["time_s"] for s in steps) if steps else sum(spent.values())
    parts = dict(spent) | ({"other_steps": seconds - sum(spent.values())} if steps else {})
    wide = exp(constants.spread(phase))
    time_s = Figure(seconds, seconds / wide, seconds * wide, "s", constants.provenance)
    price = device.price_usd_per_h
    cost = replace(time_s, unit="USD") * (price * devices / 3600) if price else None
    watts = power_w(device)
    energy = replace(time_s, unit="kWh") * (watts * devices / 3.6e6) if watts else None
    plan_ = Plan(
        device=device.id,
        devices=devices,
        settings=settings,
        time_s=time_s,
        cost_usd=cost,
        energy_kwh=energy,
        memory_bytes_per_device=Figure(memory, memory * 0.85, memory * 1.18, "bytes", "modelled"),
        fits=True,
        why_not=None,
        parts=parts,
        steps=tuple(steps) if steps else None,
    )
    return within_limits(plan_, request.budget_usd, request.deadline_s)


def within_limits(p: Plan, budget_usd: float | None, deadline_s: float | None) -> Plan:
    """The plan, marked as unfit where it breaks a limit, with the reason."""
    short: dict[str, float] = {}
    if deadline_s and p.time_s and p.time_s.value > deadline_s:
        short["deadline"] = p.time_s.value / deadline_s
    if budget_usd is not None and p.cost_usd is None:
        return replace(p, fits=False, why_not="no list price is known, so the budget cannot be checked")
    if budget_usd is not None and p.cost_usd and p.cost_usd.value > budget_usd:
        short["budget"] = p.cost_usd.value / max(budget_usd, 1e-9)
    if not short:
        return p
    assert p.time_s
    said = {
        "deadline": f"misses the deadline by {show_s(p.time_s.value - (deadline_s or 0))}",
        "budget": f"over the budget by $ {(p.cost_usd.value if p.cost_usd else 0) - (budget_usd or 0):,.2f}",
    }
    return replace(p, fits=False, why_not="; ".join(said[name] for name in short), shortfalls=short)


def _steps(
    request: Request, device: Device, devices: int, spent: Mapping[str, float], constants: Constants
) -> list[dict[str, Any]]:
    """All steps on the one device: cleaning by bytes, compressing by weights, the gate by its tokens."""
    shape, hardware = request.shape, hardware_of(device)
    assert hardware is not None
    constant = values(constants, "serve", groups(device, SERVE_STACK[device.kind]))
    asked = ServeSetup(batch=8.0, prompt=request.prompt_tokens, output=request.output_tokens)
    one = serve_s(Sizes.of(shape, request.prompt_tokens), asked, hardware, constant)
    token_s = float(total(one["decode"])) / 8
    load_s = 10 + 2 * shape.weight_bytes("bf16") / 2e9  # an NVMe disk's 2 GB/s, twice
    seconds = {
        "clean": 5 + request.data_bytes / 10e6,
        "train": sum(spent.values()),
        "compress": load_s,
        "gate": load_s + request.eval_tokens * token_s,
        "serve": load_s,
    }
    rate = (device.price_usd_per_h or 0.0) * devices / 3600
    return [
        {
            "step": name,
            "hosts": max(1, ceil(devices / max(1, hardware.node))),
            "device": device.id,
            "devices": devices,
            "time_s": value,
            "cost_usd": value * rate if device.price_usd_per_h else None,
            "transfer_s": 0.0,
        }
        for name, value in seconds.items()
    ]
