"""What pydantic finds wrong, in the words of the recipe: line, field, reason, nearest name, example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import WrongUse
from .borrowed import STAGE_ALIASES, TOP_ALIASES
from .document import TABLES, section
from .tree import Path_, Tree, dotted, form

# Words of other trainers and languages; only for the hint where they stand in another table.
OTHER_WORDS = {
    **STAGE_ALIASES,
    **TOP_ALIASES,
    "模型": "model",
    "数据": "data",
    "训练": "train",
    "目标": "goal",
    "预算": "budget",
    "期限": "deadline",
    "能力": "ability",
    "路径": "path",
}


def order(error: WrongUse) -> tuple[int, int]:
    """Which of several faults to show: a mistyped key first, then the topmost line."""
    line = error.where.line if error.where else None
    unknown = error.code == "recipe.unknown_key"
    return (0 if unknown else 1, line or 0)  # a mistyped key explains the missing one better


def fault(tree: Tree, error: Any) -> WrongUse:
    """One pydantic error in the words of the recipe."""
    at: Path_ = tuple(part for part in error["loc"] if part != "[key]")
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return _unknown(tree, at)
    if kind == "missing":
        text = f"{dotted(at)} is missing"
        return WrongUse("recipe.missing_key", text, where=tree.where(at), hint=hint_for("", at))
    if kind == "literal_error":
        return _not_one_of(tree, at, value, error["ctx"]["expected"])
    if kind == "value_error":
        text = str(error["ctx"]["error"])
        message = text if text[:1] in "'\"" or " is " in text else f"{dotted(at)} {text}"
        return WrongUse("recipe.bad_value", message, where=tree.where(at), hint=hint_for("", at))
    if kind in WANTED:
        text = f"{dotted(at)} is {form(value)} ({_short(value)}) where {WANTED[kind]} is wanted"
        return WrongUse(
            "recipe.wrong_type", text, where=tree.where(at), hint=hint_for(_unquote(value, kind), at)
        )
    text = f"{dotted(at)} is {_short(value)}: {error['msg'][0].lower()}{error['msg'][1:]}"
    return WrongUse("recipe.bad_value", text, where=tree.where(at), hint=hint_for("", at))


WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list (lines that begin with `- `)",
    "dict_type": "a table (`key: value` lines)",
    "model_type": "a table (`key: value` lines)",
    "model_attributes_type": "a table (`key: value` lines)",
}


def _short(value: Any) -> str:
    text = "..." if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unquote(value: Any, kind: str) -> str:
    if isinstance(value, str) and kind == "bool_type":
        return f"write {str(value.lower() in ('on', 'yes', 'y', 'true')).lower()}"
    if isinstance(value, str) and kind in ("int_type", "float_type"):
        return "write it without quotes or units"
    return "put it in quotes" if kind == "string_type" and not isinstance(value, dict | list) else ""


def _unknown(tree: Tree, at: Path_) -> WrongUse:
    owner = section(at[:-1])
    valid = list(TABLES[owner].model_fields)
    place = f"under {_named(owner)}" if owner else "at the top of a recipe"
    key = str(at[-1])
    near = _nearest(key, valid, 88) or _elsewhere(key, owner) or _nearest(key, valid)
    message = f"unknown key {at[-1]} {place}"
    if near:
        return WrongUse("recipe.unknown_key", message, where=tree.where(at), hint=near)
    why = "known here: " + ", ".join(valid)
    hint = hint_for("delete the line or use a known key", (*at[:-1], valid[0]))
    return WrongUse("recipe.unknown_key", message, where=tree.where(at), why=why, hint=hint)


def _elsewhere(key: str, owner: str) -> str:
    """A key that is right, but in another table."""
    from .document import TABLES

    word = OTHER_WORDS.get(key, key)
    homes = [name for name, table in TABLES.items() if word in table.model_fields]
    if owner in homes:
        return f"did you mean {word}?{_example(owner, word)}" if word != key else ""
    if not homes:
        return ""
    home = f"under {_named(homes[0])}" if homes[0] else "at the top"
    return f"{word} belongs {home}{_example(homes[0], word)}"


def _named(owner: str) -> str:
    return owner.replace(".*", "[]")


def _nearest(key: str, valid: Sequence[str], least: int = 60) -> str:
    from rapidfuzz import fuzz, process

    error = process.extractOne(key.lower(), valid, scorer=fuzz.ratio, score_cutoff=least)
    return f"did you mean {error[0]}?" if error else ""


def _not_one_of(tree: Tree, at: Path_, value: Any, expected: str) -> WrongUse:
    valid = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = _nearest(str(value), valid) if isinstance(value, str) else ""
    text = f"{dotted(at)} is {_short(value)}; it is one of {', '.join(valid)}"
    return WrongUse("recipe.bad_value", text, where=tree.where(at), hint=hint_for(near, at))


def hint_for(text: str, at: Path_) -> str:
    owner = section(at[:-1]) if at else ""
    example = _example(owner, str(at[-1])) if at else ""
    return (text + example).strip() or "see docs/reference/recipe.md"


def _example(owner: str, key: str) -> str:
    """`   example: lora_rank: 16`, from the field's own description."""
    fields = TABLES[owner].model_fields if owner in TABLES else {}
    examples = fields[key].examples if key in fields else None
    return f"   example: {key}: {flow(examples[0])}" if examples else ""


def flow(value: Any) -> str:
    """A value as one would write it in YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
