"""What each step of `up` will take on this machine: time, memory, speed, price.

Counts of work from sizes and settings, times rates from calibration, times what the ledger has taught about
this machine. Nothing here changes a setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log
from typing import Any

from steelyard.errors import Lacking, Refused, Where
from steelyard.forms import FORMS
from steelyard.hardware import UNDISTURBED, Calibration, Machine
from steelyard.ledger import Row
from steelyard.recipe import Recipe
from steelyard.sample_size import BASE_LOOK
from steelyard.shape import Shape
from steelyard.units import Figure, show_bytes, show_s, weakest

from ..job.cost import Price, cost_figure, price_here
from ..job.facts import DataFacts, Fill
from ..job.forms import WORK, stored_bytes
from ..job.gate_rows import first_look
from ..job.plans import Plans, broken_limits, most_usd
from ..job.pruned import score_kept, shape_left
from .abilities import looking_s, tried
from .engines import engine_of, library_bytes, served_by, spread_of, teaching
from .local_serve import (
    KV_BYTES,
    Load,
    batch_wall_s,
    closed_load,
    different_tokens,
    engine_row,
    looked_up_bytes,
    serve_rates,
    step_bytes,
)
from .local_train import (
    Packed,
    of_kind,
    optimiser_terms,
    packed,
    sizes_of,
    stays_near,
    train_rates,
    trained_params,
    writing,
)
from .local_train import memory_terms as train_memory_terms
from .local_train import step_terms as train_step_terms
from .pruning import forward_s, prune_parts, prune_peak_bytes, routing_parts, routing_peak_bytes

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
SPREAD = {
    "peak_rss_bytes": 0.12,
    "steps": 0.0,
    "tokens": 0.01,
    "score_kept": 0.2,
}  # half an 80 % interval; others:
SPREAD_TIME = {"calibrated": 0.2, "modelled": 0.5}
# Resident bytes and seconds of processes that hold no model yet, measured on a quiet Linux machine with
# Python 3.11, torch 2.13 and OpenVINO 2026.4; libraries are files mapped in and hardly depend on the CPU.
UP_BYTES, UP_HTTP_BYTES = 72e6, 95e6  # what no other process shares with `up`; with client and gate
WORKER_BYTES, WORKER_S = 30e6, 0.5
OPENVINO_BYTES = 44e6
TOKENIZER_BYTES = 30e6
FRONT_BYTES, FRONT_S = 65e6, 0.45  # 84 MB resident, Python itself shared with `up`
TORCH_BYTES = 320e6
PICKED_BYTES = 6.0  # a parameter: the network in bf16, a change of its largest matrices in f32
ROUND_S = 3e-9  # a weight: divided, rounded, held in bounds, multiplied, in passes over memory
ROUNDING_TOKENS = 15.5  # the loop fills micro-batches up to multiples of 32
ROWS_PER_S = 5000.0  # of tokenising short rows
# Cleaning 600, 6,000 and 60,000 rows of 236 bytes: 0.24, 0.43, 2.3 s on two Zen 4 cores, in 97 to 109 MB.
CLEAN_S, CLEAN_ROWS_PER_S, CLEAN_BYTES_PER_S = 0.4, 60_000.0, 3.2e6
# The tables and arrays of a batch; the sketches of all rows, which go to a file beyond that.
CLEAN_BYTES, CLEAN_BYTES_A_BYTE, CLEAN_BYTES_MOST = 30e6, 10.0, 400e6
BLOCK_TOKENS = 32  # of the engine's paged cache
GATE_USERS = 64  # the engine's whole batch
LOAD_DIFFERENT = 20.0  # tokens that the prompts of the measured load are drawn from, those of one sentence
# What an engine keeps after 32 chats at once with log-probabilities, beyond its cache: bytes an entry of the
# vocabulary, from one run of the demo (0.3 GB at 49,152).
ANSWERED_BYTES = 6000.0
PARITY_TOKENS = 2200.0  # of fixed probes through the exact network, once for tuned and once for served
PARITY_PROBES, PARITY_TASKS = 19, 24  # fixed chats, and task rows asked besides
# What a gate asks of the served form alone (gate/parity), by depth: long prompts, and tokens of the longest
# answer.
SIGHT_RUNGS = {"quick": (512, 1536), "full": (512, 2048, 8192)}
SIGHT_ANSWER = {"quick": 264, "full": 1040}
SIGHT_PROMPTS, SIGHT_PROMPT_TOKENS = 40, 100  # that are counted
SIGHT_DRAWS, SIGHT_DRAW_TOKENS = 32, 20
SIGHT_REPEATED, SIGHT_REPEATED_TOKENS = 15, 12  # draws that are made one at a time
SIGHT_DOORS = 30  # answers of other routes, streams, and one at a time: short prompts, 12 tokens each
EXACT_SLOWER = 1.8  # f32 arithmetic against bf16 in the engine: 2 in prefill, 1.3 in decode
EXACT_BYTES = 0.75  # of the stored file more: weights stand widened beside it
SAMPLES = {"max_num_batched_tokens": 2048, "max_num_seqs": 1024}  # transformers takes all sequences at once
SAMPLED_SLOWER = 4.0  # transformers' generation against the engine's
LOOKS, SCORED, SCORED_AT_ONCE = 10, 64, 16  # of a stage that scores answers, where eval_steps says nothing
BASE_RAMBLES = 2.0  # an untuned model answers until its budget: twice the longest reference


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
    trained = [_stage(settings, shape, calibration, facts) for settings in stages]
    parts = {
        "clean": _clean(facts),
        "train": _train(trained),
        **_picking(filled, shape, calibration, facts),
        **_pruning(filled, shape, left, calibration, facts),
        **_qat(filled, shape, left, calibration, facts),
        "compress": _compress(filled, left),
        "gate": _gate(filled, left, calibration, facts, whole=shape),
        "serve": _serve(filled, left, calibration, facts),
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


# ------------------------------------------------------------------ steps


@dataclass(frozen=True, slots=True)
class _Step:
    parts: Mapping[str, float]  # of wall_s
    figures: Mapping[str, float]

    @staticmethod
    def of(parts: Mapping[str, float], peak_rss_bytes: float, **more: float) -> _Step:
        return _Step(parts, {"wall_s": sum(parts.values()), "peak_rss_bytes": peak_rss_bytes, **more})


def _clean(facts: DataFacts) -> _Step:
    rows = facts.rows + facts.held_out
    parts = {"start": CLEAN_S, "read": facts.bytes / CLEAN_BYTES_PER_S, "rows": rows / CLEAN_ROWS_PER_S}
    held = CLEAN_BYTES + min(CLEAN_BYTES_A_BYTE * facts.bytes, CLEAN_BYTES_MOST)
    return _Step.of(parts, UP_BYTES + WORKER_BYTES + held)


def _train(found: Sequence[_Step]) -> _Step:
    """All stages together; steps, step_s and tokens are the last one's."""
    if not found:
        return _Step.of({}, 0.0)
    parts: dict[str, float] = {}
    for stage in found:
        for name, seconds in stage.parts.items():
            parts[name] = parts.get(name, 0.0) + seconds
    last = found[-1].figures
    more = {name: last[name] for name in ("steps", "step_s", "tokens")}
    return _Step.of(parts, max(s.figures["peak_rss_bytes"] for s in found), **more)


def _stage(settings: Mapping[str, Any], shape: Shape, calibration: Calibration, facts: DataFacts) -> _Step:
    rates = train_rates(calibration, settings["finetuning_type"], settings["dtype"])
    engine = engine_of(settings)
    run = tried(packed(facts, settings), settings, facts)
    row = sizes_of(shape, settings, run, run.micro_tokens + ROUNDING_TOKENS)
    micro = {name: s * engine.time for name, s in rates.step.cost(train_step_terms(row)).items()}
    optimiser_s = rates.optimiser.total(optimiser_terms(row)) * engine.time
    step_s = run.micro_steps * sum(micro.values()) + optimiser_s
    trained = run.tokens / max(1.0, run.micro_tokens)  # micro-batches in all, the last step's fewer too
    parts = {name: seconds * trained for name, seconds in micro.items()}
    parts["optimiser"] = optimiser_s * run.steps
    parts |= _sampling(settings, shape, calibration, facts, run)
    parts |= looking_s(settings, facts, run, step_s, sum(micro.values()))
    parts |= _teacher(settings, shape, facts, run, sum(micro.values()))
    parts |= _scores(settings, shape, calibration, facts, run)
    busy_s = sum(parts.values())
    saves = busy_s / max(
        20.0, 20.0 * rates.checkpoint.total({"start": 1.0, "each": 12 * trained_params(row)})
    )
    parts |= {
        "checkpoints": int(saves) * rates.checkpoint.total({"start": 1.0, "each": 12 * trained_params(row)}),
        "process": WORKER_S + rates.start_s + engine.start_s,
        "tokenise": 0.3 + facts.rows / ROWS_PER_S,
        "load": rates.load.total({"start": 1.0, "each": float(shape.params)}),
        "write": rates.write.total({"start": 1.0, "each": float(shape.params)}),
    }
    fullest = sizes_of(shape, settings, run, run.most_tokens)
    held = UP_BYTES + TOKENIZER_BYTES + rates.memory.total(train_memory_terms(fullest)) * engine.memory
    held = _with_teacher(settings, held)
    return _Step.of(parts, held, steps=float(run.steps), step_s=step_s, tokens=_tokens(run))


def _sampling(
    settings: Mapping[str, Any], shape: Shape, calibration: Calibration, facts: DataFacts, run: Packed
) -> dict[str, float]:
    """Of the answers that the model writes those of each step, at once, as long as those of the rows; {} of
    stages without."""
    if not writing(settings):
        return {}
    rates, row = serve_rates(calibration, "bf16").step, engine_row(shape, "bf16")
    each = settings["micro_batch"] * settings["grad_accum"]
    answer = max(1, round(facts.mean_length * facts.answer_share))
    prompt = max(1, round(facts.mean_length) - answer)
    step_s = batch_wall_s(rates, row, each, prompt, answer, each, SAMPLES)
    return {"sampling": run.steps * step_s * SAMPLED_SLOWER}


def _picking(filled: Fill, shape: Shape, calibration: Calibration, facts: DataFacts) -> dict[str, _Step]:
    """Of a lift of several ways: another one's model is written, where the gate refuses the first."""
    stage = next((s for s in filled.settings["train"] if len(s.get("lift", {}).get("routes", ())) > 1), None)
    if stage is None:
        return {}
    rates = train_rates(calibration, stage["finetuning_type"], stage["dtype"])
    each = {"start": 1.0, "each": float(shape.params)}
    parts = {
        "process": WORKER_S + rates.start_s,
        "tokenise": 0.3 + facts.rows / ROWS_PER_S,
        "load": rates.load.total(each),
        "write": rates.write.total(each),
    }
    held = UP_BYTES + TOKENIZER_BYTES + TORCH_BYTES + PICKED_BYTES * shape.params
    return {"pick": _Step.of(parts, held)}


def _pruning(
    filled: Fill, shape: Shape, left: Shape, calibration: Calibration, facts: DataFacts
) -> dict[str, _Step]:
    """prune: passes over a few rows; heal: what the whole model says of all rows, and a stage of training."""
    if "prune" not in filled.settings:
        return {}
    prune, heal = filled.settings["prune"], filled.settings.get("heal")
    rates = train_rates(calibration, "full", prune["dtype"])
    load_s = rates.load.total({"start": 1.0, "each": float(shape.params)})
    routed = "experts" in prune
    parts = (
        routing_parts(shape, left, rates, facts.tokens, prune["dtype"])
        if routed
        else prune_parts(shape, left, rates, prune["dtype"])
    )
    parts |= {"process": WORKER_S + rates.start_s, "load": load_s}
    own = routing_peak_bytes if routed else prune_peak_bytes
    step = {"prune": _Step.of(parts, UP_BYTES + TOKENIZER_BYTES + TORCH_BYTES + own(shape, prune["dtype"]))}
    if heal is None:
        return step
    kept = {"score_kept": score_kept(prune["share"])}
    healed = _taught(heal, shape, left, calibration, facts)
    return step | {"heal": _Step(healed.parts, {**healed.figures, **kept})}


def _taught(
    settings: Mapping[str, Any], shape: Shape, left: Shape, calibration: Calibration, facts: DataFacts
) -> _Step:
    """A stage that trains `left` on what the whole model says of its rows, each asked once."""
    rates = train_rates(calibration, "full", settings["dtype"])
    trained, run = _stage(settings, left, calibration, facts), packed(facts, settings)
    once = run.tokens / max(1.0, float(settings["num_train_epochs"]))
    teacher_s = rates.load.total({"start": 1.0, "each": float(shape.params)})
    teacher_s += forward_s(shape, rates, once, settings["dtype"])
    more = {name: trained.figures[name] for name in ("steps", "step_s", "tokens")}
    return _Step.of({**trained.parts, "teacher": teacher_s}, trained.figures["peak_rss_bytes"], **more)


def _qat(
    filled: Fill, shape: Shape, left: Shape, calibration: Calibration, facts: DataFacts
) -> dict[str, _Step]:
    """The calibration of int4, and a stage of training in which each step rounds every matrix anew."""
    if "qat" not in filled.settings:
        return {}
    trained = _taught(filled.settings["qat"], shape, left, calibration, facts)
    steps = trained.figures["steps"]
    parts = {"calibrate": left.params * WORK["int4"].export_s, "round": steps * left.params * ROUND_S}
    more = {name: trained.figures[name] for name in ("steps", "tokens")}
    step_s = trained.figures["step_s"] + left.params * ROUND_S
    peak = trained.figures["peak_rss_bytes"] + 6.0 * left.params
    return {"qat": _Step.of({**trained.parts, **parts}, peak, step_s=step_s, **more)}


def _scores(
    settings: Mapping[str, Any], shape: Shape, calibration: Calibration, facts: DataFacts, run: Packed
) -> dict[str, float]:
    """Of a stage that scores answers at its looks those answers, as long as the rows' own; {} of others."""
    if settings.get("metric_for_best_model") != "score":
        return {}
    rates, row = serve_rates(calibration, "bf16").step, engine_row(shape, "bf16")
    questions = max(1, min(SCORED, round(settings["val_size"] * facts.rows)))
    answer = max(1, round(facts.mean_length * facts.answer_share))
    prompt = max(1, round(facts.mean_length) - answer)
    looks = run.steps // (settings.get("eval_steps") or max(1, run.steps // LOOKS)) + 1
    look_s = batch_wall_s(rates, row, questions, prompt, answer, SCORED_AT_ONCE, SAMPLES)
    return {"scores": looks * look_s * SAMPLED_SLOWER}


def _teacher(
    settings: Mapping[str, Any], shape: Shape, facts: DataFacts, run: Packed, micro_s: float
) -> dict[str, float]:
    """A teacher's forward passes: of each row once, or of all that is taught where it stands beside the
    student. A pass takes its share of the student's own, by the weights."""
    params = shape.params if stays_near(settings) else settings.get("teacher_params")
    if not params:
        return {}
    passes = 2.0 if settings["finetuning_type"] == "lora" else 3.0
    token_s = micro_s / max(1.0, run.micro_tokens) / passes * params / shape.params
    tokens = run.tokens if writing(settings) else of_kind(facts, settings)[0].tokens
    return {"teacher": token_s * tokens}


def _with_teacher(settings: Mapping[str, Any], held: float) -> float:
    """Bytes of the process: of the teacher's weights too, where it stands beside the student; else the larger
    of both."""
    teacher = settings.get("teacher_params", 0) * (2.0 if settings["dtype"] == "bf16" else 4.0)
    if not teacher:
        return held
    return held + teacher if writing(settings) else max(held, UP_BYTES + TORCH_BYTES + teacher)


def _tokens(run: Packed) -> float:
    return float(round(run.tokens))


def _compress(filled: Fill, shape: Shape) -> _Step:
    form = filled.settings["compress"]["form"]
    each, table = WORK[form].export_bytes
    parts = {"start": WORKER_S + 0.35, "export": shape.params * WORK[form].export_s}
    held = UP_BYTES + WORKER_BYTES + OPENVINO_BYTES
    return _Step.of(parts, held + shape.params * each + shape.vocab * shape.hidden * table)


def _engine(
    filled: Fill,
    shape: Shape,
    calibration: Calibration,
    form: str,
    kv: str,
    *,
    tokens: float,
    different: float,
    at_once: float,
) -> float:
    """One engine process: libraries and weights, the cache that `tokens` touched, the embedding's rows of the
    `different` ones among them, the activations of a step of `at_once`."""
    rates, engine, row = serve_rates(calibration, form), filled.settings["serve"], engine_row(shape, form)
    terms = _held_terms(shape, form) | {
        "table": looked_up_bytes(row, different),
        "cache": min(_cache_bytes(engine, shape, kv), tokens * _kv_bytes(shape, kv)),
        "step": step_bytes(row, min(engine["max_num_batched_tokens"], at_once)),
    }
    held = rates.memory.total(terms)
    if kv == "f32" and form != "f32":
        held += EXACT_BYTES * stored_bytes(shape, form)
    return held


def _held_terms(shape: Shape, form: str) -> dict[str, float]:
    """An embedding beside a head of its own is only looked up, never laid out anew."""
    apart = 0 if shape.tied else shape.vocab * shape.hidden * FORMS[form].end_bytes
    return {"start": 1.0, "bytes": stored_bytes(shape, form) - apart, "layers": float(shape.layers)}


def _cache_bytes(engine: Mapping[str, Any], shape: Shape, kv: str) -> float:
    """What the engine's cache may hold: at any precision one request of full length, else as planned."""
    least = (engine["max_model_len"] + 2 * BLOCK_TOKENS) * _kv_bytes(shape, kv)
    return max(engine["cache_bytes"], least)


def _kv_bytes(shape: Shape, kv: str) -> float:
    scales = 8 if kv == "u8" else 0  # f32 scale and zero point a head and token
    return shape.layers * 2 * shape.kv_heads * (shape.head_dim * KV_BYTES[kv] + scales)


def _load_s(calibration: Calibration, shape: Shape, form: str) -> float:
    return FRONT_S + serve_rates(calibration, form).load.total(_held_terms(shape, form))


def _gate(filled: Fill, shape: Shape, calibration: Calibration, facts: DataFacts, whole: Shape) -> _Step:
    """Base, tuned (exact) and served are asked the held-out rows; a child computes the exact reference.

    `whole`: the shape of base and tuned model, where the served one was pruned to `shape`.
    """
    if not filled.settings["train"]:
        return _Step.of({}, 0.0)
    engine, form = served_by(filled.settings["serve"]), filled.settings["compress"]["form"]
    rates, row = serve_rates(calibration, form).step, engine_row(shape, form)
    look = first_look(filled.settings["gate"]["rows"], facts)
    answer = max(1, round(facts.mean_length * facts.answer_share))
    prompt = max(1, round(facts.mean_length) - answer)

    larger = engine_row(whole, form)

    def ask(count: int, tokens: int, of: Mapping[str, Any] = row) -> float:
        return batch_wall_s(rates, of, count, prompt, tokens, GATE_USERS, engine)

    reference_s = _reference_s(calibration, shape, PARITY_TOKENS + PARITY_TASKS * facts.mean_length)
    few = min(facts.held_out, BASE_LOOK * max(1, len(facts.abilities)))
    off = filled.settings["gate"]["parity"] == "off"
    parts = {
        "load": 3 * _load_s(calibration, shape, form),
        "export": 2 * (WORKER_S + 0.6 + shape.params * WORK["bf16"].export_s),
        "reference": 0.0 if off else 2 * reference_s,
        "parity": 0.0 if off else 2 * ask(PARITY_PROBES + PARITY_TASKS, 24),
        "sight": 0.0 if off else _sight_s(filled, shape, calibration),
        "tuned": EXACT_SLOWER * ask(look, answer, larger),
        "served": ask(look, answer),
        "base": ask(few, min(256, round(BASE_RAMBLES * answer) + 8), larger),
    }

    def service(kind: str, kv: str, tokens: float, of: Shape = whole) -> float:
        return _engine(
            filled, of, calibration, kind, kv, tokens=tokens, different=different_tokens(tokens),
            at_once=GATE_USERS * prompt,
        )  # fmt: skip

    tokens = float(look * (prompt + answer))
    exact = service("bf16", "f32", tokens) + ANSWERED_BYTES * shape.vocab
    served = service(form, engine["kv_precision"], tokens, shape) + ANSWERED_BYTES * shape.vocab
    served *= engine["replicas"]
    base = service("bf16", "bf16", few * (prompt + BASE_RAMBLES * answer))
    reference = 0.0 if off else TORCH_BYTES + 4.0 * shape.params + 256 * shape.vocab * 4.0
    library = library_bytes(filled.settings["serve"])
    reference, exact, served, base = reference + library, exact + library, served + library, base + library
    # The served service stays while the base is asked.
    return _Step.of(parts, UP_HTTP_BYTES + reference + FRONT_BYTES + max(exact, served + FRONT_BYTES + base))


def _sight_s(filled: Fill, shape: Shape, calibration: Calibration) -> float:
    """Prompts of every kind, draws, requests and other doors of the served form, and their reference."""
    engine, form = served_by(filled.settings["serve"]), filled.settings["compress"]["form"]
    depth = str(filled.settings["gate"].get("depth", "quick"))
    rates, row = serve_rates(calibration, form).step, engine_row(shape, form)
    rungs = [n for n in SIGHT_RUNGS[depth] if n < engine["max_model_len"]]

    def ask(count: int, prompt: int, tokens: int) -> float:
        return batch_wall_s(rates, row, count, prompt, tokens, GATE_USERS, engine)

    asked = [
        ask(SIGHT_PROMPTS, SIGHT_PROMPT_TOKENS, 1),
        *(ask(1, n, SIGHT_DRAW_TOKENS) for n in rungs),
        ask(SIGHT_DRAWS, SIGHT_DRAW_TOKENS, SIGHT_DRAW_TOKENS),
        batch_wall_s(rates, row, SIGHT_REPEATED, SIGHT_DRAW_TOKENS, SIGHT_REPEATED_TOKENS, 1, engine),
        ask(2, SIGHT_DRAW_TOKENS, SIGHT_ANSWER[depth]),
        ask(SIGHT_DOORS, SIGHT_PROMPT_TOKENS, 12),
    ]
    tokens = sum(rungs) + 2 * SIGHT_DRAWS * SIGHT_DRAW_TOKENS + 6 * SIGHT_PROMPT_TOKENS
    return sum(asked) + _reference_s(calibration, shape, float(tokens))


def _reference_s(calibration: Calibration, shape: Shape, tokens: float) -> float:
    """Forward of the FP32 network, its head included, and the child's start."""
    flops = max((r["flops_per_s"] for r in calibration.of("gemm")), default=5e10)
    start = next((r["s"] for r in calibration.of("train_start")), 2.5)
    return start / 2 + 1.5 * tokens * 2.0 * shape.active_params / flops


def _serve(filled: Fill, shape: Shape, calibration: Calibration, facts: DataFacts) -> _Step:
    engine, form = served_by(filled.settings["serve"]), filled.settings["compress"]["form"]
    rates, row = serve_rates(calibration, form), engine_row(shape, form)
    load = engine["load"]
    played: Load = closed_load(
        rates.step, row, load["users"], load["prompt_tokens"], load["output_tokens"], engine
    )
    at_once = float(load["users"] * load["prompt_tokens"])
    # The gate's questions went through the same service before.
    gate_tokens = _gate_tokens(filled, facts)
    process = _engine(
        filled,
        shape,
        calibration,
        form,
        engine["kv_precision"],
        tokens=played.tokens + gate_tokens,
        different=LOAD_DIFFERENT + load["output_tokens"] + different_tokens(gate_tokens),
        at_once=at_once,
    )
    process += ANSWERED_BYTES * shape.vocab * bool(filled.settings["train"])
    process = (process + library_bytes(engine)) * engine["replicas"]
    return _Step.of(
        {"front": FRONT_S, "load": _load_s(calibration, shape, form) - FRONT_S},
        UP_HTTP_BYTES + FRONT_BYTES + process,
        ttft_s=played.ttft_s,
        tpot_s=played.tpot_s,
        output_tok_s=played.output_tok_s,
    )


def _gate_tokens(filled: Fill, facts: DataFacts) -> float:
    """Tokens of all rows that the gate asks at its first look, 0 where there is no gate."""
    if not filled.settings["train"]:
        return 0.0
    return first_look(filled.settings["gate"]["rows"], facts) * facts.mean_length


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


# ------------------------------------------------------------------ figures


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


# ------------------------------------------------------------------ limits


def check_limits(recipe: Recipe, filled: Fill, local: Local, plans: Plans, machine: Machine) -> None:
    """Refuse a job that cannot meet its budget or deadline here; raise Lacking where the memory is too small.

    The hint names the nearest plan that fits.
    """
    where = Where(str(recipe.path))
    peak, free = local.peak_bytes, machine.memory_free_bytes
    ends = f"{show_bytes(peak.value)}, at most {show_bytes(peak.high)}"
    if peak.high > free:
        raise Lacking(
            "memory.too_small",
            f"{show_bytes(peak.high)} are needed, {show_bytes(free)} are free",
            where=where,
            why=f"{_why_memory(filled, local)}: {ends}",
            hint=_memory_hint(filled, plans),
        )
    goal, time_s = recipe.goal, local.time_s
    budget_usd = goal.budget.usd if goal.budget else None
    short = broken_limits(time_s, local.cost_usd, budget_usd, goal.deadline_s)
    if not short:
        return
    name, factor = max(short.items(), key=lambda kv: kv[1])
    usd, allowed_s = most_usd(time_s, local.cost_usd), show_s(goal.deadline_s or 0)
    words = {
        "deadline": f"the job takes up to {show_s(time_s.high)}, the deadline is {allowed_s}",
        "budget": f"the job costs up to $ {usd:.4f}, the budget is {goal.budget}",
    }
    raise Refused(
        f"plan.{name}",
        words[name],
        where=Where(str(recipe.path), field=f"goal.{name}"),
        why=f"{factor:.1f} times what the tightest limit, the {name}, allows on this machine",
        hint=_limit_hint(filled, local, plans, factor),
    )


def _why_memory(filled: Fill, local: Local) -> str:
    step = max(local.steps, key=lambda s: local.steps[s]["peak_rss_bytes"].value)
    stages = filled.settings["train"]
    if step != "train" or not stages:
        return f"the step {step} holds the most"
    s = stages[0]
    batch = f"micro-batch {s['micro_batch']} x {s['max_length']}"
    return f"{s['finetuning_type']} fine-tuning in {s['dtype']} at {batch}"


def _memory_hint(filled: Fill, plans: Plans) -> str:
    stages = filled.settings["train"]
    if stages and stages[0]["finetuning_type"] == "full":
        return "--set train.0.finetuning_type=lora needs a fraction of it"
    if stages and stages[0]["micro_batch"] > 1:
        return "--set train.0.per_device_train_batch_size=1, or a shorter max_length"
    return _elsewhere(plans) or "a shorter max_length, or a smaller model"


def _limit_hint(filled: Fill, local: Local, plans: Plans, factor: float) -> str:
    train = local.steps["train"]
    stages = filled.settings["train"]
    rest = local.wall_s - train["wall_s"].value if stages else local.wall_s
    allowed = local.wall_s / factor - rest
    if len(stages) == 1 and allowed > 0.1 * train["wall_s"].value:
        steps = int(train["steps"].value * allowed / train["wall_s"].value * 0.9)
        if steps >= 1:
            return (
                f"the nearest that fits here: --set train.0.max_steps={steps} (of {train['steps'].value:.0f})"
            )
    return _elsewhere(plans) or f"raise the limit to {factor:.1f} times, or give less data"


def _elsewhere(plans: Plans) -> str | None:
    if plans.best is None:
        return None
    p = plans.plans[plans.best]
    assert p.time_s
    cost = f", $ {p.cost_usd.value:.2f}" if p.cost_usd else ""
    return f"the nearest that fits: {p.devices} x {p.device} ({show_s(p.time_s.value)}{cost})"
