"""export: what passed the gate leaves whole, is loaded back by its own loader, and is judged there."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from steelyard.artefact import Store, Watch
from steelyard.model import Tokenizer, Weights, resolve, to_hf, write
from steelyard.run import Order, export_model
from steelyard.run.leaving import judging
from steelyard.training import CAPABILITIES
from steelyard.trust import load_keys

ABSENT = CAPABILITIES["trl"]().unusable

ROWS = [
    {"id": str(n), "ability": "a", "messages": [
        {"role": "user", "content": f"say it {n}"}, {"role": "assistant", "content": "ok"},
    ]} for n in range(12)
]  # fmt: skip
FACTORS = {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": b"factors"}


@pytest.fixture(scope="module")
def ok_model(tiny_models, tmp_path_factory):
    """A tiny model that answers "ok" to everything: the layers add nothing, a token names its successor."""
    folder = shutil.copytree(tiny_models("llama", tied=False), tmp_path_factory.mktemp("ok") / "model")
    tokenizer, old = Tokenizer(folder), Weights(folder)
    values = {name: (old.dtype(name), np.array(old.raw(name))) for name in old}
    for name in values:
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            values[name][1][:] = 0
        if name == "model.norm.weight":
            values[name][1][:] = 0x3F80  # 1.0 in BF16
    ids = [
        tokenizer.encode("\n")[0],
        tokenizer.id_of("o"),
        tokenizer.id_of("k"),
        tokenizer.id_of("<|im_end|>"),
    ]
    for here, after in pairwise(ids):
        values["lm_head.weight"][1][after] = values["model.embed_tokens.weight"][1][here]
    write(values, folder / "model.safetensors")
    return folder


def published(store: Store, kind: str, fill, inputs=None, settings=None):
    draft = store.draft(kind, kind[0] * 64, kind, settings or {}, inputs or {})
    fill(draft.folder)
    return store.publish(draft, {}, {})


def checkpoint(store: Store, model: Path, adapter: bool = False, inputs=None):
    """A train artefact, as the train step publishes it."""

    def fill(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        (folder / "curve.jsonl").write_text("{}\n")
        if adapter:
            (folder / "adapter").mkdir()
            for name, data in FACTORS.items():
                (folder / "adapter" / name).write_bytes(data)

    return published(store, "checkpoint", fill, inputs)


def judged(folder: Path, model: Path, score: float = 1.0, passed: bool = True, keys=None, adapter=False):
    """A run's artefacts: rows, a checkpoint, and the gate's verdict on it."""
    store = Store(folder / "artefacts", keys)

    def rows(place: Path) -> None:
        for name in ("train.jsonl", "test.jsonl"):
            (place / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    dataset = published(store, "dataset", rows)
    trained = checkpoint(store, model, adapter, {"dataset": dataset})
    share = {"value": score, "low": 0.7, "high": 1.0, "rows": len(ROWS)}
    document = {
        "checks": [{"name": "served/likeliest", "passed": passed}], "scores": {"tuned": {"a": score}},
        "details": {"tuned": {"abilities": {"a": share}}},
    }  # fmt: skip
    published(
        store, "verdict" if passed else "refusal",
        lambda place: (place / "verdict.json").write_text(json.dumps(document)),
        {"checkpoint": trained, "dataset": dataset}, {"rows": 100, "seed": 0},
    )  # fmt: skip
    return trained


# ------------------------------------------------------------------ loaded back


@pytest.mark.parametrize("form", ["BF16", "Q8_0", "Q4_K_M"])
def test_a_gguf_is_loaded_back_by_llama_cpp_and_judged(told, ok_model, tmp_path, form):
    pytest.importorskip("xllamacpp", reason="llama.cpp is an extra")
    judged(tmp_path / "run", ok_model)
    code, document = told("export", "run", "--to", "gguf", "--form", form, "--out", "out")
    assert code == 0, document
    assert document["judged"]["before"] == document["judged"]["after"] == {"a": 1.0}
    assert (document["loader"], document["passed"], document["lost"]) == ("llama.cpp", True, {"a": 0.0})
    assert (document["calibration_tokens"] > 0) == (form == "Q4_K_M")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.gguf"]
    assert not (tmp_path / ".out.part").exists()
    to_hf(resolve(str(tmp_path / "out" / "model.gguf")), tmp_path / "again")
    chat = [{"role": "user", "content": "say it 7"}]
    assert Tokenizer(tmp_path / "again").chat_ids(chat) == Tokenizer(ok_model).chat_ids(chat)


def test_ollamas_folder_is_the_same_file_and_a_modelfile(told, ok_model, tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp is an extra")
    judged(tmp_path / "run", ok_model)
    code, document = told("export", "run", "--to", "ollama", "--out", "out", "--rows", "4")
    assert code == 0 and document["judged"]["rows"] == {"a": 4} and document["judged"]["after"] == {"a": 1.0}
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./model.gguf" in text and 'PARAMETER stop "<|im_end|>"' in text


@pytest.mark.trl
@pytest.mark.skipif(bool(ABSENT), reason=f"the engine trl: {ABSENT}")
def test_a_hugging_face_folder_is_loaded_back_by_transformers(told, ok_model, tmp_path):
    judged(tmp_path / "run", ok_model)
    code, document = told("export", "run", "--to", "hf", "--out", "out")
    assert code == 0, document
    assert (document["loader"], document["judged"]["after"]) == ("transformers", {"a": 1.0})


def test_what_loses_on_the_way_does_not_leave(told, ok_model, tmp_path):
    """Here the verdict knows a better model than the one that is exported."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is an extra")
    other = shutil.copytree(ok_model, tmp_path / "other")
    values = {
        name: (Weights(other).dtype(name), np.array(Weights(other).raw(name))) for name in Weights(other)
    }
    values["lm_head.weight"][1][:] = values["lm_head.weight"][1][::-1]
    write(values, other / "model.safetensors")
    judged(tmp_path / "run", other)
    words = ("export", "run", "--to", "gguf", "--out", "out")
    code, document = told(*words)
    assert (code, document["error"]["code"]) == (4, "export.lost") and "--may-lose" in document["error"][
        "hint"
    ]
    assert not (tmp_path / "out").exists()
    written = (tmp_path / ".out.part" / "model" / "model.gguf").stat().st_mtime_ns
    code, document = told(*words, "--unproven")
    assert code == 0 and document["lost"] == {"a": 1.0}
    assert (tmp_path / "out" / "model.gguf").stat().st_mtime_ns == written  # nothing was made again


def test_a_call_that_was_stopped_goes_on(told, ok_model, tmp_path):
    """Rows that were asked are not asked again: the one whose score was kept as 0 stays at 0."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is an extra")
    judged(tmp_path / "run", ok_model)
    words = ("export", "run", "--to", "gguf", "--out", "out")

    def broken_off(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "_means", broken_off)
        with pytest.raises(KeyboardInterrupt):
            export_model(Order(name="run", to="gguf", out=tmp_path / "out"), Watch())
    kept = tmp_path / ".out.part" / "after.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(lines) == len(ROWS)
    kept.write_text(
        "".join(json.dumps([row, a, 0.0 if n == 0 else v]) + "\n" for n, (row, a, v) in enumerate(lines))
        + '["torn'
    )
    code, document = told(*words, "--may-lose", "1")
    assert code == 0 and document["judged"]["after"]["a"] == pytest.approx(11 / 12)


# ------------------------------------------------------------------ what may leave


def test_what_did_not_pass_does_not_leave(told, ok_model, tmp_path):
    judged(tmp_path / "run", ok_model, passed=False)
    code, document = told("export", "run", "--to", "hf", "--out", "out")
    assert (code, document["error"]["code"]) == (4, "export.unproven")
    assert "served/likeliest" in document["error"]["why"] and "--unproven" in document["error"]["hint"]
    code, document = told("export", "run", "--to", "hf", "--out", "out", "--unproven", "--rows", "0")
    assert code == 0 and document["passed"] is False and document["judged"] is None
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names and not names & {"adapter", "curve.jsonl", "manifest.json"}


def test_a_model_that_nobody_judged_is_unproven(told, ok_model, tmp_path):
    code, document = told("export", str(ok_model), "--to", "hf", "--out", "out")
    assert (code, document["error"]["code"]) == (4, "export.unproven")


@pytest.mark.parametrize("sealed", [False, True])
def test_the_adapter_is_exported_alone(told, ok_model, tmp_path, sealed):
    keys = load_keys("guarded", "key", tmp_path) if sealed else None
    artefact = judged(tmp_path / "run", ok_model, keys=keys, adapter=True)
    flags = ["--key-file", str(tmp_path / "key")] if sealed else []
    code, document = told("export", str(artefact.folder), "--to", "adapter", "--output", "out", *flags)
    assert code == 0 and document["to"] == "adapter", document
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == FACTORS


def test_a_model_without_an_adapter_says_so(told, ok_model, tmp_path):
    judged(tmp_path / "run", ok_model)
    code, document = told("export", "run", "--to", "adapter", "--output", "out")
    assert (code, document["error"]["code"]) == (2, "export.no_adapter") and "--to hf" in document["error"][
        "hint"
    ]
    assert not (tmp_path / "out").exists()


def test_an_altered_artefact_is_not_exported(told, ok_model, tmp_path):
    weights = judged(tmp_path / "run", ok_model).folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    code, document = told("export", "run", "--to", "hf", "--output", "out")
    assert (code, document["error"]["code"]) == (4, "artefact.changed") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--to", "onnx"), "cli.usage"),
        (("--to", "hf", "--form", "Q8_0"), "export.form"),
        (("--to", "gguf", "--form", "Q9"), "export.form"),
        (("--to", "gguf", "--out", "run"), "export.exists"),
        (("--to", "awq", "--unproven"), "export.awq_shape"),
    ],
)
def test_bad_words_are_one_error_each(told, tiny_models, tmp_path, words, code):
    judged(tmp_path / "run", tiny_models("llama", intermediate_size=72))
    exit_code, document = told("export", "run", *words, *([] if "--out" in words else ["--out", "out"]))
    assert (exit_code, document["error"]["code"]) == (2, code)
    assert not (tmp_path / "out").exists()
