"""The engine transformers and the exact reference of a family without a network here, on tiny random models.

Needs the environment of the engine trl: a child of it computes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import Lacking, WrongUse
from steelyard.model import TransformersNetwork, trl_missing
from steelyard.serving.engines import EngineSettings, GenRequest
from steelyard.serving.engines.transformers import TransformersEngine

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import families as bench

ABSENT = trl_missing()
pytestmark = [
    pytest.mark.trl,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(ABSENT), reason=f"the engine transformers: {ABSENT}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bench.make_base("gemma3_text", tmp_path_factory.mktemp("gemma3") / "base")


@pytest.fixture
def engine(folder):
    made = TransformersEngine(
        EngineSettings(folder=str(folder), engine="transformers", mode="exact", max_num_seqs=2)
    )
    yield made
    made.close()


def answers(engine, requests):
    """Ids and log-probabilities by request, however the steps fall."""
    for request in requests:
        engine.add(request)
    ids, logprobs, ends = {}, {}, {}
    while engine.busy():
        for event in engine.step():
            ids.setdefault(event.request_id, []).extend(event.ids)
            logprobs.setdefault(event.request_id, []).extend(event.logprobs or ())
            ends[event.request_id] = event.finish
    return ids, logprobs, ends


def ask(number, prompt, tokens=12, **more):
    return GenRequest(request_id=number, ids=prompt, max_tokens=tokens, logprobs=True, top=3, **more)


def test_answers_are_those_of_the_exact_network_whoever_else_asks(engine):
    """More requests than seats, of several lengths: each as if it were alone, within f32's noise."""
    from steelyard.gate.reference.exact import TransformersReference

    prompts = {n: [5 + (7 * n + i) % 300 for i in range(3 + 9 * n)] for n in range(4)}
    ids, logprobs, ends = answers(engine, [ask(n, p) for n, p in prompts.items()])
    assert set(ends.values()) == {"length"}
    arrays = TransformersReference(engine.network)([(prompts[n], ids[n]) for n in prompts])
    for n, array in enumerate(arrays):
        assert array.shape == (13, 4)
        assert np.abs(array[:-1, 0] - logprobs[n]).max() <= 1e-4
        assert (array[:-1, 2] - array[:-1, 0]).max() <= 1e-4  # greedy: the likeliest
    alone, _, _ = answers(engine, [ask(9, prompts[3])])
    assert alone[9] == ids[3]
    scores = engine.score([*prompts[1], *ids[1]], top=2)
    own = scores.logprobs[len(prompts[1]) - 1 :]
    assert np.abs(np.array(own) - arrays[1][:-1, 0]).max() <= 1e-4
    assert scores.top_ids[-1][0] == ids[1][-1]


def test_it_stops_lets_go_and_refuses_what_it_has_not(engine):
    ids, _, _ = answers(engine, [ask(0, [7, 8, 9])])
    stopped, _, ends = answers(engine, [ask(1, [7, 8, 9], stop_ids=(ids[0][4],))])
    assert stopped[1] == ids[0][: ids[0].index(ids[0][4]) + 1] and ends[1] == "stop"
    engine.add(ask(2, [7, 8]))
    engine.add(ask(3, [7, 8]))
    engine.step()
    assert engine.cancel(3) and not engine.cancel(2) and not engine.busy()
    with pytest.raises(ValueError, match="adapters"):
        engine.add(ask(4, [7], adapter="a"))
    with pytest.raises(ValueError, match="grammar"):
        engine.add(ask(5, [7], grammar=("regex", "a")))


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(folder, monkeypatch):
    from steelyard.gate import exact_reference

    monkeypatch.setattr("steelyard.hardware.free_bytes", lambda: 1000)
    with pytest.raises(Lacking, match="in float32") as caught:
        exact_reference(folder)
    assert caught.value.code == "gate.reference_memory" and caught.value.hint
    with pytest.raises(WrongUse, match="stored weights"):
        exact_reference(folder, "int8")


def test_a_folder_that_the_library_cannot_read_is_one_clear_error(folder, tmp_path):
    with pytest.raises(Lacking) as caught:
        TransformersNetwork(tmp_path)
    assert caught.value.code == "model.transformers_failed" and caught.value.why


def test_it_is_the_engine_of_a_family_that_no_other_reads(folder):
    from steelyard.serving import prepare
    from steelyard.serving.host.engine_choice import engine_for

    assert engine_for(folder) == "transformers"
    assert prepare(folder, engine="transformers").folder == folder
    with pytest.raises(WrongUse, match="no graph of the family 'gemma3_text'") as caught:
        prepare(folder, engine="openvino")
    assert caught.value.code == "serve.family" and caught.value.hint == "--engine transformers"
