"""A loader's process: started, asked for its address, ended. `None` where it is not installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....compression import widen_awq
from ....errors import CheckFailed, Where
from ....hardware import affinity
from ....model import TRL_QUIET, trl_missing, trl_python
from ....serving import CAPABILITIES, ServeSettings, prepare, start

SEQUENCES = 4
# OpenMP's threads spin at barriers, by default for so long that a core shared with others stalls all.
PATIENT = {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "passive"}
WORDS = 2000  # of its log, to look for a reason in
END_S = 5.0


@dataclass(frozen=True, slots=True)
class Loader:
    """Who loads an export, and why it cannot here, where it cannot."""

    name: str
    missing: str | None
    hint: str = ""


def loader_of(to: str) -> Loader:
    if to in ("gguf", "ollama"):
        here = find_spec("xllamacpp") is not None
        return Loader(
            "llama.cpp",
            None if here else "xllamacpp not installed",
            "in the steelyard checkout: pip install -c constraints.txt '.[llamacpp]'",
        )
    if to == "awq" and _has_vllm():
        return Loader("vLLM", None)
    if to == "awq":
        text = "transformers, over the widened weights: vLLM is not installed"
        return Loader(text, trl_missing(), "steelyard engines install trl")
    return Loader("transformers", trl_missing(), "steelyard engines install trl")


@contextmanager
def loaded(to: str, folder: Path, context: int) -> Iterator[str]:
    """The URL of an export under its own loader. Raises CheckFailed where that cannot load it."""
    threads = str(len(affinity()))
    if to == "awq" and _has_vllm():
        with _vllm(folder) as url:
            yield url
        return
    if to == "awq":
        widen_awq(folder, folder.parent / "widened")
        folder = folder.parent / "widened"
    if to in ("hf", "awq"):
        child = Path(__file__).with_name("transformers_server.py")
        command = [str(trl_python()), "-I", str(child), str(folder), str(SEQUENCES), threads]
    else:
        file = next(folder.glob("*.gguf"))
        module = f"{__package__}.llamacpp_server"
        command = [sys.executable, "-m", module, str(file), str(context), str(SEQUENCES), threads]
    with _child(command, folder) as url:
        yield url


def _has_vllm() -> bool:
    return CAPABILITIES["vllm"]().unusable is None


@contextmanager
def _child(command: list[str], folder: Path) -> Iterator[str]:
    with (folder.parent / "loader.log").open("w+b") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | TRL_QUIET | PATIENT,
        )
        assert process.stdin and process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                raise _not_loaded(folder, _last_words(log))
            yield str(json.loads(line)["url"])
        finally:
            process.stdin.close()
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(log: Any) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - WORDS))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it ended without a word"


def _not_loaded(folder: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "export.not_loaded", "what was exported cannot be loaded by its own loader",
        where=Where(str(folder)), why=why, hint="another --form, or --to hf",
    )  # fmt: skip


@contextmanager
def _vllm(folder: Path) -> Iterator[str]:
    ready = prepare(folder, engine="vllm")
    service = start(ready.folder, ServeSettings(engine="vllm"))
    try:
        yield service.url
    finally:
        service.stop(now=True)


@contextmanager
def served_exactly(folder: Path, foreign: bool) -> Iterator[str]:
    """The model itself in f32, behind our own server: the score of what is exported."""
    engine = "transformers" if foreign else "openvino"
    ready = prepare(folder, form=None if foreign else "f32", engine=engine)
    service = start(ready.folder, ServeSettings(engine=engine, mode="exact"))
    try:
        yield service.url
    finally:
        service.stop(now=True)
