"""Which one cause explains failed checks. Suspects are tested against what was observed, none is guessed.

The order: what the server did to the answer, what it made of the prompt, how it drew the tokens, then
which weights it holds. Thresholds between weights' causes: docs/why/drift.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..base.modes import COARSE_MEAN, LIMITS, ROUNDED_ANEW, Limits
from ..base.verdict import Check
from ..reference.deviation import BASE, CONSTANT, LEAST_CHANGE
from ..reference.exact import LOGPROB, TOP_ID, TOP_LOGPROB, Reference
from .checks import COARSE_FAR, SURE_OWN, Sample, explained_margin, measure, spells
from .counts import by_counts, by_kind, fits, without_tools
from .prompts import Suspect, suspects

if TYPE_CHECKING:
    from ...model import Tokenizer
    from ..base.endpoint import Answer
    from ..reference.deviation import Deviation, Direction

MOST_SAMPLES = 8  # of each suspect's teacher forcing: a failed gate may cost seconds, not minutes
MOST_SUSPECTS = 24
CLOSER = 0.75  # a suspect must explain a quarter of the distance, or it only shares the noise
# Cosine between (served - tuned) and (base - tuned), free text. Measured: an adapter at 30 % of its steps
# 0.73 to 0.79, a layer in 3 bits -0.02 to 0.07, INT4 -0.22, the adapter on another base -0.30: the last
# two are told apart by the tasks, which the adapter holds (0.28 of free text) and rounding does not (0.83).
TOWARDS, AWAY, MILDER = 0.45, -0.15, 0.5
# Beside 4 bits, which a change rounds anew: that adapter 0.32, a layer in 3 bits -0.24.
TOWARDS_ROUNDED = 0.25
LEAST_WAY = 0.05  # a layer scaled by 1.02 moves 0.01 of that way, in a direction of chance
LIKELY_T = 4.0  # of one direction: 1 in 15,000 by chance; an adapter at 80 % of its scale 4.99 beside INT8
IS_BASE = 0.2  # share of the way from base to tuned that is left
AT_BASE = 0.85  # cosine of the base in 4 bits 0.91: rounding alone keeps it further off than IS_BASE
PARTLY, MOSTLY = 0.1, 0.25  # of the deviations' variance: a scaled layer 0.32 beside bf16's noise
OTHER_MODEL_MEAN = 2.0  # nats
GROWS = 3.0  # times the mean of short prompts: positions are read otherwise, weights differ everywhere alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the gate holds when a check has failed. `base`: reference of the model before tuning."""

    samples: Sequence[Sample]
    checks: Mapping[str, Check]
    tokenizer: Tokenizer
    reference: Reference
    base: Reference | None
    mode: str
    deviation: Deviation | None = None
    far: float | None = None  # mean |difference| after long prompts, nats
    others: Sequence[Sample] = ()  # samples whose prompts were counted, no more
    later: Mapping[str, str] = field(default_factory=dict)  # check -> the cause that it proves by itself

    @property
    def direction(self) -> Direction | None:
        """The direction that explains the deviations over texts best, where it is sure.

        Else the way to the base where that is likely: it is one suspect among few, not one of 150, once
        another check has failed.
        """
        if self.deviation is None:
            return None
        if self.failed("logprob_direction"):
            return self.deviation.best
        towards = (d for d in self.deviation.directions if d.name == BASE)
        return next((d for d in towards if d.sure >= LIKELY_T and d.change >= LEAST_CHANGE), None)

    @property
    def limits(self) -> Limits:
        return LIMITS[self.mode]

    def failed(self, *names: str) -> bool:
        return any(n in self.checks and self.checks[n].passed is False for n in names)


def name_cause(evidence: Evidence) -> tuple[str, str]:
    """(cause, what was found). The first step that is sure decides; "unknown" where none is."""
    for step in (_of_answer, _of_prompt, _of_drawing, _of_later, _of_weights):
        named = step(evidence)
        if named:
            return named
    return "unknown", "no suspect fits"


# ------------------------------------------------------------------ the answer on its way out


def _of_answer(evidence: Evidence) -> tuple[str, str] | None:
    if evidence.failed("text"):
        wrong = [
            s.observed.answer
            for s in evidence.samples
            if s.observed.answer.tokens and not spells(s.observed.answer)
        ]
        if all(map(_cut, wrong)):
            return "stop", "texts end before their tokens do, and say stop"
        return "answer", "the text is not what the tokens spell"
    if evidence.failed("greedy_margin_worst", "greedy_margin_mean", "answers") and _first_dropped(evidence):
        return "answer", "the first token is missing"
    return None


def _cut(answer: Answer) -> bool:
    """A stop string ends a text where it begins, which may lie before or within the last tokens."""
    whole = "".join(t.text for t in answer.tokens or ())
    return answer.finish == "stop" and whole.startswith(answer.text or "")


def _first_dropped(evidence: Evidence) -> bool:
    """Putting the reference's first token in front makes the answers greedy again."""
    picked = _longest([s for s in evidence.samples if len(s.margin) >= 3])
    if not picked:
        return False
    firsts = [int(a[-1, TOP_ID]) for a in evidence.reference([(s.prompt, ()) for s in picked])]
    longer = [(*s.prompt, first) for s, first in zip(picked, firsts, strict=True)]
    arrays = evidence.reference([(p, s.answer) for p, s in zip(longer, picked, strict=True)])
    margins = [a[:-1, TOP_LOGPROB] - a[:-1, LOGPROB] for a in arrays]
    worst_before = np.median([s.margin.max() for s in picked])
    worst_after = np.median([m.max() for m in margins])
    return bool(worst_after <= evidence.limits.margin_worst < worst_before)


# ------------------------------------------------------------------ the prompt


def _of_prompt(evidence: Evidence) -> tuple[str, str] | None:
    counted = [s for s in [*evidence.samples, *evidence.others] if s.miscounted is not None]
    off = [s for s in counted if s.miscounted]
    if evidence.failed("token_ids"):
        return _of_ids(evidence)
    if off:
        return _of_counts(evidence, counted, off)
    if _fits(evidence):
        return ("usage", "counts differ, log-probabilities agree") if evidence.failed("usage") else None
    core = [s for s in counted if s in evidence.samples]
    return _tested(evidence, core or list(evidence.samples), list(evidence.samples))


def _of_counts(
    evidence: Evidence, counted: Sequence[Sample], off: Sequence[Sample]
) -> tuple[str, str] | None:
    """Where answers of miscounted prompts can be compared, they confirm; else the counts decide alone."""
    answered = [s for s in off if s.answer]
    plain, every = without_tools(counted), suspects(evidence.tokenizer)
    if not answered:
        return by_counts(every, counted) or by_kind(counted) or _by_pattern(counted)
    # Judged where the counts differ: elsewhere the own prompt fits whatever the cause.
    # Making every count is evidence by itself: the suspect need only be nearer than the own prompt.
    named = _tested(evidence, plain, answered, closer=1.0) or _only_counts(evidence, answered)
    return named or by_counts(every, counted) or by_kind(counted) or _by_pattern(counted)


def _only_counts(evidence: Evidence, off: Sequence[Sample]) -> tuple[str, str] | None:
    """The own prompt explains what was said where the counts differ: only the counting is wrong."""
    distance = _mean_distance(off)
    if distance is not None and distance <= evidence.limits.mean:
        return "usage", "counts differ, log-probabilities agree"
    return None


def _of_ids(evidence: Evidence) -> tuple[str, str]:
    """The server shows its ids: a suspect that makes the same ones is proven."""
    every = [s for s in [*evidence.samples, *evidence.others] if s.observed.ids is not None]
    shown = without_tools(every)
    wrong = [s for s in shown if s.observed.ids != s.prompt]
    if not wrong:
        return "tools", "ids differ where tools or calls are given"
    for suspect in suspects(evidence.tokenizer):
        if _makes_ids(suspect, wrong) and _makes_ids(suspect, shown):
            return suspect.cause, suspect.name
    if all(_same_text(evidence.tokenizer, s) for s in shown):
        return "tokenizer", "other ids for the same text"
    counted = [s for s in every if s.miscounted is not None]
    return by_kind(counted) or _by_pattern(counted) or ("tokenizer", "ids differ, counts agree")


def _makes_ids(suspect: Suspect, shown: Sequence[Sample]) -> bool:
    return all(tuple(suspect.render(s.observed.probe.messages) or ()) == s.observed.ids for s in shown)


def _same_text(tokenizer: Tokenizer, sample: Sample) -> bool:
    texts = (
        tokenizer.decode(list(ids or ()), skip_special=False) for ids in (sample.observed.ids, sample.prompt)
    )
    return next(texts) == next(texts)


def _tested(
    evidence: Evidence, counted: Sequence[Sample], affected: Sequence[Sample], closer: float = CLOSER
) -> tuple[str, str] | None:
    """The suspect whose counts fit every probe and whose log-probabilities fit best, if they do fit.

    `closer`: the share of the own prompt's distance that its own may be.
    """
    fitting = [s for s in suspects(evidence.tokenizer) if fits(s, counted)][:MOST_SUSPECTS]
    picked = _picked(affected)
    if not fitting or not picked:
        return None
    distances = [_distance(evidence, picked, s.render) for s in fitting]
    best = min(range(len(fitting)), key=lambda i: distances[i])
    own = _distance(evidence, picked, None)
    close = distances[best] <= max(evidence.limits.mean, 0.25 * own)
    if close and distances[best] < closer * own:
        return fitting[best].cause, fitting[best].name
    return None


def _by_pattern(counted: Sequence[Sample]) -> tuple[str, str] | None:
    """No known suspect: the shape of the differences over the probes tells the kind."""
    off: dict[str, list[int]] = {}
    for s in counted:
        off.setdefault(s.observed.probe.kind, []).append(s.miscounted or 0)
    single = [d for kind in ("plain", "long", "script") for d in off.get(kind, [])]
    turns, system, space = (off.get(kind, []) for kind in ("turns", "system", "space"))
    if not any(single) and not any(turns) and not any(system) and any(space):
        return "whitespace", "counts differ only where white space stands at an edge"
    spread = max(single, default=0) - min(single, default=0)
    if spread > 3:
        return "tokenizer", "the difference grows with the text"
    middle = int(np.median(single)) if single else 0
    same_turns = all(abs(d - middle) <= 1 for d in turns)
    if spread == 0 and same_turns and middle:
        return (
            ("bos", f"{middle:+d} token everywhere")
            if abs(middle) == 1
            else ("system", f"{middle:+d} tokens")
        )
    return "template", "the difference follows the turns"


# ------------------------------------------------------------------ how tokens are drawn


def _of_drawing(evidence: Evidence) -> tuple[str, str] | None:
    agree = _logprobs_agree(evidence)
    trailing = evidence.failed("greedy_margin_worst", "greedy_margin_mean", "answers")
    if trailing and agree and not _explains_margins(evidence):
        return "generation", "tokens are not the likeliest, though the log-probabilities agree"
    direction = evidence.direction
    if not trailing and (_sure_are_off(evidence) or (direction and direction.name == CONSTANT)):
        return "logprobs", "log-probabilities of sure tokens are off, the tokens are right"
    shifted = evidence.failed("logprob_mean", "logprob_shift", "logprob_worst", "logprob_direction")
    if shifted and not trailing and _is_shift(evidence):
        return "logprobs", "log-probabilities are off by a constant, the tokens are right"
    if shifted or trailing:
        return None
    if evidence.failed("stop"):
        return "stop", "answers end where the model would go on"
    if evidence.failed("max_tokens"):
        return _of_lengths(evidence.samples)
    if evidence.failed("generation_default"):
        return "generation", "the default temperature is not the model's"
    return ("usage", "counts differ") if evidence.failed("usage", "prompt_tokens") else None


def _of_lengths(samples: Sequence[Sample]) -> tuple[str, str]:
    """One length at which all longer answers end is a cap; else the requested lengths are altered."""
    ended = [
        (s.produced, s.observed.probe.max_tokens) for s in samples if s.observed.answer.finish == "length"
    ]
    cut = {produced for produced, requested in ended if produced is not None and produced < requested}
    if len(cut) == 1 and any(produced == requested for produced, requested in ended):
        return "limit", f"no answer is longer than {cut.pop()} tokens"
    return "generation", "max_tokens is not kept"


def _of_later(evidence: Evidence) -> tuple[str, str] | None:
    """Checks that are made only once the core probes have passed: each proves its own cause."""
    failed = [c for name, c in evidence.checks.items() if c.passed is False and name in evidence.later]
    if not failed:
        return None
    return evidence.later[failed[0].name], failed[0].example or failed[0].name


def _logprobs_agree(evidence: Evidence) -> bool:
    """The server's own numbers for the tokens it gave are the reference's."""
    delta = _deltas(evidence.samples)
    return bool(
        len(delta)
        and np.abs(delta).mean() <= evidence.limits.mean
        and not evidence.failed("logprob_mean", "logprob_shift")
    )


def _explains_margins(evidence: Evidence) -> bool:
    """The numbers agree in the mean, and yet some are as far off as the worst token trails the likeliest."""
    rows = [s for s in evidence.samples if len(s.margin)]
    worst = max((float(s.margin.max()) for s in rows), default=0.0)
    return worst <= explained_margin(rows) < math.inf


def _sure_are_off(evidence: Evidence) -> bool:
    """All by the same: other weights would make some of them unsure and leave others."""
    if not evidence.failed("logprob_sure"):
        return False
    sure = np.concatenate([s.delta[s.own[: len(s.delta)] > SURE_OWN] for s in evidence.samples])
    middle = float(np.median(sure))
    return bool(np.median(np.abs(sure - middle)) <= 0.2 * abs(middle))


def _is_shift(evidence: Evidence) -> bool:
    """One constant explains the differences: what is left after it lies within the limits."""
    delta = _deltas(evidence.samples)
    if not len(delta):
        return False
    rest = delta - np.median(delta)
    return bool(np.abs(rest).mean() <= min(evidence.limits.mean, 0.5 * np.abs(delta).mean()))


# ------------------------------------------------------------------ the weights


def _of_weights(evidence: Evidence) -> tuple[str, str] | None:
    if _garbled(evidence.samples):
        return "tokenizer", "answers do not re-encode to the tokens that were made"
    mean = _mean_distance(evidence.samples)
    if mean is None:
        return None
    if evidence.far is not None and evidence.far > max(COARSE_FAR, GROWS * mean):
        return "context", f"{mean:.3f} nats after short prompts, {evidence.far:.3f} after long ones"
    named = _towards_base(evidence, mean) if evidence.base is not None else None
    if named:
        return named
    direction = evidence.direction
    small = mean <= COARSE_MEAN[evidence.mode]
    if (
        direction
        and direction.name == BASE
        and direction.change > 0
        and (small or direction.explained >= PARTLY)
    ):
        return "adapter", f"{1 - direction.change:.0%} of the way from base to tuned: an adapter from earlier"
    if direction and (direction.explained >= MOSTLY or small):
        return "weights", f"{direction.name} is scaled by about {1 + direction.change:.3f}"
    if mean > OTHER_MODEL_MEAN:
        return "base", f"other weights altogether: {mean:.2f} nats"
    if mean > COARSE_MEAN[evidence.mode]:
        return "precision", f"coarser numbers than {evidence.mode} allows: {mean:.3f} nats"
    if evidence.deviation is not None:
        return "precision", f"noise without a direction: {mean:.3f} nats"
    return "weights", f"a tensor differs: {mean:.3f} nats"


def _towards_base(evidence: Evidence, mean: float) -> tuple[str, str] | None:
    """An adapter half learnt lies towards the base; an adapter on another base lies away from it."""
    path = from_tuned(evidence)
    if path is None:
        return None
    if path.to_base < IS_BASE * path.tuned_base or (path.cosine > AT_BASE and path.share > 1 - IS_BASE):
        return "base", "the model before tuning answers"
    towards = TOWARDS_ROUNDED if evidence.mode in ROUNDED_ANEW else TOWARDS
    if path.cosine > towards and path.to_tuned > LEAST_WAY * path.tuned_base:
        return "adapter", f"between base and tuned (cosine {path.cosine:.2f}): an adapter from earlier"
    milder = _on_tasks(evidence, path)
    if path.cosine < AWAY and milder < MILDER and mean > COARSE_MEAN[evidence.mode]:
        return "base", f"away from tuned and base (cosine {path.cosine:.2f}): another base under the adapter"
    return None


def _on_tasks(evidence: Evidence, path: FromTuned) -> float:
    """How far tasks' answers moved as a share of how far free text moved; 1 where no task was asked."""
    moved = [s.delta for s in evidence.samples if len(s.delta) and s.observed.probe.kind == "task"]
    if not moved or not path.to_tuned:
        return 1.0
    return float(np.sqrt((np.concatenate(moved) ** 2).mean())) / path.to_tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class FromTuned:
    """From tuned to served, beside the path from tuned to base: root mean squares, nats."""

    cosine: float
    to_tuned: float
    to_base: float
    tuned_base: float

    @property
    def share(self) -> float:
        """How much of the way to the base the served model has gone, along it."""
        return self.cosine * self.to_tuned / self.tuned_base if self.tuned_base else 0.0


def from_tuned(evidence: Evidence) -> FromTuned | None:
    """Over the tokens of free text: on a task's own rows a tuned model is too sure to show a direction."""
    assert evidence.base is not None
    picked = [s for s in evidence.samples if len(s.delta) and s.observed.probe.kind != "task"]
    if not picked:
        return None
    arrays = evidence.base([(s.prompt, s.answer) for s in picked])
    served = np.concatenate([s.delta for s in picked])
    base = np.concatenate(
        [a[: len(s.delta), LOGPROB] - s.own[: len(s.delta)] for s, a in zip(picked, arrays, strict=True)]
    )
    lengths = float(np.linalg.norm(served) * np.linalg.norm(base))
    return FromTuned(
        cosine=float(served @ base) / lengths if lengths else 0.0,
        to_tuned=float(np.sqrt((served**2).mean())),
        to_base=float(np.sqrt(((served - base) ** 2).mean())),
        tuned_base=float(np.sqrt((base**2).mean())),
    )


def _garbled(samples: Sequence[Sample]) -> bool:
    spoke = [s for s in samples if s.observed.answer.text and "\ufffd" not in s.observed.answer.text]
    return len(spoke) >= 5 and sum(not s.answer for s in spoke) > len(spoke) / 2


# ------------------------------------------------------------------ distances


def _fits(evidence: Evidence) -> bool:
    """The own prompt explains what was said: no check of tokens or log-probabilities failed."""
    names = ("logprob_mean", "logprob_worst", "greedy_margin_mean", "greedy_margin_worst", "answers")
    return not evidence.failed(*names)


def _distance(evidence: Evidence, picked: Sequence[Sample], render: Callable | None) -> float:
    """Mean |served - reference| under another prompt; margins where the server gives no log-probabilities."""
    observed = [s.observed for s in picked]
    measured = measure(observed, evidence.tokenizer, evidence.reference, render)
    mean = _mean_distance(measured)
    return float("inf") if mean is None else mean


def _mean_distance(samples: Sequence[Sample]) -> float | None:
    delta = _deltas(samples)
    if len(delta):
        return float(np.abs(delta).mean())
    margins = [s.margin for s in samples if len(s.margin)]
    return float(np.concatenate(margins).mean()) if margins else None


def _deltas(samples: Sequence[Sample]) -> np.ndarray:
    listed = [s.open_delta for s in samples if len(s.open_delta)]
    return np.concatenate(listed) if listed else np.array([])


def _longest(samples: Sequence[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda s: -len(s.answer))[:MOST_SAMPLES]


def _picked(samples: Sequence[Sample]) -> list[Sample]:
    """Some of each kind: a suspect that changes only white space shows only there."""
    by_kind: dict[str, list[Sample]] = {}
    for s in samples:
        if s.answer:
            by_kind.setdefault(s.observed.probe.kind, []).append(s)
    return [s for own in by_kind.values() for s in own[:3]]
