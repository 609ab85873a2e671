"""The step: a tuned checkpoint and the rows it learnt in, a smaller model of its family out.

What goes, and what makes up for it: importance.py. What its loss is worth, the gate decides, once training
has healed it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artefact import Draft, Figures, Inputs, Settings, Watch
from ..model import Tokenizer, load
from ..shape import read
from .experts.step import PRUNED, prune_experts
from .faults import no_rows
from .rows import calibration_rows

if TYPE_CHECKING:
    from .importance import Kept, Sizes

LAYER_TOKENS = 1024  # that layers are chosen by: each is gone through some hundred times
TOKENS = 8192  # that widths are fitted to


def prune(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write what stays of `inputs.artefacts["checkpoint"]`, by the rows of `dataset`, into `out`.

    settings: layers, kv_heads and ffn that are left; dtype and threads to compute with. Figures: params, and
    the share that they are of the checkpoint's. Raises WrongUse where no row can be read, Stopped.
    Of a mixture of experts: experts/step.py.
    """
    if "experts" in settings:
        return prune_experts(inputs, settings, out, watch)
    import torch

    from .cut import write_cut
    from .importance import Sizes

    torch.set_num_threads(settings["threads"])
    folder = inputs.artefacts["checkpoint"].path()
    rows = calibration_rows(inputs.artefacts["dataset"].path() / "train.jsonl", Tokenizer(folder), TOKENS)
    if not rows:
        raise no_rows()
    sizes = Sizes(settings["layers"], settings["kv_heads"], settings["ffn"])
    network, kept = _chosen(folder, rows, sizes, settings["dtype"], watch)
    write_cut(network, kept, sizes, folder, out.folder)
    _note(kept, out.folder / PRUNED)
    params = float(read(out.folder).params)
    return {"params": params, "share": params / read(folder).params, "tokens": float(sum(map(len, rows)))}


def _chosen(
    folder: Path, rows: Sequence[Sequence[int]], sizes: Sizes, dtype: str, watch: Watch
) -> tuple[Any, list[Kept]]:
    """The network as the smaller one will compute, and what stays of each of its layers."""
    from .activations import chunks_of
    from .importance import Kept, kept_layers, kept_widths

    network = load(folder, "bfloat16" if dtype == "bf16" else "float32").eval()
    decoder, layers = network.config, list(range(network.config.layers))
    if sizes.layers < decoder.layers:
        few = list(chunks_of(_first(rows, LAYER_TOKENS), network))
        layers = kept_layers(network, few, sizes.layers, watch)
    if (sizes.kv_heads, sizes.ffn) == (decoder.kv_heads, decoder.ffn):
        groups, channels = tuple(range(decoder.kv_heads)), tuple(range(decoder.ffn))
        return network, [Kept(layer, groups, channels) for layer in layers]
    return network, list(kept_widths(network, layers, list(chunks_of(rows, network)), sizes, watch))


def _first(rows: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """The first rows up to so many tokens, one at least: abilities take turns in them."""
    ends = list(accumulate(map(len, rows)))
    return list(rows[: max(1, sum(end <= tokens for end in ends))])


def _note(kept: Sequence[Kept], path: Path) -> None:
    """What went where, for a reader: layers, KV heads and channels of the larger model that stay."""
    entries = [{"layer": k.layer, "kv_heads": k.groups, "channels": len(k.channels)} for k in kept]
    path.write_text(json.dumps({"layers": entries}, indent=1) + "\n", "utf-8")
