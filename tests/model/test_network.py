"""The network against transformers as a peer: every family, tied and untied, packed, there and back."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from steelyard.errors import WrongUse  # noqa: E402
from steelyard.model import network as net  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"
SMALL = dict(
    vocab_size=131,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=128, beta_fast=8)
CASES = {
    "llama tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama untied": ("Llama", dict(tie_word_embeddings=False)),
    "llama3 rope": ("Llama", dict(rope_parameters=LLAMA3)),
    "linear rope": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0))),
    "yarn rope": ("Qwen3", dict(head_dim=16, rope_parameters=YARN)),
    "llama biases": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2 untied": ("Qwen2", dict(tie_word_embeddings=False)),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "qwen3 untied": ("Qwen3", dict(head_dim=16, tie_word_embeddings=False)),
    "mistral": ("Mistral", dict(sliding_window=None)),
    "mistral window": ("Mistral", dict(sliding_window=7, head_dim=16)),
}


def peer(case, folder):
    """A random model of transformers with norms and biases that are not ones and zeros."""
    family, more = CASES[case]
    config = getattr(transformers, f"{family}Config")(**SMALL, **more)
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case, tmp_path):
    model = peer(case, tmp_path)
    ours = net.load(tmp_path, "float32")
    ids = torch.randint(0, 131, (2, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(40).expand(2, 40)
    with torch.no_grad():
        wanted = model(ids).logits
        found = ours.logits(ours(ids, positions, None))
    assert (wanted - found).abs().max() < 1e-4


@pytest.mark.parametrize("case", ["llama tied", "qwen3", "mistral window"])
def test_packed_rows_do_not_see_each_other(case, tmp_path):
    model = peer(case, tmp_path)
    ours = net.load(tmp_path, "float32")
    lengths = [5, 60, 1, 33, 12, 90]
    rows = [torch.randint(0, 131, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        found = ours.logits(ours(torch.cat(rows)[None], positions, segments))[0].split(lengths)
        for row, logits in zip(rows, found, strict=True):
            assert (model(row[None]).logits[0] - logits).abs().max() < 1e-4


@pytest.mark.parametrize("case", ["llama biases", "qwen2", "qwen3 untied"])
def test_a_saved_network_is_the_models_own_checkpoint(case, tmp_path):
    model = peer(case, tmp_path / "base")
    net.save(net.load(tmp_path / "base"), tmp_path / "again", tmp_path / "base", dtype="float32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    for (name, wanted), (_, found) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(wanted, found), name


def test_gradients_equal_autograds(tmp_path):
    """The written-out backward passes against autograd through transformers' graph."""
    model = peer("qwen3 untied", tmp_path)
    ours = net.load(tmp_path, "float32")
    anchor = torch.zeros((), requires_grad=True)
    ours.anchor, ours.embed_grad = anchor, torch.zeros_like(ours.embed)
    norms = {m.name: m for m in ours.modules() if isinstance(m, net.Norm)}
    for module in [*norms.values(), *ours.linears()]:
        module.anchor, module.weight_grad = anchor, torch.zeros_like(module.weight)
    ids = torch.randint(0, 131, (1, 50), generator=torch.Generator().manual_seed(3))
    weight = torch.randn(50, 131, generator=torch.Generator().manual_seed(4))
    (model(ids).logits[0] * weight).sum().backward()
    (ours.logits(ours(ids, torch.arange(50)[None]))[0] * weight).sum().backward()
    wanted = dict(model.named_parameters())
    found = {"model.embed_tokens.weight": ours.embed_grad}
    found |= {name: norm.weight_grad for name, norm in norms.items()}
    for layer in ours.linears():
        rows = layer.weight_grad.split([n for _, n in layer.parts])
        found |= {f"{name}.weight": grad for (name, _), grad in zip(layer.parts, rows, strict=True)}
    for name, grad in found.items():
        assert torch.allclose(grad, wanted[name].grad, rtol=1e-3, atol=1e-3), name


def test_an_unknown_family_and_a_half_written_file_are_wrong_use(tmp_path):
    peer("llama tied", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WrongUse) as caught:
        net.load(tmp_path)
    assert caught.value.code == "model.half_written"
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"llama"', '"bloom"'))
    with pytest.raises(WrongUse) as caught:
        net.load(tmp_path)
    assert caught.value.code == "model.family"


def test_saving_holds_one_tensor_beside_the_network(tmp_path):
    """A second whole copy of 65 M weights would be 130 MB more."""
    import subprocess
    import sys

    code = """
import sys
from pathlib import Path
from steelyard.model import load, save, write_random_model
from steelyard.processes import peak_rss_bytes
folder = Path(sys.argv[1])
sizes = dict(layers=24, hidden=512, ffn=1536, heads=8, kv_heads=8, head_dim=64, vocab=512)
write_random_model(folder / "base", **sizes)
network = load(folder / "base", "float32")
for _, tensor in network.tensors():
    tensor.detach().add_(0)  # every page is in memory before the peak is read
before = peak_rss_bytes()
save(network, folder / "out", folder / "base")
print(peak_rss_bytes() - before, (folder / "out" / "model.safetensors").stat().st_size)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown, stored = map(int, done.stdout.split())
    assert stored > 100e6 and grown < 0.25 * stored


def test_a_chat_template_of_its_own_file_goes_with_the_model(tmp_path):
    from steelyard.compression import export_form

    peer("llama tied", tmp_path / "base")
    (tmp_path / "base" / "chat_template.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    net.save(net.load(tmp_path / "base"), tmp_path / "tuned", tmp_path / "base")
    export_form(tmp_path / "base", tmp_path / "ir", "bf16")
    for made in ("tuned", "ir"):
        kept = (tmp_path / made / "chat_template.json").read_bytes()
        assert kept == (tmp_path / "base" / "chat_template.json").read_bytes()
