"""The shape of a model on disk: a folder, a config.json, a lone safetensors or GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ..architectures import head_dim
from ..errors import Where, WrongUse
from .config import dtype_of, of_config, stack_of, unknown_architecture, weights_in
from .files import TensorAt, broken, read_json
from .gguf_file import Gguf, gguf_header
from .safetensors_file import safetensors_header, tensors
from .sizes import Shape

GGUF_DECODERS = frozenset((
    "arcee", "baichuan", "bloom", "chatglm", "codeshell", "cohere2", "command-r", "deepseek", "deepseek2",
    "ernie4_5", "ernie4_5-moe", "exaone", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "glm4",
    "glm4moe", "gpt-oss", "gpt2", "gptj", "gptneox", "granite", "granitemoe", "hunyuan-dense",
    "hunyuan-moe", "internlm2", "llama", "minicpm", "minicpm3", "mistral3", "mpt", "nemotron", "olmo",
    "olmo2", "olmoe", "orion", "phi2", "phi3", "phimoe", "plamo", "qwen", "qwen2", "qwen2moe", "qwen3",
    "qwen3moe", "refact", "seed_oss", "smollm3", "stablelm", "starcoder", "starcoder2", "xverse",
))  # fmt: skip
# general.architecture -> the name that transformers has for it, where its layers depend on that.
GGUF_NAMES = {"gemma3": "gemma3_text", "gpt-oss": "gpt_oss", "deepseek2": "deepseek_v3"}


def read(path: str | Path) -> Shape:
    """The shape of a model folder, a config.json, a lone *.safetensors or a *.gguf. Raises WrongUse."""
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file() and path.suffix == ".json":
        return of_config(read_json(path), None, path)
    if not path.is_file():
        raise WrongUse(
            "model.missing", f"there is no model at {path}", where=Where(str(path)),
            hint="give a folder with config.json, a *.safetensors or a *.gguf file",
        )  # fmt: skip
    if _starts_with(path, b"GGUF"):
        return _of_gguf(path)
    return _of_tensors(path)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _of_folder(folder: Path) -> Shape:
    config = folder / "config.json"
    if not config.is_file():
        raise WrongUse(
            "model.no_config", f"there is no config.json in {folder}", where=Where(str(folder)),
            hint="give the folder of a Hugging Face model, or a *.gguf file",
        )  # fmt: skip
    header = tensors(folder)
    return of_config(read_json(config), {n: at for n, (_, at) in header.items()}, config)


def _of_tensors(path: Path) -> Shape:
    """From tensor shapes alone. head_dim is read from q/k norms, else guessed: 64 up to 2048, then 128."""
    if (path.parent / "config.json").is_file():
        return of_config(read_json(path.parent / "config.json"), safetensors_header(path))
    held = safetensors_header(path)
    try:
        return _guess(held)
    except KeyError as e:
        raise broken(
            path, f"it holds no {e.args[0]}", "model.unknown_tensors",
            "only decoders with the tensor names of llama, qwen and mistral are understood",
        ) from e  # fmt: skip


def _guess(held: Mapping[str, TensorAt]) -> Shape:
    vocab, hidden = held["model.embed_tokens.weight"].shape
    first = "model.layers.0.self_attn."
    numbers = [int(m[1]) for name in held if (m := re.match(r"model\.layers\.(\d+)\.", name))]
    q, kv = held[first + "q_proj.weight"].shape[0], held[first + "k_proj.weight"].shape[0]
    norm = held.get(first + "q_norm.weight")
    head_dim = norm.shape[0] if norm else (64 if hidden <= 2048 else 128)
    tied = "lm_head.weight" not in held
    params = weights_in(held, tied, max(numbers) + 1)
    return Shape(
        family="qwen3" if norm else "qwen2" if first + "q_proj.bias" in held else "llama",
        layers=max(numbers) + 1, hidden=hidden, heads=q // head_dim, kv_heads=kv // head_dim,
        head_dim=head_dim, ffn=held["model.layers.0.mlp.up_proj.weight"].shape[0], vocab=vocab,
        gated="model.layers.0.mlp.gate_proj.weight" in held, tied=tied, experts=0, experts_per_token=0,
        max_position=0, params=params, active_params=params, dtype=dtype_of(held),
    )  # fmt: skip


def _of_gguf(path: Path) -> Shape:
    header = gguf_header(path)
    get = header.of_arch
    name = str(header.meta.get("general.architecture"))
    if name not in GGUF_DECODERS:
        recurrent = any(key.startswith(f"{name}.ssm.") for key in header.meta)
        raise unknown_architecture(name, "state-space (Mamba) layers" if recurrent else "", path)
    try:
        hidden, heads = int(get("embedding_length")), _number(get("attention.head_count"))
        layers, ffn = int(get("block_count")), _number(get("feed_forward_length"))
    except TypeError as e:
        raise broken(path, "its header lacks the sizes of a language model", "model.bad_config") from e
    config = gguf_config(header, name, layers, hidden, heads, ffn)
    params, used = sum(prod(at.shape) for at in header.tensors.values()), config["num_experts_per_tok"]
    experts = config["num_experts"]
    vocab = header.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in header.tensors else 0
    return Shape(
        family=name, layers=layers, hidden=hidden, heads=heads, kv_heads=config["num_key_value_heads"],
        head_dim=head_dim(config), ffn=config["moe_intermediate_size"] if experts else ffn, vocab=vocab,
        gated=config["gated"], tied="output.weight" not in header.tensors, experts=experts,
        experts_per_token=used, max_position=int(get("context_length", 0)), params=params,
        active_params=params - _idle_experts(header.tensors.items(), experts, used),
        dtype=dtype_of(header.tensors), stack=stack_of(config, path),
    )  # fmt: skip


def gguf_config(header: Gguf, name: str, layers: int, hidden: int, heads: int, ffn: int) -> dict[str, Any]:
    """The header in the keys of a config.json (llama.cpp, gguf-py/gguf/constants.py)."""
    get = header.of_arch
    rope, shared = int(get("rope.dimension_count", 0)), int(get("expert_shared_feed_forward_length", 0))
    width = int(get("attention.key_length_mla", 0)) or int(get("attention.key_length", 0)) or hidden // heads
    return {
        "model_type": GGUF_NAMES.get(name, name),
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": _number(get("attention.head_count_kv", heads)),
        "head_dim": width,
        "intermediate_size": ffn,
        "gated": any(".ffn_gate" in tensor for tensor in header.tensors),
        "sliding_window": get("attention.sliding_window"),
        "num_experts": int(get("expert_count", 0)),
        "num_experts_per_tok": int(get("expert_used_count", 0)),
        "moe_intermediate_size": int(get("expert_feed_forward_length", 0)) or ffn,
        "shared_expert_intermediate_size": shared,
        "n_shared_experts": int(get("expert_shared_count", 0)),
        "first_k_dense_replace": int(get("leading_dense_block_count", 0)),
        "kv_lora_rank": int(get("attention.kv_lora_rank", 0)),
        "q_lora_rank": int(get("attention.q_lora_rank", 0)),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": width - rope,
        "v_head_dim": int(get("attention.value_length_mla", 0)) or int(get("attention.value_length", width)),
    }


def _number(value: Any) -> int:
    """Some files give one number a layer."""
    return int(max(value)) if isinstance(value, list) else int(value)


def _idle_experts(held: Iterable[tuple[str, TensorAt]], experts: int, used: int) -> int:
    inside = sum(prod(at.shape) for name, at in held if "_exps" in name)
    return inside * (experts - used) // experts if experts else 0
