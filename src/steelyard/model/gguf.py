"""A GGUF file as a Hugging Face folder: weights in BF16, a true tokenizer.json, the chat template.

Equal files give equal bytes. Not here: running GGUF (its own tokenizer drifts from the model's by a
few ids in 5,000, hence tokenizer.json is rebuilt: gguf_tokenizer.py).
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Executor, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..hardware import affinity
from ..shape import Gguf, TensorAt, gguf_header, shards
from .families import FAMILIES, GgufForm, Names
from .gguf_names import ROPE_FACTORS, Interleaved, hf_stem
from .gguf_tokenizer import library, refused, tokenizer_config, tokenizer_json
from .source import ModelSource, gguf_family
from .weights import bf16_of, write_each

BAND = 2**18  # numbers dequantised at a time: their float32 values stay in the second-level cache


def to_hf(source: ModelSource, out: Path, weights: bool = True) -> None:
    """Write `source` to the folder `out` as config.json, model.safetensors and tokenizer files.

    `weights=False` leaves out model.safetensors of a GGUF file: for an engine that reads the file itself.
    A Hugging Face source is copied file by file. Raises WrongUse for a file whose family,
    RoPE scaling or pre-tokenizer is unknown, Lacking where gguf or tokenizers is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    if source.kind == "hf":
        return _copy(source.path, out)
    header = gguf_header(source.path)
    tokenizer = tokenizer_json(header, source.path)  # first: it refuses what cannot be converted
    config = _config(header, source.path)
    _write_json(out / "config.json", config)
    _write_text(out / "tokenizer.json", tokenizer)
    _write_json(out / "tokenizer_config.json", tokenizer_config(header))
    _write_json(out / "generation_config.json", _special_ids(header))
    if template := header.meta.get("tokenizer.chat_template"):
        _write_text(out / "chat_template.jinja", template)
    if weights:
        _write_weights(header, source.path, config, out / "model.safetensors")
    return None


def _copy(folder: Path, out: Path) -> None:
    """Copies, not links: a user may write into his folder later."""
    weights = shards(folder)
    texts = [
        p for p in folder.iterdir() if p.suffix in (".json", ".jinja") or p.stem in ("LICENSE", "NOTICE")
    ]
    for file in sorted([*weights, *texts]):
        shutil.copyfile(file, out / file.name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


# ------------------------------------------------------------------ config.json


def _config(header: Gguf, file: Path) -> dict[str, Any]:
    get = header.of_arch
    family = gguf_family(str(header.meta.get("general.architecture")), file)
    heads, hidden = int(get("attention.head_count")), int(get("embedding_length"))
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "hidden_size": hidden,
        "intermediate_size": int(get("feed_forward_length")),
        "num_hidden_layers": int(get("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(get("attention.head_count_kv", heads)),
        "head_dim": int(get("attention.key_length", hidden // heads)),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "max_position_embeddings": int(get("context_length")),
        "rms_norm_eps": _decimal(get("attention.layer_norm_rms_epsilon")),
        "rope_theta": _decimal(get("rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if scaling := _rope_scaling(header, config, file):
        config["rope_scaling"] = scaling
    return config | _special_ids(header)


def _decimal(value: float) -> float:
    """The number a person wrote, of which the header keeps the float32: 9.99999975e-06 is 1e-05."""
    return float(str(np.float32(value)))


def _special_ids(header: Gguf) -> dict[str, int]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: header.meta.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {name: int(value) for name, value in ids.items() if value is not None}


def _rope_scaling(header: Gguf, config: dict[str, Any], file: Path) -> dict[str, Any] | None:
    kind = header.of_arch("rope.scaling.type", "none")
    if ROPE_FACTORS in header.tensors:
        return _llama3_scaling(header, config, file)
    if kind in ("none", ""):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": _decimal(header.of_arch("rope.scaling.factor"))}
    raise refused(file, "rope.scaling.type", kind, "none, linear, llama3")


def _llama3_scaling(header: Gguf, config: dict[str, Any], file: Path) -> dict[str, Any]:
    """GGUF keeps the factors alone; the constants behind them are the same in all Llama 3 models."""
    factors = _read_f32(header.tensors[ROPE_FACTORS], file)
    scaling = {
        "rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    dim = config["head_dim"]
    waves = 2 * np.pi * config["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    smooth = np.clip((8192 / waves - 1.0) / (4.0 - 1.0), 0, 1)
    if factors.size != waves.size or not np.allclose(
        factors, 1 / ((1 - smooth) / factors.max() + smooth), 1e-3
    ):
        raise refused(file, ROPE_FACTORS, "rope factors", "those of Llama 3")
    return scaling


# ------------------------------------------------------------------ weights


def _write_weights(header: Gguf, file: Path, config: dict[str, Any], out: Path) -> None:
    """Dequantise tensor by tensor, BF16 rounded to the nearest."""
    family = FAMILIES[config["model_type"]]
    names = family.read(config, file).names if family.read else Names()
    form = family.gguf or GgufForm(architecture=family.name)
    places = {_hf_name(name, names, file): at for name, at in header.tensors.items() if name != ROPE_FACTORS}
    if config["attention_bias"] and not form.biases:
        raise refused(file, "blk.0.attn_q.bias", f"a bias in {family.name}", "files without biases of it")

    def values(name: str) -> np.ndarray:
        numbers = _read_bf16(places[name], file, pool)
        if form.interleaved and f".{names.query}." in name:
            numbers = Interleaved(config["num_attention_heads"]).undone(numbers)
        if form.interleaved and f".{names.key}." in name:
            numbers = Interleaved(config["num_key_value_heads"]).undone(numbers)
        return numbers

    with ThreadPoolExecutor(len(affinity())) as pool:
        write_each({name: ("BF16", at.shape) for name, at in places.items()}, values, out)


def _hf_name(name: str, names: Names, file: Path) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    stem, _, kind = name.rpartition(".")
    if (own := hf_stem(stem, names)) is None:
        raise refused(file, "tensor", name, "the tensors of a dense decoder")
    return f"{own}.{kind}"


def _read_f32(at: TensorAt, file: Path) -> np.ndarray:
    """The numbers of one tensor, dequantised, in its shape."""
    data = np.fromfile(file, np.uint8, at.end - at.begin, offset=at.begin)
    return _dequantised(data, at.dtype).reshape(at.shape)


def _read_bf16(at: TensorAt, file: Path, pool: Executor) -> np.ndarray:
    """The same as BF16 bits (uint16), band by band on all cores (numpy lets go of the interpreter)."""
    data = np.fromfile(file, np.uint8, at.end - at.begin, offset=at.begin)
    numbers = prod(at.shape)
    block = library("gguf").GGML_QUANT_SIZES[_kind(at.dtype)][1]
    step = max(BAND * (data.size // block) // numbers, 1) * block
    bands = pool.map(
        lambda begin: _bf16_band(data[begin : begin + step], at.dtype), range(0, data.size, step)
    )
    out, place = np.empty(numbers, np.uint16), 0
    for band in bands:
        out[place : place + band.size] = band
        place += band.size
    return out.reshape(at.shape)


def _bf16_band(data: np.ndarray, dtype: str) -> np.ndarray:
    return bf16_of(_dequantised(data, dtype))


def _dequantised(data: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers of stored bytes, flat."""
    if dtype in ("F32", "F16"):
        return data.view({"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32)
    # As one row: the library walks over rows in small groups, which costs more than the arithmetic.
    return library("gguf").quants.dequantize(data.reshape(1, -1), _kind(dtype)).reshape(-1)


def _kind(dtype: str) -> Any:
    return library("gguf").GGMLQuantizationType[dtype]
