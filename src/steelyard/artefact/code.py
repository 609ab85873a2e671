"""What code makes a step's bytes: a hash of every room it runs through, and the versions of its engines.

Both follow from the imports, read with `ast` from the door that the step enters: nobody keeps a list or
raises a number. A room is hashed whole, data files too, so a change of form alone costs a new run of the
step; a result of other code is never taken for one of this code.

Not here: settings and inputs of a step (store.key_of).
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import Lacking
from ..places import cache_folder
from .files import write_durably

PACKAGE = Path(__file__).resolve().parents[1]
# Import names that are not the name of the distribution; a test holds that no other is missing.
DISTRIBUTIONS = {
    "ruamel": "ruamel.yaml",
    "multipart": "python-multipart",
    "opentelemetry": "opentelemetry-api",
    "docx": "python-docx",
    "markdown_it": "markdown-it-py",
    "PIL": "pillow",
    "pkcs11": "python-pkcs11",
}
# What a package loads without an import that we could read: its native plug-ins.
BRINGS = {"openvino_genai": ("openvino", "openvino_tokenizers")}


def code_of(*calls: str, root: Path = PACKAGE) -> dict[str, Any]:
    """{"rooms": {room: SHA-256}, "engines": {package: version}} of what the calls run through.

    A call is "room:name" (a name that the room's door gives out) or "room.floor", a folder or file of a room
    that is entered, and hashed, without the rest of the room. `root` is the folder of the package. Raises
    KeyError for a call that the package does not have, Lacking where its files changed since this process
    first looked: what runs by now is neither the old code nor the new.
    """
    if _stamps(root) != _stamps_of(root):
        raise Lacking(
            "steelyard.changed",
            "steelyard itself was changed while it ran",
            why=f"a file under {root} is not the one that this process began with",
            hint="run the same command again: steps that are done are kept where their code is the same",
        )
    modules, packages = _remembered(root, calls)
    alone = tuple(call for call in calls if ":" not in call)
    units = sorted({_unit(module, alone) for module in modules} - {""})
    return {
        "rooms": {unit: room_hash(root, unit) for unit in units},
        "engines": {name: _version(name) for name in packages} | {"python": platform.python_version()},
    }


def _unit(module: str, alone: tuple[str, ...]) -> str:
    """What is hashed for a module: the folder or file that was entered alone, else its whole room."""
    return next((a for a in alone if module == a or module.startswith(f"{a}.")), module.split(".")[0])


@cache
def _stamps(root: Path) -> dict[str, tuple[int, int]]:
    """What `_stamps_of` gave at first."""
    return _stamps_of(root)


def _stamps_of(root: Path) -> dict[str, tuple[int, int]]:
    """Time and size of every file of the package, what Python compiled left out: 500 files take 5 ms."""
    stamps = {}
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if name != "__pycache__"]
        for name in files:
            path = os.path.join(folder, name)
            stat = os.stat(path)
            stamps[path] = stat.st_mtime_ns, stat.st_size
    return stamps


@cache
def room_hash(root: Path, room: str) -> str:
    """SHA-256 over path and bytes of every file of a room, what Python compiled left out."""
    folder = root / room.replace(".", "/")
    files = (
        [folder.with_suffix(".py")] if not folder.is_dir() else [f for f in folder.rglob("*") if f.is_file()]
    )
    digest = hashlib.sha256()
    for file in sorted(f for f in files if "__pycache__" not in f.parts):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\t{len(data)}\n".encode() + data)
    return digest.hexdigest()


@cache
def modules_of(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; the package itself is ""."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


# ------------------------------------------------------------------ what is reached


@cache
def _remembered(root: Path, calls: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(modules, outside packages) that the calls reach; kept in the cache, for reading takes a second."""
    whole = [room_hash(root, room) for room in sorted({m.split(".")[0] for m in modules_of(root)} - {""})]
    name = hashlib.sha256(json.dumps([root.name, calls, whole]).encode()).hexdigest()[:32]
    path = cache_folder() / "code" / f"{name}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        cached = json.loads(path.read_text(encoding="utf-8"))
        return tuple(cached["modules"]), tuple(cached["packages"])
    modules = sorted(_reached(root, calls))
    packages = {name for module in modules for name in _imports(root, module)[1]}
    packages |= {brought for name in packages for brought in BRINGS.get(name, ())}
    with suppress(OSError):  # a read-only home costs a second, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps({"modules": modules, "packages": sorted(packages)}).encode())
    return tuple(modules), tuple(sorted(packages))


def _reached(root: Path, calls: tuple[str, ...]) -> set[str]:
    """Modules that the calls may run, by the imports of what they enter."""
    left = [module for call in calls for module in _entry(root, call)]
    reached: set[str] = set()
    while left:
        module = left.pop()
        if module not in reached:
            reached.add(module)
            left += _imports(root, module)[0] - reached
    return reached


def _entry(root: Path, call: str) -> Iterable[str]:
    room, _, name = call.partition(":")
    if room not in modules_of(root) and not (root / room.replace(".", "/")).is_dir():
        raise KeyError(f"the package has no {room}")
    return _targets(root, room, name) if name else _whole(root, room)


@cache
def _imports(root: Path, module: str) -> tuple[frozenset[str], frozenset[str]]:
    """(modules of the package, outside packages) that a module may load, now or later."""
    read = _read(root, module)
    inside = {target for base, name in read.froms for target in _targets(root, base, name)}
    inside |= {target for dotted in read.whole for target in _whole(root, dotted)}
    inside |= {name for name in read.named if name in modules_of(root)}
    return frozenset(inside - {module}), read.outside


def _targets(root: Path, base: str, name: str) -> Iterable[str]:
    """The modules behind `from base import name`: a file, what a door fetches from one, or all of a room."""
    modules = modules_of(root)
    dotted = f"{base}.{name}" if base else name
    fetched = _read(root, base).fetched if _is_door(root, base) else {}
    if name in fetched:
        return {base, *_targets(root, fetched[name], name)} if fetched[name] in modules else {base}
    if dotted in modules:
        return _whole(root, dotted)
    unclear = base and _is_door(root, base) and name not in _read(root, base).own
    return _whole(root, base) if unclear else {base}


@cache
def _whole(root: Path, module: str) -> frozenset[str]:
    """A module; of a folder all of it, where nothing says which part is meant."""
    members = {m for m in modules_of(root) if m == module or m.startswith(f"{module}.")}
    return frozenset(members or {""})


def _is_door(root: Path, module: str) -> bool:
    return module in modules_of(root) and modules_of(root)[module].name == "__init__.py"


# ------------------------------------------------------------------ reading one module


@dataclass(frozen=True, slots=True)
class _Module:
    """What is kept of a module's text: its tree would be a hundred times as large."""

    froms: tuple[tuple[str, str], ...]  # (module of the package, name) of what can run
    whole: tuple[str, ...]  # modules imported without a name
    named: tuple[str, ...]  # modules that a string names, as in `python -m`
    outside: frozenset[str]  # packages
    fetched: Mapping[str, str]  # names that it gives out, with the file each is from, now or later
    own: frozenset[str]  # names that it binds itself


@cache
def _read(root: Path, module: str) -> _Module:
    tree = ast.parse(modules_of(root)[module].read_bytes(), filename=module)
    package = module if _is_door(root, module) else module.rpartition(".")[0]
    froms, whole, named, outside = [], [], [], set()
    for node in _running(tree):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(root, package, node)
            if base is None:
                outside.add((node.module or "").split(".")[0])
            else:
                froms += [(base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            for first, _, rest in (alias.name.partition(".") for alias in node.names):
                whole += [rest] if first == root.name else []
                outside |= set() if first == root.name else {first}
        else:
            named += _named(root, package, node)
    packages = frozenset(outside - sys.stdlib_module_names - {""})
    return _Module(
        tuple(froms), tuple(whole), tuple(named), packages, _fetched(root, package, tree), _own(tree)
    )


def _fetched(root: Path, package: str, tree: ast.Module) -> dict[str, str]:
    """Under TYPE_CHECKING too: there a lazy door says what comes from where."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            source = _absolute(root, package, node)
            if source is not None and source != package:
                names |= {alias.asname or alias.name: source for alias in node.names}
    return names


def _own(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return frozenset(names)


def _named(root: Path, package: str, node: ast.AST) -> list[str]:
    """A module that a string names: "steelyard.run.child.worker", f"{__package__}.front"."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        first, _, rest = node.value.partition(".")
        return [rest] if first == root.name and rest else []
    if isinstance(node, ast.JoinedStr) and len(node.values) == 2:
        here, tail = node.values
        own = isinstance(here, ast.FormattedValue) and getattr(here.value, "id", "") == "__package__"
        if own and isinstance(tail, ast.Constant):
            return [package + str(tail.value)]
    return []


def _running(tree: ast.Module) -> Iterator[ast.AST]:
    """Imports and strings that can run: what stands under TYPE_CHECKING cannot."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.ImportFrom | ast.Import | ast.Constant | ast.JoinedStr):
            yield node
        elif not (isinstance(node, ast.If) and _is_typing(node.test)):
            left += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]


def _is_typing(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _absolute(root: Path, package: str, node: ast.ImportFrom) -> str | None:
    """Dotted name inside the package that `from X` means; None = outside."""
    if node.level == 0:
        first, _, rest = (node.module or "").partition(".")
        return rest if first == root.name else None
    parts = [p for p in package.split(".") if p]
    parts = parts[: len(parts) - (node.level - 1)] + (node.module.split(".") if node.module else [])
    return ".".join(parts)


@cache
def _version(package: str) -> str:
    """Of an installed package by its import name; "none" where it is not here."""
    name = DISTRIBUTIONS.get(package, package.replace("_", "-"))
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
