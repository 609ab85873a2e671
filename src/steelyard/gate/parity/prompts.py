"""Other ways in which a server may build the prompt: each a suspect with the cause it would prove. Pure.

A suspect renders messages to ids; cause.py compares its counts and log-probabilities with the server's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ...model import Tokenizer

Messages = Sequence[dict[str, Any]]
ROLES = ("system", "user", "assistant", "tool")
OF_ROLES: dict[str, Sequence[str]] = {"": ("user",), ", all roles": ROLES, ", assistant's": ("assistant",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """`render` raises nothing: what a template refuses comes out as None."""

    cause: str
    name: str
    render: Callable[[Messages], list[int] | None]


def suspects(tokenizer: Tokenizer) -> list[Suspect]:
    """Own template with BOS, system, white space, characters or turns changed; then other families'."""
    return [
        *_bos(tokenizer),
        *_system(tokenizer),
        *_space(tokenizer),
        *_characters(tokenizer),
        *_turns(tokenizer),
        *_templates(tokenizer),
    ]


def _own(tokenizer: Tokenizer, messages: Messages) -> list[int] | None:
    from ...errors import WrongUse

    try:
        return tokenizer.chat_ids(list(messages))
    except WrongUse:  # the template refuses these roles: so would the server
        return None


# ------------------------------------------------------------------ beginning of sequence


def bos_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids that stand in front of a sequence in some family, the model's own first."""
    names = (tokenizer.bos_token, "<s>", "<|begin_of_text|>", "<|endoftext|>", "<bos>", "<|startoftext|>")
    ids = (tokenizer.id_of(n) for n in names if n)
    return list(dict.fromkeys(i for i in ids if i is not None))


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
    from ...errors import WrongUse

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
    "a space for each tab": lambda t: t.replace("\t", " "),
    "two spaces for each tab": lambda t: t.replace("\t", "  "),
    "four spaces for each tab": lambda t: t.replace("\t", "    "),
    "eight spaces for each tab": lambda t: t.replace("\t", "        "),
    "CRLF made LF": lambda t: t.replace("\r\n", "\n"),
    "line ends made LF": lambda t: t.replace("\r\n", "\n").replace("\r", "\n"),
    "carriage returns dropped": lambda t: t.replace("\r", ""),
    "LF made CRLF": lambda t: t.replace("\r\n", "\n").replace("\n", "\r\n"),
    "no-break spaces made spaces": lambda t: t.replace("\u00a0", " "),
    "wide spaces made spaces": lambda t: re.sub("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]", " ", t),
    "each line trimmed": lambda t: "\n".join(line.strip() for line in t.split("\n")),
    "each line trimmed at the end": lambda t: "\n".join(line.rstrip() for line in t.split("\n")),
    "empty lines dropped": lambda t: re.sub("\n\\s*\n", "\n", t),
    "runs of newlines shortened": lambda t: re.sub("\n{3,}", "\n\n", t),
}


def _touched(
    tokenizer: Tokenizer, change: Callable[[str], str], roles: Sequence[str] = ROLES
) -> Callable[[Messages], list[int] | None]:
    """The own template over texts that are changed in the turns of these roles."""
    return lambda messages: _own(
        tokenizer,
        [{**m, "content": change(m["content"])} if m["role"] in roles else m for m in messages],
    )


def _space(tokenizer: Tokenizer) -> list[Suspect]:
    def last(change: Callable[[str], str]) -> Callable[[Messages], list[int] | None]:
        return lambda m: _own(tokenizer, [*m[:-1], {**m[-1], "content": change(m[-1]["content"])}])

    def after(text: str) -> Callable[[Messages], list[int] | None]:
        return lambda m: [*ids, *tokenizer.encode(text)] if (ids := _own(tokenizer, m)) else None

    changes = []
    for name, change in SPACES.items():
        for suffix, roles in OF_ROLES.items():
            render = _touched(tokenizer, change, roles)
            changes.append(Suspect(cause="whitespace", name=name + suffix, render=render))
        changes.append(Suspect(cause="whitespace", name=f"{name}, last turn", render=last(change)))
    changes += [
        Suspect(cause="whitespace", name=f"{t!r} after the prompt", render=after(t)) for t in (" ", "\n")
    ]
    return changes


# ------------------------------------------------------------------ characters

ZERO_WIDTH = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
EMOJI = re.compile(
    "[\u2600-\u27bf\u2b00-\u2bff\ufe0f\u20e3\U0001f000-\U0001faff\U0001f1e6-\U0001f1ff\u200d\U000e0020-\U000e007f]"
)
STRAIGHT = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"}
)


def _without(*categories: str) -> Callable[[str], str]:
    spared = "\t\n\r"
    return lambda t: "".join(c for c in t if c in spared or unicodedata.category(c) not in categories)


def _normal(form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> Callable[[str], str]:
    return lambda t: unicodedata.normalize(form, t)


CHARACTERS: dict[str, Callable[[str], str]] = {
    "NFC": _normal("NFC"),
    "NFKC": _normal("NFKC"),
    "NFD": _normal("NFD"),
    "NFKD": _normal("NFKD"),
    "accents dropped": lambda t: _without("Mn")(unicodedata.normalize("NFD", t)),
    "only ASCII left": lambda t: t.encode("ascii", "ignore").decode(),
    "question marks for what is not ASCII": lambda t: t.encode("ascii", "replace").decode(),
    "emoji dropped": lambda t: EMOJI.sub("", t),
    "characters beyond U+FFFF dropped": lambda t: "".join(c for c in t if ord(c) < 0x10000),
    "zero-width and bidi marks dropped": lambda t: ZERO_WIDTH.sub("", t),
    "format characters dropped": _without("Cf"),
    "control characters dropped": _without("Cc"),
    "control and format characters dropped": _without("Cc", "Cf"),
    "quotes straightened": lambda t: t.translate(STRAIGHT),
    "lower case": str.lower,
    "upper case": str.upper,
}


def _characters(tokenizer: Tokenizer) -> list[Suspect]:
    return [
        Suspect(cause="unicode", name=name + suffix, render=_touched(tokenizer, change, roles))
        for name, change in CHARACTERS.items()
        for suffix, roles in OF_ROLES.items()
    ]


# ------------------------------------------------------------------ turns

MOST_KEPT = 20


def _turns(tokenizer: Tokenizer) -> list[Suspect]:
    """Only the last messages left, with the system message or without."""

    def last(count: int, system: bool) -> Callable[[Messages], list[int] | None]:
        def render(messages: Messages) -> list[int] | None:
            front = [m for m in messages if system and m["role"] == "system"]
            rest = [m for m in messages if not front or m["role"] != "system"]
            return _own(tokenizer, [*front, *rest[-count:]])

        return render

    return [
        Suspect(cause="history", name=f"only the last {n} messages{suffix}", render=last(n, system))
        for n in range(1, MOST_KEPT + 1)
        for suffix, system in (("", False), (" and the system's", True))
    ]


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
