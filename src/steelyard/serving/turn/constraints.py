"""What an answer must look like: of `response_format`, vLLM's `guided_*` and `structured_outputs`."""

from __future__ import annotations

import json
from typing import Any

from ..base.errors import ApiError
from ..base.limits import check_json_text
from ..engines import Capability
from ..host.job import ANY_OBJECT, Constraint
from .bodies import Sampling
from .grammar_size import STATES, states_of

GRAMMAR_LIMIT = 64 * 1024  # characters; a larger one takes the engine seconds to compile


def constraint_of(body: Sampling, capability: Capability) -> Constraint | None:
    """Raises ApiError 400 where two are asked for, or one that the engine cannot hold."""
    given = [(field, constraint) for field, constraint in _requested(body) if constraint]
    if len(given) > 1:
        raise ApiError(400, f"{given[0][0]} and {given[1][0]} exclude each other", param=given[1][0])
    return check(given[0][1], capability, given[0][0]) if given else None


def check(constraint: Constraint, capability: Capability, field: str) -> Constraint:
    """Raises ApiError 400 where the engine cannot hold it."""
    if constraint[0] not in capability.grammar:
        raise ApiError(
            400, f"this engine does not support {field} ({constraint[0]})", field, "unsupported_parameter"
        )
    if len(constraint[1]) > GRAMMAR_LIMIT:
        raise ApiError(400, f"{field} is longer than {GRAMMAR_LIMIT} characters", field)
    if (states := states_of(constraint)) > STATES:
        raise ApiError(
            400, f"{field} has {states:,} repeats when its bounds are written out; at most {STATES:,} are "
            "compiled. Take smaller bounds (maxLength, maxItems, {m,n}), or make fewer properties optional",
            field, "grammar_too_large",
        )  # fmt: skip
    return constraint


def _requested(body: Sampling) -> list[tuple[str, Constraint | None]]:
    so = body.structured_outputs
    requested = [
        ("response_format", _response_format(body)),
        ("guided_json", _schema(body.guided_json, "guided_json")),
        ("guided_regex", ("regex", body.guided_regex) if body.guided_regex else None),
        ("guided_choice", one_of(body.guided_choice)),
        ("guided_grammar", ("ebnf", body.guided_grammar) if body.guided_grammar else None),
    ]
    if so:
        requested += [
            ("structured_outputs.json", _schema(so.json_, "structured_outputs.json")),
            ("structured_outputs.regex", ("regex", so.regex) if so.regex else None),
            ("structured_outputs.choice", one_of(so.choice)),
            ("structured_outputs.grammar", ("ebnf", so.grammar) if so.grammar else None),
            ("structured_outputs.json_object", ANY_OBJECT if so.json_object else None),
        ]
    return requested


def _response_format(body: Sampling) -> Constraint | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        raise ApiError(400, "response_format json_schema needs json_schema.schema", "response_format")
    return _schema(wanted.json_schema.schema_, "response_format")


def _schema(schema: dict[str, Any] | str | None, field: str) -> Constraint | None:
    return None if schema is None else schema_of(schema, field)


def schema_of(schema: dict[str, Any] | str, field: str) -> Constraint:
    """A JSON schema, or its text, as a grammar. Raises ApiError 400."""
    if isinstance(schema, str):
        check_json_text(schema, field)
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise ApiError(400, f"{field} is no JSON", field) from None
    if not isinstance(schema, dict):
        raise ApiError(400, f"{field} is a JSON schema: an object", field)
    return "json_schema", json.dumps(schema)


def one_of(choices: list[str] | None) -> Constraint | None:
    """One of these texts, as a grammar."""
    if not choices:
        return None
    return "ebnf", "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
