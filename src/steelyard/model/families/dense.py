"""What the config.json files of dense decoders share: sizes, rotary positions, sliding windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from ..frequencies import rope_of
from .family import Decoder

ACTIVATIONS = ("silu", "swish")  # two names of one function


def dense(config: Mapping[str, Any], path: Path) -> Decoder:
    """The plain decoder of a llama-like config.json, without windows.

    Raises WrongUse where a size is missing, or the activation or the rope is not covered.
    """
    check_activation(config, path)
    layers = _size(config, path, "num_hidden_layers")
    hidden, heads = _size(config, path, "hidden_size"), _size(config, path, "num_attention_heads")
    return Decoder(
        family=str(config.get("model_type")),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        ffn=_size(config, path, "intermediate_size"),
        vocab=_size(config, path, "vocab_size"),
        eps=config.get("rms_norm_eps", 1e-6),
        rope=rope_of(dict(config), path),
        windows=(None,) * layers,
        tied=bool(config.get("tie_word_embeddings", False)),
        max_position=config.get("max_position_embeddings", 2048),
    )


def _size(config: Mapping[str, Any], path: Path, key: str) -> int:
    value = config.get(key)
    if isinstance(value, int) and value > 0:
        return value
    raise WrongUse(
        "model.bad_config", f"config.json gives no usable {key}", where=Where(str(path), field=key),
        why=f"it is {value!r}", hint="fetch the config.json of this model again",
    )  # fmt: skip


def check_activation(config: Mapping[str, Any], path: Path) -> None:
    """Raises WrongUse for another function than SiLU in the MLP."""
    activation = config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise WrongUse(
            "model.activation", f"the activation {activation!r} is not covered",
            where=Where(str(path), field="hidden_act"), hint="use a model whose hidden_act is silu",
        )  # fmt: skip


def upper_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Qwen's windows: where switched on, the layers from `max_window_layers` have one."""
    layers = config["num_hidden_layers"]
    if not config.get("use_sliding_window"):
        return (None,) * layers
    if kinds := config.get("layer_types"):
        return tuple(config["sliding_window"] if kind == "sliding_attention" else None for kind in kinds)
    first = config.get("max_window_layers", 28)  # transformers' own default
    return tuple(config["sliding_window"] if layer >= first else None for layer in range(layers))
