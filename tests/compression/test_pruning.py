"""Pruning through its door: what rows never need goes, what is left is a plain model of its family."""

from __future__ import annotations

import json

import pytest
import torch

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import prune
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, load
from steelyard.shape import read

TEXT = "the user asks the assistant and the assistant answers the user"
WHOLE = {"layers": 4, "kv_heads": 2, "ffn": 128}


@pytest.fixture
def changed(gone_over):
    """`changed(change)`: a model of four layers whose tensors `change(name, tensor)` has gone over."""

    def make(change=lambda name, tensor: None, family="llama", **settings):
        settings = {"num_hidden_layers": 4, "dtype": "float32", **settings}
        return gone_over(family, settings, change)

    return make


def pruned(folder, data, tmp_path, watch=None, name="store", **sizes):
    inputs = Inputs({"checkpoint": adopt(folder), "dataset": adopt(data)})
    settings = {**WHOLE, "dtype": "f32", "threads": 1, **sizes}
    draft = Store(tmp_path / name).draft("pruned", "k" * 64, "prune", settings, inputs.artefacts)
    return draft.folder, prune(inputs, settings, draft, watch or Watch())


def logits(folder):
    network, ids = load(folder), torch.tensor([Tokenizer(folder).encode(TEXT)])
    with torch.no_grad():
        return network.logits(network(ids, torch.arange(ids.shape[1])[None]))


def kept(folder):
    return json.loads((folder / "pruned.json").read_text())["layers"]


def off(one, other):
    """Distance as a share of the size; BF16 alone comes to less than 0.02 here."""
    return float((one - other).norm() / other.norm())


def test_layers_that_add_nothing_go_first(changed, data, tmp_path):
    idle = [f"layers.{n}.{part}" for n in (1, 2) for part in ("self_attn.o_proj", "mlp.down_proj")]
    folder = changed(lambda name, t: t.zero_() if any(part in name for part in idle) else None)
    out, figures = pruned(folder, data, tmp_path, layers=2)
    assert [entry["layer"] for entry in kept(out)] == [0, 3]
    assert off(logits(out), logits(folder)) < 0.02
    assert figures["params"] == read(out).params < read(folder).params
    assert figures["share"] == pytest.approx(read(out).params / read(folder).params)


def test_of_channels_that_say_the_same_one_speaks_for_both(changed, data, tmp_path):
    """Cut without a fit, each would leave half of what both gave."""

    def doubled(name, t):
        if "gate_proj" in name or "up_proj" in name:
            t[64:] = t[:64]

    folder = changed(doubled)
    out, _ = pruned(folder, data, tmp_path, ffn=64)
    assert off(logits(out), logits(folder)) < 0.1
    half = load(out)
    for layer, whole in zip(half.layers, load(folder).layers, strict=True):
        layer.down.weight.data = whole.down.weight.data[:, :64]
    ids = torch.tensor([Tokenizer(out).encode(TEXT)])
    with torch.no_grad():
        cut = half.logits(half(ids, torch.arange(ids.shape[1])[None]))
    assert off(cut, logits(folder)) > 3 * off(logits(out), logits(folder))


def test_heads_that_nobody_listens_to_go_with_their_keys(changed, data, tmp_path):
    folder = changed(lambda name, t: t[:, :32].zero_() if "o_proj" in name else None)  # of the first KV head
    out, _ = pruned(folder, data, tmp_path, kv_heads=1)
    assert {tuple(entry["kv_heads"]) for entry in kept(out)} == {(1,)}
    assert off(logits(out), logits(folder)) < 0.02


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_is_left_is_a_plain_model_of_its_family(changed, data, tmp_path, family):
    from transformers import AutoModelForCausalLM

    folder = changed(family=family, tie_word_embeddings=family != "qwen3")
    out, _ = pruned(folder, data, tmp_path, layers=3, kv_heads=1, ffn=96)
    shape = read(out)
    assert (shape.layers, shape.heads, shape.kv_heads, shape.ffn) == (3, 2, 1, 96)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.tensor([Tokenizer(out).encode(TEXT)])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, logits(out), atol=1e-3)
    assert Tokenizer(out).first_difference(Tokenizer(folder)) is None


def test_equal_rows_and_weights_leave_equal_bytes(changed, data, tmp_path):
    folder = changed()
    both = [pruned(folder, data, tmp_path, name=name, layers=3, ffn=96)[0] for name in "ab"]
    first, second = ({f.name: f.read_bytes() for f in out.iterdir()} for out in both)
    assert first == second


def test_a_model_whose_windows_would_move_is_refused(changed, data, tmp_path):
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    idle = ("layers.0.self_attn.o_proj", "layers.0.mlp.down_proj")  # below the windows: it goes
    folder = changed(lambda n, t: t.zero_() if any(i in n for i in idle) else None, "qwen2", **windows)
    config = json.loads((folder / "config.json").read_text())
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WrongUse, match="window"):
        pruned(folder, data, tmp_path, layers=3)


def test_rows_that_teach_nothing_prune_nothing(changed, data, tmp_path):
    (data / "train.jsonl").write_text("")
    with pytest.raises(WrongUse, match="no row shows"):
        pruned(changed(), data, tmp_path, layers=3)


def test_it_stops_where_asked(changed, data, tmp_path):
    class Asked(Watch):
        stop = True

    folder = changed()
    for number, sizes in enumerate(({"layers": 3}, {"ffn": 96})):
        with pytest.raises(Stopped):
            pruned(folder, data, tmp_path, Asked(), str(number), **sizes)
