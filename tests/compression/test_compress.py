"""Compression through its door: a checkpoint artefact in, a served folder and its figures out."""

from __future__ import annotations

import json

import pytest

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import FORMS, compress
from steelyard.errors import WrongUse


def compressed(folder, tmp_path, form):
    store = Store(tmp_path)
    inputs = Inputs(artefacts={"checkpoint": adopt(folder)})
    draft = store.draft("compressed", form, "compress", {"form": form}, inputs.artefacts)
    return draft, compress(inputs, {"form": form}, draft, Watch())


@pytest.mark.parametrize("form", FORMS)
def test_a_form_says_what_it_is(form, tiny_models, tmp_path):
    draft, figures = compressed(tiny_models("llama", hidden_size=128, intermediate_size=512), tmp_path, form)
    told = json.loads((draft.folder / "form.json").read_text())
    spec = FORMS[form]
    assert told["form"] == form
    assert (told["precision"], told["kv_precision"]) == (spec.precision, spec.kv_precision)
    assert told["weight_bytes"] == spec.weight_bytes
    assert figures["bytes"] == (draft.folder / "openvino_model.bin").stat().st_size
    # Scales, norms and the graph's own constants come on top: a tenth at this size.
    assert spec.weight_bytes / 2 <= figures["ratio"] < spec.weight_bytes / 2 + 0.15


def test_an_unknown_form_is_wrong_use(tiny_models, tmp_path):
    with pytest.raises(WrongUse, match="int1"):
        compressed(tiny_models("llama"), tmp_path, "int1")
