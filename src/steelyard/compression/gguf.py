"""GGUF files: which type each matrix is stored in, and its blocks. numpy, the package gguf, llama.cpp's C.

Q8_0 is the package gguf's own rounding. The blocks of Q4_K_M are llama.cpp's (`ggml_quantize_chunk`), weighed
by an importance matrix where there are rows; its mixture is that of src/llama-quant.cpp (autumn 2026).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..artefact import Watch
from ..errors import Lacking, WrongUse
from ..model import Decoder, Encoding, llamacpp_library, tensor_count, write_gguf
from .rounding import refuse_unless

Importance = Mapping[str, np.ndarray]
Kind = Callable[[str, tuple[int, ...], Decoder], str]
BLOCK = 256  # weights of a block of the K types
SMALL_BLOCK = 32
SMALLER = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # where a row is no multiple of BLOCK


def write_gguf_form(
    folder: Path, file: Path, form: str, watch: Watch, importance: Importance | None = None
) -> None:
    """Write the Hugging Face folder as `file` in a form of GGUF_FORMS.

    `importance`: [I] by the name of a matrix; without it every input counts alike. Raises WrongUse for
    another form, or a model that GGUF cannot hold, Lacking without the package gguf or llama.cpp.
    """
    number, kind = _checked(form)
    with watch.progress("write gguf", total=tensor_count(folder), unit="tensors") as bar:
        write_gguf(folder, file, Encoding(number, kind, _encoder(form, importance or {})), bar.advance)


def needs_llamacpp(form: str) -> bool:
    return form in BY_LLAMACPP


def _checked(form: str) -> tuple[int, Kind]:
    if form not in GGUF_FORMS:
        raise WrongUse(
            "export.form", f"no form {form!r} of GGUF is written", hint=f"one of {', '.join(GGUF_FORMS)}"
        )
    return GGUF_FORMS[form]


# ------------------------------------------------------------------ which type a matrix has


def _bf16(stem: str, shape: tuple[int, ...], decoder: Decoder) -> str:
    return "BF16"


def _q8(stem: str, shape: tuple[int, ...], decoder: Decoder) -> str:
    return "Q8_0" if shape[-1] % SMALL_BLOCK == 0 else "F16"


def _q4_k_m(stem: str, shape: tuple[int, ...], decoder: Decoder) -> str:
    """llama_tensor_get_type and tensor_type_fallback of a dense decoder, LLAMA_FTYPE_MOSTLY_Q4_K_M."""
    kind = _mixed(stem, decoder)
    if shape[-1] % BLOCK:
        kind = SMALLER[kind]
    return kind if shape[-1] % SMALL_BLOCK == 0 else "F16"


def _mixed(stem: str, decoder: Decoder) -> str:
    if stem == "output" or (stem == "token_embd" and decoder.tied):
        return "Q6_K"
    parts = stem.split(".")
    more = parts[-1] in ("attn_v", "ffn_down") and _more_bits(int(parts[1]), decoder.layers)
    return "Q6_K" if more else "Q4_K"


def _more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


# Number of the file type (llama.h, llama_ftype) and the type of each matrix.
GGUF_FORMS: dict[str, tuple[int, Kind]] = {"Q8_0": (7, _q8), "Q4_K_M": (15, _q4_k_m), "BF16": (32, _bf16)}
BY_LLAMACPP = ("Q4_K_M",)  # the package gguf has no rounding to these types


# ------------------------------------------------------------------ blocks


def _encoder(form: str, importance: Importance) -> Callable[[np.ndarray, str, str], np.ndarray]:
    gguf = _library("gguf")
    native = _native() if needs_llamacpp(form) else None

    def encode(values: np.ndarray, kind: str, name: str) -> np.ndarray:
        refuse_unless(bool(np.isfinite(values).all()), name)
        number = gguf.GGMLQuantizationType[kind]
        if native is None or kind == "F16":
            return gguf.quants.quantize(values, number).view(np.uint8)
        return _blocks(native, gguf, values, number, importance.get(name))

    return encode


def _blocks(
    native: Any, gguf: Any, values: np.ndarray, number: Any, weights: np.ndarray | None
) -> np.ndarray:
    """[rows, bytes of a row] of llama.cpp's own rounding."""
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(gguf.quants.quant_shape_to_byte_shape(values.shape, number), np.uint8)
    rows, width = prod(values.shape[:-1]), values.shape[-1]
    by = None if weights is None else np.ascontiguousarray(weights, np.float32)
    pointer = None if by is None else by.ctypes.data
    written = native.ggml_quantize_chunk(
        int(number), values.ctypes.data, out.ctypes.data, 0, rows, width, pointer
    )
    assert written == out.nbytes, f"llama.cpp wrote {written} bytes of {out.nbytes}"
    return out


def _native() -> Any:
    """llama.cpp's library. Raises Lacking."""
    file = llamacpp_library()
    if file is None or not file.exists():
        raise Lacking(
            "export.no_llamacpp", "Q4_K_M is rounded by llama.cpp, which is not installed here",
            why="the package xllamacpp brings it",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[llamacpp]', or --form Q8_0",
        )  # fmt: skip
    library = ctypes.CDLL(str(file))
    function = library.ggml_quantize_chunk
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    return library


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as e:
        raise Lacking(
            "export.no_gguf", f"the package {name} is not installed",
            why="it writes GGUF files",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[serve]'",
        ) from e  # fmt: skip
