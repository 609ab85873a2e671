"""An engine with a server of its own, alone: what it asks the stand-in, and what comes of the answers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest
from vllm_server import SLOW, interpreter

from steelyard.serving.engines import EngineSettings, Event, GenRequest
from steelyard.serving.engines.launched import sglang, vllm
from steelyard.serving.engines.launched.engine import LaunchedEngine

VALUES = {"dtype": ("float32", "mode: exact"), "max_model_len": (512, "asked for")}
LIMIT_S = 60.0


def settings(python, **more) -> EngineSettings:
    return EngineSettings(folder=str(python.parent), engine="vllm", python=str(python), values=VALUES, **more)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return interpreter(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="module")
def engine(python):
    engine = LaunchedEngine(settings(python))
    yield engine
    engine.close()


def request(number, ids=(1, 2), **more) -> GenRequest:
    return GenRequest(**{"request_id": number, "ids": list(ids), "max_tokens": 6, **more})


def events_of(engine, *numbers) -> dict[int, list[Event]]:
    """All events of the requests, up to the last finish."""
    events: dict[int, list[Event]] = {number: [] for number in numbers}
    end = time.monotonic() + LIMIT_S
    while not all(told and told[-1].finish for told in events.values()):
        assert time.monotonic() < end, events
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def test_answers_come_in_ids_with_their_end_and_what_the_cache_held(engine):
    engine.add(request(1))
    engine.add(request(2, max_tokens=2))
    told = events_of(engine, 1, 2)
    assert [token for event in told[1] for token in event.ids] == [5, 6, 7, 5, 6, 7]
    assert [token for event in told[2] for token in event.ids] == [5, 6]
    assert (told[1][-1].finish, told[1][-1].cached) == ("length", 4)
    assert not engine.busy() and engine.metrics()["prefix_cache_hits"] == 8


def test_log_probabilities_of_answers_and_prompts(engine):
    engine.add(request(3, max_tokens=1, logprobs=True, top=2))
    (event,) = events_of(engine, 3)[3]
    assert event.logprobs == [-0.5] and event.tops == [[(5, -0.5), (6, -1.5)]]
    pieces = [piece for piece in engine.score_pieces([4, 8, 9], 1) if piece is not None]
    for scores in (*pieces, engine.score([4, 8, 9], 1)):
        assert (scores.logprobs, scores.top_ids) == ([-1.0, -1.0], [[9999], [9999]])
    assert len(pieces) == 1


def test_what_the_server_refuses_has_its_words(engine):
    engine.add(request(4, grammar=("regex", "(a")))
    (event,) = events_of(engine, 4)[4]
    assert event.finish == "error" and "no regex" in event.why
    with pytest.raises(ValueError, match="no adapter"):
        engine.add(request(5, adapter="mine"))


def test_who_leaves_is_let_go(engine, python):
    engine.add(request(6, SLOW, max_tokens=10_000))
    while not engine.step():
        pass
    assert engine.cancel(6) is False
    end = time.monotonic() + LIMIT_S
    while engine.holds(6) or not (python.parent / "left").exists():
        assert time.monotonic() < end
        engine.step()
    assert not engine.holds(6)


def test_a_stranger_needs_the_key(engine):
    door = engine.server.door
    with httpx.Client(transport=httpx.HTTPTransport(uds=door.socket), base_url="http://engine") as stranger:
        assert stranger.post("/v1/completions", json={"prompt": [5], "max_tokens": 1}).status_code == 401
    assert os.stat(door.folder).st_mode & 0o777 == 0o700


def test_close_leaves_nothing(python):
    engine = LaunchedEngine(settings(python))
    engine.close()
    assert engine.server.ended and not os.path.exists(engine.server.door.folder)


def test_a_server_that_does_not_start_says_why(python):
    with pytest.raises(RuntimeError, match="no such seed"):
        LaunchedEngine(settings(python, args=("--seed", "4")))


# ------------------------------------------------------------------ words, without a server

REQUEST = GenRequest(
    request_id=3, ids=[1, 2], max_tokens=8, logprobs=True, top=2, salt="team@host/x ", stop_ids=(9,)
)


def test_salt_and_sampling_reach_both():
    salt = vllm.body(REQUEST)["cache_salt"]  # of vLLM's alphabet, whatever a key is called
    assert len(salt) == 64 and salt.isalnum() and sglang.body(REQUEST)["extra_key"] == salt
    plain = GenRequest(request_id=3, ids=[1], max_tokens=1)
    assert "cache_salt" not in vllm.body(plain) and "extra_key" not in sglang.body(plain)
    grammar = GenRequest(request_id=3, ids=[1], max_tokens=1, grammar=("json_schema", "{}"), adapter="a")
    assert vllm.body(grammar)["structured_outputs"] == {"json": "{}"} and vllm.body(grammar)["model"] == "a"
    assert sglang.body(grammar)["sampling_params"]["json_schema"] == "{}"
    assert sglang.body(grammar)["lora_path"] == "a"


def test_sglangs_chunks_are_read():
    about = {"finish_reason": None, "cached_tokens": 2, "output_token_logprobs": [[-0.5, 5, None]],
             "output_top_logprobs": [[[-0.5, 5, None], [-1.0, 6, None]]]}  # fmt: skip
    event = sglang.event_of(REQUEST, {"output_ids": [5], "meta_info": about})
    assert (event.ids, event.logprobs, event.tops, event.cached) == ([5], [-0.5], [[(5, -0.5), (6, -1.0)]], 2)
    refused = {"finish_reason": {"type": "abort", "status_code": 400, "message": "no regex"}}
    assert sglang.event_of(REQUEST, {"output_ids": [], "meta_info": refused}).why == "no regex"
    scores = {"input_token_logprobs": [[None, 1, None], [-0.5, 2, None]],
              "input_top_logprobs": [None, [[-0.1, 7, None]]]}  # fmt: skip
    told = sglang.scores_of({"meta_info": scores}, [1, 2], 1)
    assert (told.logprobs, told.top_ids, told.top_logprobs) == ([-0.5], [[7]], [[-0.1]])
