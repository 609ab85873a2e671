"""The prefix cache of one key is no business of another: what is found, and what is told of it."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
from watching import CLIENT, read_metrics

from steelyard.serving import ServeSettings, new_key, start
from steelyard.serving.engines import GenRequest
from steelyard.serving.engines.llamacpp.engine import CachedSequence, LlamaCppEngine
from steelyard.serving.engines.openvino.prefix import SALTS, PrefixBlocks
from steelyard.serving.host.replicas.balance import blocks_of

IDS = list(range(100))


def taken(blocks, request_id, salt, ids=IDS):
    cached = blocks.take(request_id, ids, salt)
    blocks.leave(request_id)
    return cached


def test_a_count_tells_of_prompts_under_the_same_salt_alone():
    blocks = PrefixBlocks(64, 32)
    assert [taken(blocks, i, salt) for i, salt in enumerate(("a", "b", "a", "b"))] == [0, 0, 96, 96]
    assert blocks.hits == 3 * 96  # what the engine saved, for its own figures
    longer = [*IDS[:64], *range(500, 540)]
    assert taken(blocks, 9, "c", IDS[:64]) == 0
    assert taken(blocks, 10, "c", longer) == 64  # its own two blocks; the third is new
    assert taken(blocks, 11, "a", longer) == 64


def test_salts_are_forgotten_with_their_block_and_bounded():
    blocks = PrefixBlocks(4, 32)
    for i in range(2 * SALTS):
        taken(blocks, i, f"salt {i}")
    assert max(map(len, blocks.salts.values())) == SALTS
    taken(blocks, 999, "other", list(range(1000, 1128)))
    assert set(blocks.salts) <= set(blocks.idle) | set(blocks.users)


def test_llama_cpp_looks_among_sequences_of_the_same_salt():
    def request(salt, adapter=None):
        return GenRequest(request_id=1, ids=IDS, max_tokens=1, salt=salt, adapter=adapter)

    held = [CachedSequence(0, IDS, None, "a"), CachedSequence(1, IDS[:50], None, "b")]
    engine = SimpleNamespace(settings=SimpleNamespace(prefix_cache=True), cached_sequences=held, running=[])
    for salt, found in (("a", (held[0], 100)), ("b", (held[1], 50)), ("c", (None, 0))):
        sequence = SimpleNamespace(request=request(salt), tokens=IDS)
        assert LlamaCppEngine._longest_match(engine, sequence) == found
    running = SimpleNamespace(request=request("c"), tokens=IDS, held=40)
    engine.running = [running]
    sequence = SimpleNamespace(request=request("c"), tokens=IDS)
    assert LlamaCppEngine._longest_match(engine, sequence) == (running, 40)


def test_replicas_do_not_follow_another_salts_beginning():
    assert blocks_of(IDS, "a") == blocks_of(IDS, "a") != blocks_of(IDS, "b")


@pytest.fixture(scope="module")
def keyed(tiny_ir, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {name: new_key(file, name) for name in ("a", "b")}
    service = start(tiny_ir, ServeSettings(mode="exact", keys=str(file)))
    yield service, keys
    service.stop()


def cached(service, key, text, **more):
    body = {"model": "default", "prompt": text, "max_tokens": 1, **more}
    headers = {"authorization": f"Bearer {key}"}
    answer = CLIENT.post(f"{service.url}/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_no_key_learns_what_another_has_sent(keyed):
    service, keys = keyed
    text = "one two three four five six seven eight nine ten " * 5
    hits = "vllm:prefix_cache_hits_total"
    assert cached(service, keys["a"], text) == 0
    before = read_metrics(service, keys["b"])[hits]
    assert cached(service, keys["b"], text) == 0
    assert read_metrics(service, keys["b"])[hits] == before  # nor by the counters of all
    assert cached(service, keys["a"], text) >= 32
    assert cached(service, keys["a"], text, cache_salt="mine") == 0
    assert cached(service, keys["a"], text, cache_salt="mine") >= 32
    headers = {"authorization": f"Bearer {keys['a']}"}
    body = {"prompt": "x", "max_tokens": 1, "cache_salt": ""}
    assert httpx.post(f"{service.url}/v1/completions", json=body, headers=headers).status_code == 400
