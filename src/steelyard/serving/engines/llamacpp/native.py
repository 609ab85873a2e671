"""llama.cpp's C functions, taken out of the library that the package xllamacpp brings.

Its Python API is llama-server, whose streams lose the ids of tokens that end within a character and which
gives no log-probabilities of a prompt. The same file exports the C API, and that gives everything.
$STEELYARD_LLAMACPP names another libllama.so, built for this machine (the wheel stops at AVX2).

The parameter structures grow from release to release: their defaults are checked, a foreign layout refused.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....model import LLAMACPP_VARIABLE, llamacpp_library
from ..protocol import Capability

ROOM = 1024  # bytes for a parameter structure, 168 today
POINTER, INT, BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool

# Of llama_context_params: offset, default. (include/llama.h; releases of autumn 2026)
HEAD = {
    "n_ctx": (0, 512), "n_batch": (4, 2048), "n_ubatch": (8, 512), "n_seq_max": (12, 1), "n_rs_seq": (16, 0),
    "n_outputs_max": (20, 0), "n_outputs_max_per_seq": (24, 1), "n_threads": (28, 4),
    "n_threads_batch": (32, 4), "rope_scaling_type": (40, -1), "pooling_type": (44, -1),
    "attention_type": (48, -1), "flash_attn_type": (52, -1), "type_k": (104, 1), "type_v": (108, 1),
}  # fmt: skip
FLAGS = bytes([0, 1, 1, 1, 1, 0])  # embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified
FLAGS_BETWEEN = (112, 168)
GGML_TYPES = {"f32": 0, "f16": 1, "u8": 8, "bf16": 30}  # u8: Q8_0
LLGUIDANCE = "_Z22llama_sampler_init_llgPK11llama_vocabPKcS3_"  # in common/, hence its C++ name
KINDS = {"json_schema": b"json", "regex": b"regex"}  # GBNF ("ebnf") is llama.cpp's own


class Params(ctypes.Structure):
    _fields_ = [("raw", ctypes.c_ubyte * ROOM)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", INT), ("token", POINTER), ("embd", POINTER), ("pos", POINTER), ("n_seq_id", POINTER),
        ("seq_id", POINTER), ("logits", POINTER),
    ]  # fmt: skip


class Candidates(ctypes.Structure):
    _fields_ = [("data", POINTER), ("size", ctypes.c_size_t), ("selected", ctypes.c_int64), ("sorted", BOOL)]


CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [POINTER, POINTER]),
    "llama_model_default_params": (Params, []),
    "llama_context_default_params": (Params, []),
    "llama_model_load_from_file": (POINTER, [ctypes.c_char_p, Params]),
    "llama_model_free": (None, [POINTER]),
    "llama_model_get_vocab": (POINTER, [POINTER]),
    "llama_init_from_model": (POINTER, [POINTER, Params]),
    "llama_free": (None, [POINTER]),
    "llama_get_memory": (POINTER, [POINTER]),
    "llama_memory_seq_rm": (BOOL, [POINTER, INT, INT, INT]),
    "llama_memory_seq_cp": (None, [POINTER, INT, INT, INT, INT]),
    "llama_decode": (INT, [POINTER, Batch]),
    "llama_get_logits": (POINTER, [POINTER]),
    "llama_vocab_n_tokens": (INT, [POINTER]),
    "llama_vocab_get_text": (ctypes.c_char_p, [POINTER, INT]),
    "llama_vocab_is_eog": (BOOL, [POINTER, INT]),
    "llama_tokenize": (INT, [POINTER, ctypes.c_char_p, INT, POINTER, INT, BOOL, BOOL]),
    "llama_sampler_init_grammar": (POINTER, [POINTER, ctypes.c_char_p, ctypes.c_char_p]),
    "llama_sampler_apply": (None, [POINTER, ctypes.POINTER(Candidates)]),
    "llama_sampler_accept": (None, [POINTER, INT]),
    "llama_sampler_free": (None, [POINTER]),
    "llama_adapter_lora_init": (POINTER, [POINTER, ctypes.c_char_p]),
    "llama_adapter_lora_free": (None, [POINTER]),
    "llama_set_adapters_lora": (INT, [POINTER, POINTER, ctypes.c_size_t, POINTER]),
}


class Native:
    """One loaded model and its context. Raises OSError or ValueError where it cannot be."""

    def __init__(
        self, file: Path, *, cells: int, batch: int, sequences: int, outputs: int, threads: int, kv: str
    ) -> None:
        self.lib = _library()
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(
            os.fsencode(file), self.lib.llama_model_default_params()
        )
        if not self.model:
            raise ValueError(f"llama.cpp cannot load {file.name}")
        params = _params(
            self.lib.llama_context_default_params(), n_ctx=cells, n_batch=batch, n_ubatch=min(batch, 512),
            n_seq_max=sequences, n_outputs_max=outputs, n_outputs_max_per_seq=outputs, n_threads=threads,
            n_threads_batch=threads, flash_attn_type=1, type_k=GGML_TYPES[kv], type_v=GGML_TYPES[kv],
        )  # fmt: skip
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise ValueError(f"llama.cpp has no memory for {cells} tokens of context")
        self.memory = self.lib.llama_get_memory(self.context)
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.vocab_size = self.lib.llama_vocab_n_tokens(self.vocab)

    def decode(
        self, tokens: Sequence[int], places: Sequence[int], sequences: Sequence[int], out: Sequence[int]
    ) -> int:
        """One forward pass over tokens of several sequences; `out` marks whose logits are wanted.

        0: done, 1: no room in the KV cache, else a fault.
        """
        n = len(tokens)
        token, place = np.array(tokens, np.int32), np.array(places, np.int32)
        sequence, wanted = np.array(sequences, np.int32), np.array(out, np.int8)
        one = np.ones(n, np.int32)
        at = sequence.ctypes.data + np.arange(n, dtype=np.uint64) * np.uint64(4)  # each token's list of one
        arrays = [a.ctypes.data for a in (token, place, one, at, wanted)]
        return self.lib.llama_decode(self.context, Batch(n, arrays[0], None, *arrays[1:]))

    def logits(self, rows: int) -> np.ndarray:
        """[rows, V] of the last pass, in the order of the batch; the next pass overwrites it."""
        at = ctypes.cast(self.lib.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(at, (rows, self.vocab_size))

    def forget(self, sequence: int, start: int = 0) -> None:
        self.lib.llama_memory_seq_rm(self.memory, sequence, start, -1)

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let `target` see the first `tokens` of `source`: no copy is made."""
        self.lib.llama_memory_seq_cp(self.memory, source, target, 0, tokens)

    def piece(self, token: int) -> str:
        return (self.lib.llama_vocab_get_text(self.vocab, token) or b"").decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Whether the file counts it among its ends of generation."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def tokenize(self, text: str) -> list[int]:
        """llama.cpp's own ids of a text: only to compare, nothing is served with them."""
        data = text.encode()
        ids = np.zeros(len(data) + 8, np.int32)
        n = self.lib.llama_tokenize(self.vocab, data, len(data), ids.ctypes.data, len(ids), False, True)
        return ids[:n].tolist()

    def grammar(self, kind: str, text: str) -> Grammar:
        return Grammar(self, kind, text)

    def load_adapter(self, file: Path) -> int:
        if not (handle := self.lib.llama_adapter_lora_init(self.model, os.fsencode(file))):
            raise ValueError("llama.cpp does not take this adapter")
        return handle

    def use_adapter(self, handle: int | None) -> None:
        handles, scales = (ctypes.c_void_p * 1)(handle or 0), (ctypes.c_float * 1)(1.0)
        self.lib.llama_set_adapters_lora(self.context, handles, 1 if handle else 0, scales)

    def close(self) -> None:
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)


class Grammar:
    """A grammar and how far an answer has come in it. Raises ValueError where the text is none."""

    def __init__(self, native: Native, kind: str, text: str) -> None:
        self.native, self.lib = native, native.lib
        self.handle = self._begun(kind, text)
        if not self.handle or not np.isneginf(self.allow(np.zeros(native.vocab_size, np.float32))).any():
            raise ValueError(f"llama.cpp cannot read this {kind}")  # LLGuidance then silently allows all

    def _begun(self, kind: str, text: str) -> int | None:
        if kind == "ebnf":
            return self.lib.llama_sampler_init_grammar(self.native.vocab, text.encode(), b"root")
        if not hasattr(self.lib, LLGUIDANCE):
            raise ValueError(f"this build of llama.cpp takes no {kind}: it lacks LLGuidance")
        return getattr(self.lib, LLGUIDANCE)(self.native.vocab, KINDS[kind], text.encode())

    def permits(self, token: int) -> bool:
        return bool(self._applied(np.array([token], np.int32), np.zeros(1, np.float32))[0] > -np.inf)

    def allow(self, row: np.ndarray) -> np.ndarray:
        """`row` [V] with -inf wherever the grammar forbids the token."""
        return self._applied(np.arange(len(row), dtype=np.int32), row)

    def _applied(self, ids: np.ndarray, row: np.ndarray) -> np.ndarray:
        data = np.zeros(len(ids), CANDIDATE)
        data["id"], data["logit"] = ids, row
        self.lib.llama_sampler_apply(
            self.handle, ctypes.byref(Candidates(data.ctypes.data, len(ids), -1, False))
        )
        return data["logit"].copy()

    def accept(self, token: int) -> None:
        self.lib.llama_sampler_accept(self.handle, token)

    def close(self) -> None:
        self.lib.llama_sampler_free(self.handle)


# ------------------------------------------------------------------ the library


def capability() -> Capability:
    """What this engine can do here, without loading it."""
    file = llamacpp_library()
    own = bool(os.environ.get(LLAMACPP_VARIABLE))  # built without LLGuidance, as llama.cpp is by default
    return Capability(
        continuous=True,
        prefix_cache=True,
        prompt_logprobs=True,
        gen_logprobs=True,
        top_logprobs=True,
        grammar=("ebnf",) if own else ("json_schema", "regex", "ebnf"),
        logit_bias=True,
        min_tokens=True,
        lora="hot",
        mixed_adapters=False,
        speculative=(),
        embed=False,
        forms=("gguf",),
        kv_forms=tuple(GGML_TYPES),
        unusable=None if file and file.exists() else "xllamacpp not installed",
    )


def _library() -> Any:
    file = llamacpp_library()
    if file is None:
        raise OSError("the package xllamacpp is not installed")
    # OpenMP's threads spin at barriers, by default for so long that a core shared with others stalls both.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # it would start a debugger where there is one
    lib = ctypes.CDLL(str(file))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    if hasattr(lib, LLGUIDANCE):
        function = getattr(lib, LLGUIDANCE)
        function.restype, function.argtypes = POINTER, [POINTER, ctypes.c_char_p, ctypes.c_char_p]
    lib.llama_log_set(_LOG, None)
    return lib


def _params(defaults: Params, **wanted: int) -> Params:
    """`defaults` with what is wanted and one KV cache for all sequences. ValueError for a foreign layout."""
    raw = bytearray(bytes(defaults.raw))
    for name, (at, expected) in HEAD.items():
        if int.from_bytes(raw[at : at + 4], "little", signed=True) != expected:
            raise ValueError(f"this release of llama.cpp keeps {name} elsewhere: use xllamacpp 2026.10")
    flags = raw.find(FLAGS, *FLAGS_BETWEEN)
    if flags < 0:
        raise ValueError("this release of llama.cpp keeps its flags elsewhere: use xllamacpp 2026.10")
    for name, value in wanted.items():
        at = HEAD[name][0]
        raw[at : at + 4] = value.to_bytes(4, "little", signed=True)
    raw[flags + len(FLAGS) - 1] = 1  # kv_unified: a short answer leaves its room to a long one
    return Params.from_buffer_copy(bytes(raw))


def _errors_only(level: int, text: bytes, data: int) -> None:
    if level == 4:  # GGML_LOG_LEVEL_ERROR; the others tell of the model, line by line
        os.write(2, text or b"")


_LOG = ctypes.CFUNCTYPE(None, INT, ctypes.c_char_p, POINTER)(_errors_only)
