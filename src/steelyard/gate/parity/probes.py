"""What the gate asks an endpoint to see whether prompt, weights and settings are the model's.

Each kind of probe tells one cause from the others: white space, system prompt, turns, characters, length,
tools. The core probes are answered in several tokens; the others are counted, and answered in one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ...errors import WrongUse
from .texts import CHINESE_WORDS, CLASSES, SCRIPTS, SPACES, TEXTS, WORDS, words_of

if TYPE_CHECKING:
    from ...model import Tokenizer

Kind = Literal[
    "plain", "system", "space", "turns", "script", "long", "task", "unicode", "text", "rung", "words", "tools"
]

CORE = ("plain", "system", "space", "turns", "script", "long", "task")
SHORT_TOKENS = 8  # enough to see the prompt in the log-probabilities
LONG_TOKENS = 40  # enough words that a stop word or a raised temperature shows
TASK_TOKENS = 48
RUNG_TOKENS = 24  # at the far end of a long prompt
ROOM_TOKENS = 32  # of the context that a prompt leaves to its answer
# Prompt tokens. Quick ends where a minute's gate does; full goes on to the service's own limit.
RUNGS = {"quick": (512, 1536), "full": (512, 2048, 8192, 32768, 131072)}
MANY_TURNS = {"quick": (9, 21), "full": (9, 21, 61)}

COLOURS = ("colour", "fruit", "river", "bird", "metal", "planet", "tool", "flower")
PLACES = ("a lighthouse", "a busy market", "a night train", "a mountain hut", "an old harbour", "a bakery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One greedy chat. `messages` end with the user's turn or a tool's result. `core`: its answer is
    compared with the reference; of the others the prompt is counted."""

    name: str
    kind: Kind
    messages: tuple[dict[str, Any], ...]
    max_tokens: int
    tools: tuple[dict[str, Any], ...] = ()
    core: bool = True

    @property
    def more(self) -> dict[str, Any]:
        """Fields of the request beside the messages."""
        return {"tools": list(self.tools), "tool_choice": "none"} if self.tools else {}

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """The prompt as the model's own template has it. Raises WrongUse where that refuses it."""
        if self.tools or any(m.get("tool_calls") for m in self.messages):
            return tokenizer.chat_ids([_arguments_read(m) for m in self.messages], tools=self.tools or None)
        return tokenizer.chat_ids(list(self.messages))

    def ids_or_none(self, tokenizer: Tokenizer) -> list[int] | None:
        """Some templates know no system message; then neither does the server."""
        try:
            return self.ids(tokenizer) or None
        except WrongUse:
            return None

    def unsent(self, word: str) -> Probe:
        """The same chat with another question: `word` begins its last text, behind leading white space."""
        *before, last = self.messages
        text = last["content"]
        start = len(text) - len(text.lstrip())
        return replace(self, messages=(*before, {**last, "content": f"{text[:start]}{word} {text[start:]}"}))


def _arguments_read(message: dict[str, Any]) -> dict[str, Any]:
    """Templates write the arguments of a call out themselves: they get the object."""
    calls = [
        {**c, "function": {**c["function"], "arguments": json.loads(c["function"]["arguments"])}}
        for c in message.get("tool_calls") or ()
    ]
    return {**message, "tool_calls": calls} if calls else message


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
    draw, chosen = random.Random(seed), []
    for ability, own in sorted(by_ability.items()):
        for row in draw.sample(own, min(len(own), -(-count // len(by_ability)))):
            messages = tuple({"role": m["role"], "content": m["content"]} for m in row["messages"][:-1])
            name = f"{ability}/{row['id']}"
            chosen.append(Probe(name=name, kind="task", messages=messages, max_tokens=TASK_TOKENS))
    return chosen[:count]


# ------------------------------------------------------------------ prompts that are counted


def counted_probes(tokenizer: Tokenizer, seed: int, depth: str) -> list[Probe]:
    """Characters, white space, turns, tools: one class of each, one token of answer."""
    pairs = list(SCRIPTS.items())
    scripts = [
        _counted("+".join(name for name, _ in part), "unicode", "\n".join(text for _, text in part))
        for part in (pairs[i : i + 2] for i in range(0, len(pairs), 2))
    ]
    return [
        *scripts,
        *(_counted(name, "unicode", f"Repeat: {text} :end") for name, text in CLASSES.items()),
        *(_counted(name, "space", f"Repeat:\n{text}\nend") for name, text in SPACES.items()),
        *(_counted(name, "text", text) for name, text in TEXTS.items()),
        *_word_probes(seed),
        *_edges(),
        *(_many_turns(count, seed) for count in MANY_TURNS[depth]),
        *tool_probes(),
    ]


def _counted(name: str, kind: Kind, text: str) -> Probe:
    messages = ({"role": "user", "content": text},)
    return Probe(name=name, kind=kind, messages=messages, max_tokens=1, core=False)


def _word_probes(seed: int) -> list[Probe]:
    """Words that people hang rules on, in an order of their own."""
    draw = random.Random(seed + 3)
    lists = {"listed": list(dict.fromkeys(WORDS)), "listed_chinese": list(CHINESE_WORDS)}
    for words in lists.values():
        draw.shuffle(words)
    return [_counted(name, "words", " ".join(words)) for name, words in lists.items()]


def _edges() -> list[Probe]:
    """White space at the edges of each role's turn."""
    turns = (
        "  Be brief. \n",
        " Name a bird.\n\n",
        "\n\n  A robin. \t\n",
        "   And another?  ",
        " A wren.\n ",
        "\tOne more\n",
    )
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    messages = tuple({"role": r, "content": t} for r, t in zip(roles, turns, strict=True))
    by_role = []
    for role in ("system", "user", "assistant"):
        touched = tuple(m if m["role"] == role else {**m, "content": m["content"].strip()} for m in messages)
        by_role.append(Probe(name=f"edges_{role}", kind="space", messages=touched, max_tokens=1, core=False))
    return by_role


def _many_turns(count: int, seed: int) -> Probe:
    """An odd number of turns with short words of their own, so that one missing turn is missed."""
    draw = random.Random(seed + count)
    texts = [f"{draw.choice(COLOURS)} {draw.randrange(1000)}" for _ in range(count)]
    roles = ("user", "assistant")
    messages = tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))
    return Probe(name=f"turns_{count}", kind="turns", messages=messages, max_tokens=1, core=False)


LOOKUP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up_weather",
        "description": "Weather of a city on a day",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
        },
    },
}
SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search_orders",
        "description": "Orders of a customer",
        "parameters": {"type": "object", "properties": {"customer": {"type": "string"}}},
    },
}


def tool_probes() -> list[Probe]:
    """Tools offered; a call and its result in the history."""
    question = {"role": "user", "content": "What is the weather in Oslo?"}
    call = {
        "id": "call_0001a",
        "type": "function",
        "function": {"name": "look_up_weather", "arguments": '{"city": "Oslo", "days": 2}'},
    }
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_0001a", "name": "look_up_weather", "content": '{"c": -3}'}
    offered = Probe(
        name="tools", kind="tools", messages=(question,), max_tokens=1, tools=(LOOKUP,), core=False
    )
    return [
        offered,
        replace(offered, name="tools_two", tools=(LOOKUP, SEARCH)),
        replace(offered, name="tool_result", messages=(question, called, result)),
    ]


# ------------------------------------------------------------------ long prompts


def rungs(tokenizer: Tokenizer, seed: int, depth: str, limit: int) -> list[Probe]:
    """One prompt a rung, and one that fills the context where full depth is asked or the context is short.

    A prompt is a list of words, no two alike, that the model is then asked to repeat from the beginning:
    what it says at the far end hangs on how it reads the near one.
    """
    most = limit - RUNG_TOKENS - ROOM_TOKENS
    lengths = [n for n in RUNGS[depth] if n <= most]
    short = most < max(RUNGS[depth])
    if most >= 64 and (depth == "full" or short) and most not in lengths:
        lengths.append(most)
    words, start, ladder = words_of(tokenizer, seed), 0, []
    for length in lengths[::-1]:  # the commonest words stand in the longest
        probe, start = _rung(tokenizer, words, start, length)
        ladder += [probe] if probe else []
    return ladder[::-1]


def _rung(tokenizer: Tokenizer, words: Sequence[str], start: int, length: int) -> tuple[Probe | None, int]:
    """A prompt of at most `length` tokens, and the place of the next word."""
    room = length - len(_list_of([]).ids(tokenizer))
    end, text_tokens = start, 0
    while text_tokens <= room:  # a short vocabulary begins again
        text_tokens += len(tokenizer.encode(" " + words[end % len(words)]))
        end += 1
    chosen = [words[i % len(words)] for i in range(start, end)]
    while chosen and len(_list_of(chosen).ids(tokenizer)) > length:
        chosen = chosen[: -max(1, len(chosen) // 50)]
    return (_list_of(chosen) if chosen else None), end


def _list_of(words: Sequence[str]) -> Probe:
    text = f"Words: {' '.join(words)}\nRepeat the words from the beginning. Words: {' '.join(words[:3])}"
    messages = ({"role": "user", "content": text},)
    return Probe(
        name=f"words_{len(words)}", kind="rung", messages=messages, max_tokens=RUNG_TOKENS, core=False
    )


def parts_of(rung: Probe, count: int = 8) -> list[Probe]:
    """A list's words in `count` short prompts: a word that a server heeds shows in one of them."""
    words = rung.messages[0]["content"].split("\nRepeat")[0].split()
    size = -(-len(words) // count)
    parts = [words[i : i + size] for i in range(0, len(words), size)]
    return [
        Probe(
            name=f"{rung.name}/{i}",
            kind="words",
            messages=({"role": "user", "content": " ".join(part)},),
            max_tokens=1,
            core=False,
        )
        for i, part in enumerate(parts)
    ]
