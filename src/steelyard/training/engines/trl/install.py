"""Make the environment of the engine trl: a venv, and the pinned packages from the user's own index.

Interrupted at any moment the same command goes on: what pip has put in is found there, what it has fetched is
in its cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ....artefact import Progress, Watch
from ....errors import Lacking, Stopped, Where, WrongUse
from ....hardware import accelerator_files
from ....lines import each_line_of_pipe
from ....model import TRL_VARIABLE, trl_environment, trl_missing, trl_versions

FIRST = "torch"  # by itself: what comes after must not choose another build of it
STOP_S = 10.0
BEGUN = ("Collecting ", "Requirement already satisfied: ")  # a line of pip for each package


def pinned(ray: bool = False) -> tuple[str, ...]:
    """`name==version` of every package, torch first; those of Ray last."""
    files = ["packages.txt", *(["packages_ray.txt"] if ray else [])]
    return tuple(word for file in files for word in Path(__file__).with_name(file).read_text("utf-8").split())


def install_trl(watch: Watch | None = None, ray: bool = False) -> Path:
    """The interpreter, made or completed. Raises WrongUse where the variable names another one, Lacking where
    pip cannot get a package, Stopped at Ctrl-C."""
    listener = watch or Watch()
    if named := os.environ.get(TRL_VARIABLE):
        raise WrongUse(
            "engines.named",
            f"${TRL_VARIABLE} names {named}: steelyard leaves that environment alone",
            where=Where(field=TRL_VARIABLE),
            hint=f"pip install the packages there, or unset {TRL_VARIABLE} and install again",
        )
    folder = trl_environment()
    python = folder / "bin" / "python"
    packages = pinned(ray)
    with listener.progress("install", total=len(packages), unit="packages") as bar:
        if not list(folder.glob("lib/python3*/site-packages/pip")):
            folder.mkdir(parents=True, exist_ok=True)
            list(_lines([sys.executable, "-m", "venv", "--clear", str(folder)], listener))
        _install_first(python, packages[0], bar)
        _pip(python, packages[1:], bar)
    if why := trl_missing():
        raise Lacking("engines.incomplete", f"trl is not whole: {why}", hint="steelyard engines install trl")
    listener.log("engines.installed", engine="trl", **trl_versions())
    return python


def _install_first(python: Path, torch: str, bar: Progress) -> None:
    """torch; on a machine without an accelerator the build without one, where the index has it."""
    if not accelerator_files():
        try:
            return _pip(python, [f"{torch}+cpu"], bar)
        except Lacking:
            bar.watch.log("engines.no_cpu_build", package=torch)
    return _pip(python, [torch], bar)


def _pip(python: Path, packages: Sequence[str], bar: Progress) -> None:
    """Raises Lacking with pip's last word."""
    # --no-deps: the list is whole, and a dependency may not choose another release.
    more = [] if packages[0].startswith(FIRST) else ["--no-deps"]
    command = [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off", *more, *packages]
    for line in _lines(command, bar.watch):
        if line.startswith(BEGUN) and bar.done < (bar.total or 0):
            bar.advance(1)


def _lines(command: Sequence[str], watch: Watch) -> Iterator[str]:
    """What the command says, line by line, in a session of its own: Ctrl-C is ours to hand on."""
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert child.stdout is not None
    words: list[str] = []
    try:
        for line in _heard(child, watch):
            words.append(line)
            yield line
        if child.wait():
            raise _failed(words)
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(STOP_S)
        child.stdout.close()


def _heard(child: subprocess.Popen[bytes], watch: Watch) -> Iterator[str]:
    """Raises Stopped when the watch says so, in the middle of a download too."""
    assert child.stdout is not None

    def tick() -> None:
        if watch.stop:
            again = "run the same command again: it goes on from there"
            raise Stopped("engines.stopped", "stopped before everything was installed", hint=again)

    for line in each_line_of_pipe(child.stdout.fileno(), tick):
        yield line.decode("utf-8", "replace").strip()


def _failed(words: Sequence[str]) -> Lacking:
    why = next((w for w in reversed(words) if w.startswith("ERROR")), words[-1] if words else "no word")
    return Lacking(
        "engines.pip",
        "the packages of trl could not be installed",
        why=why.removeprefix("ERROR: "),
        hint="see that pip reaches an index that has them (pip config list), then run the same command again",
    )
