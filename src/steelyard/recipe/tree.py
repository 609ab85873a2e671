"""YAML with the line of every value; and `--set`, which writes into the same tree.

Values come out as plain dict, list, str, int, float and bool. Not here: what the words mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse

Path_ = tuple[str | int, ...]
MAX_BYTES = 1_000_000  # a recipe is a page of text; a data file given by mistake is not
MAX_VALUES = 20_000  # anchors can multiply a short text without end
KNOWN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "merge")}
FORMS = {dict: "a table", list: "a list", str: "text", bool: "true or false", int: "a whole number"}
FORMS |= {float: "a number", type(None): "nothing"}


@dataclass
class Tree:
    """The values of one file, and where each stands. Lines count from 1; a `--set` value has none."""

    file: str
    values: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)
    overrides: set[Path_] = field(default_factory=set)

    def where(self, at: Path_) -> Where:
        """The nearest place known for a path: its own line, else that of what it stands in."""
        for end in range(len(at), -1, -1):
            if at[:end] in self.overrides:
                return Where("--set", None, dotted(at))
            if at[:end] in self.lines:
                return Where(self.file, self.lines[at[:end]], dotted(at))
        return Where(self.file, 1, dotted(at) or None)


def dotted(at: Path_) -> str:
    return ".".join(str(part) for part in at)


def form(value: Any) -> str:
    """What a user would call this value's type."""
    return FORMS.get(type(value), type(value).__name__)


def read(path: Path) -> Tree:
    """The tree of a YAML file. Raises WrongUse with the line for whatever is not a plain YAML table."""
    tree = Tree(str(path), {})
    loaded = _parse(_text(path), str(path))
    if loaded is None:
        raise _bad(
            tree.file, None, "recipe.empty", "the recipe is empty", "steelyard init writes a first one"
        )
    if not isinstance(loaded, dict):
        text = f"the recipe is {form(_plain_scalar(loaded))}, not a table of `key: value` lines"
        raise _bad(tree.file, 1, "recipe.not_a_table", text, "example: model: demo")
    tree.values = _plain(loaded, (), tree, set())
    return tree


def _text(path: Path) -> str:
    hint = "steelyard init writes a first recipe"
    if not path.exists():
        raise _bad(str(path), None, "recipe.missing", f"there is no recipe {path}", hint)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _bad(
            str(path), None, "recipe.unreadable", f"cannot read {path}: {error.strerror}", hint
        ) from error
    if len(data) > MAX_BYTES:
        text = f"{len(data)} bytes are no recipe; the limit is {MAX_BYTES}"
        raise _bad(
            str(path), None, "recipe.too_big", text, "name data files under `data:`, do not paste them"
        )
    return _decoded(data, str(path))


def _decoded(data: bytes, file: str) -> str:
    """UTF-8, with or without a mark; UTF-16 with its mark."""
    codec = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        text = f"byte 0x{data[error.start]:02x} is not {codec.removesuffix('-sig').upper()} text"
        raise _bad(file, line, "recipe.undecodable", text, _encoding_hint(data)) from error


def _encoding_hint(data: bytes) -> str:
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return "save the recipe as UTF-8"
    return "it reads as GB18030; save it as UTF-8: iconv -f gb18030 -t utf-8"


def _parse(text: str, file: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _syntax(error.problem or str(error), file, mark.line + 1 if mark else None, text) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise _syntax(str(error).splitlines()[0], file, None, text) from error


def _syntax(problem: str, file: str, line: int | None, text: str) -> WrongUse:
    if match := re.search(r'duplicate key "?(.*?)"? with value', problem):
        hint = f"keep one of the two `{match[1]}` lines"
        return _bad(file, line, "recipe.duplicate_key", f"{match[1]} stands here twice", hint, match[1])
    here = text.splitlines()[line - 1] if line and line <= len(text.splitlines()) else ""
    if "\t" in here or "'\\t'" in problem:
        return _bad(
            file, line, "recipe.tab", "a tab stands where YAML wants spaces", "indent with two spaces"
        )
    if "another document" in problem or "single document" in problem:
        return _bad(
            file, line, "recipe.syntax", "the file holds more than one document", "delete the `---` line"
        )
    hint = "example: train: [{stage: sft, finetuning_type: lora}]   (quote text that holds `: ` or `#`)"
    return _bad(file, line, "recipe.syntax", f"this is not YAML: {problem}", hint)


def _plain(node: Any, at: Path_, tree: Tree, above: set[int]) -> Any:
    """Plain values of a ruamel node; notes lines on the way."""
    if id(node) in above or len(tree.lines) > MAX_VALUES:
        raise _bad(
            tree.file, None, "recipe.anchors", "the anchors of this file have no end", "write values out"
        )
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag and str(tag) not in KNOWN_TAGS:
        raise WrongUse(
            "recipe.tag", f"the tag {tag} has no meaning here", where=tree.where(at), hint="delete the tag"
        )
    if isinstance(node, dict):
        return {key: _child(node, key, at, tree, above) for key in node}
    if isinstance(node, list):
        return [_child(node, i, at, tree, above) for i in range(len(node))]
    return _plain_scalar(node)


def _child(node: Any, key: Any, at: Path_, tree: Tree, above: set[int]) -> Any:
    here = (*at, key)
    place = (node.lc.data or {}).get(key) if getattr(node, "lc", None) else None
    if place:
        tree.lines[here] = place[0] + 1
    else:
        tree.lines.setdefault(here, tree.where(at).line or 1)
    if isinstance(node, dict) and not isinstance(key, str):
        text = f"the key {key} is {form(_plain_scalar(key))}, not text"
        raise WrongUse("recipe.key_type", text, where=tree.where(here), hint=f'quote it: "{key}":')
    return _plain(node[key], here, tree, above | {id(node)})


def _plain_scalar(node: Any) -> Any:
    """Python's own type of a scalar that ruamel wraps to keep its style."""
    if isinstance(node, bool) or node is None:
        return node
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    kinds: tuple[type, ...] = (int, float, str, dict, list)
    for kind in kinds:
        if isinstance(node, kind):
            return kind(node)
    return str(node)  # a date: no field wants one, as text it gets the field's own message


def override(tree: Tree, setting: str) -> None:
    """Write one `--set train.0.learning_rate=2e-4` into the tree; the value is YAML. Raises WrongUse."""
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        hint = "example: --set train.0.learning_rate=2e-4"
        raise WrongUse(
            "recipe.set", f"--set wants KEY=VALUE, not {setting!r}", where=Where("--set"), hint=hint
        )
    at = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
    value = _set_value(text, name)
    tree.overrides.add(_write(tree, at, value))


def _set_value(text: str, name: str) -> Any:
    try:
        scratch = Tree("--set", {})
        return _plain(_parse(text, "--set"), (), scratch, set())
    except WrongUse as error:
        raise WrongUse(
            error.code, error.message, where=Where("--set", None, name), hint=error.hint
        ) from error


def _write(tree: Tree, at: Path_, value: Any) -> Path_:
    """Set one value, making the tables above it; returns its path as the tree has it."""
    here: Any = tree.values
    parts: list[str | int] = []
    for depth, part in enumerate(at):
        last = depth == len(at) - 1
        if isinstance(here, list):
            _check_index(here, at, depth)
            if part == len(here):
                here.append(value if last else {})
        elif isinstance(here, dict):
            part = str(part)
            here.setdefault(part, {} if not last and not isinstance(at[depth + 1], int) else [])
        else:
            text = f"{dotted(at[:depth])} is {form(here)}, so nothing can be set inside it"
            raise WrongUse(
                "recipe.set", text, where=Where("--set", None, dotted(at)), hint=_whole(at[:depth])
            )
        if last:
            here[part] = value
        here = here[part]
        parts.append(part)
    return tuple(parts)


def _check_index(here: Sequence[Any], at: Path_, depth: int) -> None:
    part = at[depth]
    if isinstance(part, int) and part <= len(here):
        return
    text = f"{dotted(at[:depth])} has {len(here)} entries; {part!r} is none of them"
    raise WrongUse(
        "recipe.set",
        text,
        where=Where("--set", None, dotted(at)),
        hint="entries are counted from 0: train.0.seed=1",
    )


def _whole(at: Path_) -> str:
    return f"set it as a whole: --set '{dotted(at)}={{...}}'"


def _bad(
    file: str, line: int | None, code: str, message: str, hint: str, name: str | None = None
) -> WrongUse:
    return WrongUse(code, message, where=Where(file, line, name), hint=hint)
