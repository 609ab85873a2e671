"""ollama's Modelfile of a model: its chat template in Go's language, what ends an answer, how it samples.

The template is learnt from what the model's own writes around each message, then compared with it over whole
chats: one that says more than "these words before and after each message" is refused. Tools are left out.
Literals stand in quotes, so that Go's trimming of white space has nothing to trim.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from ..shape import read_json
from .gguf_vocabulary import begins_with_bos
from .tokenizer import Tokenizer

CONTEXT_CAP = 8192  # of a chat that names none, as `serve` has it
SYSTEM, USER, ANSWER, AGAIN = "s-Q1", "u-Q2", "a-Q3", "v-Q4"  # contents that no template writes itself
ROLES = ("system", "user", "assistant")
Chat = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Turns:
    """What is written before and after the messages of each role, at the start, and to open the answer."""

    around: Mapping[str, tuple[str, str]]
    begin: str
    reply: str
    system: str | None  # of a chat without a system message

    def text(self, chat: Chat) -> str:
        """What the Modelfile's template makes of a chat."""
        own = [m for m in chat if m["role"] == "system"]
        first = [{"role": "system", "content": self.system}] if self.system is not None and not own else []
        written = (self.around[m["role"]] for m in (*first, *chat))
        parts = [a + m["content"] + b for m, (a, b) in zip((*first, *chat), written, strict=True)]
        return self.begin + "".join(parts) + self.reply


def modelfile_of(folder: Path, gguf: str) -> str:
    """The text of a Modelfile beside the file `gguf`. Raises WrongUse where Go's language is not enough."""
    tokenizer = Tokenizer(folder)
    turns = turns_of(tokenizer)
    begin = turns.begin
    if tokenizer.bos_token and begins_with_bos(tokenizer):  # llama.cpp writes it itself
        begin = begin.removeprefix(tokenizer.bos_token)
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{go_template(turns, begin)}"""']
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(folder).items()]
    stops = [tokenizer.token_of(n) for n in tokenizer.eos_ids]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if stop and '"' not in stop]
    return "\n".join(lines) + "\n"


def go_template(turns: Turns, begin: str) -> str:
    """Every word as a literal in quotes; messages of other roles are left out."""
    cases = "".join(
        f"{{{{ {'else if' if place else 'if'} eq .Role {_quoted(role)} }}}}"
        f"{_literal(turns.around[role][0])}{{{{ .Content }}}}{_literal(turns.around[role][1])}"
        for place, role in enumerate(ROLES)
    )
    own = ""
    if turns.system is not None:
        before, after = turns.around["system"]
        own = f"{{{{ if not .System }}}}{_literal(before + turns.system + after)}{{{{ end }}}}"
    messages = f"{{{{ range .Messages }}}}{cases}{{{{ end }}}}{{{{ end }}}}"
    return f"{_literal(begin)}{own}{messages}{_literal(turns.reply)}"


def _literal(text: str) -> str:
    return f"{{{{ {_quoted(text)} }}}}" if text else ""


def _quoted(text: str) -> str:
    """A Go string literal: JSON's escapes are Go's, but for the slash, which json.dumps leaves alone."""
    return json.dumps(text, ensure_ascii=False)


def _parameters(folder: Path) -> dict[str, Any]:
    """As the model's generation_config says; greedy where it does not, as `serve` answers."""
    file = folder / "generation_config.json"
    own = read_json(file) if file.is_file() else {}
    sampled = own.get("do_sample") is not False and isinstance(own.get("temperature"), int | float)
    longest = read_json(folder / "config.json").get("max_position_embeddings") or CONTEXT_CAP
    named = {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "repetition_penalty": "repeat_penalty",
    }
    found = {to: own[name] for name, to in named.items() if isinstance(own.get(name), int | float)}
    drawn = found if sampled else {"temperature": 0}
    # ollama's own default punishes repetition, which rows of code and JSON are full of.
    return {"num_ctx": min(longest, CONTEXT_CAP), "repeat_penalty": 1} | drawn


# ------------------------------------------------------------------ what the model's template writes


def turns_of(tokenizer: Tokenizer) -> Turns:
    """Raises WrongUse where chats are more than words around messages."""
    try:
        turns = _learnt(tokenizer)
    except (ValueError, WrongUse) as problem:
        raise _refused(tokenizer, "it does not write each message alike") from problem
    for chat in _chats():
        if turns.text(chat) != tokenizer.chat_text(chat):
            raise _refused(tokenizer, f"a chat of {len(chat)} messages comes out otherwise")
    return turns


def _learnt(tokenizer: Tokenizer) -> Turns:
    """Raises ValueError where a text does not divide as it should."""
    with_system = _parts(tokenizer.chat_text(_chat(SYSTEM, USER, ANSWER, AGAIN)), SYSTEM, USER, ANSWER, AGAIN)
    without = _parts(tokenizer.chat_text(_chat(None, USER, ANSWER, AGAIN)), USER, ANSWER, AGAIN)
    after_user = _parts(tokenizer.chat_text(_chat(None, USER), False), USER)[1]
    after_answer = _parts(tokenizer.chat_text(_chat(None, USER, ANSWER), False), USER, ANSWER)[2]
    before_answer = _cut_start(without[1], after_user)
    before_user = _cut_start(without[2], after_answer)
    after_system = _cut_end(with_system[1], before_user)
    start = _cut_end(without[0], before_user)  # of a chat without a system message
    begin = tokenizer.bos_token or ""
    begin = begin if start.startswith(begin) and with_system[0].startswith(begin) else ""
    before_system = _cut_start(with_system[0], begin)
    system = None if start == begin else _cut_end(_cut_start(start, begin + before_system), after_system)
    around = {
        "system": (before_system, after_system),
        "user": (before_user, after_user),
        "assistant": (before_answer, after_answer),
    }
    return Turns(around, begin, _cut_start(without[3], after_user), system)


def _chat(system: str | None, *contents: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    turns = [{"role": ROLES[1 + n % 2], "content": text} for n, text in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *turns]


def _chats() -> list[list[dict[str, str]]]:
    return [
        _chat(None, "Wie geht's?"), _chat("Be brief.", "x = 1\n\ny = 2"), _chat(None, "a", "b", "c"),
        _chat("你好 \"quoted\" \\n", "one", "two", "three", "four", "five"),
    ]  # fmt: skip


def _parts(text: str, *contents: str) -> list[str]:
    """What stands before, between and after the contents. Raises ValueError where one is missing."""
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found or content in text:
            raise ValueError(f"the template writes {content} not once")
        parts.append(before)
    return [*parts, text]


def _cut_start(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError(f"{text!r} does not begin with {start!r}")
    return text[len(start) :]


def _cut_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise ValueError(f"{text!r} does not end with {end!r}")
    return text[: len(text) - len(end)]


def _refused(tokenizer: Tokenizer, why: str) -> WrongUse:
    return WrongUse(
        "export.template", "the model's chat template cannot be written in ollama's language",
        where=Where(str(tokenizer.folder), field="chat_template"), why=why,
        hint="--to gguf: llama.cpp reads the model's own template",
    )  # fmt: skip
