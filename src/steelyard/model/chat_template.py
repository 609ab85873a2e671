"""A chat template, run in a sandbox: equal messages give the text Hugging Face would give.

A template comes with a model and is foreign code: it sees plain data only, no Python attribute, no file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import thread_time
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import Where, WrongUse

RENDER_S = 10.0  # of the CPU, for one chat: ours take under 0.1 s with 4,096 messages
TURNS_A_LOOK = 16  # of a loop or a macro, between two looks at the clock; a look takes under 1 µs
POWER_MOST = 1000  # of a base and an exponent
DATE_OF_TEMPLATES = "2024-07-26"  # Llama 3's own default; today's date would make training and serving differ


class Template:
    """One compiled template and the tokens it may write."""

    def __init__(self, text: str, where: Path, special_tokens: Mapping[str, str]) -> None:
        """Raises WrongUse where the text is no template."""
        self.where = Where(str(where), field="chat_template")
        self.special_tokens = dict(special_tokens)
        try:
            self._sandbox = _environment()
            self._compiled = self._sandbox.from_string(counted(self._sandbox.parse(text), self._sandbox))
        except jinja2.TemplateSyntaxError as e:
            raise WrongUse(
                "model.bad_template", "the chat template cannot be read",
                where=Where(str(where), line=e.lineno, field="chat_template"), why=e.message,
                hint="take the template of the model's own repository",
            ) from e  # fmt: skip

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a chat; `variables` are the template's own switches.

        Raises WrongUse where the template refuses, oversteps the sandbox or does not come to an end.
        """
        self._sandbox.begin()
        try:
            return self._compiled.render(
                messages=[plain(_without_none(message)) for message in messages],
                tools=plain(tools) if tools else None,
                documents=None,
                add_generation_prompt=generation_prompt,
                **{**self.special_tokens, **plain(variables or {})},
            )
        except EndlessTemplate as e:
            raise WrongUse(
                "model.endless_template", f"the chat template has not come to an end in {RENDER_S:g} s",
                where=self.where, why="a loop or a macro of it runs on, or grows with the square of the chat",
                hint="take the template of the model's own repository; run steelyard scan on this one",
            ) from e  # fmt: skip
        except (jinja2.exceptions.SecurityError, MemoryError, RecursionError) as e:
            raise WrongUse(
                "model.unsafe_template", "the chat template reaches for what it may not",
                where=self.where, why=str(e), hint="do not use this model; run steelyard scan on it",
            ) from e  # fmt: skip
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as e:
            raise WrongUse(
                "model.template_refused", f"the chat template refuses these messages: {e}", where=self.where,
                hint="check the roles and their order; some templates know no system message",
            ) from e  # fmt: skip


def plain(value: Any) -> Any:
    """JSON types only: an object with methods would be a way out of the sandbox. Raises TypeError."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not plain data")


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    """`content: null` counts as absent, else templates print None; beside calls some templates ask for it."""
    calls = bool(message.get("tool_calls"))
    return {k: v for k, v in message.items() if v is not None or (k == "content" and calls)}


class EndlessTemplate(Exception):
    """It has had its time."""


def counted(tree: jinja2.nodes.Template, environment: Sandbox) -> jinja2.nodes.Template:
    """With a look at the clock in all that can run again; what is written stays the same."""
    nodes = jinja2.nodes
    kinds: Any = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
    for again in list[Any](tree.find_all(kinds)):
        again.body.insert(0, nodes.ExprStmt(look()))
        if isinstance(again, nodes.For) and again.test is not None:  # a test may let no turn reach the body
            again.test = nodes.Or(look(), again.test)  # a look is None: the test decides
    tree.set_environment(environment)
    return tree


def look() -> jinja2.nodes.Call:
    return jinja2.nodes.Call(jinja2.nodes.EnvironmentAttribute("turn"), [], [], None, None)


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's own turns a forbidden attribute into an empty text; here the template is refused.

    It bounds a `range`, here a power too; what loops and macros make of them it does not: each thread counts
    the turns and calls of its own render.
    """

    intercepted_binops = frozenset({"**"})  # 9 ** (9 ** 9) would not end, nor be compiled

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._own = threading.local()

    def begin(self) -> None:
        self._own.turns, self._own.ends_at = 0, thread_time() + RENDER_S

    def turn(self) -> None:
        """Of a loop, or a call. Raises EndlessTemplate."""
        self._own.turns += 1
        if self._own.turns % TURNS_A_LOOK == 0 and thread_time() > self._own.ends_at:
            raise EndlessTemplate

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if abs(left) > POWER_MOST or abs(right) > POWER_MOST:
            raise jinja2.exceptions.SecurityError(f"{left} ** {right} is closed to templates")
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise jinja2.exceptions.SecurityError(f"{attribute} of {type(obj).__name__} is closed to templates")


def _environment() -> Sandbox:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    del environment.globals["lipsum"]  # text by chance, of any length
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks answers for other tools; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own way)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    """jinja2's own would escape < and > for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.fromisoformat(DATE_OF_TEMPLATES).strftime(form)
