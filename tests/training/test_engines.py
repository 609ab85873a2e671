"""Which engine trains: the first that can; a clear error where none can or the one that could is missing."""

from __future__ import annotations

import sys

import pytest

from steelyard.artefact import Watch
from steelyard.errors import Lacking, Stopped, WrongUse
from steelyard.training import METHODS, install
from steelyard.training.engines import CAPABILITIES, ENGINES, TrainNeed, choose, engine_of

LLAMA = TrainNeed(family="llama")


def test_every_engine_has_a_capability_of_its_own():
    assert list(ENGINES) == list(CAPABILITIES)
    assert CAPABILITIES["own"]().stages == tuple(METHODS)


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
@pytest.mark.parametrize("stage", ["sft", "pt"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_own_loop_trains_what_it_can(family, stage, finetuning_type):
    need = TrainNeed(family=family, stage=stage, finetuning_type=finetuning_type)
    assert choose(need) == ("own", "the fastest on a CPU for this family")
    assert choose(need, "own") == ("own", "asked for")


@pytest.mark.parametrize(
    "more, reason",
    [
        ({"family": "gpt_oss"}, "models of the family 'gpt_oss'"),
        ({"stage": "dpo"}, "stage: dpo"),
        ({"finetuning_type": "dora"}, "finetuning_type: dora"),
        ({"device": "cuda"}, "device: cuda"),
        ({"processes": 2}, "2 processes"),
        ({"fsdp": True}, "fsdp on device: cpu"),
    ],
)
def test_the_one_that_is_named_and_cannot_says_what_it_lacks(more, reason):
    with pytest.raises(WrongUse, match="the training engine own has no ") as caught:
        choose(TrainNeed(**{"family": "llama", **more}), "own")
    assert caught.value.message.endswith(reason) and "auto" in caught.value.hint


def test_a_name_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(WrongUse, match="'axolotl' is no training engine") as caught:
        engine_of("axolotl")
    assert caught.value.hint == f"one of auto, {', '.join(ENGINES)}"


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A user who has no environment with TRL."""
    monkeypatch.delenv("STEELYARD_TRL_PYTHON", raising=False)
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("more", [{"family": "gpt_oss"}, {"device": "cuda"}])
def test_what_own_cannot_needs_trl_and_says_how_it_is_installed(nowhere, more):
    with pytest.raises(Lacking, match="the training engine trl is not installed") as caught:
        choose(TrainNeed(**{"family": "llama", **more}))
    assert caught.value.code == "train.engine_missing"
    assert caught.value.hint == "steelyard engines install trl" and str(nowhere) in caught.value.why


@pytest.mark.parametrize("more", [{"device": "tpu"}, {"stage": "ppo"}, {"processes": 2000}, {"fsdp": True}])
def test_what_no_engine_can_is_wrong_use(nowhere, more):
    with pytest.raises(WrongUse, match="the training engine trl has no "):
        choose(TrainNeed(**{"family": "llama", **more}))


def test_a_python_that_is_named_and_lacks_trl(monkeypatch, tmp_path):
    monkeypatch.setenv("STEELYARD_TRL_PYTHON", str(tmp_path / "python"))
    assert "STEELYARD_TRL_PYTHON" in CAPABILITIES["trl"]().unusable
    with pytest.raises(WrongUse, match="steelyard leaves that environment alone"):
        install("trl")


def test_own_needs_no_environment():
    with pytest.raises(WrongUse, match="needs no environment"):
        install("own")


def test_the_list_of_packages_is_pinned_and_begins_with_torch():
    from steelyard.model.transformers_backend.environment import PACKAGES
    from steelyard.training.engines.trl.install import pinned

    packages = dict(line.split("==") for line in pinned())
    assert next(iter(packages)) == "torch" and set(PACKAGES) <= set(packages)
    assert len(packages) <= 50 and all("+" not in version for version in packages.values())


def test_ray_is_put_beside_them_where_it_is_asked_for():
    from steelyard.training.engines.trl.install import pinned

    plain, more = pinned(), pinned(ray=True)
    assert more[: len(plain)] == plain and more[len(plain)].startswith("ray==")
    names = [line.split("==")[0].lower() for line in more]
    assert len(set(names)) == len(names)


PIP = """
import pathlib, sys
log = pathlib.Path(sys.argv[0]).with_suffix(".log")
with log.open("a") as file:
    file.write(" ".join(a for a in sys.argv[1:] if "==" in a or a == "--no-deps") + "\\n")
if any("+cpu" in a for a in sys.argv):
    sys.exit("ERROR: No matching distribution found for torch==2.13.0+cpu")
for a in sys.argv:
    if "==" in a:
        print(f"Collecting {a}", flush=True)
"""


def test_torch_comes_first_and_the_rest_without_choosing_another(nowhere, monkeypatch):
    """pip is a stand-in: nothing is fetched here."""
    from steelyard.training.engines.trl import install as made

    pip = nowhere / "pip.py"
    pip.write_text(PIP)
    real = made._lines

    def lines(command, watch):
        if "venv" in command:
            return iter(())
        return real([sys.executable, str(pip), *command[3:]], watch)

    monkeypatch.setattr(made, "_lines", lines)
    monkeypatch.setattr(made, "trl_missing", lambda: None)
    monkeypatch.setattr(made, "trl_versions", dict)
    monkeypatch.setattr(made, "accelerator_files", tuple)
    install("trl")
    first, second, rest = pip.with_suffix(".log").read_text().splitlines()
    assert (first, second) == ("torch==2.13.0+cpu", "torch==2.13.0")
    assert rest.startswith("--no-deps trl==")


def test_an_index_without_a_package_is_one_clear_error(nowhere, monkeypatch):
    from steelyard.training.engines.trl import install as made

    fails = [sys.executable, "-c", "import sys; sys.exit('ERROR: No matching distribution found for torch')"]
    real = made._lines
    monkeypatch.setattr(made, "_lines", lambda command, watch: real(fails, watch))
    with pytest.raises(Lacking, match="could not be installed") as caught:
        install("trl")
    assert (
        caught.value.why == "No matching distribution found for torch" and "pip config" in caught.value.hint
    )


def test_ctrl_c_ends_the_installation_at_once(nowhere, monkeypatch):
    from steelyard.training.engines.trl import install as made

    watch = Watch()
    real = made._lines
    sleeps = [sys.executable, "-c", "import time; print('Collecting torch', flush=True); time.sleep(60)"]

    def lines(command, given):
        watch.stop = True
        return real(sleeps, given)

    monkeypatch.setattr(made, "_lines", lines)
    with pytest.raises(Stopped) as caught:
        install("trl", watch)
    assert "same command" in caught.value.hint
