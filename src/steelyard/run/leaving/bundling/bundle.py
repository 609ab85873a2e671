"""`bundle`: an archive that installs without a network, written as a draft and renamed once it is whole.

    NAME/install.py        standard library alone
    NAME/requirements.txt  each wheel by version and SHA-256
    NAME/wheels/*.whl      what is installed here, in its versions, and steelyard as it runs here
    NAME/model/            a Hugging Face folder or a GGUF file
    NAME/recipe/           as it was written; with "data" its rows at their places
    NAME/bundle.json       last, so that a cut archive has none: what it is for, the SHA-256 of every file

Not here: which model is meant (../source.py), the wheels (wheels.py), what runs there (install.py).
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import platform
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ....artefact import Watch
from ....data import Source, needed_files
from ....errors import CheckFailed, Lacking, Where, WrongUse, writing_in
from ....model import resolve
from ....recipe import Recipe, load
from ....trust import atomic, write_all
from ....units import show_bytes
from ...record.acts import written
from ..export import NOT_MODEL
from ..source import check_passed, named_model
from . import install
from .wheels import fetch, installed_bytes, least_glibc, pins, requirements

INSTALL = Path(install.__file__)
# What --with may name; "data" is no package, the recipe's rows.
EXTRAS = {"train": "cpu", "documents": "documents", "llamacpp": "llamacpp", "otel": "otel", "data": None}
PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOrder:
    """What is asked for. `name`: a recipe, or what `export` takes; `more`: words of EXTRAS."""

    name: str
    out: Path
    more: tuple[str, ...] = ()
    unproven: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the archive will hold, before it is written; wheels are smaller than what they install."""

    wheels: int
    installed_bytes: int
    model_bytes: int
    recipe_bytes: int

    @property
    def most_bytes(self) -> int:
        """Of the archive."""
        return self.installed_bytes + self.model_bytes + self.recipe_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """The archive as it is on disk."""

    file: str
    sha256: str
    bytes: int
    wheels: int
    python: str
    system: str
    machine: str
    glibc: str | None
    sizes: Sizes

    def as_json(self) -> dict[str, Any]:
        return {"schema": install.SCHEMA} | asdict(self)


@dataclass(frozen=True, slots=True)
class _Contents:
    """Files by their place in the archive; where the model and the recipe lie there."""

    files: Mapping[str, Path]
    model: str
    recipe: str | None = None
    hash: str = field(default="")

    def bytes_in(self, top: str) -> int:
        return sum(p.stat().st_size for name, p in self.files.items() if name.split("/")[0] == top)


def bundle(order: BundleOrder, watch: Watch, before: Callable[[Sizes], None] = lambda sizes: None) -> Bundled:
    """Write the archive; `before` is told of the sizes first.

    Raises WrongUse, CheckFailed for a model that did not pass, Lacking where a wheel or room is missing.
    """
    _check_order(order)
    with _contents(order) as contents, writing_in(order.out.parent):
        versions = pins(sorted(extra for word in {"serve", *order.more} if (extra := EXTRAS.get(word, word))))
        sizes = Sizes(
            wheels=len(versions) + 1, installed_bytes=installed_bytes(versions),
            model_bytes=contents.bytes_in("model"), recipe_bytes=contents.bytes_in("recipe"),
        )  # fmt: skip
        before(sizes)
        _check_room(order.out.parent, sizes)
        with tempfile.TemporaryDirectory(dir=order.out.parent, prefix=f".{order.out.name}.") as scratch:
            wheels = Path(scratch) / "wheels"
            wheels.mkdir()
            watch.log("bundle.wheels", wheels=sizes.wheels)
            fetched = fetch(versions, wheels)
            glibc = least_glibc(fetched)
            (Path(scratch) / "requirements.txt").write_text(requirements(fetched))
            files = {"install.py": INSTALL, "requirements.txt": Path(scratch) / "requirements.txt"}
            files |= {f"wheels/{wheel.name}": wheel for wheel in fetched} | dict(contents.files)
            about = _about(contents, glibc)
            watch.log("bundle.packing", files=len(files))
            sha256, size = _packed(order.out, files, about)
        written(watch, "model.exported", artefact=contents.hash or None, to="bundle", bytes=size)
        return Bundled(
            file=str(order.out), sha256=sha256, bytes=size, wheels=sizes.wheels, python=about["python"],
            system=about["system"], machine=about["machine"], glibc=glibc, sizes=sizes,
        )  # fmt: skip


def _check_order(order: BundleOrder) -> None:
    for word in order.more:
        if word not in EXTRAS:
            raise WrongUse(
                "cli.usage", f"no {word!r} to bundle", where=Where(field="--with"), hint=" | ".join(EXTRAS)
            )
    if order.out.suffix != ".tar":
        text = f"{order.out.name} is no name of a bundle"
        raise WrongUse("cli.usage", text, where=Where(field="--output"), hint="--output NAME.tar")
    if order.out.exists():
        hint = "name a file that is not there yet"
        raise WrongUse(
            "bundle.exists", f"{order.out} is there already", where=Where(str(order.out)), hint=hint
        )
    if not order.out.absolute().parent.is_dir():
        hint = "make the folder, or name another"
        text = f"there is no folder {order.out.parent}"
        raise WrongUse("bundle.no_folder", text, where=Where(str(order.out)), hint=hint)


def _check_room(folder: Path, sizes: Sizes) -> None:
    """The wheels lie beside the archive while it is packed."""
    needed, free = sizes.most_bytes + sizes.installed_bytes, shutil.disk_usage(folder).free
    if needed > free:
        text = f"the bundle may take {show_bytes(needed)} while it is made, {show_bytes(free)} are free"
        hint = "free space, or --output on another disk"
        raise Lacking("bundle.disk", text, where=Where(str(folder)), hint=hint)


# ------------------------------------------------------------------ what goes in


@contextmanager
def _contents(order: BundleOrder) -> Iterator[_Contents]:
    """The files of the model, and of the recipe where one is named."""
    if Path(order.name).suffix.lower() not in (".yaml", ".yml"):
        if "data" in order.more:
            text = "rows belong to a recipe, and a model was named"
            raise WrongUse("cli.usage", text, where=Where(field="--with"), hint="steelyard bundle RECIPE")
        with _model_files(order.name, ".", order.unproven) as (files, model, digest):
            yield _Contents(files, model, None, digest)
        return
    recipe = load(Path(order.name))
    _check_recipe(recipe, order)
    with _model_files(recipe.model, recipe.root, order.unproven) as (files, model, digest):
        rows = _rows(recipe) if "data" in order.more else {}
        place = f"recipe/{recipe.path.name}"
        yield _Contents({**files, place: recipe.path.resolve(), **rows}, model, place, digest)


def _check_recipe(recipe: Recipe, order: BundleOrder) -> None:
    where = Where(str(recipe.path), field="model")
    if recipe.model == "auto":
        text = "model: auto is chosen where it is trained, and a bundle holds one model"
        raise WrongUse("bundle.auto", text, where=where, hint="name one: model: demo")
    if recipe.train and "train" not in order.more:
        text = "the recipe trains, and a bundle for serving has no torch"
        hint = "--with train; or bundle the trained model: steelyard bundle RUN"
        raise WrongUse("bundle.no_train", text, where=Where(str(recipe.path), field="train"), hint=hint)


@contextmanager
def _model_files(name: str, root: Path | str, unproven: bool) -> Iterator[tuple[dict[str, Path], str, str]]:
    """{place in the archive: file}, the model's place there, its hash where it is an artefact."""
    gguf = _gguf(name, root)
    if gguf is not None:
        yield {f"model/{gguf.name}": gguf}, f"model/{gguf.name}", ""
        return
    beside = Path(root) / name
    with _plain(str(beside) if beside.exists() else name) as model:
        if (
            model.checkpoint
        ):  # what was tuned here must have passed; a folder from elsewhere nobody has judged
            check_passed(model, unproven)
        files = {
            f"model/{path.relative_to(model.folder).as_posix()}": path for path in _of_model(model.folder)
        }
        yield files, "model", model.checkpoint.hash if model.checkpoint else ""


def _gguf(name: str, root: Path | str) -> Path | None:
    """The file, where a GGUF file is meant: it goes as it is."""
    if name != "demo" and not (Path(root) / name).expanduser().is_file():
        return None
    source = resolve(name, root)
    return source.path if source.kind == "gguf" else None


@contextmanager
def _plain(name: str) -> Iterator[Any]:
    try:
        with named_model(name) as model:
            yield model
    except WrongUse as error:
        if error.code != "export.key":
            raise
        hint = "steelyard export RUN --to hf --key-file FILE --output DIR writes it plain; bundle DIR"
        text = f"{error.message}, and a bundle is not: it would lie open on the way"
        raise WrongUse("bundle.sealed", text, where=error.where, hint=hint) from error


def _of_model(folder: Path) -> list[Path]:
    def is_ours(path: Path) -> bool:
        top = path.relative_to(folder).parts
        return not any(fnmatch.fnmatch(part, pattern) for part in top for pattern in NOT_MODEL)

    return sorted(path for path in folder.rglob("*") if path.is_file() and is_ours(path))


def _rows(recipe: Recipe) -> dict[str, Path]:
    """Files of `data` and of the gate's tests, at their places from the recipe on."""
    named = [source.path for source in recipe.data]
    named += [gate.eval for gate in recipe.gate.abilities.values() if gate.eval]
    found = [file for text in dict.fromkeys(named) for file in _files_of(text, recipe)]
    return {f"recipe/{file.relative_to(recipe.root).as_posix()}": file for file in found}


def _files_of(text: str, recipe: Recipe) -> list[Path]:
    """What this source reads, and nothing that lies beside it."""
    where = Where(str(recipe.path), field="data")
    if "://" in text:
        hint = "copy the rows beside the recipe and name them there, or leave --with data out"
        raise WrongUse("bundle.remote", f"{text} lies on a network", where=where, hint=hint)
    if Path(text).expanduser().is_absolute() or ".." in Path(text).parts:
        hint = "copy the rows below the recipe's folder, or leave --with data out"
        raise WrongUse("bundle.outside", f"{text} lies outside the recipe's folder", where=where, hint=hint)
    found = needed_files(Source(path=text), recipe.root)
    if missing := [path for path in found if not path.is_file()]:
        hint = "check the path; `steelyard validate` looks at every source"
        raise WrongUse("bundle.no_rows", f"there is no {missing[0]}", where=where, hint=hint)
    return found


# ------------------------------------------------------------------ packed


def _about(contents: _Contents, glibc: str | None) -> dict[str, Any]:
    return {
        "schema": install.SCHEMA,
        "steelyard": version("steelyard"),
        "python": ".".join(map(str, sys.version_info[:2])),
        "system": sys.platform,
        "machine": platform.machine(),
        "glibc": glibc,
        "model": contents.model.split("/"),
        "recipe": contents.recipe.split("/") if contents.recipe else None,
    }


def _packed(out: Path, files: Mapping[str, Path], about: Mapping[str, Any]) -> tuple[str, int]:
    """SHA-256 and bytes of the archive. Nothing but the files and their names is in it: no owner, no time."""
    sums: dict[str, str] = {}
    with atomic(out, 0o644) as file:
        sink = _Hashing(file)
        kept: Any = sink  # tarfile asks for no more of it than `write`
        with tarfile.open(fileobj=kept, mode="w|", bufsize=PIECE, format=tarfile.PAX_FORMAT) as archive:
            for name, path in files.items():
                sums[name] = _add(archive, f"{out.stem}/{name}", path)
            text = json.dumps({**about, "files": sums}, indent=1, sort_keys=True).encode()
            entry = _entry(f"{out.stem}/bundle.json", len(text))
            archive.addfile(entry, io.BytesIO(text))
    return sink.digest.hexdigest(), sink.size


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str:
    with path.open("rb") as source:
        reading = _Hashing(source)
        archive.addfile(_entry(name, path.stat().st_size, 0o755 if path == INSTALL else 0o644), reading)
    return reading.digest.hexdigest()


def _entry(name: str, size: int, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry


class _Hashing:
    """A file whose bytes are counted and hashed on their way."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def _passed(self, data: bytes) -> bytes:
        self.digest.update(data)
        self.size += len(data)
        return data

    def read(self, size: int = -1) -> bytes:
        return self._passed(self.file.read(size))

    def write(self, data: bytes) -> int:
        write_all(self.file, self._passed(data))
        return len(data)


# ------------------------------------------------------------------ looked at


def check_bundle(file: Path) -> dict[str, Any]:
    """What an archive says of itself, every file compared. Raises CheckFailed for one that is not whole."""
    if not file.is_file():
        hint = "name the archive that `steelyard bundle` wrote"
        raise WrongUse("bundle.none", f"there is no {file}", where=Where(str(file)), hint=hint)
    try:
        with tarfile.open(file, "r:") as archive:
            about, sums = _read(file, archive)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _damaged(file, f"it is cut short, or no archive: {error}") from error
    wanted = about.pop("files")
    for name in sorted({*wanted, *sums}):
        if wanted.get(name) != sums.get(name):
            raise _damaged(file, f"{name} is missing, was added or was changed")
    return about | {"file": str(file), "files": len(sums)}


def _read(file: Path, archive: tarfile.TarFile) -> tuple[dict[str, Any], dict[str, str]]:
    """bundle.json, its fields checked, and the SHA-256 of every other file."""
    sums: dict[str, str] = {}
    about: dict[str, Any] = {}
    tops: set[str] = set()
    for member in archive:
        top, _, name = member.name.partition("/")
        tops.add(top)
        if not install.is_plain(f"{top}/{name}") or len(tops) > 1:
            raise _damaged(file, f"{member.name} leads out of its one folder")
        source = archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if source is None or name in sums or about:
            raise _damaged(file, f"{member.name} is no plain file, is there twice, or after bundle.json")
        if name != "bundle.json":
            sums[name] = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
            continue
        about, fault = install.read_about(source)
        if fault:
            raise _damaged(file, f"its bundle.json is of another version, or damaged: {fault}")
    if not about:
        raise _damaged(file, "it has no bundle.json, which comes last")
    return about, sums


def _damaged(file: Path, why: str) -> CheckFailed:
    text = f"{file.name} is not the bundle that was written"
    hint = "copy it again; its SHA-256 must be the one that was printed"
    return CheckFailed("bundle.damaged", text, where=Where(str(file)), why=why, hint=hint)
