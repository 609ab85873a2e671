"""A whole job on a tiny random model: real steps, real service, some seconds."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from judging import EMPTY, GOOD, Judged

from steelyard import gate, run
from steelyard.errors import CheckFailed
from steelyard.recipe import load
from steelyard.run.planning import prepare

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # its tiny models
RECIPE = """
name: tiny
model: {model}
data:
  - {{path: rows.jsonl, ability: echo}}
train:
  - {{stage: sft, finetuning_type: lora, lora_rank: 4, max_length: 128, max_steps: {steps},
     learning_rate: 0.01}}
gate:
  abilities:
    echo: {{eval: test.jsonl}}
serve: {{port: {port}}}
trust: {trust}
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folders, empty."""
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A tiny random model to train, and `data` to train it on."""
    import tiny

    return tiny.model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    import tiny

    return tiny.dataset(tmp_path_factory.mktemp("rows") / "data")


@dataclass(frozen=True)
class Job:
    """A recipe in a folder of its own, and how to run the command line on it."""

    folder: Path
    env: Mapping[str, str]
    port: int

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def workdir(self) -> Path:
        return self.folder / "runs" / "tiny"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "steelyard", *words]

    def run(self, *words: str, timeout: float = 240, **more: Any) -> subprocess.CompletedProcess[str]:
        """`steelyard WORDS --json`, to its end."""
        return subprocess.run(
            self.command(*words, "--json"),
            env=dict(self.env),
            capture_output=True,
            text=True,
            timeout=timeout,
            **more,
        )

    def up(self, *words: str, **more: Any) -> dict[str, Any]:
        done = self.run("up", str(self.recipe), "--yes", *words, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def error(self, code: int, *words: str, **more: Any) -> dict[str, Any]:
        """The error document of an `up` that must end with this exit code."""
        done = self.run("up", str(self.recipe), "--yes", *words, **more)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        error = json.loads(done.stdout)["error"]
        assert error["message"] and error["hint"]
        return error

    def hashes(self) -> dict[str, str]:
        """Content hash of each published artefact by kind."""
        found = (self.workdir / "artefacts").glob("[a-z]*/manifest.json")
        manifests = [json.loads(f.read_text(encoding="utf-8")) for f in found]
        return {m["kind"]: m["hash"] for m in manifests}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rows(count: int, seed: int) -> str:
    draw = random.Random(seed)
    told = ""
    for _ in range(count):
        word = "".join(draw.choice("abcdefgh") for _ in range(6))
        messages = [{"role": "user", "content": word}, {"role": "assistant", "content": "ok"}]
        told += json.dumps({"messages": messages}) + "\n"
    return told


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Cache, ledger and state of these tests: calibrated once, apart from the user's."""
    home = tmp_path_factory.mktemp("home")
    return {
        "STEELYARD_CACHE": str(home / "cache"),
        "STEELYARD_LEDGER": str(home / "ledger.db"),
        "STEELYARD_STATE": str(home / "state"),
        "STEELYARD_KEY_FILE": str(home / "key"),
    }


@pytest.fixture
def job_in(homes: dict[str, str]) -> Callable[[Path], Job]:
    """`job_in(folder)`: a job whose recipe the test writes, at a free port."""
    return lambda folder: Job(folder, os.environ | homes, free_port())


@pytest.fixture
def make_job(tmp_path: Path, tiny_models: Callable[..., Path], homes: dict[str, str]) -> Callable[..., Job]:
    """`make_job(steps=60, trust="open", name="a")`: a job ready to run.

    After 60 steps a random model gives the one answer of its rows: the gate lets it through.
    """

    def make(steps: int = 60, trust: str = "open", name: str = "job") -> Job:
        folder, port = tmp_path / name, free_port()
        folder.mkdir()
        model = tiny_models("llama")
        text = RECIPE.format(model=model, steps=steps, port=port, trust=trust)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        (folder / "rows.jsonl").write_text(rows(300, 1), encoding="utf-8")
        (folder / "test.jsonl").write_text(rows(220, 2), encoding="utf-8")
        return Job(folder, os.environ | homes, port)

    return make


# ------------------------------------------------------------------ verdicts given by a test


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judged]:
    """`judged.says["int8"] = FORM_FAILS`: verdicts by form or by "model/form", good where none is given."""
    seen = Judged()

    def judge(inputs: Any, settings: Any, out: Any, watch: Any) -> dict[str, float]:
        form = json.loads(inputs.artefacts["compressed"].path("form.json").read_text())["form"]
        model = json.loads(inputs.artefacts["base"].path("config.json").read_text())["model_type"]
        seen.append(f"{model}/{form}")
        with inputs.calls["serve"]("served") as url:
            seen.ask(url)
            told = seen.says.get(f"{model}/{form}") or seen.says.get(form) or GOOD
        (out.folder / "verdict.json").write_text(json.dumps(told), encoding="utf-8")
        if told["verdict"] != "passed":
            raise CheckFailed("gate.failed", "the gate failed", hint="see the report")
        return {"checks": 1.0}

    monkeypatch.setattr(gate, "judge", judge)
    monkeypatch.setattr(prepare, "calibrate", lambda machine, finetuning_types, watch: EMPTY)
    yield seen


@pytest.fixture
def up(
    make_job: Callable[..., Any], homes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`up(["compress.weights=int8"])`: a whole run in this process, in one folder a test."""
    for name, value in homes.items():
        monkeypatch.setenv(name, value)
    job = make_job(steps=2)

    def go(settings: list[str]) -> Any:
        return run.up(load(job.recipe, settings), keep=False)

    go.job = job  # type: ignore[attr-defined]
    return go
