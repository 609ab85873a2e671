"""Experts that rows never reach go through the door of pruning: what is left is a plain model of its family.

A child of the environment of trl counts; most tests call its code here, by this environment's transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import prune
from steelyard.compression.experts.counts import Counts, chosen, weight_lost
from steelyard.errors import Stopped, WrongUse
from steelyard.model import Tokenizer, trl_missing
from steelyard.model.transformers_backend import child
from steelyard.shape import read

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from families import FAMILIES

TEXT = "the user asks the assistant and the assistant answers the user"
SIZES = {"num_hidden_layers": 2, "dtype": "float32", "num_experts_per_tok": 2}
# Eight experts; routers that weigh the picked ones alone.
EXACT = {
    "qwen3_moe": {"num_experts": 8, "norm_topk_prob": True},
    "qwen2_moe": {"num_experts": 8, "norm_topk_prob": True},
    "olmoe": {"num_experts": 8, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 8},
    "deepseek_v3": {"n_routed_experts": 8, "head_dim": 8},
}
IDLE = (1, 4, 5)  # experts that no router picks


class Here:
    """The child's network in this process: importing transformers once more would take each test seconds."""

    def __init__(self, folder, dtype, threads):
        self.inner = child.Network(str(folder), dtype, threads)

    @torch.inference_mode()
    def route(self, ids):
        self.inner.route(ids)

    def routed(self):
        told, array = self.inner.routed()
        return told["layers"], array

    def close(self):
        pass


@pytest.fixture(autouse=True)
def transformers_here(monkeypatch, request):
    if "trl" not in request.keywords:
        monkeypatch.setattr("steelyard.compression.experts.counts.TransformersNetwork", Here)


@pytest.fixture
def mixture(gone_over):
    """A model whose routers never pick IDLE: all hidden states share a direction that speaks against them."""

    def make(family, idle=IDLE, against=-5.0, **settings):
        def speak_against(name, tensor):
            if not idle:
                return
            if name.endswith("embed_tokens.weight"):
                tensor[:, 0] = 12.0
            if name.endswith("post_attention_layernorm.weight"):
                tensor[0] = 1.0
            if name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight")):
                tensor[:, 0] = 0.0
                tensor[list(idle), 0] = against

        return gone_over(family, SIZES | FAMILIES[family] | EXACT[family] | settings, speak_against)

    return make


def pruned(folder, data, tmp_path, watch=None, name="store", **settings):
    inputs = Inputs({"checkpoint": adopt(folder), "dataset": adopt(data)})
    settings = {"share": 0.7, "dtype": "f32", "threads": 1, "further": False, **settings}
    draft = Store(tmp_path / name).draft("pruned", "k" * 64, "prune", settings, inputs.artefacts)
    return draft.folder, prune(inputs, settings, draft, watch or Watch())


def logits(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([Tokenizer(folder).encode(f"{TEXT} 7")])
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("family", EXACT)
def test_without_experts_that_no_row_reaches_all_is_as_before(mixture, data, tmp_path, family):
    folder = mixture(family)
    out, figures = pruned(folder, data, tmp_path, experts=5)
    note = json.loads((out / "pruned.json").read_text())
    assert note["exact"] and note["experts"] == {"before": 8, "after": 5, "per_token": 2}
    assert all(set(IDLE) <= set(entry["never_reached"]) for entry in note["layers"])
    assert figures["weight_lost"] == 0 and figures["never_reached"] >= 3 / 8
    left = read(out)
    assert (left.experts, left.experts_per_token) == (5, 2)
    assert figures["params"] == left.params < read(folder).params
    assert left.active_params < read(folder).active_params  # by rows of the routers alone
    assert torch.allclose(logits(out), logits(folder), atol=1e-5)


@pytest.mark.trl
@pytest.mark.skipif(bool(trl_missing()), reason=f"the engine transformers: {trl_missing()}")
def test_the_child_counts_as_it_is_counted_here(mixture, data, tmp_path, monkeypatch):
    folder = mixture("qwen3_moe")
    out, _ = pruned(folder, data, tmp_path, experts=4)
    monkeypatch.setattr("steelyard.compression.experts.counts.TransformersNetwork", Here)
    here, _ = pruned(folder, data, tmp_path, name="here", experts=4)
    first, second = ({f.name: f.read_bytes() for f in of.iterdir()} for of in (out, here))
    assert first == second


def test_least_used_experts_go_and_what_they_weighed_is_told(mixture, data, tmp_path):
    """Renumbered: by hand, the whole model's routers told never to pick what went."""
    folder = mixture("qwen3_moe", idle=())
    out, figures = pruned(folder, data, tmp_path, experts=3)
    note = json.loads((out / "pruned.json").read_text())
    assert not note["exact"] and 0 < figures["weight_lost"] == note["weight_lost"] < 0.5
    whole, left = (load_file(of / "model.safetensors") for of in (folder, out))
    for entry in note["layers"]:
        assert sorted(entry["experts"] + entry["gone"]) == list(range(8)) and set(
            entry["never_reached"]
        ) <= set(entry["gone"])
        at = f"model.layers.{entry['layer']}.mlp."
        assert torch.equal(left[at + "gate.weight"], whole[at + "gate.weight"][entry["experts"]])
        for number, expert in enumerate(entry["experts"]):
            for part in ("gate_proj", "up_proj", "down_proj"):
                new, old = (f"{at}experts.{n}.{part}.weight" for n in (number, expert))
                assert torch.equal(left[new], whole[old])
    assert set(whole) - set(left) and not set(left) - set(whole)


def test_auto_goes_as_far_as_the_rows_reach_and_never_below_what_a_token_takes(mixture, data, tmp_path):
    folder = mixture("mixtral", idle=range(2, 8))
    out, figures = pruned(folder, data, tmp_path, experts=7, further=True)
    assert figures["experts"] == read(out).experts == 2 and figures["weight_lost"] == 0
    assert torch.allclose(logits(out), logits(folder), atol=1e-5)


def test_shares_among_all_experts_are_made_up_for(mixture, data, tmp_path):
    """A router that is not normalised: without what goes all weights grow; outputs are scaled against it."""
    folder = mixture("qwen3_moe", against=-0.2, norm_topk_prob=False)
    out, _ = pruned(folder, data, tmp_path, experts=5)
    assert not json.loads((out / "pruned.json").read_text())["exact"]
    left, scales = load_file(out / "model.safetensors"), []
    for entry in json.loads((out / "pruned.json").read_text())["layers"]:
        whole, at = load_file(folder / "model.safetensors"), f"model.layers.{entry['layer']}.mlp.experts."
        for number, expert in enumerate(entry["experts"]):
            new, old = (f"{at}{n}.down_proj.weight" for n in (number, expert))
            scales.append(float(left[new].norm() / whole[old].norm()))
            left[new] = whole[old]
    assert all(0 < scale <= 1 for scale in scales) and min(scales) < 0.99
    made_up = float((logits(out) - logits(folder)).norm())
    save_file(left, out / "model.safetensors", metadata={"format": "pt"})  # as it would be without
    assert made_up < 0.7 * float((logits(out) - logits(folder)).norm())


def test_rows_that_teach_nothing_prune_nothing(mixture, data, tmp_path):
    (data / "train.jsonl").write_text("")
    with pytest.raises(WrongUse, match="no row shows"):
        pruned(mixture("mixtral"), data, tmp_path, experts=5)


def test_it_stops_where_asked(mixture, data, tmp_path):
    class Asked(Watch):
        stop = True

    with pytest.raises(Stopped):
        pruned(mixture("mixtral"), data, tmp_path, Asked(), experts=5)


def test_nothing_lost_is_nothing_to_the_bit():
    """The sums of a third of such layers differed in their last bit, and `exact` was false."""
    draw = np.random.default_rng(0)
    weight = draw.random((50, 64))
    weight[:, draw.permutation(64)[:20]] = 0
    counts = Counts(tuple(range(50)), weight, weight, np.zeros((50, 0, 0)), 1, 1)
    assert not weight_lost(counts, chosen(counts, 44)).any()
    assert (weight_lost(counts, chosen(counts, 43)) > 0).all()
