"""An OpenVINO IR from a Hugging Face folder, without torch or an exporter.

The forms, the export and what goes beside the weights. The graph itself: openvino_graph.py.
Not here: which form a plan wants (compression), running it (serving).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import Lacking, WrongUse

XML = "openvino_model.xml"
BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How weights are stored and the arithmetic that goes with them."""

    weights: str
    weight_bytes: float  # per parameter of a matrix, scales left out
    precision: str  # INFERENCE_PRECISION_HINT in the fast mode; the exact mode is always f32
    kv_precision: str  # KV_CACHE_PRECISION in the fast mode


FORMS: dict[str, Form] = {
    "f32": Form(weights="f32", weight_bytes=4, precision="f32", kv_precision="f32"),
    "bf16": Form(weights="bf16", weight_bytes=2, precision="bf16", kv_precision="bf16"),
    "f16": Form(weights="f16", weight_bytes=2, precision="bf16", kv_precision="bf16"),
    "int8": Form(weights="int8", weight_bytes=1, precision="bf16", kv_precision="u8"),
}


def export_openvino(folder: Path, out: Path, form: str = "bf16") -> None:
    """Write IR, tokenizer, config, template and `form.json` of `folder` into `out`.

    The bytes follow from the weights, the form and OpenVINO's version: no place, no time.
    Raises WrongUse for a form or family that is not covered, Lacking without OpenVINO.
    """
    if form not in FORMS:
        raise WrongUse("model.form_unknown", f"no form {form!r}", hint=f"one of {', '.join(FORMS)}")
    _need_openvino()
    from .openvino_graph import save

    out.mkdir(parents=True, exist_ok=True)
    decoder = save(Path(folder), form, out / XML)
    _mark_decompression(out / XML)
    for name in BESIDE:
        if (Path(folder) / name).exists():
            shutil.copyfile(Path(folder) / name, out / name)
    beside = {"form": form, **asdict(FORMS[form]), "max_context": decoder.max_context}
    (out / "form.json").write_text(json.dumps(beside, indent=1, sort_keys=True) + "\n")


def _need_openvino() -> None:
    if find_spec("openvino") is None:
        raise Lacking("model.no_openvino", "OpenVINO is not installed", hint="pip install 'steelyard[cpu]'")


def _mark_decompression(xml: Path) -> None:
    """Say at each weight's Convert that it decompresses a constant.

    Without the mark the plugin folds weights to f32 while it loads: 699 MB, not 148 (SmolLM2-135M).
    """
    convert = r'(name="[^"]*/f32" type="Convert" version="opset1">\s*<data destination_type="f32" />)'
    mark = r'\1<rt_info><attribute name="decompression" version="0" /></rt_info>'
    xml.write_text(re.sub(convert, mark, xml.read_text()))
