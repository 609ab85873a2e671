"""Published claims about models and devices, checked by the catalogue and by the model of this planner.

A judge is a function from a `Bench` to figures; each stands beside what the claim says. What a figure's
verdict means: docs/decisions/065. Not here: the claims themselves (hardware/claims.csv, with their sources).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, sqrt
from typing import Any

import numpy as np

from steelyard.hardware import Device, Devices
from steelyard.recipe import OwnTerms
from steelyard.shape import Shape
from steelyard.units import Figure, around, show_number, weakest

from ..job.cost import owned_usd_per_h
from ..job.request import Owned
from ..physics.inference import ServeSetup, serve_s
from ..physics.sizes import USABLE_MEMORY, Sizes, hardware_of, total
from ..physics.training import TrainSetup, train_memory_bytes, train_step_s
from .constants import Constants, groups, values
from .shapes import named_shape
from .training_rows import NOW, age, matured

NEAR = 0.25  # a claim farther than this from our figure, yet inside its interval, is undecided
SPOKEN = 0.1  # rounding of a figure that is told aloud: 2.4 TB/s for 2.45, twice for 2.12
# Half width of the 80 % interval of a ratio between two devices of one family under one setup, in logs: the
# errors are mostly shared. 0.20 in training (30 published pairs), 0.23 in serving (631): bench/ratios.py.
KINDRED = 0.25
GPT3_TOKENS = 300e9  # Brown et al. 2020 (arXiv 2005.14165), table D.1
GPT3_BATCH, GPT3_SEQ = 1536, 2048  # 3.2 million tokens a step (table 2.1)
DAY_S = 86400.0
PHASES = {"prefill": "预填充", "decode": "解码"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One figure of a claim: what we find, and the range that is claimed (None: for information)."""

    what: str
    what_zh: str
    figure: Figure
    claimed: tuple[float, float] | None = None

    @property
    def holds(self) -> str | None:
        """yes, no or undecided; None where nothing is claimed."""
        if self.claimed is None:
            return None
        low, high = self.claimed
        room = 1 + SPOKEN if self.figure.low == self.figure.high else 1.0
        if high < self.figure.low / room or low > self.figure.high * room:
            return "no"
        nearest = min(max(self.figure.value, low), high)
        return "yes" if abs(nearest / self.figure.value - 1) <= NEAR else "undecided"

    def as_json(self) -> dict[str, Any]:
        """{"what", "what_zh", "claimed", "value", "low", "high", "unit", "provenance", "holds"}."""
        return {
            "what": self.what,
            "what_zh": self.what_zh,
            "claimed": _range(self.claimed, self.figure.unit),
            **self.figure.as_json(),
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A claim with our figures. Without figures a plan cannot judge it; the table's own verdict stands."""

    row: Mapping[str, str]
    figures: tuple[Judged, ...] = ()

    @property
    def verdict(self) -> str:
        """holds, does not hold, partly, undecided, "for information"; "by its source" without figures."""
        if not self.figures:
            return "by its source"
        outcomes = {f.holds for f in self.figures if f.holds}
        if not outcomes:
            return "for information"
        if len(outcomes) == 1:
            return {"yes": "holds", "no": "does not hold", "undecided": "undecided"}[outcomes.pop()]
        return "partly" if "yes" in outcomes else "undecided"

    def as_json(self) -> dict[str, Any]:
        """The claim, what was checked by hand, and what we find."""
        names = ("id", "claim", "claim_zh", "checked", "source", "confidence")
        return {name: self.row[name] for name in names} | {
            "checked_verdict": self.row["verdict"],
            "checked_verdict_zh": self.row["verdict_zh"],
            "verdict": self.verdict,
            "figures": [f.as_json() for f in self.figures],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a judge may use: catalogue, models, constants."""

    devices: Devices
    models: Mapping[str, Mapping[str, Any]]
    constants: Constants

    def device(self, name: str) -> Device:
        return self.devices.find(name)

    def shape(self, name: str) -> Shape:
        return named_shape(name, self.models)


def check_claims(
    rows: Sequence[Mapping[str, str]],
    devices: Devices,
    models: Mapping[str, Mapping[str, Any]],
    constants: Constants,
) -> list[Checked]:
    """Every claim of the table, judged where the catalogue or the model can."""
    bench = Bench(devices=devices, models=models, constants=constants)
    judged = {row["id"]: JUDGES[row["id"]](bench) for row in rows if row["id"] in JUDGES}
    return [Checked(row=row, figures=tuple(judged.get(row["id"], ()))) for row in rows]


def _range(claimed: tuple[float, float] | None, unit: str) -> str:
    if claimed is None:
        return ""
    low, high = claimed
    if high == inf:
        return f"over {show_number(low, unit)}"
    return show_number(low, unit) if low == high else f"{show_number(low, unit)} to {show_number(high, unit)}"


def _vendor(value: float, unit: str) -> Figure:
    return Figure(value, value, value, unit, "vendor")


def _is(value: float) -> tuple[float, float]:
    return value, value


# ------------------------------------------------------------------ by the model


def training_s(
    bench: Bench, shape: Shape, device: Device, devices: int, precision: str = "bf16", year: float = NOW
) -> Figure:
    """Seconds a token of the fastest way to train on exactly so many devices; 80 % interval of the fit."""
    hardware = hardware_of(device, precision)
    assert hardware is not None
    setup = _setups(shape, devices, low=precision == "fp8")
    sizes = Sizes.of(shape, GPT3_SEQ)
    fits = train_memory_bytes(sizes, setup) <= device.memory_bytes * USABLE_MEMORY
    kin = groups(device)
    constant = matured(values(bench.constants, "train", kin), age(year))
    step = total(train_step_s(sizes, setup, hardware, constant))
    each = np.where(fits, step / (setup.global_batch * GPT3_SEQ), np.inf)
    return _figure(float(each.min()), bench, "train", kin)


def _setups(shape: Shape, devices: int, low: bool) -> TrainSetup:
    """All splits of so many devices that divide the model, at about the batch of GPT-3."""
    axes = ([1, 2, 4, 8], [1, 2, 3, 4, 6, 8, 12, 16, 24], [1, 2, 3], [1, 2, 4], [0, 1, 2], [1, 3])
    t, p, v, b, recompute, zero = (a.ravel().astype(float) for a in np.meshgrid(*axes, indexing="ij"))
    d = devices / (t * p)
    even = (d % 1 == 0) & (shape.layers % (p * v) == 0) & (shape.heads % t == 0) & ((p > 1) | (v == 1))
    even &= (d * b <= GPT3_BATCH) & ~((zero == 3) & (p > 1))
    t, p, v, b, recompute, zero, d = (a[even] for a in (t, p, v, b, recompute, zero, d))
    batch = np.maximum(1, np.round(GPT3_BATCH / (d * b))) * d * b
    return TrainSetup(
        devices=float(devices), t=t, p=p, v=v, d=d, micro_batch=b, global_batch=batch, seq_len=GPT3_SEQ,
        recompute=recompute, zero=zero, sp=(t > 1).astype(float), low_precision=float(low),
    )  # fmt: skip


def _figure(seconds: float, bench: Bench, phase: str, kin: Mapping[str, str]) -> Figure:
    wide = exp(bench.constants.spread(phase, kin))
    return around(seconds, wide - 1, "s", bench.constants.provenance_of(phase, kin))


@dataclass(frozen=True, slots=True)
class _Serving:
    """What is served on one device: precision of arithmetic and weights, and how many at once."""

    model: str = "llama2-7b"
    precision: str = "bf16"
    bits: int = 16
    batch: int = 1
    prompt: int = 512
    output: int = 128


def serving_s(
    bench: Bench, device: Device, what: _Serving, phase: str, beside: Device | None = None
) -> Figure:
    """Seconds of the prefill of one request, or of one decode step, on one device, set against `beside`."""
    hardware, kin = hardware_of(device, what.precision), _kin(bench, device, beside)
    assert hardware is not None
    setup = ServeSetup(batch=float(what.batch), prompt=what.prompt, output=what.output, weight_bits=what.bits)
    sizes = Sizes.of(bench.shape(what.model), what.prompt)
    parts = serve_s(sizes, setup, hardware, values(bench.constants, "serve", kin))[phase]
    return _figure(float(total(parts)), bench, "serve", kin)


def _kin(bench: Bench, device: Device, beside: Device | None) -> dict[str, str]:
    """Whose constants apply. Two devices of one family are compared by their own where published runs have
    both, else both by the family's: what one of them deviates would look like a difference of the chips."""
    kin = groups(device, device.serve_stack)
    if beside is None or beside.family != device.family:
        return kin
    device_ids = {key.split("@device:")[1] for key in bench.constants.logs if "@device:" in key}
    return kin if {device.id, beside.id} <= device_ids else kin | {"device": "", "own": ""}


def answer_s(bench: Bench, device: Device, what: _Serving, beside: Device | None = None) -> Figure:
    """Seconds of one whole answer: its prefill and all its tokens."""
    first, each = (serving_s(bench, device, what, phase, beside) for phase in PHASES)
    wide = first.high / first.value
    value = first.value + what.output * each.value
    return around(value, wide - 1, "s", each.provenance)


def ratio(over: Figure, under: Figure, kindred: bool) -> Figure:
    """over / under. Errors of unlike devices are taken as independent, those of one family as KINDRED."""
    sides = [np.log(f.high / f.value) for f in (over, under)]
    wide = exp(KINDRED if kindred else sqrt(sum(s * s for s in sides)))
    value = over.value / under.value
    return around(value, wide - 1, "times", weakest(over.provenance, under.provenance))


def _faster(bench: Bench, new: str, old: str, now: _Serving, before: _Serving, phase: str) -> Figure:
    """How many times as fast a phase is on one device as on another."""
    one, other = bench.device(new), bench.device(old)
    slow, fast = serving_s(bench, other, before, phase, one), serving_s(bench, one, now, phase, other)
    return ratio(slow, fast, kindred=one.family == other.family)


# ------------------------------------------------------------------ judges

Judge = Callable[[Bench], Sequence[Judged]]


def gpt3_cores(bench: Bench) -> list[Judged]:
    cpu, gpu = bench.device("xeon-8380"), bench.device("v100-32")
    assert cpu.cores
    cores, cards = cpu.peaks["f32"] / cpu.cores * 285_000, gpu.peaks["fp16"] * 10_000
    days = training_s(bench, bench.shape("gpt3-175b"), gpu, 9984) * (GPT3_TOKENS / DAY_S)
    share = around(cores / (cores + cards), 0.5, "share", "vendor")
    return [
        Judged(
            what="share of the arithmetic of 285,000 cores and 10,000 V100 that the cores give",
            what_zh="在 285,000 个核心与 10,000 块 V100 的总算力中，核心所占份额",
            figure=share,
            claimed=_is(1.0),
        ),
        Judged(
            what="GPT-3 on 9,984 of the V100 alone",
            what_zh="仅用其中 9,984 块 V100 训练 GPT-3",
            figure=_days(days),
        ),
    ]


def _days(seconds: Figure) -> Figure:
    return replace(seconds, unit="days")


def gpt3_compute(bench: Bench) -> list[Judged]:
    flops = bench.shape("gpt3-175b").train_flops_per_token(GPT3_SEQ) * GPT3_TOKENS
    figure = around(flops / 1e18, 0.05, "EFLOP", "modelled")
    what, zh = "6 N D and attention, 300 billion tokens", "6ND 加注意力，3000 亿词元"
    return [Judged(what=what, what_zh=zh, figure=figure, claimed=_is(0.175))]


def gpt3_cost(bench: Bench) -> list[Judged]:
    results = []
    for name, devices in (("v100-32", 1024), ("a100-80-sxm", 1024), ("h100-sxm", 1024)):
        device = bench.device(name)
        token_s = training_s(bench, bench.shape("gpt3-175b"), device, devices)
        assert device.price_usd_per_h
        figure = _usd(token_s * GPT3_TOKENS, devices * device.price_usd_per_h)
        what = f"GPT-3 on {devices:,} {name} at {device.price_usd_per_h:g} USD an hour each"
        zh = f"GPT-3，{devices:,} 块 {name}，每块每小时 {device.price_usd_per_h:g} 美元"
        results.append(Judged(what=what, what_zh=zh, figure=figure, claimed=_is(2.5e6)))
    return results


def catalogue_figure(
    device: str, what: tuple[str, str], of: Callable[[Device], float], unit: str, claimed: float
) -> Judge:
    """A judge of one figure in the catalogue; `what` in English and Chinese."""

    def judge(bench: Bench) -> list[Judged]:
        names = [f"{device}: {what[0]}", f"{device}：{what[1]}"]
        figure = _vendor(of(bench.device(device)), unit)
        return [Judged(what=names[0], what_zh=names[1], figure=figure, claimed=_is(claimed))]

    return judge


def joined(*judges: Judge) -> Judge:
    return lambda bench: [result for judge in judges for result in judge(bench)]


def catalogue_ratio(what: tuple[str, str], of: Callable[[Device], float], claimed: float | None) -> Judge:
    """A judge of Gaudi 3 over Gaudi 2 in one figure of the catalogue."""

    def judge(bench: Bench) -> list[Judged]:
        value = of(bench.device("gaudi3")) / of(bench.device("gaudi2"))
        wanted = _is(claimed) if claimed else None
        return [Judged(what=what[0], what_zh=what[1], figure=_vendor(value, "times"), claimed=wanted)]

    return judge


def gaudi3_by_model(bench: Bench) -> list[Judged]:
    """Llama 2 7B in FP8 on one device of each, and a training step of it on eight."""
    results = []
    for phase, batch in (("decode", 1), ("decode", 128), ("prefill", 1)):
        what = _Serving(precision="fp8", bits=8, batch=batch, prompt=1024 if phase == "prefill" else 128)
        figure = _faster(bench, "gaudi3", "gaudi2", what, what, phase)
        name = f"{phase} of Llama 2 7B in FP8" + (f", {batch} at once" if phase == "decode" else "")
        zh = f"Llama 2 7B，FP8，{PHASES[phase]}" + (f"，同时 {batch} 个" if phase == "decode" else "")
        results.append(Judged(what=name, what_zh=zh, figure=figure, claimed=_is(2.0)))
    shape = bench.shape("llama2-7b")
    before, now = (training_s(bench, shape, bench.device(name), 8) for name in ("gaudi2", "gaudi3"))
    step = ratio(before, now, kindred=True)
    name, zh = "training Llama 2 7B in BF16 on eight", "八块上以 BF16 训练 Llama 2 7B"
    return [*results, Judged(what=name, what_zh=zh, figure=step, claimed=_is(2.0))]


def stability(bench: Bench) -> list[Judged]:
    """4,000 Gaudi2: how long, at what cost, and the same money in H100."""
    gaudi, h100, shape = bench.device("gaudi2"), bench.device("h100-sxm"), bench.shape("gpt3-175b")
    assert gaudi.price_usd_per_h and h100.price_usd_per_h
    price, list_price = gaudi.price_usd_per_h, h100.price_usd_per_h
    owned = owned_usd_per_h(gaudi, OwnTerms(), Owned(device="gaudi2", hosts=500, per_host=8))
    assert owned
    seconds = training_s(bench, shape, gaudi, 4000) * GPT3_TOKENS
    peak = _vendor(4000 * (gaudi.peak_flops("bf16") or 0) / 1e18, "EFLOP/s")
    results = [
        Judged(what="BF16 peak of 4,000 Gaudi2", what_zh="4,000 块 Gaudi2 的 BF16 峰值", figure=peak),
        Judged(
            what="GPT-3 (300 billion tokens) on them",
            what_zh="在其上训练 GPT-3（3000 亿词元）",
            figure=_days(seconds * (1 / DAY_S)),
        ),
        Judged(
            what=f"its cost at {price:g} USD an hour each",
            what_zh=f"其费用，每块每小时 {price:g} 美元",
            figure=_usd(seconds, 4000 * price),
        ),
        Judged(
            what=f"its cost when owned, {owned.value:.2f} USD an hour each",
            what_zh=f"自有时的费用，每块每小时 {owned.value:.2f} 美元",
            figure=_usd(seconds, 4000 * owned.value),
        ),
    ]
    assert gaudi.purchase_usd and h100.purchase_usd
    by_price = _nodes(4000 * gaudi.purchase_usd / h100.purchase_usd)
    return [
        *results,
        *_for_the_same_money(bench, _nodes(4000 * price / list_price), "an hour", "每小时花费相同"),
        *_for_the_same_money(bench, by_price, "to buy the cards", "购卡花费相同"),
    ]


def _for_the_same_money(bench: Bench, devices: int, words: str, zh: str) -> list[Judged]:
    """GPT-3 on so many H100: time and cost."""
    h100 = bench.device("h100-sxm")
    seconds, price = (
        training_s(bench, bench.shape("gpt3-175b"), h100, devices) * GPT3_TOKENS,
        h100.price_usd_per_h,
    )
    assert price
    return [
        Judged(
            what=f"GPT-3 on {devices:,} H100, the same money {words}",
            what_zh=f"用 {devices:,} 块 H100 训练 GPT-3，{zh}",
            figure=_days(seconds * (1 / DAY_S)),
        ),
        Judged(
            what=f"its cost at {price:g} USD an hour each",
            what_zh=f"其费用，每块每小时 {price:g} 美元",
            figure=_usd(seconds, devices * price),
        ),
    ]


def _usd(seconds: Figure, usd_per_h: float) -> Figure:
    return replace(seconds * (usd_per_h / 3600), unit="USD")


def _nodes(devices: float) -> int:
    """The next number of nodes of eight below that splits well: a multiple of 64 devices."""
    return int(devices // 64) * 64


def mlperf(bench: Bench) -> list[Judged]:
    """GPT-3 on Gaudi2 as submitted to MLPerf Training: tokens a second and device."""
    rows = (
        ("v3.0", 2023.5, 384, "bf16", 168.0),
        ("v3.1", 2023.9, 384, "fp8", 341.0),
        ("v3.1", 2023.9, 256, "fp8", 351.0),
        ("v4.0", 2024.5, 1024, "fp8", 294.0),
    )
    results = []
    for version, year, devices, precision, measured in rows:
        one = training_s(bench, bench.shape("gpt3-175b"), bench.device("gaudi2"), devices, precision, year)
        value, low, high = (1 / (s * devices) for s in (one.value, one.high, one.low))
        figure = Figure(value, low, high, "tokens/s", one.provenance)
        what = f"MLPerf {version}, {devices:,} Gaudi2, {precision.upper()}: tokens/s a device"
        zh = f"MLPerf {version}，{devices:,} 块 Gaudi2，{precision.upper()}：每块每秒词元数"
        results.append(Judged(what=what, what_zh=zh, figure=figure, claimed=_is(measured)))
    return results


def amx(bench: Bench) -> list[Judged]:
    """Xeon 8480+ with AMX against Xeon 8380: FP32 there and BF16 here, then INT8 on both; a whole answer."""
    fp32, bf16 = _Serving("qwen1.5-7b", "f32", 32), _Serving("qwen1.5-7b", "bf16", 16)
    int8 = _Serving("qwen1.5-7b", "int8", 8)
    new, old, results = bench.device("xeon-8480plus"), bench.device("xeon-8380"), []
    for words, words_zh, now, before in (
        ("BF16 against FP32", "BF16 对 FP32", bf16, fp32),
        ("INT8 against INT8", "INT8 对 INT8", int8, int8),
    ):
        figure = ratio(answer_s(bench, old, before, new), answer_s(bench, new, now, old), kindred=True)
        what = f"Qwen 7B, an answer of 128 tokens to 512, {words} on the 3rd generation"
        words_setup_zh = f"Qwen 7B，512 词元提示、128 词元回答，第四代对第三代，{words_zh}"
        results.append(Judged(what=what, what_zh=words_setup_zh, figure=figure, claimed=_is(3.0)))
        for phase, phase_zh in PHASES.items():
            figure = _faster(bench, new.id, old.id, now, before, phase)
            what, words_setup_zh = f"its {phase} alone, {words}", f"仅{phase_zh}，{words_zh}"
            results.append(Judged(what=what, what_zh=words_setup_zh, figure=figure))
    return results


def emerald(bench: Bench) -> list[Judged]:
    """Xeon 8592+ against 8480+, the same work on both; rated power is 350 W on both."""
    results = []
    for phase in ("prefill", "decode"):
        for precision, bits in (("bf16", 16), ("int8", 8)):
            what = _Serving(precision=precision, bits=bits)
            figure = _faster(bench, "xeon-8592plus", "xeon-8480plus", what, what, phase)
            name = f"Llama 2 7B, {phase}, {precision.upper()}"
            zh = f"Llama 2 7B，{PHASES[phase]}，{precision.upper()}"
            results.append(Judged(what=name, what_zh=zh, figure=figure, claimed=(2.0, 3.0)))
    return results


def cheaper(bench: Bench) -> list[Judged]:
    """Dollars on a Xeon socket over dollars on a GPU, at list prices, for the same work."""
    cpu, results = bench.device("xeon-8480plus"), []
    for name in ("a100-40-sxm", "h100-sxm"):
        gpu = bench.device(name)
        for phase in ("prefill", "decode"):
            slow, fast = (serving_s(bench, d, _Serving(), phase) for d in (cpu, gpu))
            assert cpu.price_usd_per_h and gpu.price_usd_per_h
            figure = ratio(slow, fast, kindred=False) * (cpu.price_usd_per_h / gpu.price_usd_per_h)
            what = f"cost on Xeon 8480+ over {name}: Llama 2 7B, {phase}, one user"
            zh = f"Xeon 8480+ 的费用比 {name}：Llama 2 7B，{PHASES[phase]}，单用户"
            results.append(Judged(what=what, what_zh=zh, figure=figure, claimed=(1.0, inf)))
    return results


def _peak(precision: str) -> Callable[[Device], float]:
    return lambda device: (device.peak_flops(precision) or 0.0) / 1e12


GB: Callable[[Device], float] = lambda d: d.memory_bytes / 1e9  # noqa: E731
GB_PER_S: Callable[[Device], float] = lambda d: d.memory_bytes_per_s / 1e9  # noqa: E731
NM: Callable[[Device], float] = lambda d: d.process_nm or 0.0  # noqa: E731
CACHE_MB: Callable[[Device], float] = lambda d: (d.cache_bytes or 0) / 1e6  # noqa: E731
IN_BOX_GBIT: Callable[[Device], float] = lambda d: d.scaleup_bytes_per_s * 8 / 2 / 1e9  # noqa: E731
OUT_GBIT: Callable[[Device], float] = lambda d: d.scaleout_bytes_per_s * 8 / 1e9  # noqa: E731
PORTS: Callable[[Device], float] = lambda d: (IN_BOX_GBIT(d) + OUT_GBIT(d)) / 100  # noqa: E731

JUDGES: dict[str, Judge] = {
    "gpt3-cores": gpt3_cores,
    "gpt3-compute": gpt3_compute,
    "gpt3-cost": gpt3_cost,
    "gaudi2-mem": catalogue_figure("gaudi2", ("memory", "内存"), GB, "GB", 96),
    "gaudi2-bw": catalogue_figure("gaudi2", ("memory bandwidth", "内存带宽"), GB_PER_S, "GB/s", 2400),
    "gaudi2-ports": joined(
        catalogue_figure("gaudi2", ("ports of 100 Gb/s in all", "100 Gb/s 端口总数"), PORTS, "ports", 21),
        catalogue_figure(
            "gaudi2", ("to its seven peers, one direction", "到七个同伴，单向"), IN_BOX_GBIT, "Gb/s", 2100
        ),
    ),
    "gaudi2-process": catalogue_figure("gaudi2", ("process", "工艺"), NM, "nm", 7),
    "gaudi2-l2": catalogue_figure("gaudi2", ("SRAM on the die", "片上 SRAM"), CACHE_MB, "MB", 48),
    "max-l2": joined(
        catalogue_figure("max-1550", ("L2", "L2"), CACHE_MB, "MB", 408),
        catalogue_figure("max-1100", ("L2", "L2"), CACHE_MB, "MB", 408),
    ),
    "max-hbm": joined(
        catalogue_figure("max-1550", ("memory", "内存"), GB, "GB", 128),
        catalogue_figure("max-1100", ("memory", "内存"), GB, "GB", 128),
    ),
    "gaudi3-process": catalogue_figure("gaudi3", ("process", "工艺"), NM, "nm", 5),
    "gaudi3-compute": joined(
        catalogue_ratio(("FP8 peak", "FP8 峰值"), _peak("fp8"), 2.0),
        catalogue_ratio(("BF16 peak", "BF16 峰值"), _peak("bf16"), 2.0),
        gaudi3_by_model,
    ),
    "gaudi3-net": joined(
        catalogue_ratio(("links inside a node", "节点内链路"), IN_BOX_GBIT, 1.5),
        catalogue_ratio(("links between nodes", "节点间链路"), OUT_GBIT, 1.5),
    ),
    "gaudi3-hbm": joined(
        catalogue_ratio(("capacity", "容量"), GB, 1.5),
        catalogue_ratio(("bandwidth, for information", "带宽，供参考"), GB_PER_S, None),
    ),
    "stability-4000": stability,
    "gaudi2-mlperf": mlperf,
    "qwen-3x": amx,
    "emr-ai": emerald,
    "gpu-over-cpu": cheaper,
}
