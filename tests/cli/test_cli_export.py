"""export: the model or its adapter, of a published artefact, whole and unaltered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.artefact import Store
from steelyard.trust import load_keys


def checkpoint(folder: Path, model: Path, adapter: bool, keys=None):
    """A train artefact of a tiny model, as the train step publishes it."""
    import shutil

    store = Store(folder, keys)
    draft = store.draft("checkpoint", "k" * 64, "train", {}, {})
    shutil.copytree(model, draft.folder, dirs_exist_ok=True)
    (draft.folder / "curve.jsonl").write_text("{}\n")
    if adapter:
        (draft.folder / "adapter").mkdir()
        (draft.folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (draft.folder / "adapter" / "adapter_model.safetensors").write_bytes(b"factors")
    return store.publish(draft, {}, {})


@pytest.mark.parametrize("sealed", [False, True])
def test_the_adapter_is_exported_alone(steelyard, tiny_models, tmp_path, sealed):
    keys = load_keys("guarded", "key", tmp_path) if sealed else None
    artefact = checkpoint(tmp_path / "store", tiny_models("llama"), True, keys)
    flags = ["--key-file", str(tmp_path / "key")] if sealed else []
    done = steelyard("export", str(artefact.folder), "--to", "adapter", "--output", "out", *flags, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["to"] == "adapter"
    written = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert written == {
        "adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": b"factors"
    }  # fmt: skip


def test_the_model_is_exported_without_what_is_not_its_own(steelyard, tiny_models, tmp_path):
    artefact = checkpoint(tmp_path / "store", tiny_models("llama"), True)
    done = steelyard("export", str(artefact.folder), "--to", "hf", "--output", "out", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names and not names & {"adapter", "curve.jsonl", "manifest.json"}


def test_a_model_without_an_adapter_says_so(steelyard, tiny_models, tmp_path):
    artefact = checkpoint(tmp_path / "store", tiny_models("llama"), False)
    done = steelyard("export", str(artefact.folder), "--to", "adapter", "--output", "out", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "export.no_adapter") and "--to hf" in error["hint"]
    assert not (tmp_path / "out").exists()


def test_an_altered_artefact_is_not_exported(steelyard, tiny_models, tmp_path):
    artefact = checkpoint(tmp_path / "store", tiny_models("llama"), True)
    weights = artefact.folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    done = steelyard("export", str(artefact.folder), "--to", "hf", "--output", "out", "--json")
    assert done.returncode == 4, done.stderr + done.stdout
    assert not (tmp_path / "out").exists()
