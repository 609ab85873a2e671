"""Flags of a verb as one frozen value: each field of a dataclass is a flag, its groups are base classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

import typer
from typer.models import ArgumentInfo

T = TypeVar("T")
Verb = Callable[[T], None]


def flags_of(table: type[T]) -> Callable[[Verb[T]], Callable[..., None]]:
    """Makes the command that Typer reads, of a verb that takes the flags as one value of `table`."""
    hints = get_type_hints(table, include_extras=True)
    parameters = [
        Parameter(
            f.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(table)  # type: ignore[arg-type]
    ]

    def decorate(verb: Verb[T]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            verb(table(**values))

        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = verb.__doc__
        return command

    return decorate


def words_of(flags: Any) -> list[str]:
    """The command line that gives these flags, the argument first; those at their defaults are left out."""
    hints = get_type_hints(type(flags), include_extras=True)
    words: list[str] = []
    for f in fields(flags):
        value, info = getattr(flags, f.name), hints[f.name].__metadata__[0]  # its default: the flag
        if isinstance(info, ArgumentInfo):
            words = words if value is None else [str(value), *words]
        elif value is True and value != f.default:
            words.append(str(info.default))
        elif value != f.default and value is not None:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [str(info.default), str(one)]
    return words


def flag(name: str, metavar: str, text: str, **more: Any) -> Any:
    """An option that takes a value."""
    return typer.Option(name, metavar=metavar, help=text, **more)


def switch(name: str, text: str) -> Any:
    """An option that is on or off."""
    return typer.Option(name, help=text)
