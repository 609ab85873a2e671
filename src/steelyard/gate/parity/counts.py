"""Which change of the prompt explains counts of prompt tokens that are not the model's. Pure.

A suspect that makes every count is sure; else the kinds of probes that are miscounted name the cause. Not
here: the suspects (prompts.py), what log-probabilities say about them (cause.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .checks import Sample
from .prompts import Suspect

# What a kind of probe shows where only it is miscounted.
CAUSE_OF_KIND = {
    "unicode": "unicode",
    "script": "unicode",
    "space": "whitespace",
    "turns": "history",
    "system": "system",
    "text": "template",
    "words": "template",
}
MIXED = (
    ({"unicode", "text"}, "unicode"),
    ({"unicode", "space", "text"}, "unicode"),
    ({"space", "text"}, "whitespace"),
)
Found = tuple[str, str]


def fits(suspect: Suspect, counted: Sequence[Sample]) -> bool:
    """Equal counts on every probe; and other ids than the own ones on some, or there is no suspicion."""
    differs = False
    for s in sorted(counted, key=lambda s: (not s.miscounted, len(s.prompt))):
        rendered = suspect.render(s.observed.probe.messages)
        used = s.observed.answer.prompt_tokens
        if rendered is None or (used is not None and len(rendered) != used):
            return False
        differs = differs or tuple(rendered) != s.prompt
    return differs


def by_counts(suspects: Sequence[Suspect], counted: Sequence[Sample]) -> Found | None:
    """Where tools alone are miscounted; else the one cause among the suspects that make every count."""
    off = [s for s in counted if s.miscounted]
    if off and all(_has_tools(s) for s in off):
        return "tools", "counts differ where tools or calls are given"
    fitting = [x for x in suspects if fits(x, without_tools(counted))]
    causes = {x.cause for x in fitting}
    return (fitting[0].cause, fitting[0].name) if len(causes) == 1 else None


def without_tools(samples: Sequence[Sample]) -> list[Sample]:
    return [s for s in samples if not _has_tools(s)]


def _has_tools(sample: Sample) -> bool:
    return sample.observed.probe.kind == "tools"


def repeats_another(sample: Sample, every: Sequence[Sample]) -> bool:
    """Is its answer, to the last number, that of a chat with other messages?"""
    own = sample.observed
    others = (s.observed for s in every if s.observed.probe.messages != own.probe.messages)
    return own.answer.error is None and any(other.answer == own.answer for other in others)


def by_kind(counted: Sequence[Sample]) -> Found | None:
    """What the miscounted probes have in common and the others have not."""
    off = [s for s in without_tools(counted) if s.miscounted]
    fine = [s for s in without_tools(counted) if not s.miscounted]
    if not off or any(s.observed.probe.kind == "plain" for s in off):
        return None
    for look in (_of_system, _of_turns, _of_length, _of_kinds):
        named = look(off, fine)
        if named:
            return named
    return None


def _of_system(off: Sequence[Sample], fine: Sequence[Sample]) -> Found | None:
    def system(s: Sample) -> bool:
        return any(m["role"] == "system" for m in s.observed.probe.messages)

    if all(map(system, off)) and not any(map(system, fine)):
        return "system", "counts differ where there is a system message"
    return None


def _of_turns(off: Sequence[Sample], fine: Sequence[Sample]) -> Found | None:
    """Above some number of messages, and not above some length."""
    if not _beyond(off, fine, lambda s: len(s.observed.probe.messages)) or not all(map(_shorter, off)):
        return None
    most = max(len(s.observed.probe.messages) for s in fine) if fine else 0
    return "history", f"counts differ beyond {most} messages"


def _of_length(off: Sequence[Sample], fine: Sequence[Sample]) -> Found | None:
    measures: list[Callable[[Sample], int]] = [
        lambda s: len(s.prompt),
        lambda s: sum(len(m["content"]) for m in s.observed.probe.messages),
        lambda s: max(len(m["content"]) for m in s.observed.probe.messages),
        lambda s: len(s.observed.probe.messages[-1]["content"]),
    ]
    if all(map(_shorter, off)) and any(_beyond(off, fine, m) for m in measures):
        return "context", f"prompts of {min(len(s.prompt) for s in off)} tokens and more are cut"
    return None


def _shorter(sample: Sample) -> bool:
    return (sample.miscounted or 0) < 0


def _beyond(off: Sequence[Sample], fine: Sequence[Sample], size: Callable[[Sample], int]) -> bool:
    return not fine or min(map(size, off)) > max(map(size, fine))


def _of_kinds(off: Sequence[Sample], fine: Sequence[Sample]) -> Found | None:
    """Rungs and tasks hold text of any kind: they decide only where they stand alone."""
    kinds = {"text" if s.observed.probe.name == "signs" else s.observed.probe.kind for s in off}
    telling = {k for k in kinds if k in CAUSE_OF_KIND}
    causes = {CAUSE_OF_KIND[k] for k in telling}
    names = ", ".join(s.observed.probe.name for s in off[:3])
    if len(causes) == 1:
        return causes.pop(), f"counts differ in {names} alone"
    named = {"unicode" if k == "script" else k for k in telling}
    mixed = next((cause for group, cause in MIXED if telling and named <= group), None)
    return (mixed, f"counts differ in {names}") if mixed else None
