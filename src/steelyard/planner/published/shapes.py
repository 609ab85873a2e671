"""A Shape from sizes by name: rows of the model catalogue. Files are read by `steelyard.shape` itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.hardware import lookup, model_names
from steelyard.layers import Half, attention, experts, latent, mlp, stacked
from steelyard.shape import Shape


def named_shape(name: str, models: Mapping[str, Mapping[str, Any]]) -> Shape:
    """The shape of a catalogued model, however it is spelled. Raises WrongUse naming the nearest."""
    return shape_of(models[lookup(model_names(models), name, "model", list(models))])


def shape_of(row: Mapping[str, Any]) -> Shape:
    """A row with the columns of `models.csv` as a Shape."""
    layers, heads, kv_heads, hidden = (int(row[c]) for c in ("layers", "heads", "kv_heads", "hidden"))
    head_dim = int(row.get("head_dim") or hidden / heads)
    params = int(float(row["params_b"]) * 1e9)
    experts, vocab, ffn = (int(row.get(c) or 0) for c in ("experts", "vocab", "ffn"))
    attention = (2 * heads + 2 * kv_heads) * head_dim
    gated, tied = form_of(row, params, layers * hidden, attention, ffn, vocab * hidden)
    return Shape(
        family=str(row["model"]).split("-")[0],
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
        gated=bool(gated),
        tied=bool(tied),
        experts=experts,
        experts_per_token=int(row.get("experts_per_token") or 0),
        max_position=int(row.get("max_position") or 0),
        params=params,
        active_params=int(float(row.get("active_b") or row["params_b"]) * 1e9),
        dtype="bf16",
        stack=stacked(layers_of(row, head_dim, bool(gated))),
        mtp_layers=int(row.get("mtp_layers") or 0),
    )


def layers_of(row: Mapping[str, Any], head_dim: int, gated: bool) -> list[tuple[Half, ...]]:
    """Its layers: those that slide a window first, the dense ones of a model with experts too."""
    layers, hidden, ffn = (int(row[c]) for c in ("layers", "hidden", "ffn"))
    count, shared = int(row.get("experts") or 0), int(row.get("shared_ffn") or 0)
    after: tuple[Half, ...] = (mlp(hidden, ffn, gated),)
    if count:
        after = experts(hidden, ffn, count, int(row["experts_per_token"]), gated, shared=shared)
    dense = (mlp(hidden, int(row.get("dense_ffn") or ffn), gated),)
    lead = int(row.get("dense_layers") or 0)
    mixers = _mixers(row, head_dim)
    return [(mixers[layer], *(dense if layer < lead else after)) for layer in range(layers)]


def _mixers(row: Mapping[str, Any], head_dim: int) -> list[Half]:
    """The attention of each layer: latent where less than the heads' keys and values is kept a token.

    Of a cache of 9 parts 8 are the rank, which the queries' is three times, and one is the shared key, as
    published (DeepSeek-V2, section 2.1).
    """
    layers, hidden, heads, kv_heads = (int(row[c]) for c in ("layers", "hidden", "heads", "kv_heads"))
    width = float(row.get("kv_bytes_per_token_16bit") or 0) / (2 * layers)
    if 0 < width < 0.9 * 2 * kv_heads * head_dim:
        return [latent(hidden, heads, head_dim, width * 8 / 9, width / 9, 3 * width * 8 / 9)] * layers
    window = int(row.get("window") or 0)
    sliding = round(layers * float(row.get("window_share") or 1.0)) if window else 0
    full, slid = (attention(hidden, heads, kv_heads, head_dim, window=w) for w in (0, window))
    return [slid] * sliding + [full] * (layers - sliding)


def form_of(
    catalogued: Mapping[str, Any], params: float, rows: float, attention: float, ffn: float, table: float
) -> tuple[float, float]:
    """Is the MLP gated, is the output head the embedding? As told, else what explains the weights best.

    `rows` counts layers times hidden size, `attention` and `ffn` are widths, `table` is one embedding.
    """
    heads = [0.0] if catalogued.get("experts") else [0.0, 1.0]
    forms = [
        (g, t)
        for g in _column_or(catalogued, "gated_ffn", [1.0, 0.0])
        for t in _column_or(catalogued, "tied", heads)
    ]
    return min(forms, key=lambda f: abs(rows * (attention + (2 + f[0]) * ffn) + (2 - f[1]) * table - params))


def _column_or(catalogued: Mapping[str, Any], column: str, else_any: list[float]) -> list[float]:
    return else_any if catalogued.get(column) in (None, "") else [float(catalogued[column])]
