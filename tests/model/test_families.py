"""A family is one file and a word in the register: a toy one is added here, trained and served."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import seeded

import steelyard
from steelyard.compression import export_form
from steelyard.errors import WrongUse
from steelyard.model import FAMILIES, check_folder, load, resolve, save
from steelyard.model.families import Decoder, Family, Names
from steelyard.model.families.dense import dense

# The whole file of a new family: other names of its weights, and another function in its MLP.
TOY_NAMES = Names(
    embedding="body.words", norm="body.last_norm", layer="body.blocks.{}.", query="look.q", key="look.k",
    value="look.v", output="look.o", gate="think.gate", up="think.up", down="think.down",
    attention_norm="norm_1", mlp_norm="norm_2",
)  # fmt: skip


def toy_layer():
    import torch

    from steelyard.model.network import Block

    class ReluBlock(Block):
        def gated(self, gate_up):
            gate, up = gate_up.chunk(2, dim=-1)
            return torch.relu(gate) * up

    return ReluBlock


def toy_graph():
    import openvino.opset13 as op

    from steelyard.model.openvino_graph import Graph

    class ReluGraph(Graph):
        def _gated(self, gate, up):
            return op.multiply(op.relu(gate), up)

    return ReluGraph


TOY = Family(
    name="toy",
    architecture="ToyForCausalLM",
    read=lambda config, path: replace(dense(config, path), names=TOY_NAMES),
    layer=toy_layer,
    graph=toy_graph,
)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A model of the new family, which is registered for as long as the test runs."""
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    from steelyard.model import Weights, write

    plain = seeded.model(tmp_path / "plain", "llama")
    folder = seeded.model(tmp_path / "toy", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "toy"}))
    old, new = (dict(zip(named(n), named(n), strict=True)) for n in (Names(), TOY_NAMES))
    stored = Weights(plain)
    renamed = dict(zip(old, new, strict=True))
    write({renamed[n]: ("BF16", stored.raw(n)) for n in stored}, folder / "model.safetensors")
    return folder


def named(names: Names) -> list[str]:
    config = {**seeded.SIZES, **seeded.CASES["llama"]}
    return list(replace(dense(config, Path("config.json")), names=names).tensors())


def logits_of_graph(folder: Path, ids: np.ndarray) -> np.ndarray:
    from test_openvino_ir import compiled, logits_of

    return logits_of(compiled(folder), ids, np.ones_like(ids))


def test_a_new_family_loads_trains_and_is_served(toy, tmp_path):
    import torch

    from steelyard.artefact import Inputs, Store, Watch, adopt
    from steelyard.training import train

    assert resolve(str(toy)).kind == "hf"
    network = load(toy)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        wanted = network.logits(network(ids, torch.arange(57)[None])).numpy()
        plain = load(tmp_path / "plain")
        other = plain.logits(plain(ids, torch.arange(57)[None])).numpy()
    assert np.abs(wanted - other).max() > 0.1  # its own layer is used, not the shared one
    for form in ("f32", "int8"):
        export_form(toy, tmp_path / form, form)
    assert np.abs(logits_of_graph(tmp_path / "f32", ids.numpy()) - wanted).max() < 1e-4
    assert np.corrcoef(logits_of_graph(tmp_path / "int8", ids.numpy()).ravel(), wanted.ravel())[0, 1] > 0.99

    rows = [{"role": "user", "content": "say 7"}, {"role": "assistant", "content": "7"}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(json.dumps({"messages": rows}) + "\n")
    settings = {
        "stage": "sft", "finetuning_type": "lora", "lora_rank": 4, "lora_alpha": 8, "learning_rate": 1e-2,
        "num_train_epochs": 1, "max_steps": 5, "max_length": 64, "packing": True, "micro_batch": 1,
        "grad_accum": 1, "warmup_ratio": 0.0, "weight_decay": 0.0, "seed": 0, "threads": 1, "dtype": "f32",
        "mix": {},
    }  # fmt: skip
    inputs = Inputs({"base": adopt(toy), "dataset": adopt(tmp_path / "data", "dataset")})
    draft = Store(tmp_path / "store").draft("checkpoint", "k" * 64, "train", settings, inputs.artefacts)
    train(inputs, settings, draft, Watch())
    losses = [json.loads(line)["loss"] for line in (draft.folder / "curve.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    adapter = json.loads((draft.folder / "adapter" / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["q", "k", "v", "o", "gate", "up", "down"]
    check_folder(draft.folder)
    trained = load(draft.folder)
    before = dict(network.tensors())
    assert any(not torch.equal(before[name], tensor) for name, tensor in trained.tensors())
    assert before.keys() == dict(trained.tensors()).keys()


def test_a_saved_toy_keeps_its_names(toy, tmp_path):
    from steelyard.model import Weights

    save(load(toy, "bfloat16"), tmp_path / "again", toy)
    assert Weights(tmp_path / "again").names() == Weights(toy).names()


ELSEWHERE = {  # files outside families/ that name one, and why they must
    "shape/config.py": "sizes of published models by their config.json, most of which are only planned with",
    "shape/reading.py": "the same of files without one, by their tensors' names or a GGUF header",
    "architectures.py": "layers of published models by their config.json, planned with and not run",
    "launch/megatron.py": "Megatron's flags for what a family has beside Llama's parts",
    "launch/titan.py": "torchtitan's names of the models that it trains",
    "gate/parity/prompts.py": "templates that are tried on a server that shows none",
    "serving/turn/tools.py": "dialects of tool calls, told by the template",
    "serving/turn/parts.py": "dialects of tool calls, told by the template",
    "model/gguf_tokenizer.py": "kinds of tokenizers, as GGUF files name them",
    "model/gguf_vocabulary.py": "the same kinds, where a file is written",
}


def test_no_other_file_names_a_family():
    """A text equal to a family's name is a list or a branch that a new family would have to be added to."""
    root = Path(steelyard.__file__).parent
    naming = set()
    for path in root.rglob("*.py"):
        place = path.relative_to(root).as_posix()
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        if not place.startswith("model/families/") and texts & FAMILIES.keys():
            naming.add(place)
    assert naming == set(ELSEWHERE)


def test_every_family_has_one_file_of_its_name():
    folder = Path(steelyard.__file__).parent / "model" / "families"
    parts = {"__init__", "family", "dense"}
    assert {p.stem for p in folder.glob("*.py")} - parts == set(FAMILIES)
    for name in FAMILIES:
        others = [p for p in folder.glob("*.py") if p.stem not in (name, "__init__")]
        named = {
            n.value for p in others for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.Constant)
        }
        assert name not in named - {f.gguf.architecture for f in FAMILIES.values() if f.gguf}


@pytest.mark.parametrize(
    ("family", "change", "code"),
    [
        ("llama", {"hidden_act": "gelu"}, "model.activation"),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "model.rope_unknown"),
        ("qwen3", {"intermediate_size": None}, "model.bad_config"),
    ],
)
def test_a_config_that_is_not_covered_is_refused_before_any_weight_is_read(family, change, code):
    config = {**seeded.SIZES, **seeded.CASES[family], **change}
    with pytest.raises(WrongUse) as error:
        FAMILIES[family].read(config, Path("config.json"))
    assert error.value.code == code and error.value.hint


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_windows_of_the_upper_layers_equal_transformers(family, tmp_path):
    import torch
    import transformers

    kind = {"qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=131, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=512, use_sliding_window=True, sliding_window=7,
        max_window_layers=1, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(7)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    model.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.config.windows == (None, 7, 7) and ours.config.max_context == 7
    ids = torch.randint(0, 131, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(ids).logits
        measured = ours.logits(ours(ids, torch.arange(40).expand(2, 40), None))
    assert (wanted - measured).abs().max() < 1e-4


def test_the_longest_context_is_that_of_the_narrowest_window():
    config = {**seeded.SIZES, **seeded.CASES["mistral"]}
    decoder: Decoder = FAMILIES["mistral"].read(config, Path("config.json"))
    assert decoder.windows == (32, 32) and decoder.max_context == 32
    assert replace(decoder, windows=(None, None)).max_context == 512
