"""The step: a tuned mixture of experts and the rows it learnt in, the same model with fewer experts out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...architectures import ROUTERS
from ...artefact import Draft, Figures, Inputs, Settings, Watch
from ...model import Tokenizer
from ...shape import Shape, read, read_json
from ..faults import no_rows
from ..rows import every_row
from .counts import Counts, chosen, counted, scales, weight_lost
from .cut import Kept, write_fewer

PRUNED = "pruned.json"
CONTEXT = 8192  # tokens of a row where the model does not say how far it reads


def prune_experts(inputs: Inputs, settings: Settings, out: Draft, watch: Watch) -> Figures:
    """Write `inputs.artefacts["checkpoint"]` without the experts that the rows of `dataset` use least.

    settings: experts that stay in each layer; `further`: fewer where the rows reach fewer; dtype and threads
    to count with. Figures: params, their share, experts, and of what went: the share of all experts that no
    row reached, the share of the routers' weights. Raises WrongUse where no row can be read, Lacking,
    Stopped.
    """
    folder = inputs.artefacts["checkpoint"].path()
    shape = read(folder)
    exact = ROUTERS[shape.family](read_json(folder / "config.json"))
    rows = every_row(
        inputs.artefacts["dataset"].path() / "train.jsonl", Tokenizer(folder), shape.max_position or CONTEXT
    )
    counts = counted(folder, rows, settings["dtype"], settings["threads"], watch)
    if not counts.rows:
        raise no_rows()
    kept = chosen(counts, experts_left(counts, shape, settings))
    by = np.ones(kept.shape) if exact else scales(counts, kept)
    stays = {layer: Kept(tuple(kept[at]), tuple(by[at])) for at, layer in enumerate(counts.layers)}
    write_fewer(folder, stays, out.folder)
    lost = weight_lost(counts, kept)
    note(counts, kept, lost, shape, exact, out.folder / PRUNED)
    return figures(counts, kept, lost, shape, read(out.folder))


def experts_left(counts: Counts, shape: Shape, settings: Settings) -> int:
    """How many stay in each layer: never fewer than a token takes."""
    wanted: int = settings["experts"]
    return max(min(wanted, counts.reached), shape.experts_per_token) if settings.get("further") else wanted


def figures(
    counts: Counts, kept: np.ndarray, lost: np.ndarray, shape: Shape, left: Shape
) -> dict[str, float]:
    params = float(left.params)
    return {
        "params": params,
        "share": params / shape.params,
        "tokens": float(counts.tokens),
        "experts": float(kept.shape[1]),
        "never_reached": float((counts.picks == 0).mean()),
        "weight_lost": float(lost.mean()),
    }


def note(counts: Counts, kept: np.ndarray, lost: np.ndarray, shape: Shape, exact: bool, path: Path) -> None:
    """What went where, for a reader. `exact`: what went unreached leaves no trace on these rows."""
    layers: list[dict[str, Any]] = []
    for at, layer in enumerate(counts.layers):
        gone = sorted(set(range(shape.experts)) - set(kept[at].tolist()))
        unreached = np.flatnonzero(counts.picks[at] == 0).tolist()
        own = {"experts": kept[at].tolist(), "gone": gone, "never_reached": unreached}
        layers.append({"layer": layer, **own, "weight_lost": float(lost[at])})
    document = {
        "experts": {"before": shape.experts, "after": kept.shape[1], "per_token": shape.experts_per_token},
        "rows": counts.rows,
        "tokens": counts.tokens,
        "never_reached": float((counts.picks == 0).mean()),
        "weight_lost": float(lost.mean()),
        "exact": exact and not lost.any(),
        "layers": layers,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
