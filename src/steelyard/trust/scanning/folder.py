"""A folder's files and links, each judged; the verdicts cached by what the files are on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ...errors import CheckFailed, Problem, Where
from ...places import cache_folder
from ..audit import audit
from ..disk import atomic, write_all


@dataclass(frozen=True, slots=True)
class Finding:
    """One file or link. `path` is relative to the scanned folder; `verdict` safe, unsafe or unknown."""

    path: str
    verdict: str
    reasons: tuple[str, ...] = ()


Verdict = tuple[str, tuple[str, ...]]
SAFE: Verdict = ("safe", ())


def scan(path: Path) -> list[Finding]:
    """One finding for each file and link under `path` (or for the one file), sorted by path."""
    root = path if path.is_dir() else path.parent
    findings = [
        Finding(file.relative_to(root).as_posix(), *judge_place(file, root)) for file in files_of(path)
    ]
    return sorted(findings, key=lambda f: f.path)


def files_of(path: Path) -> Iterator[Path]:
    """Files and links; links to folders are not followed."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in files + links)


def judge_place(file: Path, root: Path) -> Verdict:
    try:
        return _judge_link(file, root) or _judge_file(file)
    except OSError as e:
        return "unknown", (f"unreadable: {e.strerror}",)
    except RuntimeError:  # a ring of links
        return "unsafe", ("link_ring",)


def _judge_link(file: Path, root: Path) -> Verdict | None:
    """None where it is a file in the folder, directly or through a link."""
    if file.is_symlink():
        target = file.resolve()
        if not target.is_relative_to(root.resolve()):
            return "unsafe", ("link_outside",)
        if target.is_dir() or not target.exists():
            return SAFE if target.is_dir() else ("unknown", ("link_broken",))
    return None if file.is_file() else ("unsafe", ("not_a_file",))


def _judge_file(file: Path) -> Verdict:
    from .judge import File, judge  # a verdict that is looked up needs no rule
    from .limits import Bad, Limits, TooMuch
    from .view import Cut, View

    with open(file, "rb") as opened:
        view = View(opened)
        try:
            judge(File(view, file.name, Limits(view.size)))
        except Bad as e:
            return "unsafe", (str(e),)
        except TooMuch as e:
            return "unknown", (str(e),)
        except (Cut, MemoryError, RecursionError) as e:
            return "unknown", (f"unreadable: {type(e).__name__}",)
    return SAFE


# ------------------------------------------------------------------ before a load


def check_scanned(path: Path) -> None:
    """Raises CheckFailed where a file of `path` is unsafe. Judged once; asked again, only looked up.

    `.git` is no part of what is loaded.
    """
    files = sorted(file for file in files_of(path) if ".git" not in os.path.relpath(file, path).split(os.sep))
    findings = _cached(path, files)
    unsafe = next((f for f in findings if f.verdict == "unsafe"), None)
    if unsafe is None:
        return
    _note_refused(path, unsafe)
    raise CheckFailed(
        "scan.unsafe", f"{unsafe.path} is unsafe: {', '.join(unsafe.reasons)}",
        where=Where(str(path / unsafe.path if path.is_dir() else path)),
        hint="do not use this model, or take that file out of its folder; steelyard scan lists all",
    )  # fmt: skip


def _note_refused(path: Path, unsafe: Finding) -> None:
    """A log that cannot be written is no reason to let it pass."""
    with suppress(OSError), open(path / unsafe.path if path.is_dir() else path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        audit("scan.refused", artefact=digest, outcome="refused", file=unsafe.path)


def _cached(path: Path, files: list[Path]) -> list[Finding]:
    root = path if path.is_dir() else path.parent
    place = cache_folder() / "scans" / f"{_state(root, files)}.json"
    with suppress(OSError, ValueError, TypeError):
        return [Finding(f["path"], f["verdict"], tuple(f["reasons"])) for f in json.loads(place.read_bytes())]
    findings = [Finding(file.relative_to(root).as_posix(), *judge_place(file, root)) for file in files]
    with suppress(OSError, Problem):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic(place) as file:
            write_all(file, json.dumps([asdict(f) for f in findings]).encode())
    return findings


def _state(root: Path, files: list[Path]) -> str:
    """Hash of the rules and of what the disk says of each file: a changed byte changes its ctime.

    The folder's own place is no part of it, so what was judged when it was fetched is not judged again; of a
    link it is, since where that leads depends on it.
    """
    digest = hashlib.sha256(_rules())
    for file in files:
        followed = file.is_symlink()
        digest.update(os.fsencode(file.resolve() if followed else os.path.relpath(file, root)))
        for seen in (file.lstat(), file.stat() if followed and file.exists() else file.lstat()):
            parts = (seen.st_dev, seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            digest.update(repr(parts).encode())
        if followed:
            digest.update(os.fsencode(root.resolve()))
    return digest.hexdigest()


@cache
def _rules() -> bytes:
    """Hash of this floor's source: a new rule judges anew."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()
