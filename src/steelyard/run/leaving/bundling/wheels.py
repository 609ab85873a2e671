"""The wheels of what is installed here, each in its version, and steelyard's own.

steelyard's wheel is packed from the files that run, so that a checkout and an installed copy are alike; the
others come from pip (its cache, or the index that it is set to).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Collection, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from ....artefact import sha256_of
from ....errors import Lacking
from ....trust import package_files, parts

PACKAGE = Path(__file__).resolve().parents[3]
GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_")
OLD_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


def pins(extras: Collection[str]) -> dict[str, str]:
    """{name: version} of pip and of all that steelyard needs with these extras, itself left out.

    Raises Lacking where something of an extra is not installed here: nobody has tried its version.
    """
    own = _own()
    missing = sorted(name for name in _asked(own, extras) if not _is_installed(name))
    if missing:
        text = f"{missing[0]} is not installed here, so its version is not known"
        install = f"pip install -c constraints.txt '.[{','.join(extras)}]'"
        hint = f"in the steelyard checkout: {install}, then bundle what was tried"
        raise Lacking("bundle.not_installed", text, hint=hint)
    if not _is_installed("pip"):
        hint = "python -m ensurepip"
        raise Lacking("bundle.no_pip", "there is no pip beside this steelyard", hint=hint)
    below = {part.name: part.version for part in parts("steelyard", extras)[1:]}
    return below | {"pip": distribution("pip").version}


def installed_bytes(names: Collection[str]) -> int:
    """Of these distributions on this disk: their wheels are smaller."""
    files = [file for name in names for file in distribution(name).files or ()]
    return sum(file.size or 0 for file in files) + sum(path.stat().st_size for path in package_files(PACKAGE))


def fetch(versions: dict[str, str], folder: Path) -> list[Path]:
    """The wheels in `folder`, steelyard's too. Raises Lacking where pip finds none of a version."""
    own_wheel(folder)
    wanted = folder.parent / "wanted.txt"
    wanted.write_text("".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
    words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    env = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    asked = [sys.executable, "-m", "pip", *words, "--requirement", str(wanted)]
    ran = subprocess.run(asked, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.startswith("ERROR:")]
        why = (said or [line for line in ran.stderr.splitlines() if line.strip()] or ["exit"])[-1][:300]
        raise _no_wheel(why)
    found = sorted(folder.glob("*.whl"))
    if len(found) != len(versions) + 1:
        raise _no_wheel(f"it gave {len(found) - 1} of {len(versions)}")
    return found


def _no_wheel(why: str) -> Lacking:
    hint = "set pip to an index or a folder that has it: PIP_INDEX_URL, PIP_FIND_LINKS"
    return Lacking("bundle.no_wheel", "pip cannot get every wheel", why=why, hint=hint)


def requirements(wheels: Sequence[Path]) -> str:
    """Each wheel by version and SHA-256, as pip's --require-hashes reads it."""
    rows = [(*wheel.name.split("-")[:2], sha256_of(wheel)) for wheel in wheels]
    return "".join(
        f"{name.replace('_', '-')}=={version} --hash=sha256:{sha}\n" for name, version, sha in rows
    )


def least_glibc(wheels: Sequence[Path]) -> str | None:
    """The oldest C library that every wheel runs on; None where none asks for one."""
    needs = [need for wheel in wheels if (need := _least(wheel.stem.split("-")[-1]))]
    return ".".join(map(str, max(needs))) if needs else None


def _least(platforms: str) -> tuple[int, int] | None:
    """Of the platforms that one wheel names, the oldest."""
    named = [(int(a), int(b)) for a, b in GLIBC.findall(platforms)]
    named += [version for word, version in OLD_GLIBC.items() if f"{word}_" in platforms]
    return min(named, default=None)


# ------------------------------------------------------------------ our own


def own_wheel(folder: Path) -> Path:
    """steelyard as it runs here. Equal files give an equal wheel."""
    own = _own()
    stem = f"steelyard-{own.version}"
    about = {name: text for name in ("METADATA", "entry_points.txt") if (text := own.read_text(name))}
    about["WHEEL"] = "Wheel-Version: 1.0\nGenerator: steelyard\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in package_files(PACKAGE)
    }
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in sorted(about.items())}
    record = f"{stem}.dist-info/RECORD"
    rows = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[record] = "".join([*rows, f"{record},,\n"]).encode()
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return wheel


def _own() -> Distribution:
    try:
        return distribution("steelyard")
    except PackageNotFoundError as error:
        text = "steelyard is not installed here, so nothing says what it needs"
        raise Lacking("bundle.not_installed", text, hint="pip install the checkout or the wheel") from error


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _asked(own: Distribution, extras: Collection[str]) -> list[str]:
    from packaging.requirements import Requirement

    asked = [Requirement(text) for text in own.requires or ()]
    return [
        r.name
        for r in asked
        if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
