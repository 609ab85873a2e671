"""What a model wrote, in parts: said, thought, called. Streams and whole answers are read alike.

Three dialects of calls are read: Hermes' (`<tool_call>` around JSON; Qwen and most others; around XML, as
Qwen3-Coder writes it), Llama 3's (bare JSON with `parameters`) and Mistral's (a JSON list). Under a grammar
the whole answer is JSON.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..host.joined import FRAME_END, FRAME_START, FRAMED
from .model_json import whole
from .tools import Tools, dialect


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallMore:
    """A piece of the JSON of a call's arguments."""

    index: int
    text: str


Part = TextPart | Thought | CallBegun | CallMore
FUNCTION = re.compile(r"\s*<function=([^>\s]+)>")
PARAMETER = re.compile(
    r"<parameter=([^>\s]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|</function>|\Z)", re.DOTALL
)


class Reader:
    """Turns the text of one answer, piece by piece, into parts. This one: all is said."""

    def __init__(self, tools: Tools | None = None, kind: str = "hermes") -> None:
        self.tools, self.kind = tools or Tools(), kind
        self.calls = 0

    @property
    def calls_made(self) -> int:
        """Calls so far."""
        return self.calls

    def push(self, text: str) -> list[Part]:
        return [TextPart(text)] if text else []

    def end(self) -> list[Part]:
        return []

    def _call(self, name: str, arguments: str) -> list[Part]:
        return [self._begun(name), CallMore(self.calls - 1, arguments)]

    def _begun(self, name: str) -> CallBegun:
        self.calls += 1
        return CallBegun(self.calls - 1, call_id(self.kind), name)

    def _read(self, value: Any) -> list[Part] | None:
        """A call from {"name", "arguments" or "parameters"}; None where it is none."""
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self.tools.allowed:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        try:
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        except RecursionError:
            return None
        return self._call(name, whole(text))


class Named(Reader):
    """Under the grammar of one function's arguments: all that comes is its JSON."""

    def push(self, text: str) -> list[Part]:
        if not text:
            return []
        begun: list[Part] = [] if self.calls else [self._begun(next(iter(self.tools.allowed)))]
        return [*begun, CallMore(0, text)]


class Listed(Reader):
    """Under the grammar of a list of calls: each is given out when it is whole."""

    def __init__(self, tools: Tools, kind: str) -> None:
        super().__init__(tools, kind)
        self.held = ""

    def push(self, text: str) -> list[Part]:
        self.held += text
        out: list[Part] = []
        while (start := self.held.find("{")) >= 0:
            value, end = _decoded(self.held, start)
            if end < 0:
                break
            out += self._read(value) or []
            self.held = self.held[end:]
        return out

    def end(self) -> list[Part]:
        """A call that was cut off: its name, and its arguments as far as they came."""
        cut = re.match(r'[\s,\[]*\{\s*"name"\s*:\s*"([^"]+)"\s*,\s*"arguments"\s*:\s*', self.held)
        return self._call(cut[1], self.held[cut.end() :]) if cut and cut[1] in self.tools.allowed else []


class Either(Listed):
    """Under the grammar of a list of calls or an object: the first character tells which it is."""

    kind_known = False
    is_text = False

    def push(self, text: str) -> list[Part]:
        if not self.kind_known and (start := (self.held + text).lstrip()):
            self.kind_known, self.is_text = True, start[0] != "["
        if not self.is_text:
            return super().push(text)
        shown, self.held = self.held + text, ""
        return [TextPart(shown)] if shown else []


class Tagged(Reader):
    """Hermes: text, and JSON between <tool_call> and </tool_call>; Qwen3-Coder: XML between them."""

    OPEN, CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self, tools: Tools, kind: str) -> None:
        super().__init__(tools, kind)
        self.held, self.inside = "", False

    def push(self, text: str) -> list[Part]:
        self.held += text
        out: list[Part] = []
        while (at := self.held.find(self.CLOSE if self.inside else self.OPEN)) >= 0:
            before, tag = self.held[:at], self.CLOSE if self.inside else self.OPEN
            self.held = self.held[at + len(tag) :]
            out += self._inside(before, tag) if self.inside else self._text(before.rstrip())
            self.inside = not self.inside
        if not self.inside:
            # Text that may be the beginning of a tag waits, and white space before one goes with it.
            keep = _beginning(self.held, self.OPEN)
            shown = self.held[: len(self.held) - keep].rstrip()
            out += self._text(shown)
            self.held = self.held[len(shown) :]
        return out

    def end(self) -> list[Part]:
        if not self.inside:
            return self._text(self.held)
        return self._inside(self.held, "")

    def _text(self, text: str) -> list[Part]:
        if self.calls and not text.strip():
            return []  # between calls
        return [TextPart(text)] if text else []

    def _inside(self, text: str, tag: str) -> list[Part]:
        """A call; what is none is told as the model wrote it."""
        value = self._xml(text) or _decoded(text, max(text.find("{"), 0))[0]
        if (call := self._read(value)) and (self.tools.parallel or self.calls == 1):
            return call
        return [] if call else [TextPart(self.OPEN + text + tag)]

    def _xml(self, text: str) -> dict[str, Any] | None:
        """Qwen3-Coder's: <function=NAME>, each argument a <parameter=NAME>; None where it is none.

        The text of an argument is a string where the schema says so, else JSON, as Qwen's own parser has it.
        """
        if not (begun := FUNCTION.match(text)):
            return None
        types = _types_of(self.tools, begun[1])
        arguments = {name: _argument(value, types.get(name)) for name, value in PARAMETER.findall(text)}
        return {"name": begun[1], "arguments": arguments}


class Bare(Reader):
    """Llama 3 and Mistral: an answer that is JSON from its first character is calls, any other is text."""

    def __init__(self, tools: Tools, kind: str) -> None:
        super().__init__(tools, kind)
        self.held: str | None = ""

    def push(self, text: str) -> list[Part]:
        if self.held is None:
            return super().push(text)
        self.held += text
        if not self.held.strip() or self.held.lstrip()[0] in "{[<":
            return []
        text_held, self.held = self.held, None
        return super().push(text_held)

    def end(self) -> list[Part]:
        if not self.held:
            return []
        text = self.held.strip().removeprefix("[TOOL_CALLS]").removeprefix("<|python_tag|>").strip()
        calls = [self._read(value) for value in _objects_in(text)]
        if not all(calls):
            self.calls = 0
            return [TextPart(self.held)]
        calls_taken = calls if self.tools.parallel else calls[:1]
        return [part for call in calls_taken for part in call or []] or [TextPart(self.held)]


class Thinking(Reader):
    """Reasoning between <think> and </think> first, then what `inner` reads."""

    OPEN, CLOSE = "<think>", "</think>"

    def __init__(self, inner: Reader, begun: bool) -> None:
        super().__init__()
        self.inner = inner
        self.held, self.state = "", "thinking" if begun else "before"

    @property
    def calls_made(self) -> int:
        return self.inner.calls_made

    def push(self, text: str) -> list[Part]:
        if self.state == "after":
            return self.inner.push(text)
        self.held += text
        if self.state == "before" and not self._opened():
            return []
        if self.state == "after":
            held, self.held = self.held, ""
            return self.inner.push(held)
        if (at := self.held.find(self.CLOSE)) >= 0:
            thought, rest = self.held[:at].rstrip("\n"), self.held[at + len(self.CLOSE) :]
            self.state, self.held = "gap", rest
            return [*self._thought(thought), *self._answer()]
        if self.state == "gap":
            return self._answer()
        keep = _beginning(self.held, self.CLOSE)
        shown = self.held[: len(self.held) - keep].rstrip("\n")
        self.held = self.held[len(shown) :]
        return self._thought(shown)

    def _opened(self) -> bool:
        """True once it is clear whether the answer begins with thinking."""
        start = self.held.lstrip()
        if start.startswith(self.OPEN):
            self.held, self.state = start[len(self.OPEN) :].lstrip("\n"), "thinking"
        elif start and not self.OPEN.startswith(start):
            self.state = "after"
        return self.state != "before"

    def _thought(self, text: str) -> list[Part]:
        return [Thought(text)] if text else []

    def _answer(self) -> list[Part]:
        """Line ends between the thinking and the answer belong to neither."""
        if rest := self.held.lstrip("\n"):
            self.state, self.held = "after", ""
            return self.inner.push(rest)
        return []

    def end(self) -> list[Part]:
        if self.state == "after":
            return self.inner.end()
        if self.state == "thinking":
            return self._thought(self.held)
        return [*self.inner.push(self.held), *self.inner.end()]


class Framed(Reader):
    """Of a joined server: text, and between two marks what a delta holds besides (joined/texts.py)."""

    def __init__(self) -> None:
        super().__init__()
        self.held = ""
        self.open: dict[int, CallBegun] = {}  # by the server's own index

    @property
    def calls_made(self) -> int:
        return len(self.open)

    def push(self, text: str) -> list[Part]:
        parts: list[Part] = []
        self.held += text
        while FRAME_START in self.held:
            before, _, after = self.held.partition(FRAME_START)
            parts += [TextPart(before)] if before else []
            frame, end, rest = after.partition(FRAME_END)
            self.held = rest if end else FRAME_START + after
            if not end:
                return parts
            parts += self._framed(json.loads(frame))
        parts += [TextPart(self.held)] if self.held else []
        self.held = ""
        return parts

    def _framed(self, frame: dict[str, Any]) -> list[Part]:
        parts: list[Part] = [Thought(frame["reasoning"])] if frame.get("reasoning") else []
        for call in frame.get("calls", ()):
            function = call.get("function") or {}
            number = call.get("index", len(self.open))
            if number not in self.open:
                id = call.get("id") or call_id("hermes")
                self.open[number] = begun = CallBegun(len(self.open), id, function.get("name") or "")
                parts.append(begun)
            if arguments := function.get("arguments"):
                parts.append(CallMore(self.open[number].index, arguments))
        return parts

    def end(self) -> list[Part]:
        self.held = ""
        return []


def reader(tools: Tools, template: str, thinking: bool = False) -> Reader | None:
    """For one answer; None where its text is all there is to it.

    `thinking`: the prompt ends inside the reasoning, so that the answer begins there.
    """
    if template == FRAMED:
        return Framed()
    kind = dialect(template)
    if tools.mode == "named":
        return Named(tools, kind)
    if tools.mode == "required":
        return Listed(tools, kind)
    if tools.or_format:
        return Either(tools, kind)
    inner = None
    if tools.mode == "auto":
        inner = (Tagged if kind == "hermes" else Bare)(tools, kind)
    if "<think>" in template or "</think>" in template:
        return Thinking(inner or Reader(), begun=thinking)
    return inner


def call_id(kind: str) -> str:
    """Mistral's templates take ids of exactly nine letters and digits."""
    if kind == "mistral":
        return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


def _types_of(tools: Tools, name: str) -> dict[str, Any]:
    """The declared type of each parameter of a function."""
    function = next((f for f in tools.functions if f.name == name), None)
    properties = function.parameters.get("properties") if function else None
    properties = properties if isinstance(properties, Mapping) else {}
    return {key: value.get("type") for key, value in properties.items() if isinstance(value, Mapping)}


def _argument(text: str, kind: Any) -> Any:
    if kind == "string":
        return text
    value, end = _decoded(text.strip(), 0)
    return value if end == len(text.strip()) else text


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start` and where it ends; -1 where it is not whole."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, -1


def _objects_in(text: str) -> list[Any]:
    """JSON values one after another, between them `;` or white space; a list counts as its items."""
    objects: list[Any] = []
    at = 0
    while at < len(text):
        value, end = _decoded(text, at)
        if end < 0:
            return [*objects, None]
        objects += value if isinstance(value, list) else [value]
        at = end + len(text[end:]) - len(text[end:].lstrip("; \n\t"))
    return objects


def _beginning(text: str, tag: str) -> int:
    """Length of the longest beginning of `tag` that `text` ends with."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)
