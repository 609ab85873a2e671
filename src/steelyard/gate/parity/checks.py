"""Does an endpoint behave as a model folder says? The checks, each with value, interval and limit.

`observe` asks (HTTP), `measure` compares with the exact reference, `checks` judges: the last two do no
I/O. Which cause a failure has: cause.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.endpoint import Answer, Endpoint
from ..base.modes import LIMITS, Limits
from ..base.pieces import BROKEN, answer_ids
from ..base.verdict import Check
from ..reference.exact import ABOVE, LOGPROB, TOP_ID, TOP_LOGPROB, Reference
from .probes import Probe

if TYPE_CHECKING:
    from ...model import Tokenizer
    from ..reference.deviation import Deviation

DRAWS = 48  # one-token samples; with a first token of probability 0.3 to 0.7 tells 1.0 from 0 or 0.3
LEAST_MARGIN = 0.3  # near ties flip by as much where few tokens show how far log-probabilities deviate
MARGIN_OF_WORST = 3.0  # of the worst deviation: two tokens' differ by at most twice that of one
SURE = 1e-4  # a rarer count under the declared temperature is no chance
OPEN = math.log(0.95)
SURE_OWN = math.log(0.999)  # arithmetic moves such a token by less than 0.001 nats; only an offset does
SHIFT_OF_SURE = 0.01
FEWEST_TOKENS = 25  # below, a log-probability check says nothing
FEWEST_FAR = 12  # open tokens after long prompts
# Times the limit of short prompts: few tokens, a long way. One clean service in bf16 shows 0.058.
FAR_LEAST, FAR_MOST = 2.0, 6.0
COARSE_FAR = 0.25  # nats in the mean: a cache in 4 bits moves less, other positions move more
SPECIAL = re.compile(r"<\|.*\|>|</?[a-z_]+>")
CUT_MARGIN = 4.0  # nats by which the end token trails the likeliest where an answer was cut short


EMPTY = np.array([])


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One probe and its greedy answer; `ids` where the server renders prompts in the open."""

    probe: Probe
    answer: Answer
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A probe whose first token is open: the likeliest one's text and its reference probability."""

    probe: Probe
    text: str
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Answers of one token to an open probe, the temperature left to the server."""

    of: Open
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One observation beside the reference. Arrays are [answer tokens]; empty where they do not align."""

    observed: Observation
    prompt: tuple[int, ...]  # ids of the own template
    answer: tuple[int, ...]  # ids of the answer's text; () where they cannot be told
    delta: np.ndarray  # served - reference log-probability; [] without log-probabilities
    margin: np.ndarray  # reference's likeliest - the answer's token, >= 0
    top: np.ndarray  # 1 where the answer's token is the reference's likeliest
    own: np.ndarray  # the reference's log-probability of the answer's token
    top_id: np.ndarray = field(default_factory=lambda: EMPTY)  # the reference's likeliest token
    above: np.ndarray = field(default_factory=lambda: EMPTY)  # mass of likelier tokens, the end token's too
    end_own: float | None = (
        None  # the reference's log-probability of the end token where the answer says "stop"
    )
    end_margin: float | None = None  # the same for the end token of an answer that says "stop"

    @property
    def produced(self) -> int | None:
        """Tokens that the server made, by its own log-probabilities or by the text.

        None where the text is not ASCII and does not align: llama-server tells the tokens of one
        character as one.
        """
        text = self.observed.answer.text or ""
        if self.observed.answer.tokens and (self.answer or text.isascii()):
            return len(self.observed.answer.tokens)
        return len(self.answer) or None

    @property
    def open_delta(self) -> np.ndarray:
        """Differences where the reference is not sure: a sure token hides any error of the arithmetic."""
        return self.delta[self.own[: len(self.delta)] < OPEN]

    @property
    def miscounted(self) -> int | None:
        used = self.observed.answer.prompt_tokens
        return None if used is None else used - len(self.prompt)


# ------------------------------------------------------------------ asking


async def observe(endpoint: Endpoint, probes: Sequence[Probe]) -> list[Observation]:
    async def ask(probe: Probe) -> Observation:
        # A long prompt is continued at temperature 1: its greedy answer may be one that the model is sure of.
        heat = 1.0 if probe.kind == "rung" else 0.0
        answer = await endpoint.chat(
            probe.messages, probe.max_tokens, temperature=heat, seed=1, logprobs=True, more=_fields(probe)
        )
        shown = rendered and probe.kind != "rung"
        ids = await endpoint.tokenize(probe.messages, probe.tools) if shown else None
        return Observation(probe=probe, answer=answer, ids=tuple(ids) if ids else None)

    def _fields(probe: Probe) -> dict[str, Any]:
        """llama-server leaves tools out of the prompt where none may be called. A brief model says too little
        after a long prompt to judge it by: there it goes on beyond its end where the server can."""
        dropped = ("tool_choice",) if endpoint.card.owner == "llamacpp" else ()
        beyond = {"ignore_eos": True} if probe.kind == "rung" and endpoint.keeps_requests else {}
        return {k: v for k, v in probe.more.items() if k not in dropped} | beyond

    rendered = await endpoint.tokenize(probes[0].messages) is not None
    return await endpoint.each(probes, ask)


async def draw(endpoint: Endpoint, of: Open) -> Draws:
    async def ask(seed: int) -> Answer:
        return await endpoint.chat(of.probe.messages, 1, temperature=None, seed=seed)

    answers = await endpoint.each(range(DRAWS), ask)
    return Draws(of=of, texts=tuple(a.text for a in answers if a.text is not None))


# ------------------------------------------------------------------ comparing


def measure(
    observed: Sequence[Observation],
    tokenizer: Tokenizer,
    reference: Reference,
    prompt_of: Callable[[Sequence[dict[str, str]]], list[int]] | None = None,
) -> list[Sample]:
    """Teacher-force the reference over each prompt and answer. `prompt_of`: another way to render."""
    prompts = [tuple(prompt_of(o.probe.messages) if prompt_of else o.probe.ids(tokenizer)) for o in observed]
    answers = [answer_ids(tokenizer, o.answer) for o in observed]
    end = end_id(tokenizer)
    ends = [
        (end,) if o.answer.finish == "stop" and a and end is not None else ()
        for o, a in _pair(observed, answers)
    ]
    arrays = reference([(p, (*a, *e)) for p, a, e in zip(prompts, answers, ends, strict=True)])
    return [
        _sample(o, p, a, array, tokenizer.eos_ids if e else ())
        for o, p, a, array, e in zip(observed, prompts, answers, arrays, ends, strict=True)
    ]


def counted(observed: Sequence[Observation], tokenizer: Tokenizer) -> list[Sample]:
    """Samples whose prompt alone is compared: no reference is asked."""
    return [
        Sample(
            observed=o,
            prompt=tuple(o.probe.ids(tokenizer)),
            answer=(),
            delta=EMPTY,
            margin=EMPTY,
            top=EMPTY,
            own=EMPTY,
        )
        for o in observed
    ]


def _pair(observed: Sequence[Observation], answers: Sequence[tuple[int, ...]]) -> Iterable:
    return zip(observed, answers, strict=True)


def _sample(
    observed: Observation,
    prompt: tuple[int, ...],
    answer: tuple[int, ...],
    array: np.ndarray,
    ends: Sequence[int],
) -> Sample:
    rows = array[: len(answer)]
    served = [t.logprob for t in (observed.answer.tokens or ())[: len(answer)]]
    last = array[len(answer)]
    return Sample(
        observed=observed,
        prompt=prompt,
        answer=answer,
        delta=np.array(served) - rows[: len(served), LOGPROB] if served else np.array([]),
        margin=rows[:, TOP_LOGPROB] - rows[:, LOGPROB],
        top=(rows[:, TOP_ID] == np.array(answer)).astype(float) if answer else np.array([]),
        own=rows[:, LOGPROB],
        top_id=rows[:, TOP_ID],
        above=_above(array, len(answer) + bool(ends)),
        end_own=float(last[LOGPROB]) if ends else None,
        end_margin=_end_margin(last, ends),
    )


def _above(array: np.ndarray, count: int) -> np.ndarray:
    return array[:count, ABOVE] if array.shape[1] > ABOVE else EMPTY


def _end_margin(row: np.ndarray, ends: Sequence[int]) -> float | None:
    if not ends:
        return None
    return 0.0 if int(row[TOP_ID]) in ends else float(row[TOP_LOGPROB] - row[LOGPROB])


def end_id(tokenizer: Tokenizer) -> int | None:
    """The end token of a turn; the tokenizer's own where a model lists several."""
    own = tokenizer.id_of(tokenizer.eos_token) if tokenizer.eos_token else None
    return own if own in tokenizer.eos_ids else next(iter(tokenizer.eos_ids), None)


# ------------------------------------------------------------------ judging


def checks(
    samples: Sequence[Sample],
    mode: str,
    draws: Draws | None = None,
    declared: float | None = None,
    others: Sequence[Sample] = (),
) -> list[Check]:
    """All checks of core probes in the order in which a failure explains the later ones.

    `declared`: the model's own default temperature, None where its generation config names none. `others`:
    samples whose prompts are compared too.
    """
    limits = LIMITS[mode]
    every = [
        _answered([*samples, *others]),
        _token_ids([*samples, *others]),
        _prompt_tokens([*samples, *others]),
        _usage(samples),
        _max_tokens(samples),
        _text(samples),
        _stop(samples),
        _sampling(draws, declared),
        *_logprobs(samples, limits),
        *_greedy(samples, limits, mode),
    ]
    return [check for check in every if check]


def _answered(samples: Sequence[Sample]) -> Check:
    failed = [s for s in samples if s.observed.answer.error]
    example = f"{failed[0].observed.probe.name}: {failed[0].observed.answer.error}" if failed else None
    return Check(name="answered", passed=not failed, value=len(failed), limit=0, example=example)


def _token_ids(samples: Sequence[Sample]) -> Check | None:
    shown = [s for s in samples if s.observed.ids is not None]
    if not shown:
        return None
    wrong = [s for s in shown if s.observed.ids != s.prompt]
    example = (
        f"{wrong[0].observed.probe.name}: {_first_gap(wrong[0].prompt, wrong[0].observed.ids)}"
        if wrong
        else None
    )
    return Check(name="token_ids", passed=not wrong, value=len(wrong), limit=0, example=example)


def _first_gap(own: Sequence[int], served: Sequence[int] | None) -> str:
    served = served or ()
    place = next(
        (i for i, (a, b) in enumerate(zip(own, served, strict=False)) if a != b), min(len(own), len(served))
    )
    return f"{len(served)} ids, {len(own)} expected, the first difference at {place}"


def _prompt_tokens(samples: Sequence[Sample]) -> Check | None:
    counted = [s for s in samples if s.miscounted is not None]
    if not counted:
        return None
    wrong = [s for s in counted if s.miscounted]
    worst = max((abs(s.miscounted or 0) for s in counted), default=0)
    example = None
    if wrong:
        used, own = wrong[0].observed.answer.prompt_tokens, len(wrong[0].prompt)
        example = f"{wrong[0].observed.probe.name}: {used} prompt tokens, {own} expected"
    return Check(name="prompt_tokens", passed=not wrong, value=worst, limit=0, example=example)


def _usage(samples: Sequence[Sample]) -> Check | None:
    """completion_tokens against what came: equal where the length ended it, else the end token may count."""
    wrong, counted = [], 0
    for s in samples:
        used, produced = s.observed.answer.completion_tokens, s.produced
        if used is None or produced is None:
            continue
        counted += 1
        allowed = (0,) if s.observed.answer.finish == "length" else (0, 1)
        wrong += [s] if used - produced not in allowed else []
    if not counted:
        return None
    example = None
    if wrong:
        stated, produced = wrong[0].observed.answer.completion_tokens, wrong[0].produced
        example = f"{wrong[0].observed.probe.name}: says {stated}, made {produced}"
    return Check(name="usage", passed=not wrong, value=len(wrong), limit=0, example=example)


def _max_tokens(samples: Sequence[Sample]) -> Check | None:
    cut = [s for s in samples if s.observed.answer.finish == "length" and s.produced is not None]
    if not cut:
        return None
    wrong = [s for s in cut if s.produced != s.observed.probe.max_tokens]
    example = None
    if wrong:
        probe = wrong[0].observed.probe
        example = f"{probe.name}: {wrong[0].produced} tokens, {probe.max_tokens} asked"
    return Check(name="max_tokens", passed=not wrong, value=len(wrong), limit=0, example=example)


def _text(samples: Sequence[Sample]) -> Check | None:
    """The text must be what its tokens spell."""
    shown = [s for s in samples if s.observed.answer.tokens]
    if not shown:
        return None
    wrong = [s for s in shown if not spells(s.observed.answer)]
    example = f"{wrong[0].observed.probe.name}: text and tokens differ" if wrong else None
    return Check(name="text", passed=not wrong, value=len(wrong), limit=0, example=example)


def spells(answer: Answer) -> bool:
    """Special tokens may be reported and yet not stand in the text: the end token for one."""
    text, tokens = answer.text or "", answer.tokens or ()
    for shown in (tokens, [t for t in tokens if not SPECIAL.fullmatch(t.text)]):
        joined = "".join(t.text for t in shown)
        if BROKEN in joined + text or joined.strip() == text.strip():
            return True
    return False


def _stop(samples: Sequence[Sample]) -> Check | None:
    """An answer that says "stop" must end where the reference would end it."""
    ended = [s for s in samples if s.end_margin is not None]
    if not ended:
        return None
    worst = max(ended, key=lambda s: s.end_margin or 0.0)
    value = worst.end_margin or 0.0
    bad = value > CUT_MARGIN
    example = f"{worst.observed.probe.name}: cut after {len(worst.answer)} tokens" if bad else None
    return Check(name="stop", passed=not bad, value=value, limit=CUT_MARGIN, example=example)


def _sampling(draws: Draws | None, declared: float | None) -> Check | None:
    """Without a temperature the draws must look like the model's declared one.

    Where it declares none the server's own default is as good as another: 1 in ours, 0.8 in llama-server.
    """
    if draws is None or len(draws.texts) < DRAWS // 2:
        return None
    n, chance = len(draws.texts), draws.of.chance
    count = sum(text.strip() == draws.of.text for text in draws.texts)
    if declared is None:
        good = True
    elif declared == 1:
        good = _likely(count, n, chance)
    elif declared == 0:
        good = count == n
    else:  # colder than 1 raises the likeliest token's share, hotter lowers it
        good = _likely(count, n, chance) or (count / n > chance) == (declared < 1)
    example = None if good else f"{count} of {n} first tokens are the likeliest, {chance * n:.0f} expected"
    return Check(name="generation_default", passed=good, value=count / n, limit=chance, example=example)


def _likely(count: int, n: int, p: float) -> bool:
    """Two-sided exact binomial test at SURE."""
    terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return 2 * min(sum(terms[count:]), sum(terms[: count + 1])) > SURE


def _logprobs(samples: Sequence[Sample], limits: Limits) -> list[Check]:
    rows = [s for s in samples if len(s.open_delta)]
    deltas = _joined(s.delta for s in rows)
    if len(_joined(s.open_delta for s in rows)) < FEWEST_TOKENS:
        return []
    worst = max(rows, key=lambda s: float(np.abs(s.delta).max()))
    return [
        _mean_check("logprob_mean", [np.abs(s.open_delta) for s in rows], limits.mean),
        Check(
            name="logprob_worst",
            passed=bool(np.abs(deltas).max() <= limits.worst),
            value=float(np.abs(deltas).max()),
            limit=limits.worst,
            example=worst.observed.probe.name,
        ),
        _mean_check("logprob_shift", [s.open_delta for s in rows], limits.shift),
        *_sure_shift(rows),
    ]


def _sure_shift(rows: Sequence[Sample]) -> list[Check]:
    """Tokens of which the reference is sure show a constant that was added, whatever the arithmetic."""
    sure = _joined(s.delta[s.own[: len(s.delta)] > SURE_OWN] for s in rows)
    if len(sure) < FEWEST_TOKENS // 2:
        return []
    value = float(np.median(sure))
    return [Check(name="logprob_sure", passed=abs(value) <= SHIFT_OF_SURE, value=value, limit=SHIFT_OF_SURE)]


def long_checks(far: Sequence[Sample], mode: str) -> tuple[list[Check], dict[str, str]]:
    """What follows long prompts, held to the limits of short ones with room for more rounding on the way.

    Noise that grows with the length is coarse arithmetic; more than that is another reading of the prompt.
    """
    rows = [s for s in far if len(s.open_delta)]
    if len(_joined(s.open_delta for s in rows)) < FEWEST_FAR:
        return [], {}
    mean = LIMITS[mode].mean
    limit = max(FAR_LEAST * mean, min(FAR_MOST * mean, COARSE_FAR))
    check = _mean_check("logprob_far", [np.abs(s.open_delta) for s in rows], limit)
    cause = "context" if (check.value or 0.0) > COARSE_FAR else "precision"
    return [replace(check, example=f"after {max(len(s.prompt) for s in rows)} tokens")], {check.name: cause}


def text_checks(deviation: Deviation) -> list[Check]:
    """Do the deviations over continued texts point along the scale of some tensor, or up or down?"""
    from ..reference.deviation import SURE_T

    best = deviation.best
    bad = best.is_sure
    example = f"{best.name} by {best.change:+.4f}, {best.explained:.0%} of the variance" if bad else None
    return [
        Check(name="logprob_direction", passed=not bad, value=abs(best.sure), limit=SURE_T, example=example)
    ]


def _greedy(samples: Sequence[Sample], limits: Limits, mode: str) -> list[Check]:
    rows = [s for s in samples if len(s.margin)]
    if not rows:
        return [Check(name="answers", passed=None, example="no answer could be aligned with its tokens")]
    margins, tops = _joined(s.margin for s in rows), _joined(s.top for s in rows)
    worst = max(rows, key=lambda s: float(s.margin.max()))
    most = min(limits.margin_worst, explained_margin(rows))
    equal = [s for s in rows if s.margin.max() <= limits.margin_worst]
    every = [
        _mean_check("greedy_margin_mean", [s.margin for s in rows], limits.margin_mean),
        Check(
            name="greedy_margin_worst",
            passed=bool(margins.max() <= most),
            value=float(margins.max()),
            limit=most,
            example=worst.observed.probe.name,
        ),
        Check(name="top1", passed=True, value=float(tops.mean())),
    ]
    if mode == "exact":  # only here is each greedy answer a proof: near ties flip in faster arithmetic
        share = len(equal) / len(rows)
        every.append(
            Check(
                name="answers", passed=share == 1, value=share, limit=1.0, example=worst.observed.probe.name
            )
        )
    return every


def explained_margin(rows: Sequence[Sample]) -> float:
    """The margin that the deviations of log-probabilities explain: two tokens change places where the
    difference of their deviations is as large. A wider one was drawn: it is not the server's likeliest."""
    deltas = _joined(s.delta for s in rows)
    if len(deltas) < FEWEST_TOKENS:
        return math.inf
    return max(LEAST_MARGIN, MARGIN_OF_WORST * float(np.abs(deltas).max()))


def _mean_check(name: str, rows: Sequence[np.ndarray], limit: float) -> Check:
    """Mean over tokens, its 95 % interval from the spread between probes: tokens of one depend."""
    value = float(_joined(rows).mean())
    error = _clustered_error(rows, value)
    low, high = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
    return Check(name=name, passed=abs(value) <= limit, value=value, low=low, high=high, limit=limit)


def _clustered_error(rows: Sequence[np.ndarray], mean: float) -> float | None:
    """Standard error of a ratio mean over clusters (Cochran 1977, 6.4); None for fewer than two."""
    if len(rows) < 2:
        return None
    sizes = np.array([len(r) for r in rows], float)
    gaps = np.array([float(r.sum()) for r in rows]) - mean * sizes
    return float(np.sqrt(len(rows) / (len(rows) - 1) * (gaps**2).sum()) / sizes.sum())


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    listed = list(arrays)
    return np.concatenate(listed) if listed else np.array([])


def open_probe(samples: Sequence[Sample], tokenizer: Tokenizer, reference: Reference) -> Open | None:
    """The probe whose first token is nearest an even chance; None where each is too sure or too open.

    Only then does the share of the likeliest token tell temperatures apart.
    """
    plain = [s for s in samples if s.observed.probe.kind != "task"]
    arrays = reference([(s.prompt, ()) for s in plain])
    candidates = []
    for s, array in zip(plain, arrays, strict=True):
        text = tokenizer.decode([int(array[-1, TOP_ID])]).strip()
        chance = math.exp(float(array[-1, TOP_LOGPROB]))
        if text and BROKEN not in text and 0.2 <= chance <= 0.8:
            candidates.append(Open(probe=s.observed.probe, text=text, chance=chance))
    return min(candidates, key=lambda o: abs(o.chance - 0.5), default=None)
