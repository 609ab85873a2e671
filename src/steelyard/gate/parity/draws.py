"""Answers drawn at temperature 1: do they follow the model's own distribution, and does the seed decide them?

Where a token is drawn from the model's distribution, the probability of all likelier tokens plus a random
part of its own is uniform between 0 and 1, whatever the model and whatever came before. A colder or hotter
temperature, a cut tail (top-p, top-k, min-p) or a penalty makes it something else, each in its own place.
Not here: the default temperature of a server (checks.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...chances import at_least, at_most, holm, two_sided
from ..base.endpoint import NEUTRAL, Answer, Endpoint
from ..base.verdict import Check
from ..reference.exact import Reference
from .checks import Observation, Sample, measure
from .probes import Probe

if TYPE_CHECKING:
    from ...model import Tokenizer

SEEDS, TOKENS = 4, 20
# Prompts whose draw is asked three times with one seed, one request at a time: in one batch with others the
# arithmetic differs by rounding, and where many tokens are about as likely, rounding changes which is drawn.
# The first is not compared: it fills the prefix cache that the other two read.
REPEATED, REPEATED_TOKENS = 5, 12
REPEATED_SEEDS = 700  # from here on: no other draw of a look has them
# Long answers, one a prompt, beyond their end where the server can: a penalty on what was said shows where
# the likeliest token stood before, and a model that was tuned to be brief repeats nothing else.
LONG, LONG_TOKENS = 4, 160
LONG_SEEDS = 800
FEWEST_REPEATS = 20  # tokens whose likeliest one stood in the answer before
# Chance that a clean service fails any test of one look, before the second look at twice as many draws.
LOOK_ALPHA = 5e-4
UNSURE = 0.02  # a smaller p-value asks for more draws
OPEN_CHANCE = 0.9  # a token of which the model is surer tells nothing about how it was drawn
FEWEST_OPEN = 80
GREEDY_SHARE = 0.97
PART_SEED = 720_577  # of the random part: any that no request uses
TAILS = (0.9, 0.95, 0.98)
# The served arithmetic draws from its own distribution: how far that may move the mean of the uniform.
DRIFT_OF_MEAN = {"exact": 0.0, "fast": 0.006, "int8_form": 0.006, "int4_form": 0.01}
COARSE_DRIFT = 0.02

TOPICS = (
    "Write a short story about {}.",
    "Describe {} in the early morning.",
    "Write a letter to a friend about {}.",
    "List ten strange facts about {}.",
    "Invent a dialogue in {}.",
    "Explain to a child what {} is.",
    # Words that repeat: a penalty shows where the model would go on with them.
    "Continue without end: red green blue red green blue red green blue red green",
    "Repeat this line five times: {} is {} is {} is {}.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One answer that was asked at temperature 1."""

    probe: Probe
    seed: int
    tokens: int  # most that were requested
    answer: Answer


def draw_probes(places: Sequence[str]) -> list[Probe]:
    texts = [topic.replace("{}", places[i % len(places)]) for i, topic in enumerate(TOPICS)]
    return [
        Probe(
            name=f"draw_{i}",
            kind="long",
            messages=({"role": "user", "content": text},),
            max_tokens=TOKENS,
            core=False,
        )
        for i, text in enumerate(texts)
    ]


async def drawn(
    endpoint: Endpoint, probes: Sequence[Probe], config: Mapping[str, Any], first: int, count: int = SEEDS
) -> list[Draw]:
    """`count` draws a probe with the seeds from `first` on, a few long ones, then some twice with one seed.

    Each draw has a seed of its own: one seed's chances are the same for every prompt. Half of the answers are
    a token longer: a cache that overlooks a field shows.
    """
    more = neutral(endpoint, config)

    async def ask(item: tuple[Probe, int, int]) -> Draw:
        probe, seed, tokens = item
        beyond = {"ignore_eos": True} if tokens == LONG_TOKENS and endpoint.keeps_requests else {}
        answer = await endpoint.chat(
            probe.messages, tokens, temperature=1.0, seed=seed, logprobs=True, more=more | beyond
        )
        return Draw(probe=probe, seed=seed, tokens=tokens, answer=answer)

    items = [
        (probe, first + turn * len(probes) + place, TOKENS + turn % 2)
        for turn in range(count)
        for place, probe in enumerate(probes)
    ]
    items += [(probe, first + LONG_SEEDS + place, LONG_TOKENS) for place, probe in enumerate(probes[:LONG])]
    repeated = [
        (probe, first + REPEATED_SEEDS + place, REPEATED_TOKENS)
        for place, probe in enumerate(probes[:REPEATED])
    ]
    draws = await endpoint.each(items, ask)
    for item in repeated:
        await ask(item)
        draws += [await ask(item), await ask(item)]
    return draws


def neutral(endpoint: Endpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that take back what the model's generation config, or the server's kind, would do to draws."""
    if endpoint.card.owner == "llamacpp":
        return dict(NEUTRAL)
    plain = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    return {k: v for k, v in plain.items() if config.get(k) not in (None, v)}


# ------------------------------------------------------------------ judging


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What the draws of one or two looks say: p-values by name, and what they were computed from."""

    p: Mapping[str, float]
    open_tokens: int
    greedy: bool  # nearly every token is the likeliest
    checks: tuple[Check, ...]

    @property
    def unsure(self) -> bool:
        return min(self.p.values(), default=1.0) < UNSURE


def judged(
    draws: Sequence[Draw], tokenizer: Tokenizer, reference: Reference, mode: str, alpha: float
) -> Drawing:
    """`alpha`: the chance that a clean service fails any of the tests here."""
    unique = list({(d.probe.name, d.seed): d for d in draws if d.answer.text is not None}.values())
    samples = measure([Observation(probe=d.probe, answer=d.answer) for d in unique], tokenizer, reference)
    seeds = _seed_checks(draws, samples, unique, tokenizer)
    if any(c.name == "draws_differ" and not c.passed for c in seeds):  # else one draw would count many times
        samples = _longest_of_each(samples)
    tokens = _tokens(samples, tokenizer.eos_ids)
    drift = DRIFT_OF_MEAN.get(mode, COARSE_DRIFT)
    p = p_values(tokens, drift) if len(tokens) >= FEWEST_OPEN else {}
    likeliest = float((tokens[:, 1] <= 0).mean()) if len(tokens) else 0.0
    return Drawing(
        p=p,
        open_tokens=len(tokens),
        greedy=likeliest > GREEDY_SHARE,
        checks=(*_sampling_checks(p, tokens, alpha), *seeds),
    )


def _longest_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """The longest answer to each prompt."""
    by_length = sorted(samples, key=lambda s: len(s.answer))
    return list({s.observed.probe.name: s for s in by_length}.values())


def _one_begins(one: Answer, other: Answer) -> bool:
    """Answers of several lengths to one draw: what the shorter says, the longer begins with."""
    a, b = ((x.text or "").rstrip("\ufffd ") for x in (one, other))
    return a.startswith(b) or b.startswith(a)


def _tokens(samples: Sequence[Sample], ends: Collection[int] = ()) -> np.ndarray:
    """[N, 4]: own probability, that of all likelier tokens, that of the likeliest, and whether the likeliest
    stood in the answer before; open tokens only. `ends`: end tokens, which long answers pass over.

    Whether a token is open, and what was said before it, is known before it is drawn: neither choice bends a
    test.
    """
    rows = []
    for s in samples:
        if not len(s.above) or not len(s.margin):
            continue
        own = np.append(s.own, [s.end_own] if s.end_own is not None else [])
        margin = np.append(s.margin, [s.end_margin] if s.end_own is not None else [])
        table = np.stack([np.exp(own), s.above, np.exp(own + margin), _repeats(s, len(own))], 1)
        passed_over = np.isin(s.top_id, list(ends)) & (len(s.answer) > TOKENS + 1)
        rows.append(np.delete(table, np.flatnonzero(passed_over), 0))
    tokens = np.concatenate(rows) if rows else np.zeros((0, 4))
    return tokens[tokens[:, 2] < OPEN_CHANCE]


def _repeats(sample: Sample, count: int) -> np.ndarray:
    """[count] 1 where the reference's likeliest token stood in the answer before; the end token never did."""
    before: set[int] = set()
    repeats = np.zeros(count)
    for place, (likeliest, token) in enumerate(zip(sample.top_id, sample.answer, strict=True)):
        repeats[place] = int(likeliest) in before
        before.add(token)
    return repeats


def _uniform(tokens: np.ndarray) -> np.ndarray:
    part = np.random.default_rng(PART_SEED).random(len(tokens))
    return np.clip(tokens[:, 1] + part * tokens[:, 0], 0.0, 1.0)


def p_values(tokens: np.ndarray, drift: float) -> dict[str, float]:
    """Exact under the model's own distribution, but for `drift` of the mean and of the likeliest's share."""
    u, n = _uniform(tokens), len(tokens)
    p = {
        "mean": two_sided((abs(float(u.mean()) - 0.5) - drift) * math.sqrt(12 * n)),
        "likeliest": _of_likeliest(tokens, drift),
    }
    repeats = tokens[tokens[:, 3] > 0]
    if len(repeats) >= FEWEST_REPEATS:
        p["repeats"] = _of_likeliest(repeats, drift)
    for tail in TAILS:
        count = int((u > tail).sum())
        p[f"tail_{tail}"] = at_most(count, n, 1 - tail)
    return p | {"tail_high": at_least(int((u > 0.95).sum()), n, 0.05 + drift)}


def _of_likeliest(tokens: np.ndarray, drift: float) -> float:
    """Is the likeliest token drawn as often as its probability says?"""
    chosen = (tokens[:, 1] <= 0).astype(float) - tokens[:, 2]
    spread = math.sqrt(float((tokens[:, 2] * (1 - tokens[:, 2])).sum()))
    return two_sided((abs(float(chosen.sum())) - drift * len(tokens)) / spread)


def _sampling_checks(p: Mapping[str, float], tokens: np.ndarray, alpha: float) -> list[Check]:
    if not p:
        return []
    failed = holm(p, alpha)
    example = None
    if failed:
        how = "colder than asked, or cut" if _uniform(tokens).mean() < 0.5 else "hotter than asked"
        example = f"{how}: {', '.join(sorted(failed))} over {len(tokens)} tokens"
    limit = alpha / len(p)
    return [Check(name="sampling", passed=not failed, value=min(p.values()), limit=limit, example=example)]


# ------------------------------------------------------------------ seeds

ALIKE_NATS = 8.0  # two draws of one prompt agree in so many nats by chance once in 3,000 times (e^-8)
CHANCE_NATS = 16.0  # six pairs of unrelated draws agree in so many nats once in a thousand times
TELLING_NATS = 5.0  # an answer that the model gives more often may come twice by chance
ENOUGH_NATS = 3.0  # times that must be at stake, or the model is too sure to show a seed


def _seed_checks(
    draws: Sequence[Draw], samples: Sequence[Sample], unique: Sequence[Draw], tokenizer: Tokenizer
) -> list[Check]:
    surprise = {(d.probe.name, d.seed): -s.own for d, s in zip(unique, samples, strict=True)}
    first: dict[tuple[str, int], Draw] = {}
    agreed = staked = 0.0
    for d in draws:
        key = (d.probe.name, d.seed)
        if key not in first:
            first[key] = d
        elif len(surprise.get(key, ())):
            same = _agreement(tokenizer, first[key].answer, d.answer)
            agreed += float(surprise[key][:same].sum())
            staked += float(surprise[key].sum())
    checks = []
    if staked > ENOUGH_NATS * CHANCE_NATS:
        good = agreed > CHANCE_NATS
        example = None if good else "the same request and seed gave unrelated answers"
        checks.append(Check(name="seed", passed=good, value=agreed, limit=CHANCE_NATS, example=example))
    return [*checks, *distinct(list(first.values()), surprise, tokenizer)]


def _agreement(tokenizer: Tokenizer, one: Answer, other: Answer) -> int:
    """How many tokens two answers share at their beginning."""
    a, b = (tokenizer.encode(x.text or "") for x in (one, other))
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def distinct(
    draws: Sequence[Draw], surprise: Mapping[tuple[str, int], np.ndarray], tokenizer: Tokenizer
) -> list[Check]:
    """Draws of one prompt under several seeds must differ where the model leaves a choice.

    They are alike where one is the other's beginning, or agree in more nats than chance lets unrelated draws:
    in coarse arithmetic two answers of one seed part sooner or later.

    Left out are brief answers, for any may begin with them, and long draws, which pass over an end.
    """
    by_probe: dict[str, list[Draw]] = {}
    for d in (d for d in draws if d.tokens < LONG_TOKENS):
        chance = surprise.get((d.probe.name, d.seed), np.zeros(1)).sum()
        by_probe.setdefault(d.probe.name, []).extend([d] if chance > TELLING_NATS else [])
    open_ = [own for own in by_probe.values() if len(own) > 1]
    if len(open_) < 3:
        return []
    same = [own for own in open_ if _pairs_alike(own, surprise, tokenizer)]
    bad = len(same) > len(open_) / 2
    example = f"{same[0][0].probe.name}: other seeds, the same answer" if bad else None
    check = Check(name="draws_differ", passed=not bad, value=len(same), limit=len(open_) / 2, example=example)
    return [check]


def _pairs_alike(
    draws: Sequence[Draw], surprise: Mapping[tuple[str, int], np.ndarray], tokenizer: Tokenizer
) -> bool:
    def alike(a: Draw, b: Draw) -> bool:
        if _one_begins(a.answer, b.answer):
            return True
        shared = surprise[a.probe.name, a.seed][: _agreement(tokenizer, _readable(a), _readable(b))]
        return float(shared.sum()) > ALIKE_NATS

    return any(alike(a, b) for i, a in enumerate(draws) for b in draws[:i])


def _readable(draw: Draw) -> Answer:
    """As far as whole characters go: other bytes look the same where they are part of one."""
    return Answer(text=(draw.answer.text or "").partition("\ufffd")[0])


def is_cached(draws: Sequence[Draw]) -> bool:
    """Answers longer than requested; or equal among equal lengths, and unlike among others."""
    if any((d.answer.completion_tokens or 0) > d.tokens for d in draws):
        return True
    by_probe: dict[str, list[Draw]] = {}
    for d in draws:
        by_probe.setdefault(d.probe.name, []).append(d)
    pairs = [(a, b) for own in by_probe.values() for i, a in enumerate(own) for b in own[:i]]
    alike = [_one_begins(a.answer, b.answer) for a, b in pairs if a.tokens == b.tokens]
    others = [_one_begins(a.answer, b.answer) for a, b in pairs if a.tokens != b.tokens]
    return all(alike) and not all(others)
