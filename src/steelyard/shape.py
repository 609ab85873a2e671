"""Sizes and FLOPs of a model from its header: config.json, a safetensors file or a GGUF file.

Nothing but the headers is read: no weights, no torch, no gguf package. Not here: whether the
machine can hold it (planner), the weights themselves (model).
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, overload

from .architectures import (
    Config,
    decoder_config,
    first,
    gated,
    head_dim,
    layers_of,
    tower_params,
    undescribed,
)
from .errors import Where, WrongUse
from .layers import STATE_BYTES, Half, Layers, Stack, attention, experts, len_of, mlp, stacked

BITS = {  # bits a weight or a KV entry takes; the int forms carry one scale a row, which is left out
    "f32": 32, "float32": 32, "bf16": 16, "bfloat16": 16, "f16": 16, "float16": 16, "fp8": 8,
    "int8": 8, "u8": 8, "int4": 4, "u4": 4,
}  # fmt: skip
SAFETENSORS_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8,
}  # fmt: skip
# ggml type number -> name, weights a block, bytes a block (ggml.h and ggml-common.h of llama.cpp).
GGML = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136), 30: ("BF16", 1, 2),
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
BROKEN_HINT = "the file is incomplete or damaged: fetch or copy it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a decoder looks like: its sizes, and its layers by kind. Counts of weights, layers, heads, tokens.

    The sizes of heads and MLPs are those of its attention and of its usual MLP, which tensor parallelism
    must divide; time and memory are made of `stack`.
    """

    family: str  # model_type of config.json, general.architecture of GGUF
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # width of one MLP; of one expert where there are experts
    vocab: int
    gated: bool  # gate, up and down matrices rather than up and down
    tied: bool  # the output head is the embedding
    experts: int  # routed experts a layer, 0 = dense
    experts_per_token: int
    max_position: int
    params: int  # all of them; a tied head counts once
    active_params: int  # those one token of text passes through
    dtype: str  # as stored: "bf16", "f32", "q4_1"
    stack: Stack = ()  # the layers in order; () = all alike, as the sizes say
    tower_params: int = 0  # of `params`, those of a vision tower and its projector
    expert_groups: int = 1  # of experts, among which a router chooses first
    mtp_layers: int = 0  # beside `params`: layers that predict a token further ahead

    def __post_init__(self) -> None:
        if not self.stack:
            object.__setattr__(self, "stack", self._alike())

    def _alike(self) -> Stack:
        after: tuple[Half, ...] = (mlp(self.hidden, self.ffn, self.gated),)
        if self.experts:
            after = experts(self.hidden, self.ffn, self.experts, self.experts_per_token, self.gated)
        mixer = attention(self.hidden, self.heads, self.kv_heads, self.head_dim)
        return (Layers(self.layers, (mixer, *after)),)

    def weight_bytes(self, dtype: str | None = None) -> int:
        """Bytes of all weights in `dtype` ("bf16", "int8", ...; default bf16)."""
        return self.params * bits(dtype or "bf16") // 8

    def kv_bytes_per_token(self, dtype: str = "bf16") -> int:
        """Bytes of the KV cache for one token of one sequence, over all layers."""
        return int(self._summed(lambda half: half.cached)) * bits(dtype) // 8

    @property
    def state_bytes(self) -> int:
        """Bytes that a sequence keeps however long it is: states of recurrent layers."""
        return int(self._summed(lambda half: half.state)) * STATE_BYTES

    def attended(self, seq_len: int) -> float:
        """Mean number of tokens that a token of a causal sequence looks at, over the layers that attend."""
        cores = self._summed(lambda half: half.core)
        return self._summed(lambda half: half.core * half.looked_at(seq_len)) / max(cores, 1.0)

    def forward_flops_per_token(self, seq_len: int) -> float:
        """Multiply-adds count 2: matmuls of the active weights (no look-up table), causal attention."""
        table = 0 if self.tied else self.vocab * self.hidden
        return 2 * (self.active_params - table) + self._summed(lambda half: half.flops(seq_len))

    def train_flops_per_token(self, seq_len: int) -> float:
        """Forward and backward of a full fine-tune: 3 times forward, nothing recomputed."""
        return 3 * self.forward_flops_per_token(seq_len)

    def _summed(self, of: Callable[[Half], float]) -> float:
        return sum(run.count * sum(of(half) for half in run.halves) for run in self.stack)


@dataclass(frozen=True, slots=True)
class TensorAt:
    """A tensor's place: `begin` and `end` are byte offsets in the file."""

    dtype: str  # "BF16", "F32", "Q4_1"
    shape: tuple[int, ...]  # outermost first, as torch and numpy write it
    begin: int
    end: int


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


def bits(dtype: str) -> int:
    """Bits of one value. Raises WrongUse for a type nobody knows."""
    if dtype.lower() not in BITS:
        raise WrongUse("shape.dtype", f"{dtype!r} is no number format", hint=f"one of {', '.join(BITS)}")
    return BITS[dtype.lower()]


def broken(path: Path, why: str, code: str = "model.broken", hint: str = BROKEN_HINT) -> WrongUse:
    """The one error of a file that is not what it claims to be."""
    return WrongUse(code, f"{path.name} cannot be read", where=Where(str(path)), why=why, hint=hint)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises WrongUse with the line where it breaks."""
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as e:
        raise WrongUse(
            "model.broken", f"{path.name} cannot be read", where=Where(str(path), e.lineno),
            why=f"not JSON: {e.msg}", hint=BROKEN_HINT,
        ) from e  # fmt: skip
    except (OSError, UnicodeDecodeError) as e:
        raise broken(path, str(e)) from e
    if not isinstance(document, dict):
        raise broken(path, "it holds no JSON object")
    return document


# ------------------------------------------------------------------ safetensors


def safetensors_header(path: Path) -> dict[str, TensorAt]:
    """Where each tensor of a safetensors file lies. Raises WrongUse where the file is cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise broken(path, f"{size} bytes are too few for its header")
        table = file.read(length)
    try:
        tensors = {
            name: _tensor(entry, 8 + length)
            for name, entry in json.loads(table).items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise broken(path, f"its header is damaged ({e})") from e
    for name, at in tensors.items():
        _check_span(path, name, at, 8 + length)
    needed = max((at.end for at in tensors.values()), default=8 + length)
    if needed != size:
        raise broken(path, f"its header describes {needed} bytes, the file has {size}")
    return tensors


def _tensor(entry: Mapping[str, Any], base: int) -> TensorAt:
    begin, end = (int(offset) + base for offset in entry["data_offsets"])
    return TensorAt(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), begin, end)


def _check_span(path: Path, name: str, at: TensorAt, base: int) -> None:
    wanted = prod(at.shape) * SAFETENSORS_BITS.get(at.dtype, 0) // 8
    has_size = at.dtype in SAFETENSORS_BITS
    if at.begin < base or at.end < at.begin or (has_size and at.end - at.begin != wanted):
        raise broken(path, f"the place of {name} in its header makes no sense")


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in order; by the index where there is one. Raises WrongUse."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if outside := next((name for name in names if Path(name).name != name), None):
            raise broken(index, f"it names {outside!r}, which is no file of this folder")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise WrongUse(
                "model.half_written",
                f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:3])}",
                where=Where(str(folder)), why=f"{index.name} names them", hint=BROKEN_HINT,
            )  # fmt: skip
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter"))


def tensors(folder: Path) -> dict[str, tuple[Path, TensorAt]]:
    """Every tensor of a model folder: its file and place. Raises WrongUse."""
    return {name: (file, at) for file in shards(folder) for name, at in safetensors_header(file).items()}


# ------------------------------------------------------------------ a folder with config.json


def _of_folder(folder: Path) -> Shape:
    config = folder / "config.json"
    if not config.is_file():
        raise WrongUse(
            "model.no_config", f"there is no config.json in {folder}", where=Where(str(folder)),
            hint="give the folder of a Hugging Face model, or a *.gguf file",
        )  # fmt: skip
    header = tensors(folder)
    return of_config(read_json(config), {n: at for n, (_, at) in header.items()}, config)


GGUF_DECODERS = frozenset((
    "arcee", "baichuan", "bloom", "chatglm", "codeshell", "cohere2", "command-r", "deepseek", "deepseek2",
    "ernie4_5", "ernie4_5-moe", "exaone", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "glm4",
    "glm4moe", "gpt-oss", "gpt2", "gptj", "gptneox", "granite", "granitemoe", "hunyuan-dense",
    "hunyuan-moe", "internlm2", "llama", "minicpm", "minicpm3", "mistral3", "mpt", "nemotron", "olmo",
    "olmo2", "olmoe", "orion", "phi2", "phi3", "phimoe", "plamo", "qwen", "qwen2", "qwen2moe", "qwen3",
    "qwen3moe", "refact", "seed_oss", "smollm3", "stablelm", "starcoder", "starcoder2", "xverse",
))  # fmt: skip


def unknown_architecture(name: str, inside: str, where: Path) -> WrongUse:
    """The one error of a model that the planner has no sizes for."""
    return WrongUse(
        "model.architecture",
        f"the architecture {name!r} is not known to the planner",
        where=Where(str(where), field="model_type"),
        why=f"it has {inside}" if inside else "its layers may be other than attention and MLP",
        hint="a model by its sizes: --layers 32 --hidden 4096 --heads 32, where every layer is alike",
    )


def of_config(
    config: Mapping[str, Any], held: Mapping[str, TensorAt] | None = None, where: Path = Path("config.json")
) -> Shape:
    """The shape that a config.json describes; `held` are its tensors where they are known.

    Raises WrongUse for an architecture whose layers would be taken for those of something else.
    """
    if (inside := undescribed(config)) is not None:
        name = str(config.get("model_type") or (config.get("architectures") or [""])[0])
        raise unknown_architecture(name, inside, where)
    config = decoder_config(config)
    need = _needer(config, where)
    hidden, heads = need("hidden_size"), need("num_attention_heads")
    if not config.get("layers_block_type"):
        need("num_hidden_layers")
    experts = first(config, "num_experts", "num_local_experts", "n_routed_experts") or 0
    ffn = (experts and config.get("moe_intermediate_size")) or need("intermediate_size")
    vocab, stack = need("vocab_size"), _stack(config, where)
    tied = bool(config.get("tie_word_embeddings", config.get("model_type") in TIED_BY_DEFAULT))
    layered, tower = sum(run.count * run.weights for run in stack), tower_params(config)
    counted = (
        _count(held, tied, len_of(stack))
        if held
        else int(layered + vocab * hidden * (2 - tied) + hidden + tower)
    )
    idle = int(sum(run.count * run.idle for run in stack))
    dtype = _stored(held) if held else _short(str(config.get("dtype") or config.get("torch_dtype")))
    return Shape(
        family=str(config["model_type"]), layers=len_of(stack), hidden=hidden, heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads, head_dim=head_dim(config), ffn=ffn,
        vocab=vocab, gated=gated(config), tied=tied, experts=experts,
        experts_per_token=first(config, "num_experts_per_tok", "num_experts_per_token") or 0,
        max_position=first(config, *CONTEXT) or 0, params=counted, active_params=counted - idle - tower,
        dtype=dtype, stack=stack, tower_params=tower,
        mtp_layers=config.get("num_nextn_predict_layers") or 0, expert_groups=config.get("n_group") or 1,
    )  # fmt: skip


def _stack(config: Config, where: Path) -> Stack:
    try:
        return stacked(layers_of(config))
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as e:
        named = f"gives no usable {e.args[0]}" if isinstance(e, KeyError) else "describes no layers"
        raise WrongUse(
            "model.bad_config", f"{where.name} {named}", where=Where(str(where)),
            why=f"the layers of {config['model_type']} follow from it ({e})",
            hint="it should be the config.json of a decoder-only language model",
        ) from e  # fmt: skip


SIZES = {  # a word for each size -> its key in config.json
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
}


def of_sizes(sizes: Mapping[str, int]) -> Shape:
    """A gated decoder by its `SIZES`; MLP and vocabulary as in Llama 2 where they are left out.

    Raises WrongUse, where `--layers` and the like name the size at fault.
    """
    for name in ("layers", "hidden", "heads"):
        if name not in sizes:
            raise _no_size(
                name, f"a model by its sizes needs --{name}", "--layers 32 --hidden 4096 --heads 32"
            )
    for name, value in sizes.items():
        if value < 1:
            flag = f"--{name.replace('_', '-')}"
            raise _no_size(name, f"{flag} is {value}, not a size of 1 or more", f"{flag} 8")
    heads, hidden = sizes["heads"], sizes["hidden"]
    if "head_dim" not in sizes and hidden % heads:
        hint = "another number of heads, or --head-dim 128"
        raise _no_size("heads", f"{heads} heads do not divide a width of {hidden}", hint)
    if heads % (kv := sizes.get("kv_heads", heads)):
        text = f"{kv} heads of keys and values do not divide {heads} heads"
        raise _no_size("kv_heads", text, "--kv-heads 8")
    config: dict[str, Any] = {"model_type": "llama", "vocab_size": 32000}
    config |= {SIZES[name]: value for name, value in sizes.items()}
    config.setdefault("intermediate_size", -(-8 * hidden // (3 * 256)) * 256)
    return of_config(config | _experts_of(sizes, config["intermediate_size"]), None, Path("--layers"))


def _experts_of(sizes: Mapping[str, int], ffn: int) -> dict[str, int]:
    experts = sizes.get("experts", 0)
    active = sizes.get("experts_per_token", min(2, experts))
    if active > experts:
        text = f"a token passes through {active} experts of {experts}"
        raise _no_size("experts_per_token", text, "--experts 8 --experts-per-token 2")
    return {"moe_intermediate_size": ffn, "num_experts_per_tok": active} if experts else {}


def _no_size(name: str, text: str, hint: str) -> WrongUse:
    return WrongUse("plan.sizes", text, where=Where(field=f"--{name.replace('_', '-')}"), hint=hint)


CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len")
TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text")


def _needer(config: Mapping[str, Any], where: Path) -> Callable[[str], int]:
    def need(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or value <= 0:
            raise WrongUse(
                "model.bad_config", f"{where.name} gives no usable {key}", where=Where(str(where), field=key),
                why=f"found {value!r}", hint="it should be the config.json of a decoder-only language model",
            )  # fmt: skip
        return value

    return need


def _count(held: Mapping[str, TensorAt], tied: bool, layers: int) -> int:
    """Weights of the decoder and its tower; layers that predict further tokens stand behind the last one."""
    names = (n for n in held if not (tied and n == "lm_head.weight") and not n.startswith("mtp."))
    numbered = {n: re.search(r"\blayers\.(\d+)\.", n) for n in names if not n.endswith("rotary_emb.inv_freq")}
    return sum(prod(held[n].shape) for n, found in numbered.items() if not found or int(found[1]) < layers)


def _stored(held: Mapping[str, TensorAt]) -> str:
    """The format that most weights have."""
    weights: Counter[str] = Counter()
    for at in held.values():
        weights[at.dtype.lower()] += prod(at.shape)
    return weights.most_common(1)[0][0]


def _short(dtype: str) -> str:
    return {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}.get(dtype, "bf16")


# ------------------------------------------------------------------ a lone safetensors file


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
    params = _count(held, tied, max(numbers) + 1)
    return Shape(
        family="qwen3" if norm else "qwen2" if first + "q_proj.bias" in held else "llama",
        layers=max(numbers) + 1, hidden=hidden, heads=q // head_dim, kv_heads=kv // head_dim,
        head_dim=head_dim, ffn=held["model.layers.0.mlp.up_proj.weight"].shape[0], vocab=vocab,
        gated="model.layers.0.mlp.gate_proj.weight" in held, tied=tied, experts=0, experts_per_token=0,
        max_position=0, params=params, active_params=params, dtype=_stored(held),
    )  # fmt: skip


# ------------------------------------------------------------------ GGUF


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of a GGUF file: metadata, and each tensor's type and place."""

    meta: dict[str, Any]
    tensors: dict[str, TensorAt]

    def of_arch(self, key: str, default: Any = None) -> Any:
        """`llama.block_count` for "block_count" in a llama file."""
        return self.meta.get(f"{self.meta.get('general.architecture')}.{key}", default)


def gguf_header(path: Path) -> Gguf:
    """Read a GGUF header, versions 2 and 3, little-endian. Raises WrongUse where it is cut short.

    Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    state = path.stat()
    return _gguf_header(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)  # a start asks for it three times
def _gguf_header(path: Path, size: int, changed_ns: int) -> Gguf:
    with path.open("rb") as file:
        if size < 24:
            raise broken(path, "it is too short to be a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _gguf(path, _Reader(data))


# GGUF value type number -> struct code; 8 is text, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Texts(Sequence[str]):
    """A list of texts as they stand in a file, decoded when one is asked for: sizes need no vocabulary."""

    def __init__(self, data: bytes, count: int) -> None:
        self._data, self._count = data, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        return self._texts[at]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    @cached_property
    def _texts(self) -> list[str]:
        reader = _Reader(self._data)
        return [reader.text() for _ in range(self._count)]


class _Reader:
    """A cursor over the bytes of a GGUF file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        size = struct.calcsize("<" + code) * count
        if self.at + size > len(self.data):
            raise EOFError(f"it ends after {len(self.data)} bytes, inside its header")
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += size
        return values

    def text(self) -> str:
        begin = self.at + 8
        end = begin + int.from_bytes(self.data[self.at : begin], "little")
        if end > len(self.data):
            raise EOFError(f"it ends after {len(self.data)} bytes, inside its header")
        self.at = end
        return self.data[begin:end].decode("utf-8", "replace")

    def texts(self, count: int) -> Texts:
        # A vocabulary has 100,000 tokens and merges: no helper, no second look.
        first, at, data, length = self.at, self.at, self.data, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                at += 8 + length(data, at)[0]
        except struct.error:
            at = len(data) + 1
        if at > len(data):
            raise EOFError(f"it ends after {len(data)} bytes, inside its header")
        self.at = at
        return Texts(data[first:at], count)

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            item, count = self.numbers("I")[0], self.numbers("Q")[0]
            if item in NUMBERS:
                return list(self.numbers(NUMBERS[item], count))
            if item == 8:
                return self.texts(count)
            return [self.value(item) for _ in range(count)]
        if kind not in NUMBERS:
            raise EOFError(f"its header holds an unknown type {kind}")
        return self.numbers(NUMBERS[kind])[0]


def _gguf(path: Path, reader: _Reader) -> Gguf:
    try:
        reader.at = 4
        version, count, keys = reader.numbers("I")[0], *reader.numbers("Q", 2)
        if version not in (2, 3):
            raise EOFError(f"GGUF version {version} is not known")
        meta = {reader.text(): reader.value(reader.numbers("I")[0]) for _ in range(keys)}
        infos = [_tensor_info(reader) for _ in range(count)]
    except (EOFError, MemoryError, OverflowError) as e:
        raise broken(path, str(e)) from e
    grain = meta.get("general.alignment", 32)
    base = -(-reader.at // grain) * grain
    placed = {name: _placed(path, kind, shape, base + offset) for name, shape, kind, offset in infos}
    needed = max((at.end for at in placed.values()), default=base)
    if needed > len(reader.data):
        raise broken(path, f"its header describes {needed} bytes, the file has {len(reader.data)}")
    return Gguf(meta, placed)


def _tensor_info(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    (rank,) = reader.numbers("I")
    shape = reader.numbers("Q", rank)[::-1]  # GGUF writes the innermost first
    return name, shape, reader.numbers("I")[0], reader.numbers("Q")[0]


def _placed(path: Path, kind: int, shape: tuple[int, ...], begin: int) -> TensorAt:
    if kind not in GGML:
        raise broken(
            path, f"it holds tensors of ggml type {kind}", "model.gguf_type",
            f"use a file of one of {', '.join(name for name, *_ in GGML.values())}",
        )  # fmt: skip
    name, block, size = GGML[kind]
    return TensorAt(name, shape, begin, begin + prod(shape) // block * size)


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
    config = _gguf_config(header, name, layers, hidden, heads, ffn)
    params, used = sum(prod(at.shape) for at in header.tensors.values()), config["num_experts_per_tok"]
    experts = config["num_experts"]
    vocab = header.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in header.tensors else 0
    return Shape(
        family=name, layers=layers, hidden=hidden, heads=heads, kv_heads=config["num_key_value_heads"],
        head_dim=head_dim(config), ffn=config["moe_intermediate_size"] if experts else ffn, vocab=vocab,
        gated=config["gated"], tied="output.weight" not in header.tensors, experts=experts,
        experts_per_token=used, max_position=int(get("context_length", 0)), params=params,
        active_params=params - _idle_experts(header.tensors.items(), experts, used),
        dtype=_stored(header.tensors), stack=_stack(config, path),
    )  # fmt: skip


# general.architecture -> the name that transformers has for it, where its layers depend on that.
GGUF_NAMES = {"gemma3": "gemma3_text", "gpt-oss": "gpt_oss", "deepseek2": "deepseek_v3"}


def _gguf_config(header: Gguf, name: str, layers: int, hidden: int, heads: int, ffn: int) -> dict[str, Any]:
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


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
