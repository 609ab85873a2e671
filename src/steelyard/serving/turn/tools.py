"""Tools of a chat: what is asked, what the model is shown, and the grammar that forces a call.

Not here: how a template writes them (model), what the model then writes (parts.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...model import Tokenizer
from ..base.errors import ApiError
from ..host.job import Constraint

NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
MOST_TOOLS = 512  # OpenAI takes 128; agents with many servers of tools send more
FORMAT = "$format"  # under `$defs`, where no tool has this name
MOST_CALLS = 8  # in one forced answer: a weak model under a grammar would never end its list


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A tool that the model may call. `parameters` is a JSON schema of an object."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False

    def shown(self) -> dict[str, Any]:
        about = {"description": self.description} if self.description else {}
        return {"type": "function", "function": {"name": self.name, **about, "parameters": self.parameters}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What may be called. `mode`: "none", "auto", "required" or "named" (then `allowed` is that one name)."""

    functions: tuple[Function, ...] = ()
    mode: str = "none"
    allowed: frozenset[str] = frozenset()
    parallel: bool = True
    or_format: bool = False  # under a grammar of a list of calls or an object of the answer's format

    @property
    def forced(self) -> bool:
        return self.mode in ("required", "named")

    def callable(self) -> list[Function]:
        return [f for f in self.functions if f.name in self.allowed]

    def as_asked(self) -> dict[str, Any]:
        """The fields of a chat to another server: only those that may be called are shown."""
        usable = [f.shown() for f in self.callable()]
        if self.mode == "none" or not usable:
            return {}
        choice: Any = self.mode
        if self.mode == "named":
            choice = {"type": "function", "function": {"name": next(iter(self.allowed))}}
        one_by_one = {} if self.parallel else {"parallel_tool_calls": False}
        return {"tools": usable, "tool_choice": choice, **one_by_one}

    def shown(self) -> list[dict[str, Any]] | None:
        return [f.shown() for f in self.functions] or None


# ------------------------------------------------------------------ what is asked


def choose(
    functions: Sequence[Function], mode: str, names: Sequence[str] | None, parallel: bool | None
) -> Tools:
    """Check and join. `names`: those that may be called, None for all. Raises ApiError 400."""
    defined = [f.name for f in functions]
    if len(functions) > MOST_TOOLS:
        raise ApiError(400, f"at most {MOST_TOOLS} tools can be given", param="tools")
    for name in defined:
        if not NAME.fullmatch(name):
            raise ApiError(
                400, f"{name!r} is no name for a tool: letters, digits, _, - and . only", param="tools"
            )
    if len(set(defined)) < len(defined):
        raise ApiError(400, "two tools have the same name", param="tools")
    if mode in ("required", "named") and not functions:
        raise ApiError(400, "tool_choice asks for a call, and there are no tools", param="tool_choice")
    if lost := next((name for name in names or () if name not in defined), None):
        raise ApiError(400, f"tool_choice names {lost!r}, which is not among the tools", param="tool_choice")
    allowed = frozenset(defined if names is None else names)
    return Tools(
        functions=tuple(functions),
        mode=mode if functions else "none",
        allowed=allowed,
        parallel=parallel is not False,
    )


def tools_of(tools: Sequence[Mapping[str, Any]] | None, choice: Any, parallel: bool | None) -> Tools:
    """Of a chat's `tools`, `tool_choice` and `parallel_tool_calls`. Raises ApiError 400."""
    return choose_of([_function(tool) for tool in tools or ()], choice, parallel)


def choose_of(functions: Sequence[Function], choice: Any, parallel: bool | None) -> Tools:
    """With OpenAI's `tool_choice`. Raises ApiError 400."""
    mode, names = _choice(choice, bool(functions))
    return choose(functions, mode, names, parallel)


def _function(tool: Mapping[str, Any]) -> Function:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        kind = tool.get("type")
        raise ApiError(
            400, f"tools of type {kind!r} are not supported, functions are: "
            '{"type": "function", "function": {"name": ...}}', param="tools", code="unsupported_parameter",
        )  # fmt: skip
    return function_of(function)


def function_of(tool: Mapping[str, Any]) -> Function:
    """Of {"name", "description", "parameters", "strict"}. Raises ApiError 400."""
    name, description, parameters = tool.get("name"), tool.get("description"), tool.get("parameters")
    if not isinstance(name, str):
        raise ApiError(400, "a tool needs a name", param="tools")
    if not isinstance(description, str | None):
        raise ApiError(400, "the description of a tool is a text", param="tools")
    if not isinstance(parameters, Mapping | None):
        raise ApiError(400, "the parameters of a tool are a JSON schema", param="tools")
    more = {"parameters": parameters} if parameters else {}
    return Function(name=name, description=description, strict=tool.get("strict") is True, **more)


def _choice(choice: Any, any_tools: bool) -> tuple[str, list[str] | None]:
    """The mode, and the names that may be called (None: all)."""
    if choice is None:
        return ("auto" if any_tools else "none"), None
    if choice in ("none", "auto", "required"):
        return choice, None
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind == "function":
        function = choice.get("function", choice)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            return "named", [function["name"]]
    if kind == "allowed_tools":
        function = choice.get("allowed_tools", choice)
        listed = function.get("tools") if isinstance(function, Mapping) else None
        if isinstance(listed, list) and function.get("mode") in ("auto", "required"):
            return function["mode"], [_name_in(entry) for entry in listed]
    raise ApiError(400, "tool_choice is none, auto, required, or names a function", param="tool_choice")


def _name_in(entry: Any) -> str:
    function = entry.get("function", entry) if isinstance(entry, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise ApiError(400, "allowed_tools lists functions by name", param="tool_choice")
    return name


def forced_grammar(tools: Tools) -> Constraint:
    """The grammar that leaves no way but a call: a named function's arguments, else a list of calls."""
    if tools.mode == "named":
        return "json_schema", json.dumps(tools.callable()[0].parameters)
    return "json_schema", json.dumps(_calls_schema(tools))


def call_or_format(tools: Tools, requested: Constraint) -> Constraint:
    """The grammar of calls or an answer in a format, told apart by their first character: `[` or `{`.

    Raises ApiError 400 for a format that is no schema of an object.
    """
    format = json.loads(requested[1]) if requested[0] == "json_schema" else None
    if not isinstance(format, dict) or _root_of(format).get("type") != "object":
        raise ApiError(
            400, "beside tools the answer's format is a JSON schema of an object; or set tool_choice: none",
            param="response_format", code="unsupported_parameter",
        )  # fmt: skip
    calls = _calls_schema(tools)
    parts = {**calls.pop("$defs"), FORMAT: _rebased(format, f"#/$defs/{FORMAT}")}
    return "json_schema", json.dumps({"anyOf": [calls, {"$ref": f"#/$defs/{FORMAT}"}], "$defs": parts})


def _root_of(schema: dict[str, Any]) -> Mapping[str, Any]:
    """The schema that `#/$defs/NAME` at its root stands for, else itself."""
    kind, _, name = str(schema.get("$ref", "")).removeprefix("#/").partition("/")
    place = schema.get(kind)
    root = place.get(name) if isinstance(place, Mapping) else None
    return root if isinstance(root, Mapping) else schema


def _calls_schema(tools: Tools) -> dict[str, Any]:
    """A list of calls, each function's parameters under `$defs`."""
    functions = tools.callable()
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": f.name}, "arguments": {"$ref": f"#/$defs/{f.name}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for f in functions
    ]
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_CALLS if tools.parallel else 1,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
        "$defs": {f.name: _rebased(f.parameters, f"#/$defs/{f.name}") for f in functions},
    }


def _rebased(schema: Any, root: str) -> Any:
    """The schema's own references, after it has moved to `root`."""
    if isinstance(schema, Mapping):
        moved = {key: _rebased(value, root) for key, value in schema.items()}
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref.startswith("#"):
            moved["$ref"] = root + ref[1:]
        return moved
    return [_rebased(item, root) for item in schema] if isinstance(schema, list) else schema


# ------------------------------------------------------------------ what the model sees


def dialect(template: str) -> str:
    """How a model of this template writes calls: "hermes", "mistral" or "llama3"."""
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" not in template and ("ipython" in template or "<|python_tag|>" in template):
        return "llama3"
    return "hermes"


def prompt_text(
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    tools: Tools | None = None,
    generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """A chat with its tools as the model reads it. Raises WrongUse where the template refuses it."""
    shown = tools.shown() if tools else None
    return tokenizer.chat_text(messages, generation_prompt, shown, variables)
