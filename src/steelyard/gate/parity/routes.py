"""The same model through its other doors: streams, other routes, alone and again, other names.

Each group of answers is held to the limits that the core probes kept; a group that fails while those passed
names its own cause. Not here: the core probes (checks.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.endpoint import ABSENT, COMPLETE, MESSAGES, RESPONSES, Answer, Endpoint
from ..base.verdict import Check
from ..reference.exact import Reference
from .checks import LIMITS, Observation, Sample, checks, measure
from .probes import Probe

if TYPE_CHECKING:
    from ...model import Tokenizer

PICKED = ("system_long", "newlines", "turns_long", "chinese")
SPOKEN = ("long_0",)
ANSWER_TOKENS = 12
# Of the checks of one group: the others need many tokens.
JUDGED = {
    "answered",
    "prompt_tokens",
    "max_tokens",
    "text",
    "greedy_margin_worst",
    "answers",
    "logprob_worst",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Answers that came through one door. `cause`: what it is called where only they are wrong."""

    name: str
    cause: str
    observations: tuple[Observation, ...]
    absent: str | None = None  # why there are none

    @property
    def streamed(self) -> bool:
        return self.name.startswith("stream")


async def groups(endpoint: Endpoint, tokenizer: Tokenizer, core: Sequence[Probe], limit: int) -> list[Group]:
    """All doors; those in sequence are asked last, when nothing else is, and stand first: a cache that shows
    there explains what is wrong at other doors. `limit`: tokens of the context."""
    by_name = {p.name: p for p in core}
    picked = [by_name[n] for n in PICKED if n in by_name]
    spoken = [by_name[n] for n in SPOKEN if n in by_name]
    short = [replace(p, max_tokens=ANSWER_TOKENS) for p in picked]
    doors: list[Callable[[], Awaitable[Group]]] = [
        lambda: _group(endpoint, "stream", "stream", [*picked, *spoken], _streamed),
        *(
            _route(endpoint, tokenizer, path, short, stream)
            for path in (COMPLETE, RESPONSES, MESSAGES)
            for stream in (False, True)
        ),
    ]
    answered = await endpoint.each(doors, lambda door: door())
    return [await alone(endpoint, tokenizer, limit), *answered]


def _route(
    endpoint: Endpoint, tokenizer: Tokenizer, path: str, probes: Sequence[Probe], stream: bool
) -> Callable[[], Awaitable[Group]]:
    name = path.removeprefix("/v1/")
    chosen = probes[:2] if stream else probes

    async def ask(endpoint: Endpoint, probe: Probe) -> Answer:
        body = {**BODIES[path](probe, endpoint, tokenizer), "temperature": 0.0}
        if stream:
            body["stream"] = True
        if stream and path == COMPLETE:
            body["stream_options"] = {"include_usage": True}
        return await endpoint.post(path, body)

    title = f"stream of {name}" if stream else name
    return lambda: _group(endpoint, title, "stream" if stream else "route", chosen, ask)


def _completion(probe: Probe, endpoint: Endpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    """The rendered prompt: as text for our own server; others may put a beginning of sequence before one."""
    text = endpoint.card.owner == "steelyard"
    prompt = tokenizer.chat_text(list(probe.messages)) if text else probe.ids(tokenizer)
    return {"prompt": prompt, "max_tokens": probe.max_tokens}


def _response(probe: Probe, endpoint: Endpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    return {"input": list(probe.messages), "max_output_tokens": probe.max_tokens, "store": False}


def _message(probe: Probe, endpoint: Endpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    system = "\n".join(m["content"] for m in probe.messages if m["role"] == "system")
    turns = [m for m in probe.messages if m["role"] != "system"]
    return {"messages": turns, "max_tokens": probe.max_tokens, **({"system": system} if system else {})}


BODIES: dict[str, Callable[[Probe, Endpoint, Any], dict[str, Any]]] = {
    COMPLETE: _completion,
    RESPONSES: _response,
    MESSAGES: _message,
}


async def _streamed(endpoint: Endpoint, probe: Probe) -> Answer:
    return await endpoint.chat(probe.messages, probe.max_tokens, logprobs=True, stream=True)


Ask = Callable[[Endpoint, Probe], Awaitable[Answer]]


async def _group(endpoint: Endpoint, name: str, cause: str, probes: Sequence[Probe], ask: Ask) -> Group:
    """One answer first: where there is no such door, nothing more is asked."""
    if not probes:
        return Group(name=name, cause=cause, observations=(), absent="no probe fits")
    first = await ask(endpoint, probes[0])
    if first.error and (first.error.startswith(ABSENT) or first.error.startswith("HTTP 4")):
        return Group(name=name, cause=cause, observations=(), absent=first.error)
    rest = await endpoint.each(probes[1:], lambda p: ask(endpoint, p))
    observations = [Observation(probe=p, answer=a) for p, a in zip(probes, [first, *rest], strict=True)]
    return Group(name=name, cause=cause, observations=tuple(observations))


# ------------------------------------------------------------------ alone, again, nearly the same

STORY = (
    "A keeper of a lighthouse wrote down every ship that passed, its flag, its sails, weather and hour. "
    "One night there came a ship without a flag, and no bell was heard on board, though it was lit. "
    "He wrote: black hull, three masts, wind from the west, two in the morning."
)


async def alone(endpoint: Endpoint, tokenizer: Tokenizer, limit: int) -> Group:
    """One request at a time: a prompt, the same again, then others that begin or end as it does."""
    first = _alike("alone", STORY + "\nWhat did he see?", 8)
    probes = [
        first,
        replace(first, name="again"),
        replace(first, name="again_longer", max_tokens=ANSWER_TOKENS),
        _alike("other_end", STORY + "\nWho wrote it down?", 8),
        _alike("other_system", STORY + "\nWhat did he see?", 8, system="Answer in French."),
        _alike("other_word", STORY.replace("black", "white") + "\nWhat did he see?", 8),
    ]
    observations = []
    for probe in [p for p in probes if (ids := p.ids_or_none(tokenizer)) and len(ids) + p.max_tokens < limit]:
        answer = await endpoint.chat(probe.messages, probe.max_tokens, logprobs=True)
        observations.append(Observation(probe=probe, answer=answer))
    return Group(name="alone", cause="cache", observations=tuple(observations))


def _alike(name: str, text: str, tokens: int, system: str | None = None) -> Probe:
    front = ({"role": "system", "content": system},) if system else ()
    messages = (*front, {"role": "user", "content": text})
    return Probe(name=name, kind="plain", messages=messages, max_tokens=tokens, core=False)


# ------------------------------------------------------------------ other names


def other_names(endpoint: Endpoint) -> tuple[list[str], list[str]]:
    """Names in /v1/models beside the judged one: those of the same model, and those of others.

    An adapter names its parent and another model its own root. A server that says neither, nor what it is,
    lists names of one model.
    """
    own, others = endpoint.card, [c for c in endpoint.cards if c.id != endpoint.model]
    same = [
        c.id
        for c in others
        if not c.parent and ((c.root and c.root == own.root) or (not c.root and not own.owner))
    ]
    return same, [c.id for c in others if c.id not in same]


async def named(endpoint: Endpoint, name: str, core: Sequence[Probe]) -> Group:
    """The same probes under another name of the model."""
    chosen = [p for p in core if p.name in (*PICKED, *SPOKEN)]

    async def ask(endpoint: Endpoint, probe: Probe) -> Answer:
        return await endpoint.chat(probe.messages, probe.max_tokens, logprobs=True, more={"model": name})

    return await _group(endpoint, f"model {name}", "adapter", chosen, ask)


# ------------------------------------------------------------------ judging


def judge_groups(
    judged_groups: Sequence[Group], tokenizer: Tokenizer, reference: Reference, mode: str
) -> tuple[list[Check], dict[str, str]]:
    """One check a group, and the cause of each that failed."""
    present = [g for g in judged_groups if g.observations]
    samples = measure([o for g in present for o in g.observations], tokenizer, reference)
    verdicts, causes, start = [], {}, 0
    for group in present:
        own = samples[start : start + len(group.observations)]
        start += len(own)
        check = _judged(group, own, mode)
        verdicts.append(check)
        if check.passed is False:
            causes[check.name] = group.cause
    return verdicts, causes


def _judged(group: Group, samples: Sequence[Sample], mode: str) -> Check:
    failed = [c for c in checks(samples, mode) if c.name in JUDGED and c.passed is False]
    far = [s for s in samples if _far(s, mode)]
    example = f"{failed[0].name}: {failed[0].example}" if failed else None
    if far and not failed:
        example = f"{far[0].observed.probe.name}: log-probabilities are off"
    return Check(
        name=group.name.replace(" ", "_"),
        passed=not (failed or far),
        value=len(failed) + len(far),
        limit=0,
        example=example,
    )


def _far(sample: Sample, mode: str) -> bool:
    """One answer's mean over all tokens: another prompt moves it further than arithmetic does."""
    return bool(len(sample.delta) >= 4 and np.abs(sample.delta).mean() > max(0.005, 8 * LIMITS[mode].mean))


def absences(judged_groups: Sequence[Group]) -> Mapping[str, str]:
    return {g.name: g.absent for g in judged_groups if g.absent}
