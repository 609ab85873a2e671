"""Bodies as known clients send them, each with its source, and clients themselves, on the application."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from scripted import events_of, scripted

BODIES = json.loads((Path(__file__).parent / "client_bodies.json").read_text())
ALIASES = ("gpt-*", "claude-*", "text-embedding-3-small")
ASK = [{"role": "user", "content": "Hi"}]


class Words:
    """An encoder beside the model: vectors of nothing."""

    name, about = "words", SimpleNamespace(kind="embedding", dimensions=2, shorter=None, max_tokens=256)
    tokenizer = SimpleNamespace(encode_all=lambda texts: [[1, 2, 3] for _ in texts], vocab_size=99_999)

    @property
    def engine(self):
        return self

    def fitting(self, ids, cut, param):
        return ids

    async def embed(self, batch):
        return [[0.6, 0.8] for _ in batch]


@pytest.fixture(scope="module")
def service(smol):
    made = scripted(smol, max_model_len=2048, aliases=ALIASES, clamp_max_tokens=True)
    made.served.encoder = Words()
    return made


@pytest.mark.parametrize("sent", BODIES, ids=[sent["client"] for sent in BODIES])
def test_a_recorded_body_works_or_is_refused_in_words(service, sent):
    headers = {name.replace("-", "_"): value for name, value in sent["headers"].items()}
    answer = service.ask(sent["path"], sent["body"], **headers)
    assert answer.status_code == sent.get("status", 200), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
        return
    named = set(answer.headers.get("x-steelyard-ignored", "").split(", "))
    assert set(sent["ignored"]) <= named
    if sent["body"].get("stream"):
        events = events_of(answer)
        assert events and not any(event.get("type") == "error" or event.get("error") for event in events)


def test_each_client_of_the_docs_is_recorded():
    """docs/how-to/use-the-api.md names them."""
    page = (Path(__file__).parents[2] / "docs/how-to/use-the-api.md").read_text()
    recorded = {sent["client"].partition(",")[0] for sent in BODIES}
    assert all(name in page for name in recorded)


@pytest.mark.parametrize("cached", [None, 32])
def test_count_tokens_is_what_usage_says(service, cached):
    """What the cache held counts too: Anthropic's clients add the three."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": "time", "input_schema": schema}]
    service.engine.cached = cached
    for more in (
        {},
        {"system": "Be brief."},
        {"tools": tools},
        {"tools": tools, "tool_choice": {"type": "any"}},
        {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        {"messages": [*ASK, {"role": "assistant", "content": "I"}]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ):
        body = {"messages": ASK, **more}
        counted = service.ask("/v1/messages/count_tokens", body).json()["input_tokens"]
        usage = service.ask("/v1/messages", {**body, "max_tokens": 5}).json()["usage"]
        read = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        assert counted == sum(usage[name] for name in read), more
    service.engine.cached = None


# ------------------------------------------------------------------ the clients themselves


def session(service, http=httpx):
    """`http`: the module whose clients the SDK takes."""
    return http.AsyncClient(transport=http.ASGITransport(service.app), base_url="http://127.0.0.1")


def test_openais_client(service):
    openai = pytest.importorskip("openai")
    service.say("Hello.")

    async def ask():
        client = openai.AsyncOpenAI(
            base_url="http://127.0.0.1/v1", api_key="none", http_client=session(service)
        )
        more = {"model": "gpt-4o", "messages": ASK}
        whole = await client.chat.completions.create(**more, store=True, service_tier="scale")
        stream = await client.chat.completions.create(**more, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
        response = await client.responses.create(model="gpt-4o", input="Hi", tools=[{"type": "web_search"}])
        vectors = await client.embeddings.create(model="text-embedding-3-small", input="a")
        return whole.choices[0].message.content, text, response.output_text, vectors.data[0].embedding

    *texts, vector = asyncio.run(ask())
    assert texts == ["Hello."] * 3 and vector == pytest.approx([0.6, 0.8])


def test_anthropics_client(service):
    anthropic = pytest.importorskip("anthropic")
    http = pytest.importorskip("httpx2") if "httpx2" in vars(anthropic._base_client) else httpx
    service.say("Hello.")

    async def ask():
        client = anthropic.AsyncAnthropic(
            base_url="http://127.0.0.1", api_key="none", http_client=session(service, http)
        )
        more = {"model": "claude-sonnet-4-5", "messages": ASK}
        thinking = {"type": "enabled", "budget_tokens": 1024}
        whole = await client.messages.create(**more, max_tokens=2000, thinking=thinking)
        async with client.messages.stream(**more, max_tokens=20) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        counted = await client.messages.count_tokens(**more)
        models = await client.models.list()
        return whole, text, counted.input_tokens, [model.display_name for model in models.data]

    whole, text, counted, models = asyncio.run(ask())
    assert whole.content[0].text == text == "Hello." and whole._request_id
    assert counted == whole.usage.input_tokens and models[0] == "default"


def test_langchains_chat_and_embeddings(service):
    langchain = pytest.importorskip("langchain_openai")
    service.say('{"city": "Paris"}')
    schema = {"title": "Place", "description": "A place.", "type": "object",
              "properties": {"city": {"type": "string"}}, "required": ["city"]}  # fmt: skip
    tool = {
        "type": "function",
        "function": {"name": "time", "strict": True, "parameters": {"type": "object", "properties": {}}},
    }
    where = {"base_url": "http://127.0.0.1/v1", "api_key": "none"}

    async def ask():
        model = langchain.ChatOpenAI(**where, model="gpt-4o", http_async_client=session(service))
        both = model.bind_tools([tool], response_format={"type": "json_schema",
                                "json_schema": {"name": "Place", "schema": schema}})  # fmt: skip
        embed = langchain.OpenAIEmbeddings(
            **where, model="text-embedding-3-small", check_embedding_ctx_length=False,
            http_async_client=session(service),
        )  # fmt: skip
        return (await both.ainvoke("Where?")).content, await embed.aembed_query("a")

    content, vector = asyncio.run(ask())
    assert content == '{"city": "Paris"}' and vector == pytest.approx([0.6, 0.8])
