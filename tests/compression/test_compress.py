"""Compression through its door: a checkpoint artefact in, a served folder and its figures out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from steelyard.artefact import Inputs, Store, Watch, adopt
from steelyard.compression import FORMS, compress
from steelyard.errors import WrongUse
from steelyard.model import Tokenizer


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
    assert told["calibrated"] is False  # there are no rows here
    assert figures["bytes"] == (draft.folder / "openvino_model.bin").stat().st_size
    # Scales, norms and the graph's own constants come on top: a tenth at this size.
    assert spec.weight_bytes / 2 <= figures["ratio"] < spec.end_bytes / 2 + 0.15


ROWS = [
    ("a", "what is 1 + {n}?", "{m}"),
    ("b", "the user asks the assistant {n}", "the assistant answers {m}"),
]


def dataset(folder):
    folder.mkdir()
    with (folder / "train.jsonl").open("w") as file:
        for n in range(80):
            ability, ask, answer = ROWS[n % 2]
            turns = [("user", ask.format(n=n)), ("assistant", answer.format(m=n + 1))]
            messages = [{"role": role, "content": text} for role, text in turns]
            file.write(json.dumps({"messages": messages, "ability": ability}) + "\n")
    return adopt(folder)


def logits(folder, ids):
    import openvino as ov

    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    request = (
        ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", properties).create_infer_request()
    )
    places = np.arange(ids.shape[1])[None]
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": places}
    request.infer({**inputs, "beam_idx": np.zeros(1, np.int32)})
    return request.get_tensor("logits").data.copy()


def test_int4_calibrated_on_the_rows_loses_less_on_such_rows(tiny_models, tmp_path):
    folder = tiny_models("llama", hidden_size=128, intermediate_size=256)
    store, inputs = Store(tmp_path), {"checkpoint": adopt(folder), "dataset": dataset(tmp_path / "rows")}
    drafts = []
    for key in ("one", "two"):
        draft = store.draft("compressed", key, "compress", {"form": "int4"}, inputs)
        figures = compress(Inputs(artefacts=inputs), {"form": "int4"}, draft, Watch())
        assert figures["calibration_tokens"] > 1000
        drafts.append(draft.folder)
    for file in ("openvino_model.bin", "openvino_model.xml", "form.json"):
        assert (drafts[0] / file).read_bytes() == (drafts[1] / file).read_bytes()
    assert json.loads((drafts[0] / "form.json").read_text())["calibrated"] is True
    ids = np.array([Tokenizer(folder).encode("<|im_start|>user\nwhat is 1 + 7?<|im_end|>\n")])
    exact, nearest = (compressed(folder, tmp_path / form, form)[0].folder for form in ("f32", "int4_rtn"))
    wanted = logits(exact, ids)
    calibrated, plain = (np.abs(logits(f, ids) - wanted).mean() for f in (drafts[0], nearest))
    assert calibrated < 0.9 * plain


def test_a_row_that_is_none_is_named(tiny_models, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text('{"text": "whole"}\n{"text": cut\n')
    store = Store(tmp_path)
    inputs = {"checkpoint": adopt(tiny_models("llama")), "dataset": adopt(tmp_path / "rows")}
    draft = store.draft("compressed", "x", "compress", {"form": "int4"}, inputs)
    with pytest.raises(WrongUse, match="not a training row") as caught:
        compress(Inputs(artefacts=inputs), {"form": "int4"}, draft, Watch())
    assert caught.value.as_json()["error"]["where"]["line"] == 2


def test_an_unknown_form_is_wrong_use(tiny_models, tmp_path):
    with pytest.raises(WrongUse, match="int1"):
        compressed(tiny_models("llama"), tmp_path, "int1")
