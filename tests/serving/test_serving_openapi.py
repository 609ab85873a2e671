"""The OpenAPI document: every route in it, and what the routes answer is what it says."""

from __future__ import annotations

import httpx
import jsonschema
import pytest

from steelyard.serving.api.openapi.answers import ANSWERS
from steelyard.serving.api.openapi.document import OPERATIONS

ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def document(tiny):
    return httpx.get(f"{tiny.url}/openapi.json").json()


def test_every_route_and_no_other(document):
    told = {(method.upper(), path) for path, by in document["paths"].items() for method in by}
    assert told == set(OPERATIONS)
    assert document["openapi"] == "3.1.0"
    posts = [(p, by["post"]) for p, by in document["paths"].items() if "post" in by]
    bare = {path for path, op in posts if "requestBody" not in op}
    assert all(path.endswith(("/cancel", "/pause", "/resume")) for path in bare)


def test_every_schema_is_one_and_is_found(document):
    schemas = document["components"]["schemas"]
    assert set(ANSWERS) < set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for ref in references(document):
        kind, _, name = ref.removeprefix("#/components/").partition("/")
        assert name in document["components"][kind]


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASK, "max_tokens": 2, "logprobs": True}),
        ("/v1/chat/completions", {"messages": ASK, "temperature": 9}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
        ("/v1/responses/compact", {"model": "default", "input": "Hi"}),
        ("/v1/messages", {"messages": ASK, "max_tokens": 2}),
        ("/v1/messages", {"messages": ASK}),
        ("/v1/messages/count_tokens", {"messages": ASK}),
        ("/tokenize", {"messages": ASK}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/embeddings", {"input": "Hi"}),
    ],
)
def test_answers_are_as_described(tiny, document, path, body):
    response = httpx.post(tiny.url + path, json=body, timeout=60)
    told = document["paths"][path]["post"]["responses"][str(response.status_code)]
    schema = {**told["content"]["application/json"]["schema"], "components": document["components"]}
    jsonschema.validate(response.json(), schema)
