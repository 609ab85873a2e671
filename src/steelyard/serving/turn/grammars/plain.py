"""Grammars that need no trial: a small JSON schema of plain keywords compiles in milliseconds."""

from __future__ import annotations

import json
from typing import Any

from ...host.job import Constraint
from ..grammar_size import states_of

CHARACTERS = 4096
STATES = 512  # bounds written out: 22 properties that may be left out, say
WORDS = {
    "type",
    "required",
    "enum",
    "const",
    "title",
    "description",
    "default",
    "examples",
    "minItems",
    "maxItems",
}
PARTS = {"properties", "$defs"}  # by name
INNER = {"items", "additionalProperties"}
KEYWORDS = WORDS | PARTS | INNER | {"anyOf", "$ref"}


def is_plain(grammar: Constraint) -> bool:
    """Whether its compiler cannot take long over it, by what it says."""
    kind, text = grammar
    if kind != "json_schema" or len(text) > CHARACTERS or states_of(grammar) > STATES:
        return False
    return _plain(json.loads(text), refers=True)


def _plain(schema: Any, refers: bool) -> bool:
    """`refers`: it may refer to a definition; those refer to none, or they could double each other."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict) or not schema.keys() <= KEYWORDS or ("$ref" in schema and not refers):
        return False
    parts = [schema.get(name, {}) for name in PARTS]
    choices = schema.get("anyOf", [])
    if not all(isinstance(part, dict) for part in parts) or not isinstance(choices, list):
        return False
    inner = [
        *schema.get("properties", {}).values(),
        *choices,
        *(schema[name] for name in INNER & schema.keys()),
    ]
    definitions = schema.get("$defs", {}).values()
    return all(_plain(part, refers) for part in inner) and all(_plain(part, False) for part in definitions)
