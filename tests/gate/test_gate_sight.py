"""What the gate sees beside the core probes: lengths, characters, turns, draws, requests, other doors."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import drifts
import pytest

from steelyard import serving
from steelyard.gate import check, exact_reference
from steelyard.gate.base.endpoint import Endpoint
from steelyard.gate.reference.continuations import continued
from steelyard.model import Tokenizer, export_openvino


@pytest.fixture(scope="module")
def tuned(tiny_models):
    """Every id has a text, and the context holds the longest probe of quick depth."""
    words = Tokenizer(tiny_models("llama")).vocab_size
    return tiny_models("llama", vocab_size=words, max_position_embeddings=4096, seed=3)


@pytest.fixture(scope="module")
def reference(tuned):
    return exact_reference(tuned)


def verdict(tuned, url, reference, **more):
    return check(tuned, url, mode="exact", reference=reference, **more)


def failed(found):
    return [c.name for c in found.checks if c.passed is False]


# Longer than the texts that a tiny byte-level model is asked at quick depth.
TOO_LONG = {"last 3,000 characters"}


@pytest.mark.parametrize("name", sorted(set(drifts.WHOLE) - TOO_LONG))
def test_what_ran_through_before_is_found_with_its_cause(tuned, serve, reference, name):
    cause, between = drifts.WHOLE[name]
    with drifts.proxy(serve(tuned), between) as url:
        found = verdict(tuned, url, reference)
    assert (found.verdict, found.cause) == ("failed", cause), (found.why, failed(found))


def behind_plain(send, wait_s=2.0):
    """Chats with a system message let a chat without one go first, as chance would have it."""

    def later(body, ask):
        if body["messages"][0]["role"] == "system":
            time.sleep(wait_s)
        return send(body, ask)

    return later


def test_a_cache_is_found_whichever_chat_came_first(tuned, serve, reference):
    """Where all chats with a system message get the plain chat's answer, they look like one dropped."""
    _, between = drifts.WHOLE["cache by the last message's beginning"]
    slow = replace(between, send=behind_plain(drifts.by_beginning()))
    with drifts.proxy(serve(tuned), slow) as url:
        found = verdict(tuned, url, reference)
    assert (found.verdict, found.cause) == ("failed", "cache"), (found.why, failed(found))


def test_a_dropped_system_message_is_no_cache(tuned, serve, reference):
    """Its answers repeat the plain chat's too; a question that was never sent tells the two apart."""
    dropped = drifts.of_messages(lambda m: [x for x in m if x["role"] != "system"])
    with drifts.proxy(serve(tuned), drifts.Between(request=dropped)) as url:
        found = verdict(tuned, url, reference)
    assert (found.verdict, found.cause) == ("failed", "system"), (found.why, failed(found))


@pytest.fixture(scope="module")
def service(tuned, tmp_path_factory):
    """Our own server: it has every route, streams, tools and formats."""
    folder = tmp_path_factory.mktemp("ir")
    export_openvino(tuned, folder, "bf16")
    running = serving.start(folder, serving.ServeSettings(mode="exact", threads=1))
    yield running.url
    running.stop()


def test_our_own_server_passes_and_the_verdict_says_what_was_looked_at(tuned, service, reference):
    found = verdict(tuned, service, reference)
    assert (found.verdict, found.cause) == ("passed", None), (found.why, failed(found))
    looked = found.as_json()["looked_at"]
    assert looked["streams"]
    assert {"stream", "completions", "responses", "messages"} <= set(looked["routes"])
    assert max(looked["lengths"]) > 1400
    assert looked["longest_answer"] == 264
    assert looked["draws"]["open_tokens"] > 80
    assert looked["models"] == {"judged": ["default"], "not_judged": []}
    assert {"arabic", "hebrew", "thai"} <= set(looked["scripts"])


# A random model repeats nothing, so that a penalty changes nothing: test_gate_draws.py, bench/gate.py.
UNSEEN = {"repetition penalty 1.3", "frequency penalty 1"}


@pytest.mark.parametrize("name", sorted(set(drifts.RICH) - UNSEEN))
def test_what_only_such_a_server_has_is_found_with_its_cause(tuned, service, reference, name):
    cause, between = drifts.RICH[name]
    with drifts.proxy(service, between) as url:
        found = verdict(tuned, url, reference)
    assert (found.verdict, found.cause) == ("failed", cause), (found.why, failed(found))


def test_a_route_that_cuts_its_prompts_says_nothing_of_the_weights(tuned, service):
    """Texts are written on by that route; what follows other prompts would look like a scaled tensor."""
    tokenizer = Tokenizer(tuned)
    cut = drifts.Between(request=lambda b: {**b, "prompt": b["prompt"][:-1]}, paths=(drifts.COMPLETE,))

    async def texts(url):
        async with Endpoint(url=url) as endpoint:
            return await continued(endpoint, tokenizer, seed=0)

    with drifts.proxy(service, cut) as url:
        assert asyncio.run(texts(url)) == []
    assert asyncio.run(texts(service))


def test_the_packaged_model_in_bf16_passes(smol, tmp_path):
    """Real text, real rounding: no check that is new alarms a clean service."""
    export_openvino(smol, tmp_path, "bf16")
    running = serving.start(tmp_path, serving.ServeSettings(mode="fast"))
    exact = exact_reference(smol)
    try:  # no look along directions: that test is test_gate_deviation.py's, and takes longest here
        found = check(smol, running.url, mode="fast", reference=lambda sequences: exact(sequences))
    finally:
        running.stop()
    values = {c.name: c.value for c in found.checks}
    assert (found.verdict, found.cause) == ("passed", None), (found.why, failed(found), values)
    assert {"logprob_far", "sampling", "seed", "draws_differ", "stop_words", "answer_length"} <= set(values)
    assert {"stream", "completions", "responses", "messages", "alone"} <= set(values)
    print(values, found.looked_at)  # shown with -s
