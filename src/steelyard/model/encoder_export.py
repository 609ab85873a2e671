"""A sentence encoder's folder as an OpenVINO graph with its tokenizer and a description of both."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from ..errors import Lacking
from .companions import copy_companions
from .encoder import Encoder, read_encoder


def export_encoder(folder: Path, out: Path) -> Encoder:
    """Write graph, tokenizer and `form.json` of the encoder in `folder` into `out`, f32 as most are shipped.

    Raises WrongUse for what is not covered, Lacking without OpenVINO.
    """
    if find_spec("openvino") is None:
        raise Lacking(
            "model.no_openvino",
            "OpenVINO is not installed",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[serve]'",
        )
    from .openvino_encoder import save

    encoder = read_encoder(Path(folder))
    out.mkdir(parents=True, exist_ok=True)
    save(Path(folder), encoder, out / "openvino_model.xml")
    copy_companions(Path(folder), out)
    form = {"form": "f32", "weights": "f32", "precision": "f32", "kv_precision": "f32"}
    beside = form | {"max_context": encoder.max_tokens, "encoder": asdict(encoder)}
    (out / "form.json").write_text(json.dumps(beside, indent=1, sort_keys=True) + "\n")
    return encoder
