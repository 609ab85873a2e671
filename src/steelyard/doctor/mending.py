"""What --fix does: kernel settings that a reboot undoes, device nodes, packages of this environment."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, Mend

COMMAND_S = 120


@dataclass(frozen=True, slots=True)
class Mended:
    """One finding and what became of it: state done | needs root | failed; `did` says what, or why not."""

    name: str
    state: str
    did: str


def mend(findings: Iterable[Finding], root: Path = Path("/")) -> list[Mended]:
    """Mend what is safe, in order; a finding that offers nothing safe is left out. Done twice it does nothing
    more: what is mended is no finding. `root`: the folder that stands for /, for tests."""
    offered = [(finding, finding.mend) for finding in findings if finding.level != "ok" and finding.mend]
    return [_mended(finding.name, way, root) for finding, way in offered]


def _mended(name: str, way: Mend, root: Path) -> Mended:
    what = f"{way.write[0]} = {way.write[1]}" if way.write else " ".join(way.run or ())
    if way.needs_root and root == Path("/") and os.geteuid() != 0:
        return Mended(name, "needs root", what)
    try:
        if way.write:
            _write(root, *way.write)
        elif way.run:
            _run(way.run)
    except (OSError, subprocess.SubprocessError) as error:
        return Mended(name, "failed", f"{what}: {error}")
    return Mended(name, "done", what)


def _write(root: Path, pattern: str, text: str) -> None:
    paths = sorted(glob.glob(str(root / pattern.lstrip("/"))))
    if not paths:
        raise FileNotFoundError(pattern)
    for path in map(Path, paths):
        if path.read_text(encoding="utf-8").strip() != text:
            path.write_text(text + "\n", encoding="utf-8")


def _run(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", *words] if words[0] == "pip" else list(words)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL)
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["no word why"]
        raise OSError(last[0])
