"""The OpenAI API of a real service, by the official client and by hand."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest
from watching import held, until

from steelyard.model import Tokenizer
from steelyard.serving import chat

ASK = [{"role": "user", "content": "Name three colours."}]


def client(service, **more):
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, **more)


def post(service, path, **body):
    return httpx.post(service.url + path, json=body, timeout=60)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 7}])
def test_streaming_equals_whole(talker, sampling):
    asked = {"model": "default", "messages": ASK, "max_tokens": 24, **sampling}
    api = client(talker).chat.completions
    whole = api.create(**asked)
    chunks = list(api.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and text
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")  # the cache may know the second prompt
    assert [getattr(chunks[-1].usage, c) for c in counts] == [getattr(whole.usage, c) for c in counts]
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finishes == [whole.choices[0].finish_reason]
    assert "".join(chat(talker.url, ASK, max_tokens=24, **sampling)) == text


def test_many_at_once_equal_one_by_one(talker):
    async def run():
        api = openai.AsyncOpenAI(base_url=f"{talker.url}/v1", api_key="none").chat.completions
        asked = [
            {"model": "smol", "messages": [{"role": "user", "content": f"Count from {n}."}],
             "max_tokens": 12, "temperature": 0} for n in range(6)
        ]  # fmt: skip
        alone = [await api.create(**a) for a in asked]
        together = await asyncio.gather(*(api.create(**a) for a in asked))
        return [[r.choices[0].message.content for r in answers] for answers in (alone, together)]

    alone, together = asyncio.run(run())
    assert alone == together


def test_stop_string_across_tokens_is_never_shown(talker):
    asked = {"model": "default", "messages": ASK, "temperature": 0, "max_tokens": 24}
    full = post(talker, "/v1/chat/completions", **asked).json()["choices"][0]["message"]["content"]
    stop = full[7:13]  # begins and ends inside tokens
    cut = post(talker, "/v1/chat/completions", **asked, stop=["never there", stop]).json()
    assert cut["choices"][0]["message"]["content"] == full[: full.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert "".join(chat(talker.url, ASK, temperature=0, max_tokens=24, stop=stop)) == full[: full.index(stop)]


def test_an_answer_ends_at_the_end_token_unless_told_otherwise(talker):
    asked = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    ended = post(talker, "/v1/chat/completions", **asked, max_tokens=40).json()
    assert ended["choices"][0]["finish_reason"] == "stop" and ended["usage"]["completion_tokens"] < 40
    on = post(talker, "/v1/chat/completions", **asked, max_tokens=40, ignore_eos=True).json()
    assert on["choices"][0]["finish_reason"] == "length" and on["usage"]["completion_tokens"] == 40


def test_a_stop_token_counts_even_where_end_tokens_are_ignored(tiny):
    asked = {
        "prompt": [5, 6, 7],
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    ids = post(tiny, "/v1/completions", **asked).json()["choices"][0]["token_ids"]
    choice = post(tiny, "/v1/completions", **asked, stop_token_ids=[ids[3]]).json()["choices"][0]
    assert choice["token_ids"] == ids[: ids.index(ids[3]) + 1] and choice["finish_reason"] == "stop"


def test_scores_of_a_prompt_equal_torch(talker, smol):
    import torch
    from transformers import AutoModelForCausalLM

    ids = Tokenizer(smol).encode("The capital of France is Paris, a city of light.")
    told = post(talker, "/v1/completions", prompt=ids, echo=True, max_tokens=0, logprobs=2).json()
    model = AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    scores = told["choices"][0]["logprobs"]
    assert scores["token_logprobs"][0] is None and len(scores["tokens"]) == len(ids)
    for place, (token, got) in enumerate(zip(ids[1:], scores["token_logprobs"][1:], strict=True)):
        assert got == pytest.approx(wanted[place, token].item(), abs=2e-3)
        assert max(scores["top_logprobs"][place + 1].values()) == pytest.approx(
            wanted[place].max().item(), abs=2e-3
        )
    assert told["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}


def test_logprobs_of_an_answer(talker):
    asked = {"messages": ASK, "temperature": 0, "max_tokens": 6, "logprobs": True}
    made = post(talker, "/v1/chat/completions", **asked).json()["choices"][0]
    scored = post(talker, "/v1/chat/completions", **asked, top_logprobs=3).json()["choices"][0]
    for one, other in zip(made["logprobs"]["content"], scored["logprobs"]["content"], strict=True):
        assert one["token"] == other["token"] == other["top_logprobs"][0]["token"]
        assert one["logprob"] == pytest.approx(other["logprob"], abs=2e-3)
        assert len(other["top_logprobs"]) == 3
    text = "".join(entry["token"] for entry in made["logprobs"]["content"])
    assert text == made["message"]["content"]


def test_n_answers_and_seeds(tiny):
    asked = {"messages": ASK, "max_tokens": 8, "temperature": 1, "n": 3, "seed": 5, "ignore_eos": True}
    first, second = (post(tiny, "/v1/chat/completions", **asked).json() for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in second["choices"]]
    assert len(set(texts)) > 1
    assert first["usage"]["completion_tokens"] == 24


def test_prompts_in_a_list_and_token_ids(tiny):
    asked = {"prompt": [[5, 6, 7], [8, 9]], "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    told = post(tiny, "/v1/completions", **asked, return_token_ids=True).json()
    assert [c["prompt_token_ids"] for c in told["choices"]] == asked["prompt"]
    assert [len(c["token_ids"]) for c in told["choices"]] == [4, 4]
    assert told["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13, "prompt_tokens_details": None,
    }  # fmt: skip
    assert told["system_fingerprint"] == "abc"


def test_tokenize_is_the_template_that_training_uses(tiny, tiny_models):
    tokenizer = Tokenizer(tiny_models("llama"))
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name three colours."}]}]
    for messages in (ASK, parts):
        told = post(tiny, "/tokenize", messages=messages).json()
        assert told["tokens"] == tokenizer.chat_ids(ASK) and told["count"] == len(told["tokens"])
    assert post(tiny, "/detokenize", tokens=told["tokens"]).json()["prompt"] == tokenizer.chat_text(ASK)
    usage = post(tiny, "/v1/chat/completions", messages=ASK, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens"] == told["count"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"messages": ASK, "model": "other"}, 404, "tiny"),
        ({"messages": []}, 400, "messages"),
        ({"messages": ASK, "temperature": 3}, 400, "temperature"),
        ({"messages": ASK, "tools": [{"type": "function"}]}, 400, "tools"),
        ({"messages": ASK, "response_format": {"type": "json_schema"}}, 400, "response_format"),
        ({"messages": ASK, "response_format": {"type": "grammar"}}, 400, "response_format"),
        ({"messages": ASK, "guided_json": "{", "max_tokens": 1}, 400, "guided_json"),
        ({"messages": ASK, "guided_regex": "a", "guided_choice": ["a"]}, 400, "exclude"),
        ({"messages": ASK, "tool_choice": "required"}, 400, "tools"),
        ({"messages": ASK, "tools": [{"type": "web_search"}]}, 400, "web_search"),
        ({"messages": ASK, "temperature": "warm"}, 400, "temperature"),
        ({"messages": ASK, "logit_bias": {"99999999": 1}}, 400, "logit_bias"),
        ({"messages": ASK, "moderation": {"model": "m"}}, 400, "moderation"),
        ({"messages": ASK, "reasoning_effort": "high"}, 400, "reasoning_effort"),
        ({"messages": ASK, "max_tokens": 5000}, 400, "512 tokens"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, 400, "512 tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
        ({"messages": [{"role": "bard", "content": "x"}]}, 400, "role"),
    ],
)
def test_what_cannot_be_done_is_said(tiny, body, status, words):
    response = post(tiny, "/v1/chat/completions", **body)
    error = response.json()["error"]
    assert response.status_code == status and words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_broken_bodies_and_routes(tiny):
    url = f"{tiny.url}/v1/chat/completions"
    for data in (b"", b"{", b"\xff\xfe", b"[]", b"null"):
        sent = httpx.post(url, content=data, headers={"content-type": "application/json"})
        assert sent.status_code == 400
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{tiny.url}/v2").status_code == 404
    assert post(tiny, "/v1/completions", prompt=[9999], max_tokens=1).status_code == 400
    assert post(tiny, "/v1/completions", prompt="", max_tokens=1).status_code == 400


def test_unknown_fields_are_named(tiny):
    response = post(tiny, "/v1/chat/completions", messages=ASK, max_tokens=1, user="u", colour="blue")
    assert response.status_code == 200 and response.headers["x-steelyard-ignored"] == "colour"
    assert response.headers["x-request-id"]


def test_metrics_move_by_what_usage_says(tiny, counters):
    names = [f"vllm:{n}_total" for n in ("prompt_tokens", "generation_tokens", "request_success")]
    before = counters()
    httpx.get(f"{tiny.url}/health")
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 5}
    usages = [post(tiny, "/v1/chat/completions", **asked, n=2).json()["usage"]]
    chunks = client(tiny).chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    usages.append([c.usage for c in chunks][-1].model_dump())
    usages.append(
        post(tiny, "/v1/completions", prompt="a b", echo=True, max_tokens=0, logprobs=1).json()["usage"]
    )
    post(tiny, "/v1/chat/completions", messages=ASK, max_tokens=9999)  # refused: counts for nothing
    after = counters()
    moved = [after[name] - before[name] for name in names]
    assert moved == [sum(u["prompt_tokens"] for u in usages), sum(u["completion_tokens"] for u in usages), 3]


def test_a_client_that_leaves_frees_its_slot(tiny, counters):
    body = {"messages": ASK, "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{tiny.url}/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    with held(tiny):
        with pytest.raises(httpx.ReadTimeout):
            whole = {**body, "stream": False, "n": 16}
            httpx.post(f"{tiny.url}/v1/chat/completions", json=whole, timeout=httpx.Timeout(60, read=1))
        assert until(lambda: counters()["vllm:num_requests_running"] == 0)
    assert counters()["vllm:num_requests_waiting"] == 0


def test_about_the_service(tiny):
    get = lambda path: httpx.get(tiny.url + path, timeout=60)  # noqa: E731
    assert get("/live").status_code == get("/health").status_code == 200
    assert get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert get("/v1/models/default").json()["max_model_len"] == 512
    assert get("/v1/models/other").status_code == 404
    assert get("/version").json()["version"]


def test_usage_of_several_answers_counts_their_prompt_once(talker):
    asked = {"model": "default", "messages": [{"role": "user", "content": "count " * 200}], "max_tokens": 2}
    asked["ignore_eos"] = True
    for _ in range(2):  # the second finds it in the prefix cache
        usage = post(talker, "/v1/chat/completions", n=4, **asked).json()["usage"]
    assert usage["completion_tokens"] == 8 and usage["prompt_tokens"] < 800
    assert usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]


def test_more_tokens_at_least_than_at_most_is_a_400(talker):
    told = post(talker, "/v1/chat/completions", model="default", messages=ASK, max_tokens=3, min_tokens=4)
    assert told.status_code == 400 and told.json()["error"]["param"] == "min_tokens"


def test_fields_within_fields_that_nobody_reads_are_named(talker):
    told = post(talker, "/v1/responses", input="a", max_output_tokens=2, text={"verbosity": "low"})
    assert told.status_code == 200 and "text.verbosity" in told.headers["x-steelyard-ignored"]


def test_the_engine_holds_an_answer_to_calls_or_a_format(tiny):
    """One grammar for both: whatever the model writes first, it is a list or an object."""
    place = {"type": "object", "properties": {"x": {"$ref": "#/$defs/N"}}, "$defs": {"N": {"enum": [1, 2]}}}
    place |= {"required": ["x"], "additionalProperties": False}
    format = {"type": "json_schema", "json_schema": {"name": "place", "schema": place}}
    tools = [{"type": "function", "function": {"name": "t"}}]
    asked = {
        "messages": ASK,
        "tools": tools,
        "response_format": format,
        "n": 4,
        "temperature": 1.0,
        "seed": 1,
    }
    answer = post(tiny, "/v1/chat/completions", **asked)
    assert answer.status_code == 200, answer.text
    for choice in answer.json()["choices"]:
        called, text = choice["message"].get("tool_calls"), choice["message"]["content"]
        assert choice["finish_reason"] == "length" or called or json.loads(text)["x"] in (1, 2)
