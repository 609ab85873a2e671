"""What a user with a key may send to have more than their share: of memory, of time, of what is wrong."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from faking import completions, faked, tokenizer_folder

from steelyard.serving.api.responses import store as stored_responses
from steelyard.serving.base.guard import Caller
from steelyard.serving.base.keys import Tokens
from steelyard.serving.engines import Event
from steelyard.serving.host.engine_process import EngineLost
from steelyard.serving.host.generation import Prompt
from steelyard.serving.host.job import Job
from steelyard.serving.jobs.batch_input import check


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))


LONG = {
    "model": "tiny", "max_output_tokens": 2, "truncation": "auto",
    "input": [{"id": "msg_long", "role": "user", "content": "a" * 60_000}, {"role": "user", "content": "hi"}],
}  # fmt: skip


def test_references_to_long_items_hold_no_more_than_a_body_may(folder):
    """4,096 references are 200 kB, and of an item of 4 MB 16 GB of memory."""

    async def main():
        async with faked(folder) as service:
            await service.json("POST", "responses", json=LONG)
            reference = {"type": "item_reference", "id": "msg_long"}
            for count, status in ((3, 200), (100, 413)):
                items = [*[reference] * count, {"role": "user", "content": "hi"}]
                await service.json("POST", "responses", status, json={**LONG, "input": items})
            wrong = [reference, {"type": "item_reference", "id": "msg_other"}]
            await service.json("POST", "responses", 400, json={**LONG, "input": wrong})

    asyncio.run(main())


def test_a_conversation_grows_to_a_bound_and_then_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(stored_responses, "LARGEST", 100_000)

    async def main():
        async with faked(folder) as service:
            first = await service.json("POST", "responses", json=LONG)
            second = {**LONG, "previous_response_id": first["id"]}
            made = await service.json("POST", "responses", json=second)
            assert made["status"] == "incomplete" and made["store"] is False
            await service.json("POST", "responses", 413, json={**second, "background": True})
            assert len(service.stores.responses.live) == 0

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_whose_text_waits_keep_their_log_probabilities(folder, stream):
    asked = {"model": "tiny", "input": "hi", "max_output_tokens": 6, "stop": ["xxxy"], "stream": stream,
             "include": ["message.output_text.logprobs"]}  # fmt: skip

    async def main():
        async with faked(folder) as service:
            answer = await service.http.post("/v1/responses", json=asked)
            if not stream:
                return answer.json()
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            deltas = [e for e in events if e["type"] == "response.output_text.delta"]
            assert sum(len(e["logprobs"]) for e in deltas) == 6
            return events[-1]["response"]

    part = asyncio.run(main())["output"][0]["content"][0]
    assert part["text"] == "x" * 6 and len(part["logprobs"]) == 6


def test_a_response_that_another_service_makes_is_followed_to_its_end(folder, monkeypatch):
    monkeypatch.setattr(stored_responses, "LOOK_S", 0.05)

    async def main():
        async with faked(folder) as one, faked(folder) as other:
            one.engine.going.clear()
            asked = {"model": "tiny", "input": "hi", "background": True, "max_output_tokens": 3}
            made = await one.json("POST", "responses", json=asked)
            address = f"/v1/responses/{made['id']}?stream=true"
            following = asyncio.create_task(other.http.get(address))
            await asyncio.sleep(0.2)
            one.engine.going.set()
            answer = await asyncio.wait_for(following, 30)
            assert answer.status_code == 200 and "response.incomplete" in answer.text

    asyncio.run(main())


def test_what_was_made_for_a_reader_who_left_is_paid_for(folder):
    """A stream that nobody reads goes on in the engine: its tokens are its key's, read or not."""

    async def ahead(request, ended, generated):
        generated(len(request["ids"]), 40)
        try:
            yield Event(0, [5], None, None)
            await asyncio.Event().wait()
        finally:
            ended(True)

    async def main():
        async with faked(folder) as service:
            service.engine.submit = ahead
            sampling = {"logprobs": False}
            job = Job(sampling=sampling, seed=0, n=1, stops=(), stream=True, include_usage=False, top=None,
                      token_ids=False)  # fmt: skip
            caller = Caller()
            async with aclosing(service.served.answers(job, [Prompt([5, 6], 100)], caller)) as pieces:
                await anext(pieces)
            return caller.used

    assert asyncio.run(main()) == Tokens(prompt=2, completion=40)


@pytest.mark.parametrize(("end", "paid"), [("left", 9), ("usage", 4), ("none", 9), ("lost", 0)])
def test_vectors_of_a_joined_server_are_paid_for_whoever_leaves(folder, end, paid):
    async def vectors(body, model, salt, asks):
        asks()
        if end == "left":
            await asyncio.Event().wait()
        if end == "lost":
            raise EngineLost("gone")
        return {"usage": {"prompt_tokens": 4}} if end == "usage" else {}

    async def main():
        async with faked(folder) as service:
            service.served.joined, caller = SimpleNamespace(vectors=vectors), Caller()
            asked = asyncio.create_task(service.served.relayed_vectors({}, None, 9, caller))
            await asyncio.sleep(0.05)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            return caller.used.prompt

    assert asyncio.run(main()) == paid


def test_a_custom_id_is_short(folder):
    lines = [json.loads(line) for line in completions(3).splitlines()]
    lines[1]["custom_id"] = "a" * 100_000
    faults = check(
        io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines)), "/v1/completions"
    )
    assert [(fault.n, fault.param) for fault in faults.faults] == [(1, "custom_id")]


SEARCH = {"type": "web_search_\r\nset-cookie: a=b", "name": "web_search"}
ODD = [
    ("GET", "files?limit=000000001999999999", None, 400),
    ("GET", "files?limit=1" + "9" * 5000, None, 400),
    ("GET", "responses/{id}/input_items?limit=--5", None, 400),
    (
        "POST",
        "messages",
        {"max_tokens": 2, "tools": [SEARCH], "messages": [{"role": "user", "content": "hi"}]},
        200,
    ),
    ("POST", "completions", {"prompt": "hi", "max_tokens": 2, "guided_json": '{"maxLength": 1e999}'}, 400),
    ("POST", "completions", {"prompt": "hi", "max_tokens": 2, "guided_json": '{"maxItems": NaN}'}, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ODD, ids=range(len(ODD)))
def test_odd_numbers_and_names_are_no_fault_of_ours(folder, method, path, body, status):
    async def main():
        async with faked(folder) as service:
            if "{id}" in path:
                made = await service.json("POST", "responses", json=LONG)
                return await service.http.request(method, f"/v1/{path.format(id=made['id'])}")
            return await service.http.request(method, f"/v1/{path}", json=body)

    answer = asyncio.run(main())
    assert answer.status_code == status, answer.text
    assert "cookie" not in str(answer.headers)


def test_a_file_lives_no_longer_than_it_may(folder):
    form = {"purpose": "user_data", "expires_after[anchor]": "created_at"}

    async def main():
        async with faked(folder) as service:
            for seconds, status in (("000003600" + "9" * 20, 400), ("3600", 200)):
                data = {**form, "expires_after[seconds]": seconds}
                files = {"file": ("a", b"x")}
                answer = await service.http.post("/v1/files", data=data, files=files)
                assert answer.status_code == status, answer.text

    asyncio.run(main())


@pytest.mark.parametrize(("charset", "name", "status"), [("utf-7", "+2AA-", 200), ("idna", "xn--a..", 400)])
def test_a_form_in_an_odd_charset_is_no_fault_of_ours(folder, charset, name, status):
    parts = '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\n'
    parts += f'content-disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n--b--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}

    async def main():
        async with faked(folder) as service:
            return await service.http.post("/v1/files", content=parts.encode(), headers=headers)

    answer = asyncio.run(main())
    assert answer.status_code == status, answer.text
