"""A tuned model belongs to the key that made it: for all others it is not there."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import orjson
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from steelyard.serving import ServeSettings, new_key
from steelyard.serving.api import about
from steelyard.serving.api.anthropic import routes as anthropic
from steelyard.serving.api.app import _handlers
from steelyard.serving.api.openai import chat, completions
from steelyard.serving.api.responses import routes as responses
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.guard import Caller, Guard
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.base.store import ObjectStore, Stored
from steelyard.serving.host.generation import Served
from steelyard.serving.jobs.batches import Batches
from steelyard.serving.jobs.tuning import KIND, Tuning
from steelyard.serving.turn.api import Api
from steelyard.serving.turn.defaults import SamplingDefaults

SECRET = "m:secret-a1"
USER = [{"role": "user", "content": "Hi"}]
BODIES = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/responses": {"input": "Hi"},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/responses/compact": {"input": "Hi"},
}


@pytest.fixture
def service(tmp_path):
    """(client, {name: headers}): an adapter for all, and one that key a has made."""
    file = tmp_path / "keys.json"
    keys = {name: {"authorization": f"Bearer {new_key(file, name)}"} for name in ("a", "b")}
    ring = KeyRing("boss", file)
    owner = {key.id: key.owner for key in ring.keys.values()}
    served = SimpleNamespace(
        adapters=["refunds", "secret-a1"], owners={"secret-a1": owner["a"]}, encoder=None,
        router=None, joined=None, max_model_len=64, tokenizer=None, keys=ring,
    )  # fmt: skip
    served.may_use = partial(Served.may_use, served)
    api = Api(served, ServeSettings(name="m"), "0", SamplingDefaults())
    groups = (about, chat, completions, anthropic, responses)
    routes = [route for group in groups for route in group.routes(api)]
    guard = Guard(Starlette(routes=routes, exception_handlers=_handlers()), ring)
    client = TestClient(guard, base_url="http://localhost", raise_server_exceptions=False)
    return client, {**keys, "boss": {"authorization": "Bearer boss"}}


def test_a_tuned_model_is_listed_for_its_owner_alone(service):
    client, keys = service

    def names(key):
        return [card["id"] for card in client.get("/v1/models", headers=keys[key]).json()["data"]]

    assert names("a") == names("boss") == ["m", "m:refunds", SECRET] and names("b") == ["m", "m:refunds"]
    assert [client.get(f"/v1/models/{SECRET}", headers=keys[k]).status_code for k in "ab"] == [200, 404]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", [SECRET, "secret-a1", "default:secret-a1"])
def test_no_other_key_can_use_it_or_learn_that_it_is_there(service, path, name):
    client, keys = service
    hidden, missing = (
        client.post(path, json={"model": model, **BODIES[path]}, headers=keys["b"])
        for model in (name, "m:nothing")
    )
    assert hidden.status_code == missing.status_code == 404
    assert hidden.text.replace(name, "NAME") == missing.text.replace("m:nothing", "NAME")


def test_a_batch_may_no_more_than_its_key(tmp_path):
    file = tmp_path / "keys.json"
    new_key(file, "b")
    ring = KeyRing(None, file)
    (key,) = ring.keys.values()
    batches = SimpleNamespace(api=SimpleNamespace(served=SimpleNamespace(keys=ring)))
    caller = Batches._caller(batches, key.owner)
    assert (caller.key_id, caller.owner, caller.scopes) == ("b", key.owner, frozenset({"inference"}))
    assert Batches._caller(batches, "b") is None  # a name owns nothing
    served = SimpleNamespace(owners={"secret-a1": "key-a"})
    assert not Served.may_use(served, "secret-a1", caller) and Served.may_use(served, "refunds", caller)


def test_no_other_key_tunes_on_from_it_and_no_error_names_a_place(tmp_path):
    store = ObjectStore(tmp_path / "store")
    hidden = {"checkpoint": str(tmp_path / "gone"), "adapter": "secret-a1"}
    store.put(KIND, Stored(id="ftjob-1", owner="key-a", shown={"fine_tuned_model": SECRET}, hidden=hidden))
    api = SimpleNamespace(served=SimpleNamespace(joined=None), settings=ServeSettings(name="m", source=None))
    tuning = Tuning(api, store)
    answers = {}
    for owner in ("key-a", "key-b"):
        caller = Caller(owner=owner, scopes=frozenset({"tune"}))
        request = SimpleNamespace(scope={"state": {"caller": caller}})
        with pytest.raises(ApiError) as refused:
            tuning._base(SECRET, request)
        answers[owner] = refused.value
    assert (answers["key-a"].status, answers["key-b"].status) == (400, 404)
    told = orjson.dumps([answer.document() for answer in answers.values()]).decode()
    assert str(tmp_path) not in told and "/" not in told


@pytest.mark.parametrize("key", [None, "boss"])
def test_what_a_key_is_told_of_its_job_names_no_place(tmp_path, key):
    store = ObjectStore(tmp_path / "store")
    checkpoint = str(store.folder / "runs" / "ftjob-1" / "checkpoint")
    stored = Stored(id="ftjob-1", owner="x", shown={"status": "running"}, hidden={"checkpoint": checkpoint})
    store.put(KIND, stored)
    served = SimpleNamespace(keys=KeyRing(key), capability=SimpleNamespace(lora="none"))
    tuning = Tuning(SimpleNamespace(served=served, settings=ServeSettings()), store)

    async def run():
        await tuning.runs._fail("ftjob-1", "broken", f"cannot read {checkpoint}", None)
        return tuning.runs._without_places((await tuning.runs._try_to_load(stored))[1])

    messages = asyncio.run(run()), store.get(KIND, "ftjob-1").shown["error"]["message"]
    for message in (*messages, *(event["message"] for event in store.records("job_events", "ftjob-1"))):
        assert "ftjob-1/checkpoint" in message and (str(tmp_path) in message) == (key is None)
