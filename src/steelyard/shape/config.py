"""A shape from a config.json, or from sizes as words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ..architectures import (
    Config,
    decoder_config,
    first,
    gated,
    head_dim,
    layers_of,
    tower_params,
    undescribed,
)
from ..errors import Where, WrongUse
from ..layers import Stack, len_of, stacked
from .files import TensorAt
from .sizes import Shape

CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len")
TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3_text")
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
    vocab, stack = need("vocab_size"), stack_of(config, where)
    tied = bool(config.get("tie_word_embeddings", config.get("model_type") in TIED_BY_DEFAULT))
    layered, tower = sum(run.count * run.weights for run in stack), tower_params(config)
    counted = (
        weights_in(held, tied, len_of(stack))
        if held
        else int(layered + vocab * hidden * (2 - tied) + hidden + tower)
    )
    idle = int(sum(run.count * run.idle for run in stack))
    dtype = dtype_of(held) if held else _short(str(config.get("dtype") or config.get("torch_dtype")))
    return Shape(
        family=str(config["model_type"]), layers=len_of(stack), hidden=hidden, heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads, head_dim=head_dim(config), ffn=ffn,
        vocab=vocab, gated=gated(config), tied=tied, experts=experts,
        experts_per_token=first(config, "num_experts_per_tok", "num_experts_per_token") or 0,
        max_position=first(config, *CONTEXT) or 0, params=counted, active_params=counted - idle - tower,
        dtype=dtype, stack=stack, tower_params=tower,
        mtp_layers=config.get("num_nextn_predict_layers") or 0, expert_groups=config.get("n_group") or 1,
    )  # fmt: skip


def unknown_architecture(name: str, inside: str, where: Path) -> WrongUse:
    """The one error of a model that the planner has no sizes for."""
    return WrongUse(
        "model.architecture",
        f"the architecture {name!r} is not known to the planner",
        where=Where(str(where), field="model_type"),
        why=f"it has {inside}" if inside else "its layers may be other than attention and MLP",
        hint="a model by its sizes: --layers 32 --hidden 4096 --heads 32, where every layer is alike",
    )


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


def stack_of(config: Config, where: Path) -> Stack:
    try:
        return stacked(layers_of(config))
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as e:
        named = f"gives no usable {e.args[0]}" if isinstance(e, KeyError) else "describes no layers"
        raise WrongUse(
            "model.bad_config", f"{where.name} {named}", where=Where(str(where)),
            why=f"the layers of {config['model_type']} follow from it ({e})",
            hint="it should be the config.json of a decoder-only language model",
        ) from e  # fmt: skip


def weights_in(held: Mapping[str, TensorAt], tied: bool, layers: int) -> int:
    """Weights of the decoder and its tower; layers that predict further tokens stand behind the last one."""
    names = (n for n in held if not (tied and n == "lm_head.weight") and not n.startswith("mtp."))
    numbered = {n: re.search(r"\blayers\.(\d+)\.", n) for n in names if not n.endswith("rotary_emb.inv_freq")}
    return sum(prod(held[n].shape) for n, found in numbered.items() if not found or int(found[1]) < layers)


def dtype_of(held: Mapping[str, TensorAt]) -> str:
    """The format that most weights have."""
    weights: Counter[str] = Counter()
    for at in held.values():
        weights[at.dtype.lower()] += prod(at.shape)
    return weights.most_common(1)[0][0]


def _short(dtype: str) -> str:
    return {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}.get(dtype, "bf16")


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
