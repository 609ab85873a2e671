"""Free text that the server writes on from given token ids: many open tokens, no template between.

A tuned model is sure of its answers, and what is sure hides small errors of the weights. Drawn at
temperature 1 from beginnings of text it is not sure, and few tokens of prompt buy many of answer.
What the deviations of these tokens prove: deviation.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..base.endpoint import Answer, Endpoint, Token
from ..base.pieces import BROKEN

if TYPE_CHECKING:
    from ...model import Tokenizer

COUNT = 48  # many short texts rather than few long ones: each is one independent observation
TOKENS = 24
FEWEST = 12  # texts; below, their spread says nothing

BEGINNINGS = (
    "The {a} near the {b} was",
    "In the year {n}, the {a} of",
    "Q: Why does a {a} need a {b}?\nA:",
    "def {a}_{b}(x, y):\n    ",
    "Dear {b}, I am writing about the {a}",
    "Recipe for {a} with {b}:\n\n1.",
    "关于{n}年的报告指出，",
    "Die {a} und der {b} sind",
    "## {a} and {b}\n\n",
    "Yesterday I saw a {a}. It",
    "{n} people said that the {a}",
    "SELECT {a} FROM {b} WHERE",
)
WORDS = [
    "river",
    "market",
    "engine",
    "teacher",
    "garden",
    "planet",
    "letter",
    "bridge",
    "doctor",
    "winter",
    "kitchen",
    "signal",
    "forest",
    "museum",
    "ticket",
    "harbour",
    "window",
    "painter",
    "valley",
    "radio",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Prompt, what followed, and the server's log-probability of each token of it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    served: np.ndarray  # [answer tokens], nats


def beginnings(seed: int, count: int = COUNT) -> list[str]:
    draw = random.Random(seed + 1)
    starts = []
    for i in range(count):
        a, b = draw.sample(WORDS, 2)
        starts.append(BEGINNINGS[i % len(BEGINNINGS)].format(a=a, b=b, n=draw.randrange(1700, 2100)))
    return starts


async def continued(endpoint: Endpoint, tokenizer: Tokenizer, seed: int) -> list[Continuation]:
    """Nothing where the server has no such route, tells no log-probabilities there, or counts other prompts
    than were sent: then the route is wrong (routes.py), and what follows them says nothing of the weights."""
    front = _front(tokenizer)
    prompts = [[*front, *tokenizer.encode(text)] for text in beginnings(seed)]

    async def ask(place: int) -> Answer:
        return await endpoint.complete(prompts[place], TOKENS, seed=seed * 1000 + place)

    first = await ask(0)
    if not first.tokens:
        return []
    rest = await endpoint.each(range(1, len(prompts)), ask)
    pairs = list(zip(prompts, [first, *rest], strict=True))
    if any(a.prompt_tokens not in (None, len(p)) for p, a in pairs):
        return []
    aligned = [_aligned(tokenizer, p, a) for p, a in pairs]
    return [c for c in aligned if c and len(c.answer) >= 3]


def _front(tokenizer: Tokenizer) -> list[int]:
    """The beginning of sequence where the model's chats have one: without it such a model babbles."""
    bos = tokenizer.id_of(tokenizer.bos_token) if tokenizer.bos_token else None
    from ...errors import WrongUse

    try:
        chat = tokenizer.chat_ids([{"role": "user", "content": "a"}])
    except WrongUse:
        return []
    return [bos] if bos is not None and chat[:1] == [bos] and chat.count(bos) == 1 else []


def _aligned(tokenizer: Tokenizer, prompt: Sequence[int], answer: Answer) -> Continuation | None:
    """As far as each token's text or bytes name one id."""
    ids: list[int] = []
    for token in answer.tokens or ():
        token_id = _id_of(tokenizer, token)
        if token_id is None or token_id in tokenizer.eos_ids:
            break
        ids.append(token_id)
    if not ids:
        return None
    served = np.array([t.logprob for t in (answer.tokens or ())[: len(ids)]])
    return Continuation(prompt=tuple(prompt), answer=tuple(ids), served=served)


def _id_of(tokenizer: Tokenizer, token: Token) -> int | None:
    if token.id is not None:
        return token.id
    by_text, by_bytes = _ids(tokenizer)
    if token.raw is not None and BROKEN.encode() not in token.raw and token.raw in by_bytes:
        return by_bytes[token.raw]
    return by_text.get(token.text) if BROKEN not in token.text else None


@lru_cache(maxsize=4)
def _ids(tokenizer: Tokenizer) -> tuple[dict[str, int], dict[bytes, int]]:
    """Id of a text and of its bytes; what two ids share names none."""
    texts: dict[str, list[int]] = {}
    for i in range(tokenizer.vocab_size):
        raw = tokenizer.token_bytes(i)
        if raw:
            texts.setdefault(raw.decode("utf-8", "replace"), []).append(i)
    unique = {text: ids[0] for text, ids in texts.items() if len(ids) == 1 and BROKEN not in text}
    return unique, {text.encode(): i for text, i in unique.items()}
