"""Families that go through OpenVINO's converter, against transformers; what is lacking is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_openvino_ir import compiled, logits_of, reference

from steelyard.compression import export_form
from steelyard.errors import Lacking, WrongUse
from steelyard.model import check_folder

FAMILIES = {"gemma": {}, "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4}}


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_logits_equal_transformers(family, tiny_models, tmp_path):
    folder = tiny_models(family, tied=family == "gemma", **FAMILIES[family])
    check_folder(folder)
    export_form(folder, tmp_path, "f32")
    ids = np.random.default_rng(0).integers(3, 320, (2, 48))
    mask = np.ones_like(ids)
    request = compiled(tmp_path)
    wanted = reference(folder, ids, mask)
    parts = [logits_of(request, ids[:, :30], mask[:, :30]), logits_of(request, ids[:, 30:], mask, start=30)]
    assert np.abs(np.concatenate(parts, axis=1) - wanted).max() < 1e-3
    assert json.loads((tmp_path / "form.json").read_text())["max_context"] == 512


def test_a_form_that_the_converter_cannot_round_is_refused(tiny_models, tmp_path):
    with pytest.raises(WrongUse, match="int4"):
        export_form(tiny_models("gemma"), tmp_path, "int4")


def test_without_transformers_it_says_what_to_install(tiny_models, tmp_path, monkeypatch):
    from importlib import util

    from steelyard.model import convert

    monkeypatch.setattr(convert, "find_spec", lambda name: None if name == "torch" else util.find_spec(name))
    with pytest.raises(Lacking, match="need torch"):
        export_form(tiny_models("gemma"), tmp_path, "bf16")


def test_the_batching_engine_takes_a_converted_graph(tiny_models, tmp_path):
    import openvino as ov
    import openvino_genai as genai

    folder = tiny_models("gemma")
    export_form(folder, tmp_path, "f32")
    ids = np.random.default_rng(1).integers(3, 320, (1, 20))
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 16
    properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = genai.ContinuousBatchingPipeline(str(tmp_path), scheduler, "CPU", properties)
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.apply_chat_template = 6, True, False
    config.set_eos_token_id(0)
    handle = pipeline.add_request(0, ov.Tensor(ids), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    made = [i for output in handle.read_all() for i in output.generated_ids]
    whole = np.concatenate([ids, [made]], axis=1)
    wanted = reference(folder, whole, np.ones_like(whole))[0].argmax(-1)
    assert made == wanted[ids.shape[1] - 1 : -1].tolist()
