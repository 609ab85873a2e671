"""A Hugging Face folder of a dense decoder as a GGUF file: keys and names of llama.cpp's converter.

What a matrix is rounded to, and how, is the caller's (compression): it comes in as an `Encoding`. Equal
folders and encodings give equal bytes. Not here: the tokenizer's part of the header (gguf_vocabulary.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Where, WrongUse
from .decoder import family_of, read_decoder
from .families import Decoder, GgufForm
from .frequencies import inverse_frequencies
from .gguf_names import ROPE_FACTORS, Interleaved, gguf_stems, hf_stem
from .gguf_tokenizer import library
from .gguf_vocabulary import write_vocabulary
from .weights import Weights

WRITTEN_ROPES = ("default", "dynamic", "linear", "llama3")  # dynamic: as default, within its own context
ROTATED = {"attn_q": "heads", "attn_k": "kv_heads"}  # matrix: the field of Decoder that counts its heads


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the matrices are stored: `file_type` is llama.cpp's number of the mixture.

    `kind(stem, shape, decoder)`: the type of a matrix by GGML's name. `encode(values, kind, name)`: f32
    values of the matrix that Hugging Face calls `name`, as bytes [rows, bytes of a row].
    """

    file_type: int
    kind: Callable[[str, tuple[int, ...], Decoder], str]
    encode: Callable[[np.ndarray, str, str], np.ndarray]


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor of the file: its name, the checkpoint's, its type, and what is done to its rows."""

    name: str
    source: str
    kind: str
    rows: Interleaved | None


def check_gguf(folder: Path) -> Decoder:
    """The decoder of `folder`. Raises WrongUse where llama.cpp's form of it is not known here."""
    family = family_of(folder)
    if family.gguf is None or family.read is None:
        raise _refused(folder, "model_type", family.name, "llama, qwen2, qwen3, mistral")
    decoder = read_decoder(folder)
    if (kind := decoder.rope["rope_type"]) not in WRITTEN_ROPES:
        raise _refused(folder, "rope_scaling", kind, ", ".join(WRITTEN_ROPES))
    return decoder


def _refused(folder: Path, field: str, value: str, known: str) -> WrongUse:
    return WrongUse(
        "export.gguf_unknown", f"{field} {value!r} cannot be written as GGUF",
        where=Where(str(folder / "config.json"), field=field), why=f"known are {known}",
        hint="--to hf, and llama.cpp's own convert_hf_to_gguf.py",
    )  # fmt: skip


def write_gguf(folder: Path, file: Path, encoding: Encoding, each: Callable[[], None] = lambda: None) -> None:
    """Write `file`, one tensor in memory at a time; `each` is called after every one. Raises WrongUse."""
    gguf = library("gguf")
    decoder, form = check_gguf(folder), family_of(folder).gguf
    assert form is not None
    weights = Weights(folder)
    stored = list(_stored(weights, decoder, form, encoding))
    part = file.with_name(f".{file.name}.part")
    writer = gguf.GGUFWriter(str(part), form.architecture)
    _write_facts(writer, gguf, decoder, encoding)
    write_vocabulary(writer, folder, decoder.vocab)
    factors = _rope_factors(decoder)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for one in stored:
        _announce(writer, gguf, one, weights.shape(one.source))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for one in stored:
        writer.write_tensor_data(_bytes_of(weights, one, encoding))
        each()
    _publish(writer, part, file)


def _publish(writer: Any, part: Path, file: Path) -> None:
    for handle in writer.fout:
        handle.flush()
        os.fsync(handle.fileno())
    writer.close()
    os.replace(part, file)


def tensor_count(folder: Path) -> int:
    """Tensors that `write_gguf` will write: for a bar."""
    return len(Weights(folder).names())


# ------------------------------------------------------------------ header


def _write_facts(writer: Any, gguf: Any, decoder: Decoder, encoding: Encoding) -> None:
    writer.add_type("model")
    writer.add_file_type(encoding.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(decoder.vocab)
    writer.add_context_length(decoder.max_context)
    writer.add_embedding_length(decoder.hidden)
    writer.add_block_count(decoder.layers)
    writer.add_feed_forward_length(decoder.ffn)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_key_length(decoder.head_dim)
    writer.add_value_length(decoder.head_dim)
    writer.add_layer_norm_rms_eps(decoder.eps)
    writer.add_rope_dimension_count(decoder.head_dim)
    writer.add_rope_freq_base(decoder.rope["rope_theta"])
    if decoder.rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(decoder.rope["factor"])


def _rope_factors(decoder: Decoder) -> np.ndarray | None:
    """Llama 3's scaling, as llama.cpp has it: what each frequency is divided by."""
    if decoder.rope["rope_type"] != "llama3":
        return None
    plain = inverse_frequencies({**decoder.rope, "rope_type": "default"}, decoder.head_dim)
    return (plain / inverse_frequencies(decoder.rope, decoder.head_dim)).astype(np.float32)


# ------------------------------------------------------------------ tensors


def _stored(weights: Weights, decoder: Decoder, form: GgufForm, encoding: Encoding) -> Iterator[_Stored]:
    """All of the checkpoint's tensors. Raises WrongUse for one that has no place in the file."""
    left = set(weights.names())
    for stem in gguf_stems(decoder):
        own = hf_stem(stem, decoder.names)
        for kind in ("weight", "bias"):
            if (source := f"{own}.{kind}") in left:
                left.discard(source)
                flat = len(weights.shape(source)) == 1
                type_ = "F32" if flat else encoding.kind(stem, weights.shape(source), decoder)
                heads = ROTATED.get(stem.rpartition(".")[2]) if form.interleaved else None
                rows = Interleaved(getattr(decoder, heads)) if heads else None
                yield _Stored(f"{stem}.{kind}", source, type_, rows)
    if decoder.tied:
        left.discard(f"{decoder.names.head}.weight")
    if left:
        raise _refused(weights.folder, "tensor", min(left), "the tensors of a dense decoder")


def _announce(writer: Any, gguf: Any, one: _Stored, shape: tuple[int, ...]) -> None:
    kind = gguf.GGMLQuantizationType[one.kind]
    if one.kind == "F32":
        return writer.add_tensor_info(one.name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    stored = gguf.quants.quant_shape_to_byte_shape(shape, kind)
    return writer.add_tensor_info(one.name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)


def _bytes_of(weights: Weights, one: _Stored, encoding: Encoding) -> np.ndarray:
    values = weights.f32(one.source)
    if one.rows is not None:
        values = one.rows.done(values)
    return values if one.kind == "F32" else encoding.encode(values, one.kind, one.source.rpartition(".")[0])
