"""Prefill, decode and a closed load on this machine, from calibrated rates of one engine step.

One step takes `prefill` prompt tokens and one token of each of `batch` running answers; all its work is in
one set of terms, so prefill and decode rows teach the same coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from steelyard.forms import FORMS
from steelyard.hardware import Calibration
from steelyard.shape import Shape

from .local_train import bytes_per_s, flops_per_s, layer_weights
from .rates import Rates, Row, Terms, fit_rates

KV_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "u8": 1.0}
HTTP_S = 0.004  # of one request, front end and client: 65 requests took 0.4 s of its CPU, the client as much
CLIENT_S = 0.004  # until a user's next request is there
MOST_STEPS = 20_000
PROBE_TOKENS = 8346  # through the cache of a probe's engine before its memory is read
HELD = {"start": 136e6, "bytes": 2.0, "layers": 2e5, "cache": 1.0, "step": 1.0}
ROUNDS = 3  # requests each user sends when `run` measures; the first is warm-up


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRates:
    """What calibration says about the engine here, for one form of weights."""

    step: Rates
    load: Rates
    memory: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Medians of a closed load: seconds, seconds, tokens a second, and the seconds it all took."""

    ttft_s: float
    tpot_s: float
    output_tok_s: float
    wall_s: float
    tokens: float  # prompt and answer tokens that went through the cache


def engine_row(shape: Shape, form: str) -> dict[str, Any]:
    """A shape in the words of a calibration row."""
    return {
        "form": form,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "ffn": shape.ffn,
        "vocab": shape.vocab,
    }


def step_terms(s: Row, prefill: float, batch: float, context: float, prompts: float = 1.0) -> Terms:
    """Work of one engine step: `prefill` tokens of `prompts` prompts, `batch` answers at `context` tokens."""
    weights, table = layer_weights(s), float(s["vocab"] * s["hidden"])
    form = FORMS[s["form"]]
    width, kv_width = s["heads"] * s["head_dim"], 2 * s["kv_heads"] * s["head_dim"]
    sampled = batch + (prompts if prefill else 0.0)
    pairs = prefill * (prefill / max(1.0, prompts)) / 2
    return {
        "gemm": 2.0 * prefill * weights,
        "gemm_few": 2.0 * batch * weights,  # a few rows a step run far below the rate of many
        "weights": weights * form.weight_bytes + table * form.end_bytes,
        "head": 2.0 * sampled * table,
        "attention": 4.0 * s["layers"] * width * pairs,
        "kv": batch * context * s["layers"] * kv_width * 2.0,
        "layers": float(s["layers"]),
        "sequences": sampled,
        "start": 1.0,
    }


def _row_terms(r: Row) -> Terms:
    if r["op"] == "prefill":
        return step_terms(r, r["tokens"], 0.0, 0.0)
    return step_terms(r, 0.0, r["batch"], r["context"])


def serve_rates(calibration: Calibration, form: str) -> ServeRates:
    """Fit the rates of one form; the rows of other forms serve where it has none."""
    flops, memory = flops_per_s(calibration) * (1.0 if form == "f32" else 2.0), bytes_per_s(calibration)
    priors = {
        "gemm": 1.2 / flops,
        "gemm_few": 1.6 / flops,
        "weights": 1.8 / memory,
        "head": 2 / flops,
        "attention": 4 / flops,
        "kv": 2 / memory,
        "layers": 5e-5,
        "sequences": 1e-4,
        "start": 5e-4,
    }

    def rows(*ops: str) -> list[dict[str, Any]]:
        found = [r for op in ops for r in calibration.of(op)]
        return [r for r in found if r.get("form") == form] or found

    return ServeRates(
        step=fit_rates(rows("prefill", "decode"), _row_terms, priors),
        load=fit_rates(rows("load"), _held, {"start": 0.6, "bytes": 1.5e-9, "layers": 0.04}),
        # The mapped file and a packed copy of it: 2.0 bytes a byte in BF16, 2.1 in INT8.
        memory=fit_rates(rows("load"), _measured_bytes, HELD, "rss_bytes"),
    )


def _held(r: Row) -> Terms:
    return {"start": 1.0, "bytes": float(r["weight_bytes"]), "layers": float(r["layers"])}


def _measured_bytes(r: Row) -> Terms:
    """What a probe's engine held when its memory was read: after prompts of 2,048 tokens at once."""
    seen = float(r.get("tokens_seen", PROBE_TOKENS)) * kv_bytes(r)
    return _held(r) | {"cache": min(seen, r["cache_bytes"]), "step": step_bytes(r, 2048.0)}


def kv_bytes(row: Row) -> float:
    """Bytes of KV cache a token, at the precision that goes with the form."""
    kv = FORMS[row["form"]].kv_precision
    scales = 8 if kv == "u8" else 0  # f32 scale and zero point a head and token
    return row["layers"] * 2 * row["kv_heads"] * (row["head_dim"] * KV_BYTES[kv] + scales)


def step_bytes(row: Row, tokens: float) -> float:
    """Activations of one engine step of so many tokens, and logits of 64 sequences, in FP32."""
    return tokens * (10.0 * row["hidden"] + 4.0 * row["ffn"]) * 4 + 64.0 * row["vocab"] * 4


def closed_load(
    rates: Rates,
    row: Row,
    users: int,
    prompt: int,
    output: int,
    engine: Mapping[str, Any],
    rounds: int = ROUNDS,
) -> Load:
    """Play `users` requests always in flight through the engine's scheduler, step by step.

    Each step gives every running answer a token and fills the rest of `max_num_batched_tokens` with
    prompts, oldest first (Holmes et al. 2024, arXiv 2401.08671: dynamic split-fuse). The first round is
    warm-up and is not counted, as in the measurement.
    """
    budget, seats = engine["max_num_batched_tokens"], engine["max_num_seqs"]
    waiting = [[0.0, float(prompt), 0] for _ in range(users)]  # came at, prompt tokens left, round
    running: list[list[float]] = []  # came at, tokens left, first token at, round
    now, ttft, tpot, spans = 0.0, [], [], []
    for _ in range(MOST_STEPS):
        if not waiting and not running:
            break
        here = [w for w in waiting if w[0] <= now][: max(0, seats - len(running))]
        if not running and not here:
            now = min(w[0] for w in waiting)
            continue
        room, filled, done = max(0, budget - len(running)), 0.0, []
        for w in here:
            take = min(w[1], room - filled)
            w[1] -= take
            filled += take
            done += [w] if w[1] <= 0 else []
            if filled >= room:
                break
        context = prompt + output / 2
        now += rates.total(step_terms(row, filled, len(running), context, max(1, len(done))))
        finished = []
        for r in running:
            r[1] -= 1
            finished += [r] if r[1] <= 0 else []
        running = [r for r in running if r[1] > 0]
        for w in done:
            waiting.remove(w)
            entry = [w[0], output - 1.0, now, w[2]]
            (running if output > 1 else finished).append(entry)
        for came, _, first, turn in finished:
            if turn:
                ttft.append(first - came + HTTP_S)
                tpot.append((now - first) / max(1, output - 1))
                spans += [came, now + HTTP_S]
            if turn + 1 < rounds:
                waiting.append([now + HTTP_S + CLIENT_S, float(prompt), int(turn) + 1])
    if not ttft:
        return Load(ttft_s=now, tpot_s=0.0, output_tok_s=0.0, wall_s=now, tokens=0.0)
    span = max(spans) - min(spans)
    return Load(
        ttft_s=median(ttft),
        tpot_s=median(tpot),
        output_tok_s=len(ttft) * output / span,
        wall_s=now,
        tokens=float(users * rounds * (prompt + output)),
    )


def batch_wall_s(
    rates: Rates, row: Row, requests: int, prompt: int, output: int, users: int, engine: Mapping[str, Any]
) -> float:
    """Seconds to answer `requests` prompts with `users` of them in flight."""
    if requests <= 0:
        return 0.0
    users = min(users, requests)
    rounds = min(4, max(2, round(requests / users)))
    played = closed_load(rates, row, users, prompt, max(1, output), engine, rounds)
    return played.wall_s * requests / (users * rounds)
