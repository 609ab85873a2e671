"""The flags of vLLM's and SGLang's own servers, from the released packages, into launch/flags.json.

    pip download --no-deps vllm==0.32.0 sglang==0.5.23     # or name site-packages where they are installed
    python bench/launch_flags.py --vllm FOLDER_OR_WHEEL --sglang FOLDER_OR_WHEEL

The sources are read, not imported: both import torch and hundreds of modules, and want a device. One that is
not named leaves its part of the file as it is. Facts only: names, kinds, types, choices. Whether they
hold, the engine's own parser says: tests/launch, where STEELYARD_VLLM_PYTHON names one.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "src" / "steelyard" / "launch" / "flags.json"
ARGUMENTS = {"vllm": "vllm.engine.arg_utils", "sglang": "sglang.srt.server_args"}
FRONT = "vllm.entrypoints.launchers.cli_args"
FIELDS = "sglang.srt.arg_groups.fields"
PLAIN = {"int": "int", "float": "float", "json.loads": "json", "json_list_type": "json"}
SWITCHES = ("store_true", "store_const", "DeprecatedStoreTrueAction", "DeprecatedStoreConstAction")
Row = dict[str, Any]


class Package:
    """The sources of one package, in a folder or a wheel; modules are parsed when they are asked for."""

    def __init__(self, place: Path) -> None:
        self.wheel = zipfile.ZipFile(place) if place.is_file() else None
        self.place = place
        self.trees: dict[str, ast.Module | None] = {}

    @cached_property
    def files(self) -> set[str]:
        if self.wheel:
            return set(self.wheel.namelist())
        return {str(path.relative_to(self.place)) for path in self.place.rglob("*.py")}

    def version(self, name: str) -> str:
        """By the wheel's name or its *.dist-info; vLLM's build for CPUs is a package of its own."""
        names = [*self.files, self.place.name, *(p.name for p in self.place.parent.glob("*.whl"))]
        infos = [*names, *(p.name for p in self.place.glob("*.dist-info"))] if not self.wheel else names
        found = (re.match(rf"{name}(?:_cpu)?-([\d.]+)[-.+]", Path(f).parts[0]) for f in infos)
        return next((match[1].rstrip(".") for match in found if match), "unknown")

    def tree(self, module: str) -> ast.Module | None:
        if module not in self.trees:
            stem = module.replace(".", "/")
            path = next((p for p in (f"{stem}.py", f"{stem}/__init__.py") if p in self.files), None)
            self.trees[module] = ast.parse(self._text(path)) if path else None
        return self.trees[module]

    def _text(self, path: str) -> str:
        return self.wheel.read(path).decode() if self.wheel else (self.place / path).read_text()

    def under(self, module: str) -> list[str]:
        stem = module.replace(".", "/")
        return sorted(f[:-3].replace("/", ".") for f in self.files if re.fullmatch(rf"{stem}/\w+\.py", f))

    def defined(self, name: str, module: str) -> tuple[ast.AST, str] | None:
        """What a name stands for at the top of a module, and the module that says so."""
        tree = self.tree(module)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node, module
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                    return node.value, module
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (source := _source(node, module)):
                        return self.defined(alias.name, source)
        return None


def _source(node: ast.ImportFrom, module: str) -> str | None:
    if not node.level:
        return node.module
    base = module.split(".")[: -node.level]
    return ".".join([*base, *([node.module] if node.module else [])])


# ------------------------------------------------------------------ annotations


def hints_of(package: Package, node: ast.AST | None, module: str) -> dict[str, Any]:
    """{"int": None, "None": None, "Literal": [...], "list": hints of an element, ...} of an annotation."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return hints_of(package, ast.parse(node.value, mode="eval").body, module)
        return {"None": None}
    if isinstance(node, ast.BinOp):
        return hints_of(package, node.left, module) | hints_of(package, node.right, module)
    if isinstance(node, ast.Subscript):
        return _subscript(package, node, module)
    if isinstance(node, ast.Name):
        return _named(package, node.id, module)
    return {"other": None}


def _subscript(package: Package, node: ast.Subscript, module: str) -> dict[str, Any]:
    name = ast.unparse(node.value).rpartition(".")[2]
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return {"Literal": [c for part in inner for c in _constants(package, part, module)]}
    if name in ("Optional", "Union"):
        every = {"None": None} if name == "Optional" else {}
        for part in inner:
            every |= hints_of(package, part, module)
        return every
    if name in ("Annotated", "SkipValidation", "InitVar", "A"):
        return hints_of(package, inner[0], module)
    kind = {"List": "list", "Sequence": "list", "Dict": "dict", "Mapping": "dict", "Tuple": "tuple"}.get(
        name, name
    )
    if kind in ("list", "set", "tuple"):
        return {"list": hints_of(package, inner[0], module)}
    return {"dict": None} if kind == "dict" else {"other": None}


def _named(package: Package, name: str, module: str) -> dict[str, Any]:
    if name in ("bool", "int", "float", "str", "dict"):
        return {name: None}
    if name in ("list", "set", "tuple"):
        return {"list": {"str": None}}
    found = package.defined(name, module)
    if found is None or isinstance(found[0], ast.Call):
        return {"other": None}
    node, where = found
    if isinstance(node, ast.ClassDef):
        decorators = [ast.unparse(d) for d in node.decorator_list]
        return {"dataclass" if any("config" in d or "dataclass" in d for d in decorators) else "other": None}
    return hints_of(package, node, where)


def _constants(package: Package, node: ast.AST, module: str) -> list[Any]:
    """The constants of a list, also by its name, or through `list(X)`."""
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.Subscript):  # a Literal within a Literal
        return _constants(package, node.slice, module)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "get_args":
        return _constants(package, node.args[0], module)
    if isinstance(node, ast.List | ast.Tuple):
        return [c for part in node.elts for c in _constants(package, part, module)]
    if isinstance(node, ast.Name) and (found := package.defined(node.id, module)):
        return _constants(package, *found)
    return []


# ------------------------------------------------------------------ one flag


def row(names: list[str], kind: str = "value", type: str = "str", choices: list[Any] | None = None) -> Row:
    """One flag; empty facts are left out."""
    long = [name for name in names if name.startswith("--")]
    short = [name for name in names if not name.startswith("--")]
    off = f"--no-{long[0][2:]}" if kind == "both" else None
    told = [str(choice) for choice in choices or () if choice is not None]
    facts = {
        "name": long[0],
        "aliases": [*long[1:], *short],
        "kind": "switch" if kind == "both" else kind,
        "type": type,
        "choices": told,
        "off": off,
    }
    return {key: value for key, value in facts.items() if value and (key, value) not in DEFAULTS}


DEFAULTS = (("type", "str"), ("kind", "value"))
# Of vLLM: "8k" and "auto" are read beside numbers.
HUMAN = (
    *("max_num_batched_tokens", "max_num_scheduled_tokens", "kv_cache_memory_bytes", "max_model_len"),
    *("safetensors_prefetch_block_size", "max_num_queued_tokens"),
)


def by_hints(field: str, hints: dict[str, Any]) -> Row:
    """kind, type and choices as vLLM's `get_kwargs` has them."""
    if "dataclass" in hints:
        return {"type": "json"}
    if hints.keys() == {"bool", "str", "None"}:
        return {"kind": "optional"}
    if "bool" in hints:
        return {"kind": "both"}
    if "Literal" in hints:
        return {} if "str" in hints else {"choices": hints["Literal"], **_of(hints["Literal"])}
    if "list" in hints:
        each = hints["list"] or {}
        return {"kind": "list", "choices": each.get("Literal", []), **_number(each)}
    if "int" in hints or "float" in hints:
        return {} if field in HUMAN else _number(hints)
    return {"type": "json"} if "dict" in hints and not hints.keys() & {"str", "other"} else {}


def _number(hints: dict[str, Any]) -> Row:
    """Text where text is taken too."""
    known = [name for name in ("int", "float") if name in hints and "str" not in hints]
    return {"type": known[0]} if known else {}


def _of(choices: list[Any]) -> Row:
    return {"type": "int"} if all(type(c) is int for c in choices) else {}


def by_keywords(package: Package, keywords: dict[str, ast.AST], module: str) -> Row:
    """What the words of `add_argument` say themselves."""
    facts: Row = {}
    if "action" in keywords:
        action = ast.unparse(keywords["action"]).strip("'\"").rpartition(".")[2]
        if action == "BooleanOptionalAction":
            facts["kind"] = "both"
        elif action in SWITCHES:
            facts["kind"] = "switch"
    if "nargs" in keywords:
        nargs = ast.literal_eval(keywords["nargs"])
        facts["kind"] = "optional" if nargs == "?" else "list"
    if "type" in keywords:
        facts["type"] = PLAIN.get(ast.unparse(keywords["type"]), "str")
    if "choices" in keywords:
        facts["choices"] = _constants(package, keywords["choices"], module)
    return facts


# ------------------------------------------------------------------ vLLM


def vllm_rows(package: Package) -> Iterator[Row]:
    """Of EngineArgs, AsyncEngineArgs, the front end's classes and its parser."""
    module = ARGUMENTS["vllm"]
    yield from _called(package, module, _config_classes(package, module))
    yield from _called(package, FRONT, {})
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for field, annotation in _fields(package, name, FRONT):
            facts = by_hints(field, hints_of(package, annotation, FRONT)) | OF_THE_FRONT.get(field, {})
            yield row([_flag(field)], **facts)


OF_THE_FRONT: dict[str, Row] = {  # what `_customize_cli_kwargs` changes
    "allowed_origins": {"kind": "value", "type": "json"},
    "allowed_methods": {"kind": "value", "type": "json"},
    "allowed_headers": {"kind": "value", "type": "json"},
    "default_chat_template_kwargs": {"type": "json"},
    "lora_modules": {"kind": "list", "type": "str"},
    "middleware": {"kind": "value"},
}


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _config_classes(package: Package, module: str) -> dict[str, str]:
    """model_kwargs -> ModelConfig, where `model_kwargs = get_kwargs(ModelConfig)`."""
    tree = package.tree(module)
    assert tree is not None
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call))
    return {
        n.targets[0].id: n.value.args[0].id  # type: ignore[attr-defined]
        for n in calls
        if ast.unparse(n.value.func) == "get_kwargs" and isinstance(n.value.args[0], ast.Name)  # type: ignore[attr-defined]
    }


def _called(package: Package, module: str, classes: dict[str, str]) -> Iterator[Row]:
    """Each `add_argument` that names its flag."""
    tree = package.tree(module)
    assert tree is not None
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        names = [a.value for a in call.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")]
        if getattr(call.func, "attr", "") != "add_argument" or not names or names == ["-"]:
            continue
        keywords: dict[str, ast.AST] = {k.arg: k.value for k in call.keywords if k.arg}
        facts: Row = {}
        for star in (k.value for k in call.keywords if k.arg is None):
            base, more = _starred(star)
            keywords |= more
            if base and base[0] in classes:
                annotation, where = _annotation(package, classes[base[0]], base[1], module)
                facts |= by_hints(base[1], hints_of(package, annotation, where))
        yield row(names, **(facts | by_keywords(package, keywords, module)))


def _starred(node: ast.AST) -> tuple[tuple[str, str] | None, dict[str, ast.AST]]:
    """Of `**kwargs["field"]` or `**{**kwargs["field"], "word": value}`: (kwargs, field), and the words."""
    if isinstance(node, ast.Dict):
        words = {
            k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)
        }
        inner = [v for k, v in zip(node.keys, node.values, strict=True) if k is None]
        return (_starred(inner[0])[0] if inner else None), words
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return (node.value.id, ast.literal_eval(node.slice)), {}
    return None, {}


def _annotation(package: Package, name: str, field: str, module: str) -> tuple[ast.AST | None, str]:
    found = package.defined(name, module)
    assert found is not None, name
    node, where = found
    assert isinstance(node, ast.ClassDef)
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == field:
            return part.annotation, where
    for base in node.bases:
        if isinstance(base, ast.Name) and package.defined(base.id, where):
            annotation, source = _annotation(package, base.id, field, where)
            if annotation is not None:
                return annotation, source
    return None, where


def _fields(package: Package, name: str, module: str) -> Iterator[tuple[str, ast.AST]]:
    found = package.defined(name, module)
    assert found and isinstance(found[0], ast.ClassDef), name
    for part in found[0].body:
        if isinstance(part, ast.AnnAssign):
            yield ast.unparse(part.target), part.annotation


# ------------------------------------------------------------------ SGLang


def sglang_rows(package: Package) -> Iterator[Row]:
    """Of the classes of fields, `name: A[type, Arg(...)]`, and what its parser adds."""
    for module in package.under(FIELDS):
        tree = package.tree(module)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.AnnAssign) and (told := _field(package, node, module)):
                yield told
    yield from _called(package, ARGUMENTS["sglang"], {})


def _field(package: Package, node: ast.AnnAssign, module: str) -> Row | None:
    annotation = node.annotation
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) not in ("A", "Annotated"):
        return None
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else []
    arg = next((p for p in parts[1:] if isinstance(p, ast.Call) and ast.unparse(p.func) == "Arg"), None)
    words = {k.arg: k.value for k in arg.keywords if k.arg} if arg else {}
    if (arg is None and not any(_is_text(p) for p in parts[1:])) or "no_cli" in words:
        return None
    names = [
        _flag(ast.unparse(node.target)),
        *_constants(package, words.get("aliases", ast.List([])), module),
    ]
    if "cli_name" in words:
        names[0] = ast.literal_eval(words["cli_name"])
    hints = hints_of(package, parts[0], module)
    facts = _sglang_type(hints)
    renamed = {"type": words["type_parser"]} if "type_parser" in words else {}
    if "type_parser" in words:
        facts = {}
    return row(names, **(facts | by_keywords(package, words | renamed, module)))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr | ast.BinOp) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _sglang_type(hints: dict[str, Any]) -> Row:
    if "Literal" in hints:
        return {"choices": hints["Literal"], **_of(hints["Literal"])}
    if "list" in hints:
        return {"kind": "list", **_number(hints["list"] or {})}
    return {"kind": "switch"} if "bool" in hints else _number(hints)


# ------------------------------------------------------------------ the file

ROWS: dict[str, Callable[[Package], Iterator[Row]]] = {"vllm": vllm_rows, "sglang": sglang_rows}


def read(engine: str, place: Path) -> dict[str, Any]:
    """Version, source and flags of one engine, one row a flag."""
    package = Package(place)
    rows = {told["name"]: told for told in ROWS[engine](package)}
    flags = sorted(rows.values(), key=lambda told: told["name"])
    return {"version": package.version(engine), "source": ARGUMENTS[engine], "flags": flags}


def written(document: dict[str, Any]) -> str:
    """One flag a line."""
    parts = []
    for engine, part in sorted(document.items()):
        rows = ",\n".join("   " + json.dumps(told) for told in part["flags"])
        head = f'"version": {json.dumps(part["version"])}, "source": {json.dumps(part["source"])}'
        parts.append(f' "{engine}": {{{head}, "flags": [\n{rows}\n ]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", metavar="FOLDER_OR_WHEEL", type=Path)
    parser.add_argument("--sglang", metavar="FOLDER_OR_WHEEL", type=Path)
    options = parser.parse_args()
    document = json.loads(FILE.read_text()) if FILE.exists() else {}
    for engine in ROWS:
        if place := getattr(options, engine):
            document[engine] = read(engine, place)
            told = document[engine]
            print(f"{engine} {told['version']}: {len(told['flags'])} flags", file=sys.stderr)
    FILE.write_text(written(document))


if __name__ == "__main__":
    main()
