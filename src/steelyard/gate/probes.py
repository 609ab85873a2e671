"""What the gate asks an endpoint to see whether prompt, weights and settings are the model's.

Each kind of probe tells one cause from the others: white space, system prompt, turns, scripts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["plain", "system", "space", "turns", "script", "long", "task"]

SHORT_TOKENS = 8  # enough to see the prompt in the log-probabilities
LONG_TOKENS = 40  # enough words that a stop word or a raised temperature shows
TASK_TOKENS = 48

COLOURS = ("colour", "fruit", "river", "bird", "metal", "planet", "tool", "flower")
PLACES = ("a lighthouse", "a busy market", "a night train", "a mountain hut", "an old harbour", "a bakery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One greedy chat. `messages` end with the user's turn."""

    name: str
    kind: Kind
    messages: tuple[dict[str, str], ...]
    max_tokens: int


def probes(seed: int) -> list[Probe]:
    """The fixed shapes with words drawn by `seed`, so that no server can know them by heart."""
    draw = random.Random(seed)
    thing, other = draw.sample(COLOURS, 2)
    number = draw.randrange(10**7, 10**8)
    places = draw.sample(PLACES, 6)
    return [
        _probe("plain", "plain", f"Name a {thing}."),
        _probe("question", "plain", f"Which {other} do most people know, and why do they know it?"),
        _probe("system", "system", f"Name a {thing}.", system="Answer with one word."),
        _probe("system_long", "system", f"Name a {other}.", system="You are a clerk. Be brief, be exact."),
        _probe("space_before", "space", f"   Name a {thing}."),
        _probe("space_after", "space", f"Name a {thing}.  \n"),
        _probe("newlines", "space", f"\n\nName a {other}\nand a {thing}.\n\n"),
        _probe("inner", "space", f"def f(x):\n\treturn  x\n\nWhat is the {other} here?"),
        _turns("turns", [f"Name a {thing}.", "I do not know.", f"Then name a {other}."]),
        _turns("turns_long", ["Hello.", "Hello!", f"A {thing}?", "No.", f"A {other}?"]),
        _probe("chinese", "script", f"请用一句话介绍北京的天气，编号{number}。谢谢！"),
        _probe(
            "digits", "script", f"Add {number} and {number // 7}.{number % 89}, then subtract 00{number % 7}."
        ),
        _probe("signs", "script", "What do <s>, [INST], <|user|>, ### and naïve façades ≠ 𝛼 mean?"),
        *(_probe(f"long_{i}", "long", text) for i, text in enumerate(_stories(places))),
    ]


def _stories(places: Sequence[str]) -> list[str]:
    forms = (
        "Write a short story about {}.",
        "Describe {} in the early morning.",
        "Explain how one would run {}.",
    )
    return [forms[i % len(forms)].format(place) for i, place in enumerate(places)]


def _probe(name: str, kind: Kind, text: str, system: str | None = None) -> Probe:
    before = [{"role": "system", "content": system}] if system else []
    tokens = LONG_TOKENS if kind == "long" else SHORT_TOKENS
    messages = (*before, {"role": "user", "content": text})
    return Probe(name=name, kind=kind, messages=messages, max_tokens=tokens)


def _turns(name: str, texts: Sequence[str]) -> Probe:
    roles = ("user", "assistant")
    messages = tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))
    return Probe(name=name, kind="turns", messages=messages, max_tokens=SHORT_TOKENS)


def task_probes(rows: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Probe]:
    """`count` task rows drawn by `seed`, evenly over the abilities, without their reference answers."""
    by_ability: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_ability.setdefault(row["ability"], []).append(row)
    draw, found = random.Random(seed), []
    for ability, own in sorted(by_ability.items()):
        for row in draw.sample(own, min(len(own), -(-count // len(by_ability)))):
            messages = tuple({"role": m["role"], "content": m["content"]} for m in row["messages"][:-1])
            name = f"{ability}/{row['id']}"
            found.append(Probe(name=name, kind="task", messages=messages, max_tokens=TASK_TOKENS))
    return found[:count]
