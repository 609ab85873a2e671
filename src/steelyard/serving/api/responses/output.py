"""The output of a response: items growing by parts, and the typed events that tell of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...turn import model_json
from ...turn.parts import CallBegun, CallMore, Part, TextPart, Thought

Event = dict[str, Any]


class Output:
    """Items in order; the last one may be open. Each call returns the events of what it did."""

    def __init__(self, new_id: Callable[[str], str], custom: frozenset[str] = frozenset()) -> None:
        """`custom`: names of the tools that take a text."""
        self.new_id, self.custom = new_id, custom
        self.held = ""  # the arguments of a custom tool's call so far: its text is known at their end
        self.items: list[dict[str, Any]] = []
        self.open: str | None = None  # type of the item that grows

    def take(self, part: Part, logprobs: list[dict[str, Any]]) -> list[Event]:
        if isinstance(part, TextPart):
            return self._text(part.text, logprobs)
        if isinstance(part, Thought):
            return self._reasoning(part.text)
        if isinstance(part, CallBegun):
            return self._call(part)
        return self._arguments(part)

    def end(self, status: str = "completed") -> list[Event]:
        """Close what is open."""
        if self.open is None:
            return []
        item, kind, self.open = self.items[-1], self.open, None
        item["status"] = status
        events = {
            "message": self._text_done,
            "reasoning": self._reasoning_done,
            "function_call": self._call_done,
            "custom_tool_call": self._custom_done,
        }[kind]()
        return [*events, self._event("output_item.done", item=dict(item))]

    def _begin(self, kind: str, prefix: str, /, **more: Any) -> list[Event]:
        closed = self.end()
        item = {"id": self.new_id(prefix), "type": kind, "status": "in_progress", **more}
        self.items.append(item)
        self.open = kind
        # A copy: the item grows, the event tells of now.
        return [*closed, self._event("output_item.added", item={**item})]

    def _event(self, name: str, /, **more: Any) -> Event:
        return {"type": f"response.{name}", "output_index": len(self.items) - 1, **more}

    def _in_item(self, name: str, /, **more: Any) -> Event:
        return self._event(name, item_id=self.items[-1]["id"], **more)

    # ------------------------------------------------------------------ text

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events: list[Event] = []
        if self.open != "message":
            events = self._begin("message", "msg_", role="assistant", content=[])
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(self._in_item("content_part.added", content_index=0, part=dict(part)))
            self.items[-1]["content"] = [part]
        part = self.items[-1]["content"][0]
        part["text"] += text
        part["logprobs"] = [*part["logprobs"], *logprobs]
        return [*events, self._in_item("output_text.delta", content_index=0, delta=text, logprobs=logprobs)]

    def _text_done(self) -> list[Event]:
        part = self.items[-1]["content"][0]
        event = {"text": part["text"], "logprobs": part["logprobs"]}
        return [
            self._in_item("output_text.done", content_index=0, **event),
            self._in_item("content_part.done", content_index=0, part=dict(part)),
        ]

    # ------------------------------------------------------------------ reasoning

    def _reasoning(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self.open != "reasoning":
            events = self._begin("reasoning", "rs_", summary=[], content=[])
            part = {"type": "reasoning_text", "text": ""}
            events.append(self._in_item("content_part.added", content_index=0, part=dict(part)))
            self.items[-1]["content"] = [part]
        self.items[-1]["content"][0]["text"] += text
        return [*events, self._in_item("reasoning_text.delta", content_index=0, delta=text)]

    def _reasoning_done(self) -> list[Event]:
        part = self.items[-1]["content"][0]
        return [
            self._in_item("reasoning_text.done", content_index=0, text=part["text"]),
            self._in_item("content_part.done", content_index=0, part=dict(part)),
        ]

    # ------------------------------------------------------------------ calls

    def _call(self, part: CallBegun) -> list[Event]:
        if part.name in self.custom:
            begun = self._begin("custom_tool_call", "ctc_", call_id=part.id, name=part.name, input="")
            self.held = ""
            return begun
        return self._begin("function_call", "fc_", call_id=part.id, name=part.name, arguments="")

    def _arguments(self, part: CallMore) -> list[Event]:
        if self.open == "custom_tool_call":
            self.held += part.text
            return []
        self.items[-1]["arguments"] += part.text
        return [self._in_item("function_call_arguments.delta", delta=part.text)]

    def _custom_done(self) -> list[Event]:
        text = self.items[-1]["input"] = _input_of(self.held)
        return [
            self._in_item("custom_tool_call_input.delta", delta=text),
            self._in_item("custom_tool_call_input.done", input=text),
        ]

    def _call_done(self) -> list[Event]:
        item = self.items[-1]
        event = {"arguments": item["arguments"], "name": item["name"]}
        return [self._in_item("function_call_arguments.done", **event)]


def _input_of(arguments: str) -> str:
    """The text in the arguments of a custom tool's call; as they are where they are none."""
    try:
        value = model_json.read(arguments)
    except ValueError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
