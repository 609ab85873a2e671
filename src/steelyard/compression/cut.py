"""A smaller model of the same family, of what stays of a larger one: a plain Hugging Face folder.

Heavy (torch): entered from pruning.py alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Where, WrongUse
from ..model import bf16_of, copy_companions, read_decoder
from ..model import write as write_tensors
from .importance import Kept, Sizes

BY_LAYER = ("layer_types", "no_rope_layers")  # lists of config.json with an entry a layer


def write_cut(network: Any, kept: Sequence[Kept], sizes: Sizes, base: Path, out: Path) -> None:
    """Write what stays of `network`, in BF16, into `out`; companions are those of `base`.

    Raises WrongUse where config.json cannot say what the layers that stay look back on.
    """
    copy_companions(base, out, "bfloat16")
    path = out / "config.json"
    config = smaller(json.loads(path.read_text("utf-8")), network.config, kept, sizes)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
    stored = {name: ("BF16", bf16_of(t.detach().float().numpy())) for name, t in tensors_of(network, kept)}
    write_tensors(stored, out / "model.safetensors")
    if read_decoder(out).windows != tuple(network.config.windows[each.layer] for each in kept):
        raise WrongUse(
            "compress.prune_windows",
            "layers with a window and layers without cannot be told apart once some are gone",
            where=Where(str(base / "config.json"), field="layer_types"),
            hint="compress: {prune: 1} or a model whose config.json has layer_types",
        )


def smaller(config: dict[str, Any], decoder: Any, kept: Sequence[Kept], sizes: Sizes) -> dict[str, Any]:
    """config.json of the model that is left."""
    each = decoder.heads // decoder.kv_heads
    layers = [entry.layer for entry in kept]
    lists: dict[str, Any] = {
        name: [config[name][i] for i in layers] for name in BY_LAYER if isinstance(config.get(name), list)
    }
    if sizes.kv_heads < decoder.kv_heads or "head_dim" in config:
        lists["head_dim"] = decoder.head_dim  # hidden over heads is another number now
    if "max_window_layers" in config:
        lists["max_window_layers"] = min(config["max_window_layers"], len(layers))
    return config | lists | {
        "num_hidden_layers": len(layers),
        "num_attention_heads": sizes.kv_heads * each,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.ffn,
    }  # fmt: skip


def tensors_of(network: Any, kept: Sequence[Kept]) -> Iterator[tuple[str, Tensor]]:
    """Every weight that stays, under its new name."""
    decoder = network.config
    whole = dict(network.tensors())
    inside = decoder.names.layer.format("").split("..")[0]  # "model.layers"
    yield from ((name, t) for name, t in whole.items() if not name.startswith(f"{inside}."))
    for number, entry in enumerate(kept):
        cuts = _cuts(decoder, entry)
        at, to = (decoder.names.layer.format(i) for i in (entry.layer, number))
        for name, tensor in whole.items():
            if name.startswith(at):
                part = name[len(at) :]
                yield to + part, _cut(tensor, cuts.get(part.rpartition(".")[0]))


Cut = tuple[int, list[int]]  # of which dimension what stays


def _cuts(decoder: Any, kept: Kept) -> Mapping[str, Cut]:
    """By the name of a layer's matrix: biases are cut as its rows are."""
    names, dim = decoder.names, decoder.head_dim
    each = decoder.heads // decoder.kv_heads * dim
    queries = [i for g in kept.groups for i in range(g * each, (g + 1) * each)]
    keys = [i for g in kept.groups for i in range(g * dim, (g + 1) * dim)]
    channels = list(kept.channels)
    return {
        names.query: (0, queries),
        names.key: (0, keys),
        names.value: (0, keys),
        names.output: (1, queries),
        names.gate: (0, channels),
        names.up: (0, channels),
        names.down: (1, channels),
    }


def _cut(tensor: Tensor, cut: Cut | None) -> Tensor:
    """A bias has no columns: that of an output stays whole."""
    if cut is None or cut[0] >= tensor.ndim or len(cut[1]) == tensor.shape[cut[0]]:
        return tensor
    return tensor.index_select(cut[0], torch.tensor(cut[1]))
