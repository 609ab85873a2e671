"""An OpenVINO IR from a Hugging Face folder, without torch or an exporter.

The forms, the export and what goes beside the weights. The graph itself: openvino_graph.py.
Not here: which form a plan wants (compression), running it (serving).
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Lacking, WrongUse
from ..forms import FORMS
from ..processes import release_freed_memory
from .companions import copy_companions
from .convert import convert
from .decoder import family_of
from .openvino_tokenizer import write_detokenizer

if TYPE_CHECKING:
    from .integers import Rounding

XML = "openvino_model.xml"


def export_openvino(folder: Path, out: Path, form: str = "bf16", rounding: Rounding | None = None) -> None:
    """Write IR, tokenizer, config, template and `form.json` of `folder` into `out`.

    A quantised form needs a `rounding`; `compression.export_form` gives it. The bytes follow from the
    weights, the form, the rounding and OpenVINO's version: no place, no time.
    Raises WrongUse for a form or family that is not covered, Lacking without OpenVINO.
    """
    if form not in FORMS:
        raise WrongUse("model.form_unknown", f"no form {form!r}", hint=f"one of {', '.join(FORMS)}")
    _need_openvino()
    out.mkdir(parents=True, exist_ok=True)
    written = _write_graph(Path(folder), form, out / XML, rounding)
    copy_companions(Path(folder), out)
    facts = FORMS[form]
    stored = {name: fact for name, fact in asdict(facts).items() if name != "trained"}  # how it came to be
    beside = {
        "form": form, **stored, "weight_bytes": facts.weight_bytes, **written,
        "calibrated": bool(rounding and rounding.calibrated),
    }  # fmt: skip
    write_detokenizer(out, out)
    release_freed_memory()  # 160 MB of an int8 export, while the engine loads beside it
    (out / "form.json").write_text(json.dumps(beside, indent=1, sort_keys=True) + "\n")


def _write_graph(folder: Path, form: str, xml: Path, rounding: Rounding | None) -> dict[str, Any]:
    """The graph and its weights; what form.json says of them."""
    from .openvino_graph import save

    if not family_of(folder).trainable:
        return {"max_context": convert(folder, form, xml), "joined": {}}
    saved = save(folder, form, xml, rounding)
    _mark_decompression(xml)
    return asdict(saved)


def _need_openvino() -> None:
    if find_spec("openvino") is None:
        raise Lacking(
            "model.no_openvino",
            "OpenVINO is not installed",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[cpu]'",
        )


def _mark_decompression(xml: Path) -> None:
    """Say at each weight's Convert that it decompresses a constant.

    Without the mark the plugin folds weights to f32 while it loads: 699 MB, not 148 (SmolLM2-135M).
    """
    convert = r'(name="[^"]*/f32" type="Convert" version="opset1">\s*<data destination_type="f32" />)'
    mark = r'\1<rt_info><attribute name="decompression" version="0" /></rt_info>'
    xml.write_text(re.sub(convert, mark, xml.read_text()))
