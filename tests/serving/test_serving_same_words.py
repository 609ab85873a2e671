"""What `serve` can, a recipe's `serve:` can; scopes of keys; `demo` is the packaged model everywhere."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import fields
from types import SimpleNamespace

import pytest
from scripted import scripted

from steelyard.cli.asking.serve_flags import ServeFlags
from steelyard.recipe import load
from steelyard.run.service import services
from steelyard.serving import prepare
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.host.engine_choice import engine_for
from steelyard.serving.service.foreground import named

# Flags of `serve` under other words in a recipe, and those that a run decides itself.
OTHER_WORDS = {
    "name": "served_model_name", "alias": "aliases", "adapter": "adapters", "max_queue_s": "queue",
    "default_temperature": "temperature", "engine_arg": "args", "tls_cert": "tls", "tls_key": "tls",
    "least_replicas": "scale", "replica_requests": "scale", "replicas_down": "scale",
}  # fmt: skip
OF_THE_RUN = {
    "model", "new_key", "form", "mode", "threads", "tune", "max_num_seqs",
    "trust", "key_file", "cipher",  # of the whole recipe
    "log_file", "unit", "unit_file",
    "join", "join_key", "join_silence",  # servers of others, in the place of what a recipe makes
}  # fmt: skip
RECIPE = """
model: demo
data: [{path: rows.jsonl}]
serve:
  aliases: [gpt-4o, "claude-*"]
  clamp_max_tokens: true
  embed_model: minilm
  embed_token_ids: true
"""


def test_each_flag_of_serve_has_a_word_in_a_recipe(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = {f.name for f in fields(load(tmp_path / "recipe.yaml").serve)}
    flags = {f.name for f in fields(ServeFlags)} - OF_THE_RUN
    assert {OTHER_WORDS.get(name, name) for name in flags} <= words


def candidate_of(tmp_path, monkeypatch, engine):
    """Folder and settings of the service that a run would publish."""
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    started = []
    planned = dict.fromkeys(
        ("threads", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "cache_bytes"), 8
    )
    ready = SimpleNamespace(
        recipe=load(tmp_path / "recipe.yaml"),
        fill=SimpleNamespace(settings={"serve": planned}),
        engine=engine,
    )
    candidates = services.Candidates(ready, SimpleNamespace(log=lambda *a, **k: None))
    monkeypatch.setattr(candidates, "served_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(candidates, "_start", lambda role, *words: started.append(words))
    artefact = SimpleNamespace(path=lambda: tmp_path / "compressed", hash="h", keys=None)
    checkpoint = SimpleNamespace(path=lambda: tmp_path / "checkpoint", hash="c", keys=None)
    candidates.candidate(artefact, checkpoint)
    return started[0]


def test_a_run_serves_as_its_recipe_says(tmp_path, monkeypatch):
    """Fine-tuning of the recipe's own service begins from its checkpoint."""
    folder, settings = candidate_of(tmp_path, monkeypatch, {})
    assert (folder.name, settings.fingerprint, settings.engine) == ("compressed", "h", "openvino")
    assert settings.source == str(tmp_path / "checkpoint")
    assert settings.aliases == ("gpt-4o", "claude-*") and settings.clamp_max_tokens
    assert (settings.embed_model, settings.embed_token_ids) == ("minilm", True)
    assert settings.embed_folder == str(tmp_path / "minilm")


def test_an_engine_with_a_server_of_its_own_gets_the_checkpoint_and_the_plan(tmp_path, monkeypatch):
    planned = {"tp": (4, "plan: the candidate chosen")}
    engine = {"engine": "vllm", "engine_args": ("--seed", "1"), "launch": planned, "platform": "cuda"}
    folder, settings = candidate_of(tmp_path, monkeypatch, engine)
    assert (folder.name, settings.fingerprint, settings.engine) == ("checkpoint", "c", "vllm")
    assert (settings.launch, settings.platform) == (planned, "cuda")


@pytest.mark.parametrize(
    ("scope", "opened"),
    [
        ("admin", {"/v1/files", "/v1/fine_tuning/jobs", "/v1/models", "/v1/batches", "/metrics"}),
        ("tune", {"/v1/files", "/v1/fine_tuning/jobs", "/v1/models"}),
        ("inference", {"/v1/files", "/v1/models", "/v1/batches", "/metrics"}),
    ],
)
def test_scopes(smol, tmp_path, monkeypatch, scope, opened):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    entry = {"id": "a", "sha256": hashlib.sha256(b"secret").hexdigest(), "scopes": [scope]}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [entry]}))
    service = scripted(smol, keys=KeyRing(None, tmp_path / "keys.json"))
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models", "/v1/batches", "/metrics"):
        status = service.ask(path, authorization="Bearer secret").status_code
        assert status == (200 if path in opened else 403), path


def test_demo_is_the_packaged_model_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    (tmp_path / "demo" / "openvino_model.xml").write_text("")
    assert engine_for("demo") == "openvino"
    assert named("demo") == "demo" and named("./demo") == str(tmp_path / "demo")
    monkeypatch.setattr("steelyard.serving.host.folders._exported_once", lambda name, write: tmp_path / name)
    assert prepare("demo").folder != tmp_path / "demo"
    assert prepare("./demo").folder.resolve() == tmp_path / "demo"
