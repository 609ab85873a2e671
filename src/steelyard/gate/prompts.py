"""Other ways in which a server may build the prompt: each a suspect with the cause it would prove. Pure.

A suspect renders messages to ids; cause.py compares its counts and log-probabilities with the server's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import Tokenizer

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """`render` raises nothing: what a template refuses comes out as None."""

    cause: str
    name: str
    render: Callable[[Messages], list[int] | None]


def suspects(tokenizer: Tokenizer) -> list[Suspect]:
    """Own template with BOS, system or white space changed; then other families' templates."""
    return [*_bos(tokenizer), *_system(tokenizer), *_space(tokenizer), *_templates(tokenizer)]


def _own(tokenizer: Tokenizer, messages: Messages) -> list[int] | None:
    from ..errors import WrongUse

    try:
        return tokenizer.chat_ids(list(messages))
    except WrongUse:  # the template refuses these roles: so would the server
        return None


# ------------------------------------------------------------------ beginning of sequence


def bos_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids that stand in front of a sequence in some family, the model's own first."""
    names = (tokenizer.bos_token, "<s>", "<|begin_of_text|>", "<|endoftext|>", "<bos>", "<|startoftext|>")
    found = (tokenizer.id_of(n) for n in names if n)
    return list(dict.fromkeys(i for i in found if i is not None))


def _bos(tokenizer: Tokenizer) -> list[Suspect]:
    def with_(bos: int) -> Callable[[Messages], list[int] | None]:
        return lambda messages: [bos, *ids] if (ids := _own(tokenizer, messages)) else None

    def without(messages: Messages) -> list[int] | None:
        return _own(tokenizer, messages)[1:]  # type: ignore[index]  # only asked where the own renders

    added = [
        Suspect(cause="bos", name=f"{tokenizer.token_of(b)} in front", render=with_(b))
        for b in bos_ids(tokenizer)
    ]
    return [*added, Suspect(cause="bos", name="first token missing", render=without)]


# ------------------------------------------------------------------ system prompt


def _system(tokenizer: Tokenizer) -> list[Suspect]:
    """No default system prompt, an empty one, a common one, or the user's own dropped."""
    common = ("", "You are a helpful assistant.", "You are a helpful AI assistant.")

    def front(text: str) -> Callable[[Messages], list[int] | None]:
        def render(messages: Messages) -> list[int] | None:
            if messages[0]["role"] == "system":
                return _own(tokenizer, messages)
            return _own(tokenizer, [{"role": "system", "content": text}, *messages])

        return render

    def dropped(messages: Messages) -> list[int] | None:
        return _own(tokenizer, [m for m in messages if m["role"] != "system"])

    def no_default(messages: Messages) -> list[int] | None:
        return _without_default(tokenizer, messages)

    return [
        Suspect(cause="system", name="no default system prompt", render=no_default),
        *(Suspect(cause="system", name=f"system prompt {text!r}", render=front(text)) for text in common),
        Suspect(cause="system", name="system message dropped", render=dropped),
    ]


def _without_default(tokenizer: Tokenizer, messages: Messages) -> list[int] | None:
    """The own text less the system turn that the template itself puts in front."""
    from ..errors import WrongUse

    if messages[0]["role"] == "system":
        return _own(tokenizer, messages)
    try:
        text = tokenizer.chat_text(list(messages))
        mark = tokenizer.chat_text([{"role": "system", "content": "@@"}, *messages])
    except WrongUse:
        return None
    head, _, tail = mark.partition("@@")
    end = tail.find(messages[0]["content"])
    # What follows the system text in `mark`, from its first turn on, is all that remains.
    opening = head.split("system")[0] if "system" in head else ""
    place = tail.rfind(opening, 0, end) if opening else -1
    rest = tail[place:] if place >= 0 else None
    return tokenizer.encode(rest) if rest and text.endswith(rest) and rest != text else None


# ------------------------------------------------------------------ white space


SPACES: dict[str, Callable[[str], str]] = {
    "user text trimmed": str.strip,
    "user text trimmed in front": str.lstrip,
    "user text trimmed at the end": str.rstrip,
    "newlines doubled": lambda t: t.replace("\n", "\n\n"),
    "newlines at the end doubled": lambda t: t + "\n" if t.endswith("\n") else t,
    "newline added at the end": lambda t: t + "\n",
    "newline added in front": lambda t: "\n" + t,
    "space added in front": lambda t: " " + t,
    "space added at the end": lambda t: t + " ",
    "white space collapsed": lambda t: " ".join(t.split()),
    "runs of spaces collapsed": lambda t: re.sub(r"[ \t]+", " ", t),
    "newlines made spaces": lambda t: t.replace("\n", " "),
    "tabs made spaces": lambda t: t.expandtabs(4),
}


def _space(tokenizer: Tokenizer) -> list[Suspect]:
    def render(change: Callable[[str], str], users: bool) -> Callable[[Messages], list[int] | None]:
        def changed(messages: Messages) -> list[int] | None:
            touched = [
                {**m, "content": change(m["content"])} if not users or m["role"] == "user" else m
                for m in messages
            ]
            return _own(tokenizer, touched)

        return changed

    def last(change: Callable[[str], str]) -> Callable[[Messages], list[int] | None]:
        return lambda m: _own(tokenizer, [*m[:-1], {**m[-1], "content": change(m[-1]["content"])}])

    def after(text: str) -> Callable[[Messages], list[int] | None]:
        return lambda m: [*ids, *tokenizer.encode(text)] if (ids := _own(tokenizer, m)) else None

    found = []
    for name, change in SPACES.items():
        found.append(Suspect(cause="whitespace", name=name, render=render(change, True)))
        found.append(Suspect(cause="whitespace", name=f"{name}, all roles", render=render(change, False)))
        found.append(Suspect(cause="whitespace", name=f"{name}, last turn", render=last(change)))
    found += [
        Suspect(cause="whitespace", name=f"{t!r} after the prompt", render=after(t)) for t in (" ", "\n")
    ]
    return found


# ------------------------------------------------------------------ other families


def _chatml(messages: Messages) -> str:
    return (
        "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        + "<|im_start|>assistant\n"
    )


def _llama3(messages: Messages) -> str:
    turn = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
    body = "".join(turn.format(m["role"], m["content"].strip() + "<|eot_id|>") for m in messages)
    return body + turn.format("assistant", "")


def _llama2(messages: Messages, space: str = " ") -> str:
    system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n" if messages[0]["role"] == "system" else ""
    text = ""
    for m in [m for m in messages if m["role"] != "system"]:
        if m["role"] == "user":
            text += f"[INST]{space}{system}{m['content']}{space}[/INST]"
            system = ""
        else:
            text += f"{space}{m['content']}</s>"
    return text


def _mistral(messages: Messages) -> str:
    """System text in front of the first user turn, as in Mistral's own template."""
    system = messages[0]["content"] + "\n\n" if messages[0]["role"] == "system" else ""
    rest = [m for m in messages if m["role"] != "system"]
    first = {**rest[0], "content": system + rest[0]["content"]}
    return _llama2([first, *rest[1:]])


def _zephyr(messages: Messages) -> str:
    return "".join(f"<|{m['role']}|>\n{m['content']}</s>\n" for m in messages) + "<|assistant|>\n"


def _phi3(messages: Messages) -> str:
    return "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages) + "<|assistant|>\n"


def _gemma(messages: Messages) -> str:
    names = {"assistant": "model"}
    turns = (
        f"<start_of_turn>{names.get(m['role'], m['role'])}\n{m['content']}<end_of_turn>\n" for m in messages
    )
    return "".join(turns) + "<start_of_turn>model\n"


ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)


def _alpaca(messages: Messages, head: str = ALPACA) -> str:
    names = {"user": "### Instruction:\n", "assistant": "### Response:\n", "system": ""}
    return head + "".join(f"{names[m['role']]}{m['content']}\n\n" for m in messages) + "### Response:\n"


def _vicuna(messages: Messages) -> str:
    names = {"user": "USER: ", "assistant": "ASSISTANT: ", "system": ""}
    return "".join(f"{names[m['role']]}{m['content']}\n" for m in messages) + "ASSISTANT:"


def _plain(messages: Messages) -> str:
    return "\n".join(m["content"] for m in messages)


def _labelled(messages: Messages) -> str:
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"


TEMPLATES: dict[str, Callable[[Messages], str]] = {
    "chatml": _chatml,
    "llama3": _llama3,
    "llama2": _llama2,
    "mistral": _mistral,
    "mistral, no spaces": lambda m: _llama2(m, ""),
    "zephyr": _zephyr,
    "phi3": _phi3,
    "gemma": _gemma,
    "alpaca": _alpaca,
    "alpaca, no preamble": lambda m: _alpaca(m, ""),
    "vicuna": _vicuna,
    "no template": _plain,
    "role labels": _labelled,
    "no generation prompt, chatml": lambda m: _chatml(m).removesuffix("<|im_start|>assistant\n"),
}


def _templates(tokenizer: Tokenizer) -> list[Suspect]:
    starts = [
        [],
        *([b] for b in bos_ids(tokenizer)),
        *(tokenizer.encode(t) for t in ("<s>", "<|begin_of_text|>")),
    ]
    unique = [list(s) for s in dict.fromkeys(tuple(s) for s in starts)]

    def render(
        template: Callable[[Messages], str], start: list[int]
    ) -> Callable[[Messages], list[int] | None]:
        return lambda messages: [*start, *tokenizer.encode(template(messages))]

    return [
        Suspect(cause="template", name=name, render=render(template, start))
        for name, template in TEMPLATES.items()
        for start in unique
    ]
