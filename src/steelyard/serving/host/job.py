"""What to generate, in the server's own words: made of a body (turn/bodies.py), done by Served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ...asked import Route

Constraint = tuple[str, str]  # a grammar of the engine: ("json_schema" | "regex" | "ebnf", text)
ANY_OBJECT: Constraint = ("json_schema", '{"type": "object"}')


class GrammarCheck(Protocol):
    async def check(self, grammar: Constraint, owner: str) -> None: ...  # ApiError where it is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request's answers. `top` None: no log-probabilities wanted."""

    sampling: dict[str, Any]  # GenRequest's fields less ids, max_tokens and seed
    seed: int
    n: int
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    top: int | None
    token_ids: bool
    routed: Route | None = None  # where the prompt has chosen the adapter
    second_pass: bool = False  # the likeliest tokens come from a scoring pass afterwards
