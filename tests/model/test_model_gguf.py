"""GGUF to a Hugging Face folder: weights equal to transformers' own reading, ids to the true tokenizer's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import WrongUse
from steelyard.model import ModelSource, Tokenizer, Weights, resolve, to_hf

NAMES = {  # Hugging Face to GGUF, as llama.cpp's convert_hf_to_gguf.py writes them
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's own, word for word."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def make_gguf(
    folder: Path, file: Path, arch: str, pre: str, extra=None, quantised="F32", **fields
) -> ModelSource:
    """A GGUF of a tiny Hugging Face folder, as the converter of llama.cpp would make it."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer = GGUFWriter(file, arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model(fields.get("model", "gpt2"))
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIALS else 1 for t in tokens])
    writer.add_token_merges([" ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    weights = Weights(folder)
    for name in weights:
        values = weights.f32(name)
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = permute(
                values, config["num_attention_heads" if ".q_" in name else "num_key_value_heads"]
            )
        kind = GGMLQuantizationType[quantised if values.ndim == 2 else "F32"]
        writer.add_tensor(gguf_name(name), quantize(values, kind), raw_dtype=kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return resolve(str(file))


@pytest.mark.parametrize(("family", "pre"), [("llama", "llama-bpe"), ("qwen2", "qwen2"), ("qwen3", "qwen2")])
@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back(tiny_models, tmp_path, family, pre, tied):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny_models(family, tied=tied)
    to_hf(make_gguf(folder, tmp_path / "x.gguf", family, pre), tmp_path / "out")
    before, after = Weights(folder), Weights(tmp_path / "out")
    assert before.names() == after.names()
    assert all(np.array_equal(before.raw(name), after.raw(name)) for name in before)
    ids = torch.arange(3, 60)[None]
    first, second = (AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (folder, tmp_path / "out"))
    assert torch.equal(first, second)
    resolve(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("kind", "error"),
    [("F16", 1e-3), ("BF16", 0.0), ("Q8_0", 0.02), ("Q5_1", 0.1), ("Q4_1", 0.2), ("Q4_0", 0.2)],
)
def test_each_quantised_form_comes_near(tiny_models, tmp_path, kind, error):
    folder = tiny_models("llama")
    to_hf(make_gguf(folder, tmp_path / "x.gguf", "llama", "smollm", quantised=kind), tmp_path / "out")
    before, after = Weights(folder), Weights(tmp_path / "out")
    for name in before:
        assert np.abs(before.f32(name) - after.f32(name)).max() <= error * np.abs(before.f32(name)).max()


def test_llama3_rope_scaling_is_found_again(tiny_models, tmp_path):
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    folder = tiny_models("llama", rope_parameters={**scaling, "rope_theta": 500000.0}, head_dim=64)
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = 1.0 / 500000.0 ** (np.arange(0, 64, 2) / 64)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(folder), "cpu")[0].numpy()
    factors = {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
    to_hf(make_gguf(folder, tmp_path / "x.gguf", "llama", "llama-bpe", factors), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_scaling"] == scaling and config["rope_theta"] == 500000.0
    odd = {"rope_freqs.weight": factors["rope_freqs.weight"] ** 1.5}
    source = make_gguf(folder, tmp_path / "y.gguf", "llama", "llama-bpe", odd)
    with pytest.raises(WrongUse, match="rope factors"):
        to_hf(source, tmp_path / "odd")


@pytest.mark.parametrize(("pre", "model"), [("default", "gpt2"), ("falcon", "gpt2"), ("smollm", "t5")])
def test_an_unknown_tokenizer_is_refused(tiny_models, tmp_path, pre, model):
    source = make_gguf(tiny_models("llama"), tmp_path / "x.gguf", "llama", pre, model=model)
    with pytest.raises(WrongUse, match=r"cannot be converted") as error:
        to_hf(source, tmp_path / "out")
    assert "Hugging Face folder" in error.value.hint and not list((tmp_path / "out").iterdir())


def test_the_demo_model_equals_transformers(smol):
    """Every weight is transformers' dequantised one, rounded to BF16; the logits move by that alone."""
    import torch
    from transformers import AutoModelForCausalLM

    file = resolve("demo").path
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32)
    expected = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, expected[name].to(torch.bfloat16).float()), name
    ids = torch.tensor([Tokenizer(smol).chat_ids([{"role": "user", "content": "Capital of France?"}])])
    with torch.no_grad():
        free, found = theirs(ids).logits, ours(ids).logits
    assert torch.equal(free.argmax(-1), found.argmax(-1)) and (free - found).abs().max() < 0.5


def test_equal_files_give_equal_bytes(smol, tmp_path):
    to_hf(resolve("demo"), tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(p.name for p in smol.iterdir()) and len(names) == 6
    assert all((tmp_path / n).read_bytes() == (smol / n).read_bytes() for n in names)


TEXTS = [
    "Hello, world! It's we'll they're I'd",
    "你好，世界！今天是二〇二四年，价格￥3.50。",
    "1234567890 3.14159 2024-07-26 v1.2.3 a1b22c333",
    "  leading,   many   spaces \t tabs\t\n\n\nnew lines \r\n and trailing   ",
    "def f(x):\n    return x ** 2  # naïve café ÅÄÖ\n",
    "русский العربية עברית ไทย 한국어 日本語 🎉👩‍👩‍👧 é",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
]


def test_demo_ids_equal_transformers_on_the_written_files(smol):
    """SmolLM2's tokenizer.json is Digits + ByteLevel; what transformers makes of the GGUF lacks Digits."""
    from transformers import AutoTokenizer

    ours, theirs = Tokenizer(smol), AutoTokenizer.from_pretrained(smol)
    file = resolve("demo").path
    drifting = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    broad = Path(__file__).read_text("utf-8") + "".join(TEXTS)
    for text in [*TEXTS, broad]:
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids, skip_special=False) == text
        if not any(c.isdigit() for c in text):
            assert ids == drifting(text, add_special_tokens=False).input_ids
    assert len(ours.encode("20240726")) == 8


def test_pre_tokenizers_equal_the_models_own(tiny_models, tmp_path):
    """qwen2 against transformers' Qwen2Tokenizer, llama-bpe against its converter of Llama 3's tiktoken."""
    from tokenizers import Regex, pre_tokenizers
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import TikTokenConverter

    folder = tiny_models("llama")
    made = {}
    for pre in ("qwen2", "llama-bpe"):
        to_hf(make_gguf(folder, tmp_path / f"{pre}.gguf", "llama", pre), tmp_path / pre)
        made[pre] = json.loads((tmp_path / pre / "tokenizer.json").read_text())
    qwen = json.loads(Qwen2Tokenizer().backend_tokenizer.to_str())
    assert made["qwen2"]["pre_tokenizer"]["pretokenizers"][0] == qwen["pre_tokenizer"]["pretokenizers"][0]
    assert made["qwen2"]["normalizer"] == qwen["normalizer"]
    llama = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TikTokenConverter(vocab_file="").pattern), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    from tokenizers import Tokenizer as Inner

    for text in TEXTS:
        found = Inner.from_file(str(tmp_path / "llama-bpe" / "tokenizer.json")).pre_tokenizer
        assert found.pre_tokenize_str(text) == llama.pre_tokenize_str(text)
    assert made["llama-bpe"]["model"]["ignore_merges"] and not made["qwen2"]["model"]["ignore_merges"]


def test_a_lone_gguf_in_a_folder_is_found(tmp_path):
    shutil.copyfile(resolve("demo").path, tmp_path / "only.gguf")
    assert resolve(str(tmp_path)).path.name == "only.gguf"
