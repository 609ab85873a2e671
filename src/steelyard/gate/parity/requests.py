"""Does the server do what a request asks: stop words, lengths, tools, formats, biases?

Each function returns one Check, or None where the server says that it has no such thing (an error of the
request), or may pass over it in silence. Not here: seeds and temperatures (draws.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.endpoint import Answer, Endpoint
from ..base.verdict import Check
from .checks import Sample
from .probes import LOOKUP

if TYPE_CHECKING:
    from ...model import Tokenizer

LONGEST = {"quick": 264, "full": 1040}  # tokens of the longest answer: caps stand at round numbers
CITIES = ("Oslo", "Lima")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": list(CITIES)}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the requests are made of: greedy answers of core probes, and the tokenizer."""

    endpoint: Endpoint
    tokenizer: Tokenizer
    samples: Sequence[Sample]
    depth: str
    limit: int  # tokens of the context

    @property
    def talkative(self) -> list[Sample]:
        """Those whose answers are long texts, the longest first."""
        spoken = [s for s in self.samples if s.observed.answer.text and not s.observed.answer.error]
        return sorted(spoken, key=lambda s: -len(s.observed.answer.text or ""))


async def request_checks(subject: Subject) -> list[Check]:
    questions: list[Callable[[Subject], Awaitable[Check | None]]] = [
        length_check, stop_check, tool_called, format_check, bias_check, likeliest_check,
    ]  # fmt: skip
    results = await subject.endpoint.each(questions, lambda ask: ask(subject))
    return [check for check in results if check]


async def length_check(subject: Subject) -> Check | None:
    """An answer of several hundred tokens, the end token ignored where the server knows how."""
    wanted = LONGEST[subject.depth]
    fit = [s for s in subject.talkative if len(s.prompt) + wanted < subject.limit]
    if not fit:
        return None
    answers = await subject.endpoint.each(
        fit[:2],
        lambda s: subject.endpoint.chat(
            s.observed.probe.messages, wanted, more={"ignore_eos": True, "min_tokens": wanted}
        ),
    )
    counts = [a.completion_tokens for a in answers if not a.error and a.completion_tokens is not None]
    plain = [
        await subject.endpoint.chat(s.observed.probe.messages, wanted, more={"ignore_eos": True})
        for s in fit[: 2 if not counts else 0]
    ]  # some engines refuse min_tokens
    counts += [a.completion_tokens for a in plain if a.completion_tokens is not None]
    cut = [a for a in [*answers, *plain] if a.finish == "length" and (a.completion_tokens or wanted) < wanted]
    if not counts:
        return None
    example = f"{cut[0].completion_tokens} tokens, {wanted} requested" if cut else None
    return Check(name="answer_length", passed=not cut, value=max(counts), limit=wanted, example=example)


async def stop_check(subject: Subject) -> Check | None:
    """A stop word that stands in the answer must end it; the second of two as well as one alone."""
    pairs = [(s, word) for s in subject.talkative[:6] for word in _inner(s.observed.answer.text or "")[:1]][
        :2
    ]
    if not pairs:
        return None

    async def ask(place: int) -> Answer:
        sample, word = pairs[place]
        stop = [["\u2603\u2603", word], [word]][place % 2]
        return await subject.endpoint.chat(
            sample.observed.probe.messages, sample.observed.probe.max_tokens, more={"stop": stop}
        )

    answers = await subject.endpoint.each(range(len(pairs)), ask)
    heard = [(a, w) for a, (_, w) in zip(answers, pairs, strict=True) if not a.error]
    wrong = [(a, w) for a, w in heard if w in (a.text or "")]
    if not heard:
        return None
    example = f"{wrong[0][1]!r} stands in the answer that it was to end" if wrong else None
    return Check(name="stop_words", passed=not wrong, value=len(wrong), limit=0, example=example)


def _inner(text: str) -> list[str]:
    """Frequent characters of the text that first come after its beginning: near ties do not move them all."""
    letters = {c for c in text if c.isalpha() and c.isascii()}
    inner = [c for c in letters if 1 < text.index(c) < len(text) - 2]
    return sorted(inner, key=lambda c: (-text.count(c), c))


async def tool_called(subject: Subject) -> Check | None:
    """A forced call comes as a call of that function."""
    choice = {"type": "function", "function": {"name": LOOKUP["function"]["name"]}}
    messages = ({"role": "user", "content": "What is the weather in Oslo?"},)
    more = {"tools": [LOOKUP], "tool_choice": choice}
    answer = await subject.endpoint.chat(messages, 48, more=more)
    if answer.error or not subject.endpoint.keeps_requests:
        return None
    names = [(call.get("function") or {}).get("name") for call in answer.tool_calls]
    good = names == [LOOKUP["function"]["name"]]
    example = None if good else "a forced call came as text"
    return Check(name="tool_called", passed=good, value=len(names), limit=1, example=example)


async def format_check(subject: Subject) -> Check | None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    messages = ({"role": "user", "content": "Name a city."},)
    answer = await subject.endpoint.chat(messages, 48, more={"response_format": form})
    if answer.error or not subject.endpoint.keeps_requests:
        return None
    good = _fits_schema(answer.text or "", answer.finish == "length")
    example = None if good else "the answer is not what its JSON schema allows"
    return Check(name="response_format", passed=good, value=float(good), limit=1, example=example)


def _fits_schema(text: str, cut: bool) -> bool:
    """White space may stand anywhere, even without end."""
    dense = "".join(text.split())
    whole = [f'{{"city":"{city}"}}' for city in CITIES]
    return any(w.startswith(dense) if cut else w == dense for w in whole)


async def bias_check(subject: Subject) -> Check | None:
    """The likeliest first token, forbidden, must not come."""
    able = [s for s in subject.talkative if s.answer]
    if not able or not subject.endpoint.keeps_requests:
        return None
    first = able[0].answer[0]
    more = {"logit_bias": {str(first): -100}}
    answer = await subject.endpoint.chat(able[0].observed.probe.messages, 1, more=more)
    if answer.error:
        return None
    good = (answer.text or "") != subject.tokenizer.decode([first])
    example = None if good else "a token with a bias of -100 came first"
    return Check(name="logit_bias", passed=good, value=float(good), limit=1, example=example)


async def likeliest_check(subject: Subject) -> Check | None:
    """At temperature 1 with a vanishing top-p only the likeliest token is left."""
    able = [s for s in subject.talkative if len(s.margin) and s.answer and s.own[0] + s.margin[0] > -1.2]
    if not able or not subject.endpoint.keeps_requests:
        return None

    async def ask(seed: int) -> Answer:
        return await subject.endpoint.chat(
            able[0].observed.probe.messages, 1, temperature=1.0, seed=seed, more={"top_p": 1e-3}
        )

    answers = [a for a in await subject.endpoint.each(range(6), ask) if not a.error]
    texts = {a.text for a in answers}
    if not answers:
        return None
    good = len(texts) == 1
    example = None if good else "top_p 0.001 left more than one token"
    return Check(name="top_p_kept", passed=good, value=len(texts), limit=1, example=example)
