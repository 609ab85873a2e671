"""Which code this is: one hash over steelyard's own files, equal for checkout, wheel and installation.

    SHA-256 of the sorted lines path TAB bytes TAB SHA-256 NEWLINE, paths from the package's folder on

Caches of compiled code and dot files (of editors and file managers) are left out. What it needs of others is
in its bill of material and, in a trust domain, in the measurement.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from ...errors import Where, WrongUse
from .release import Release

PACKAGE = "steelyard"
HERE = Path(__file__).resolve().parents[2]
GIT_S = 10.0


def release_here(artefact: str | None = None) -> Release:
    """Of the code that runs, serving `artefact`."""
    try:
        installed: Distribution | None = distribution(PACKAGE)
    except PackageNotFoundError:
        installed = None
    return Release(
        version=installed.version if installed else "unknown",
        code_sha256=code_sha256(HERE),
        revision=revision_of(HERE, installed),
        artefact=artefact,
    )


def code_sha256(source: Path) -> str:
    """Of a checkout, the package's folder, a folder that holds it, or a wheel. Raises WrongUse."""
    lines = sorted(
        f"{path}\t{len(data)}\t{hashlib.sha256(data).hexdigest()}\n" for path, data in files_of(source)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def files_of(source: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if source.is_file():
            yield from of_wheel(source)
            return
        folder = folder_of(source)
        for path in package_files(folder):
            yield path.relative_to(folder).as_posix(), path.read_bytes()
    except (OSError, BadZipFile) as e:
        raise no_code(source, str(e)) from e


def package_files(folder: Path = HERE) -> list[Path]:
    """The files that are steelyard's, of its folder in a checkout or an installation, in order."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and is_ours(path.relative_to(folder).parts)
    )


def folder_of(source: Path) -> Path:
    for folder in (source / "src" / PACKAGE, source / PACKAGE, source):
        if folder.name == PACKAGE and (folder / "__init__.py").is_file():
            return folder
    raise no_code(source, f"it has no folder {PACKAGE}")


def of_wheel(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{PACKAGE}/") and name[-1] != "/"]
        if f"{PACKAGE}/__init__.py" not in names:
            raise no_code(wheel, f"it has no folder {PACKAGE}")
        for name in names:
            path = PurePosixPath(name).relative_to(PACKAGE)
            if is_ours(path.parts):
                yield path.as_posix(), archive.read(name)


def is_ours(parts: tuple[str, ...]) -> bool:
    return "__pycache__" not in parts and not any(part.startswith(".") for part in parts)


def revision_of(package: Path, installed: Distribution | None = None) -> str | None:
    """Of the source: the one that pip fetched, or a checkout in which no file of the package was changed."""
    root = package.parents[1] if len(package.parents) > 1 else package
    if (root / ".git").exists() and (found := clean_head(root, package)):
        return found
    return commit_fetched(installed) if installed else None


def commit_fetched(installed: Distribution) -> str | None:
    """By pip's direct_url.json (PEP 610); None where it is missing, of another source, or damaged."""
    try:
        commit = json.loads(installed.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return commit if isinstance(commit, str) else None


def clean_head(root: Path, package: Path) -> str | None:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_S, check=True
        )
        return done.stdout.strip()

    try:
        return None if git("status", "--porcelain", "--", str(package)) else git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None


def no_code(source: Path, why: str) -> WrongUse:
    return WrongUse(
        "attest.no_code",
        f"{source} holds no code of steelyard",
        where=Where(str(source)),
        why=why,
        hint="a checkout, a wheel, or the folder steelyard of an installation",
    )
