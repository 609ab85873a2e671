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

from .local_train import bytes_per_s, flops_per_s, layer_weights, layers_of
from .rates import Rates, Row, Terms, fit_rates

KV_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "u8": 1.0}
HTTP_S = 0.004  # to let one request in: 65 requests took 0.4 s of the front end's CPU, the client as much
CLIENT_S = 0.004  # until a user asks again
# CPU seconds of front end and client for the events of one step, and for each token among them.
FRONT_STREAM_S = (6e-4, 1.2e-4)
CLIENT_STREAM_S = (6e-4, 1.8e-4)
MOST_STEPS = 20_000
PROBE_TOKENS = 8346  # through the cache of a probe's engine before its memory is read
# Resident bytes before any row: the process; weights in the engine's own layout, the file's pages being
# handed back; a layer's nodes and kernels; rows of the embedding looked up, in the mapped file; keys
# and values; activations. Read off /proc/PID/smaps with 4, 20 and 30 layers on a Zen 4 core, OpenVINO 2026.4.
HELD = {"start": 128e6, "bytes": 1.0, "layers": 1e6, "table": 1.0, "cache": 1.0, "step": 0.85}
LOOKED_UP_BYTES = 2**16  # that Linux maps at one fault of a file's page: the rows beside a token's own
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
    return {"form": form, **layers_of(shape)}


def step_terms(s: Row, prefill: float, batch: float, context: float, prompts: float = 1.0) -> Terms:
    """Work of one engine step: `prefill` tokens of `prompts` prompts, `batch` answers at `context` tokens."""
    weights, table = layer_weights(s), float(s["vocab"] * s["hidden"])
    form = FORMS[s["form"]]
    width = s["heads"] * s["head_dim"]
    sampled = batch + (prompts if prefill else 0.0)
    pairs = prefill * (prefill / max(1.0, prompts)) / 2
    return {
        "gemm": 2.0 * prefill * weights,
        "gemm_few": 2.0 * batch * weights,  # a few rows a step run far below the rate of many
        "weights": weights * form.weight_bytes + table * form.end_bytes,
        "head": 2.0 * sampled * table,
        "attention": 4.0 * s["layers"] * width * pairs,
        "kv": batch * context * kv_bytes(s),
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
        measured_rows = [r for op in ops for r in calibration.of(op)]
        same = [r for r in measured_rows if r["form"] == form]
        # A form that was not measured multiplies like the one whose weights are stored the same way.
        alike = [r for r in measured_rows if FORMS[r["form"]].weights == FORMS[form].weights]
        return same or alike or measured_rows

    return ServeRates(
        step=fit_rates(rows("prefill", "decode"), _row_terms, priors),
        load=fit_rates(rows("load"), _held, {"start": 0.6, "bytes": 1.5e-9, "layers": 0.04}),
        memory=fit_rates(rows("load"), _measured_bytes, HELD, "rss_bytes", sure=("bytes", "cache")),
    )


def _held(r: Row) -> Terms:
    return {"start": 1.0, "bytes": float(r["weight_bytes"]), "layers": float(r["layers"])}


def _measured_bytes(r: Row) -> Terms:
    """What a probe's engine held when its memory was read: after prompts of 2,048 tokens at once."""
    tokens = float(r.get("tokens_seen", PROBE_TOKENS)) * kv_bytes(r)
    # Its ids are drawn from the whole vocabulary: every page of the embedding has been looked up.
    table = looked_up_bytes(r, r["vocab"])
    return _held(r) | {"table": table, "cache": min(tokens, r["cache_bytes"]), "step": step_bytes(r, 2048.0)}


def different_tokens(tokens: float) -> float:
    """How many tokens of a text differ: Heaps' law, 44 n^0.49 (Manning et al. 2008, section 5.1.1)."""
    return float(min(tokens, 44.0 * tokens**0.49))


def looked_up_bytes(row: Row, different: float) -> float:
    """Bytes of the embedding's file that are mapped after so many different tokens."""
    table = row["vocab"] * row["hidden"] * FORMS[row["form"]].end_bytes
    return float(min(table, different * LOOKED_UP_BYTES))


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
    flow = _Flow(rates, row, users, prompt, output, engine, rounds)
    for _ in range(MOST_STEPS):
        if not flow.step():
            break
    return flow.load()


@dataclass(slots=True)
class _Request:
    asked_s: float
    came_s: float  # to the engine
    prompt_left: float
    turn: int  # which of its user's requests it is
    tokens_left: int
    first_s: float = 0.0


class _Flow:
    """The requests of one closed load, and the clock."""

    def __init__(
        self, rates: Rates, row: Row, users: int, prompt: int, output: int, engine: Row, rounds: int
    ) -> None:
        self.rates, self.row, self.engine = rates, row, engine
        self.users, self.prompt, self.output, self.rounds = users, prompt, output, rounds
        self.stream_s = stream_s(engine.get("threads", 1))
        self.now_s = 0.0
        self.waiting: list[_Request] = []
        self.running: list[_Request] = []
        self.ended: list[tuple[_Request, float]] = []  # after the warm-up, and when
        self._ask([0] * users, 0.0)

    def _ask(self, turns: list[int], at_s: float) -> None:
        """A request each; one front end lets them in one after the other."""
        for place, turn in enumerate(turns, start=1):
            self.waiting.append(_Request(at_s, at_s + place * HTTP_S, float(self.prompt), turn, self.output))

    def step(self) -> bool:
        """One step of the engine; False where nothing is left."""
        seats = max(0, self.engine["max_num_seqs"] - len(self.running))
        here = [r for r in self.waiting if r.came_s <= self.now_s][:seats]
        if not self.running and not here:
            if not self.waiting:
                return False
            self.now_s = min(r.came_s for r in self.waiting)
            return True
        filled, done = self._fill(here)
        context = self.prompt + self.output / 2
        terms = step_terms(self.row, filled, len(self.running), context, max(1, len(done)))
        finished = len(self.running) + len(done)
        self.now_s += (
            self.rates.total(terms) + self.stream_s[0] * bool(finished) + self.stream_s[1] * finished
        )
        self._tell(done)
        return True

    def _fill(self, here: list[_Request]) -> tuple[float, list[_Request]]:
        """Prompt tokens that still fit into the step, and the requests whose prompts are in with it."""
        room, filled, done = max(0, self.engine["max_num_batched_tokens"] - len(self.running)), 0.0, []
        for request in here:
            take = min(request.prompt_left, room - filled)
            request.prompt_left -= take
            filled += take
            done += [request] if request.prompt_left <= 0 else []
            if filled >= room:
                break
        return filled, done

    def _tell(self, done: list[_Request]) -> None:
        """A token for each that runs, the first for those that come in; who has all asks again."""
        for request in done:
            self.waiting.remove(request)
            request.first_s = self.now_s
        answered = [*self.running, *done]
        for request in answered:
            request.tokens_left -= 1
        self.running = [r for r in answered if r.tokens_left > 0]
        finished = [r for r in answered if r.tokens_left <= 0]
        self.ended += [(r, self.now_s) for r in finished if r.turn]
        turns = [r.turn + 1 for r in finished if r.turn + 1 < self.rounds]
        self._ask(turns, self.now_s + CLIENT_S)

    def load(self) -> Load:
        """Medians over what was counted."""
        if not self.ended:
            return Load(ttft_s=self.now_s, tpot_s=0.0, output_tok_s=0.0, wall_s=self.now_s, tokens=0.0)
        span_s = max(end for _, end in self.ended) - min(r.asked_s for r, _ in self.ended)
        return Load(
            ttft_s=median(r.first_s - r.asked_s for r, _ in self.ended),
            tpot_s=median((end - r.first_s) / max(1, self.output - 1) for r, end in self.ended),
            output_tok_s=len(self.ended) * self.output / span_s,
            wall_s=self.now_s,
            tokens=float(self.users * self.rounds * (self.prompt + self.output)),
        )


def stream_s(cores: int) -> tuple[float, float]:
    """What a step and each of its tokens take on their way to the user: seconds that the engine loses.

    On one core front end and client take turns with the engine; on more they do so beside each other, and
    the engine's threads wait for the one that was held up longest.
    """
    both = zip(FRONT_STREAM_S, CLIENT_STREAM_S, strict=True)
    step_s, token_s = (front + client if cores == 1 else max(front, client) for front, client in both)
    return step_s, token_s


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
