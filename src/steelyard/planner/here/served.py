"""What serving takes on this machine, and what comes before it: the form is written, the gate asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.forms import FORMS
from steelyard.hardware import Calibration
from steelyard.sample_size import BASE_LOOK
from steelyard.shape import Shape

from ..job.facts import DataFacts, Fill
from ..job.forms import WORK, stored_bytes
from ..job.gate_rows import first_look
from .engines import library_bytes, served_by
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
from .step import FRONT_BYTES, FRONT_S, TORCH_BYTES, UP_BYTES, UP_HTTP_BYTES, WORKER_BYTES, WORKER_S, Step

OPENVINO_BYTES = 44e6
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
BASE_RAMBLES = 2.0  # an untuned model answers until its budget: twice the longest reference


def compress_step(filled: Fill, shape: Shape) -> Step:
    form = filled.settings["compress"]["form"]
    each, table = WORK[form].export_bytes
    parts = {"start": WORKER_S + 0.35, "export": shape.params * WORK[form].export_s}
    held = UP_BYTES + WORKER_BYTES + OPENVINO_BYTES
    return Step.of(parts, held + shape.params * each + shape.vocab * shape.hidden * table)


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


def gate_step(filled: Fill, shape: Shape, calibration: Calibration, facts: DataFacts, whole: Shape) -> Step:
    """Base, tuned (exact) and served are asked the held-out rows; a child computes the exact reference.

    `whole`: the shape of base and tuned model, where the served one was pruned to `shape`.
    """
    if not filled.settings["train"]:
        return Step.of({}, 0.0)
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
    return Step.of(parts, UP_HTTP_BYTES + reference + FRONT_BYTES + max(exact, served + FRONT_BYTES + base))


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


def serve_step(filled: Fill, shape: Shape, calibration: Calibration, facts: DataFacts) -> Step:
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
    return Step.of(
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
