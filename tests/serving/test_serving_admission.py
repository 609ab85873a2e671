"""Everyone pays and waits alike: who leaves, who asks at once, who only embeds. Over a fake engine."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from faked import FakeEngine, client_of, served_app
from hypothesis import given
from hypothesis import strategies as st

from steelyard.serving.base.admission import Admission
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.guard import Caller
from steelyard.serving.base.keys import Account, Key, KeyRing, digest
from steelyard.serving.engines import EngineSettings, Event, Scores
from steelyard.serving.host import engine_child
from steelyard.serving.host.engine_process import EngineCrashed, EngineProcess

PROMPT = list(range(5, 105))
ASK = {"prompt": PROMPT, "max_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def tiny_folder(tokenizer_folder):
    return tokenizer_folder


def keys_of(**limits):
    """A ring with the keys a and b, of these limits each."""
    keys = {digest(name.encode()): Key(id=name, sha256=digest(name.encode()), **limits) for name in "ab"}
    ring = KeyRing(api_key="own")
    ring.keys |= keys
    ring.accounts |= {key.id: Account(key) for key in keys.values()}
    for account in ring.accounts.values():
        account.fit(account.key)
    return ring


def bearer(name):
    return {"authorization": f"Bearer {name}"}


async def leave(application, path, body, key, after):
    """POST, wait until `after()` holds, and hang up."""
    data = json.dumps(body).encode()
    gone, given = asyncio.Event(), []

    async def receive():
        if not given:
            given.append(1)
            return {"type": "http.request", "body": data, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {key}".encode()),
    ]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("localhost", 80),
        "client": ("127.0.0.1", 1), "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    asked = asyncio.create_task(application(scope, receive, send))
    await waited(after)
    gone.set()
    await asked


async def waited(true):
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


# ---------------------------------------------------------------------- who leaves


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/completions", ASK), ("/v1/completions", {**ASK, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 90}], "max_tokens": 3}),
    ("/v1/responses", {"input": "word " * 90, "max_output_tokens": 3}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "word " * 90}], "max_tokens": 3}),
])  # fmt: skip
def test_who_leaves_pays_for_the_prompt_and_holds_the_place(tiny_folder, path, body):
    async def run():
        engine = FakeEngine(slots=2)
        application, served = served_app(tiny_folder, engine, keys_of())
        engine.held.clear()
        await leave(application, path, body, "a", lambda: served.admission.inside == 1 and engine.requests)
        prompt_tokens = len(engine.requests[0]["ids"])
        assert served.admission.inside == 1 and served.admission.running == 0  # nobody waits for it
        assert served.keys.accounts["a"].used_tokens == prompt_tokens >= 90
        assert served.keys.accounts["a"].pending == 0
        engine.held.set()
        await waited(lambda: served.admission.inside == 0)
        assert served.admission.deserted == 0
        line = served.admission.lines["a"]
        assert line.virtual >= prompt_tokens  # and its share of the machine has gone down

    asyncio.run(run())


def test_what_the_engine_never_began_is_paid_back(tiny_folder):
    async def run():
        engine = FakeEngine()
        engine.begins = False
        application, served = served_app(tiny_folder, engine, keys_of())
        engine.held.clear()
        await leave(application, "/v1/completions", ASK, "a", lambda: engine.requests)
        engine.held.set()
        await waited(lambda: served.admission.inside == 0)
        assert served.keys.accounts["a"].used_tokens == 0 and served.admission.lines["a"].virtual == 0

    asyncio.run(run())


def test_leaving_again_and_again_ends_at_the_budget(tiny_folder):
    async def run():
        engine = FakeEngine(slots=64)
        application, _ = served_app(tiny_folder, engine, keys_of(budget_tokens=350))
        engine.held.clear()
        for count in range(1, 4):
            await leave(application, "/v1/completions", ASK, "a", lambda n=count: len(engine.requests) == n)
        engine.held.set()
        async with client_of(application) as client:
            assert (await client.post("/v1/completions", json=ASK, headers=bearer("a"))).status_code == 200
            spent = await client.post("/v1/completions", json=ASK, headers=bearer("a"))
            assert spent.status_code == 429 and spent.json()["error"]["code"] == "insufficient_quota"

    asyncio.run(run())


def test_an_answer_is_paid_for_once_and_counted_once(tiny_folder):
    async def run():
        application, served = served_app(tiny_folder, FakeEngine(), keys_of())
        async with client_of(application) as client:
            answer = await client.post("/v1/completions", json={**ASK, "n": 2}, headers=bearer("a"))
        assert served.keys.accounts["a"].used_tokens == answer.json()["usage"]["total_tokens"] == 106
        assert served.admission.inside == served.admission.deserted == 0

    asyncio.run(run())


def test_a_lost_engine_is_not_paid_for_and_its_place_is_kept_for_the_next_try(tiny_folder):
    async def run():
        engine = FakeEngine()
        engine.crashes = 1
        application, served = served_app(tiny_folder, engine, keys_of())
        insides = []
        engine.noted = lambda: insides.append(served.admission.inside)
        async with client_of(application) as client:
            answer = await client.post("/v1/completions", json=ASK, headers=bearer("a"))
        assert answer.status_code == 200 and insides == [1, 1]
        assert served.keys.accounts["a"].used_tokens == 103

    asyncio.run(run())


def test_a_place_is_left_once_however_often_and_lines_stay_quick():
    async def run():
        admission = Admission(lambda: 1, 1e9, lambda: False)
        places = admission.enter(Caller(), [1.0] * 3000)
        assert admission.inside == 1 and admission.waiting == 2999
        for place in places[1:]:
            place.leave()
            place.leave()
        line = admission.lines["local"]
        assert admission.waiting == 0 and line.work == 0 and len(line.waiting) <= 64
        places[0].with_engine = True
        places[0].desert()
        places[0].desert()
        assert (admission.inside, admission.running) == (1, 0)
        places[0].leave()
        assert (admission.inside, admission.running, admission.deserted) == (0, 0, 0)

    asyncio.run(run())


# ---------------------------------------------------------------------- the engine's own word


class SlowToLeave:
    """An engine that computes a prompt to its end, whoever has left."""

    def __init__(self):
        self.held, self.steps = {}, 0

    def add(self, request):
        self.held[request.request_id] = False

    def cancel(self, request_id):
        self.held[request_id] = True
        return request_id == 2  # that one had not begun

    def holds(self, request_id):
        return request_id in self.held

    def busy(self):
        return bool(self.held)

    def step(self):
        self.steps += 1
        if self.steps == 3:
            self.held.clear()
        return []

    def idle(self, seconds):
        pass

    def metrics(self):
        return {}


def test_the_child_says_when_the_engine_has_let_go():
    ours, theirs = socket.socketpair()
    engine = SlowToLeave()
    fields = {"ids": [1], "max_tokens": 1}
    messages = [{"op": "add", "request_id": n, **fields} for n in (1, 2)]
    messages += [{"op": "cancel", "request_id": n} for n in (1, 2)]
    ours.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    ours.shutdown(socket.SHUT_WR)
    channel = engine_child.Channel(theirs)

    def closes_late(timeout_s, receive=channel.receive):
        found = receive(timeout_s) if engine.steps in (0, 3) else []
        return found

    channel.receive = closes_late
    engine_child._serve(engine, channel)
    theirs.close()
    lines = [json.loads(line) for line in ours.makefile("rb")]
    assert lines == [{"left": [1, False]}, {"left": [2, True]}] and engine.steps == 3


class Scoring(SlowToLeave):
    """Makes a token a step while it scores in four pieces."""

    def busy(self):
        return self.steps < 6

    def step(self):
        self.steps += 1
        return [Event(1, [self.steps])]

    def score_pieces(self, ids, top):
        if not ids:
            raise ValueError("no memory for scoring")
        yield from (None, None, None, Scores([-1.0] * (len(ids) - 1), [], []))


def test_scoring_goes_on_between_the_steps_of_streams():
    ours, theirs = socket.socketpair()
    engine = Scoring()
    messages = [{"op": "score", "request_id": 8, "ids": [], "top": 0}]
    messages += [{"op": "score", "request_id": 9, "ids": [1, 2, 3], "top": 0}]
    ours.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    ours.shutdown(socket.SHUT_WR)
    channel = engine_child.Channel(theirs)
    receive = channel.receive
    channel.receive = lambda timeout_s: receive(timeout_s) if engine.steps in (0, 6) else []
    engine_child._serve(engine, channel)
    theirs.close()
    kinds = [next(iter(json.loads(line))) for line in ours.makefile("rb")]
    told = ["events", "failed", "events", "events", "events", "events", "scores", "events"]
    assert [kind for kind in kinds if kind != "worked"] == told
    assert kinds.count("worked") == 3, "each piece of it counts as work"


def test_the_front_waits_for_that_word():
    async def run():
        process = EngineProcess(EngineSettings(folder=""), lambda *a, **k: None)
        process.state = "ready"
        sent, ended, computed = [], [], []
        process._send = sent.append
        asked = {"ids": [1, 2, 3], "max_tokens": 4}

        async def begun(then):
            events = process.submit(asked, ended.append, lambda *a: computed.append(a))
            async with aclosing(events):
                await then(asyncio.ensure_future(anext(events)))

        async def left(first):
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

        await begun(left)
        assert [message["op"] for message in sent] == ["add", "cancel"]
        assert not ended and process.active == 1
        process._dispatch({"left": [1, False]})
        assert ended == [True] and computed == [(3, 0)] and process.active == 0

        async def finished(first):
            await asyncio.sleep(0)
            process._dispatch({"events": [[2, [7], None, "stop"]], "metrics": {}})
            assert (await first) == Event(2, [7], None, "stop")

        await begun(finished)
        assert ended == [True, True] and sent[-1]["op"] == "add"

        async def crashed(first):
            await asyncio.sleep(0)
            process._fail(3, EngineCrashed("gone"))
            with pytest.raises(EngineCrashed):
                await first

        await begun(crashed)
        assert ended == [True, True] and process.active == 0  # who asks may ask again

    asyncio.run(run())


# ---------------------------------------------------------------------- who embeds


class FakeEncoder:
    """Vectors of ones, in as many steps as the real one; `held` as of the fake engine."""

    def __init__(self, kind="embedding"):
        self.name = "encoder"
        self.about = SimpleNamespace(max_tokens=512, dimensions=2, shorter=None, kind=kind)
        self.tokenizer = SimpleNamespace(
            vocab_size=1000, encode=self.ids, encode_all=lambda texts: [self.ids(t) for t in texts]
        )
        self.engine = self
        self.held = asyncio.Event()
        self.held.set()
        self.steps = []

    def ids(self, text, pair=None):
        return [1] * len((text + (pair or "")).split())

    def fitting(self, ids, cut, param):
        return ids

    async def embed(self, batch):
        self.steps.append(batch)
        await self.held.wait()
        return [[1.0, 1.0][: 1 if self.about.kind == "score" else 2] for _ in batch]


EMBED = ("/v1/embeddings", {"input": ["one two three"] * 4})
RERANK = ("/v1/rerank", {"query": "one", "documents": ["two three"] * 4})


@pytest.mark.parametrize(("path", "body"), [EMBED, RERANK, ("/v2/rerank", RERANK[1])])
def test_encoders_stand_in_the_queue_like_answers(tiny_folder, path, body):
    async def run():
        encoder = FakeEncoder()
        application, served = served_app(tiny_folder, FakeEngine(), keys_of(), encoder, max_queue_s=0.001)
        encoder.held.clear()
        async with client_of(application) as client:
            asked = [
                asyncio.create_task(client.post(path, json=body, headers=bearer("a"))) for _ in range(12)
            ]
            await waited(lambda: any(one.done() for one in asked))
            late = {**bearer("b"), "x-request-timeout": "0.05"}
            assert (await client.post(path, json=body, headers=late)).status_code in (408, 429)
            encoder.held.set()
            statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
        assert set(statuses) == {200, 429} and statuses.count(200) >= 4
        await waited(lambda: served.encoding.inside == 0)
        assert served.encoding.waiting == 0
        tokens = served.keys.accounts["a"].used_tokens
        assert tokens == statuses.count(200) * sum(map(len, encoder.steps[0]))

    asyncio.run(run())


def test_who_leaves_an_encoder_pays_for_the_step_and_holds_the_place(tiny_folder):
    async def run():
        encoder = FakeEncoder()
        application, served = served_app(tiny_folder, FakeEngine(), keys_of(), encoder)
        encoder.held.clear()
        await leave(application, *EMBED, "a", lambda: encoder.steps)
        assert served.encoding.inside == 1 and served.encoding.running == 0
        assert served.keys.accounts["a"].used_tokens == 12
        encoder.held.set()
        await waited(lambda: served.encoding.inside == 0)
        assert served.encoding.deserted == 0 and len(encoder.steps) == 1

    asyncio.run(run())


def test_many_embeddings_at_once_do_not_pass_a_budget(tiny_folder):
    async def run():
        encoder = FakeEncoder()
        application, served = served_app(tiny_folder, FakeEngine(), keys_of(budget_tokens=30), encoder)
        async with client_of(application) as client:
            asked = [client.post(EMBED[0], json=EMBED[1], headers=bearer("a")) for _ in range(10)]
            statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
        assert served.keys.accounts["a"].used_tokens <= 30 + 12 and 429 in statuses

    asyncio.run(run())


def test_who_leaves_a_scoring_pass_holds_the_place_until_it_is_done(tiny_folder):
    async def run():
        engine = FakeEngine()
        application, served = served_app(tiny_folder, engine, keys_of())
        engine.held.clear()
        body = {"prompt": PROMPT, "echo": True, "max_tokens": 0, "logprobs": 1}
        await leave(application, "/v1/completions", body, "a", lambda: engine.scored)
        assert served.admission.inside == 1 and served.admission.running == 0
        assert served.keys.accounts["a"].used_tokens == 100
        engine.held.set()
        await waited(lambda: served.admission.inside == 0)

    asyncio.run(run())


# ---------------------------------------------------------------------- at once


def test_a_key_has_so_many_requests_at_once(tiny_folder):
    async def run():
        engine = FakeEngine(slots=64)
        application, _ = served_app(tiny_folder, engine, keys_of(), max_requests_at_once=3)
        engine.held.clear()
        async with client_of(application) as client:
            asked = [
                asyncio.create_task(client.post("/v1/completions", json=ASK, headers=bearer("a")))
                for _ in range(3)
            ]
            await waited(lambda: len(engine.requests) == 3)
            over = await client.post("/v1/completions", json=ASK, headers=bearer("a"))
            assert over.status_code == 429 and over.json()["error"]["code"] == "too_many_at_once"
            assert over.headers["retry-after"] == "1"
            other = asyncio.create_task(client.post("/v1/completions", json=ASK, headers=bearer("b")))
            await waited(lambda: len(engine.requests) == 4)
            assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 200
            engine.held.set()
            answers = await asyncio.gather(*asked, other)
            again = await client.post("/v1/completions", json=ASK, headers=bearer("a"))
        assert [answer.status_code for answer in (*answers, again)] == [200] * 5

    asyncio.run(run())


def test_a_keys_own_number_wins():
    account = Account(Key(id="k", sha256="", requests_at_once=1))
    with account.one_more(100), pytest.raises(ApiError), account.one_more(100):
        pass
    assert account.at_once == 0


# ------------------------------------------------------------------ many prompts of one key


def inside_of(admission, sizes, owner="a"):
    """Places of one key's prompts."""
    works = [float(size) for size in sizes]
    return admission.enter(Caller(key_id=owner), works, prompts=sizes)


def granted(places):
    return [place.inside for place in places].count(True)


@pytest.mark.parametrize("many_keys", [False, True])
def test_a_keys_unread_prompts_do_not_fill_the_engine_before_another_key_that_asks(many_keys):
    async def run():
        admission = Admission(lambda: 64, 1e9, lambda: many_keys)
        mine = inside_of(admission, [10], "b")
        theirs = inside_of(admission, [100] * 20)
        assert granted(theirs) == (2 if many_keys else 20)  # 200 tokens: at most one prompt above 128
        mine += inside_of(admission, [10], "b")
        assert granted(mine) == 2
        theirs[0].progress(100, 1)
        assert granted(theirs) == (3 if many_keys else 20)
        theirs[1].leave()  # unread
        assert granted(theirs) == (4 if many_keys else 20)
        for place in theirs:
            place.progress(100, 1)
        assert granted(theirs) == 20
        for place in [*mine, *theirs]:
            place.leave()
        assert not any(line.unread for line in admission.lines.values())

    asyncio.run(run())


def test_a_batch_is_no_larger_than_leaves_another_key_its_part_of_the_pace():
    """Steps of 7 + n: beside one stream of another key (alone 8) at most 2 x 8 = 7 + 9."""

    async def run():
        admission = Admission(lambda: 64, 1e9, lambda: True, fixed_streams=7.0)
        (mine,) = inside_of(admission, [1], "b")
        theirs = inside_of(admission, [0] * 100)
        assert granted(theirs) == 8
        more = inside_of(admission, [1] * 5, "b")
        assert granted(more) == 5 and granted(theirs) == 13  # 2 x (7 + 6) = 7 + 19
        theirs[0].leave()
        assert granted(theirs[1:]) == 13
        for place in [mine, *more]:
            place.leave()

    asyncio.run(run())


def test_a_stream_is_as_wide_as_its_prompt_makes_it():
    """128 tokens read for 32 made are twice the work of 32 made: beside 8 streams' worth, four of them."""

    async def run():
        admission = Admission(lambda: 64, 1e9, lambda: True, fixed_streams=7.0)
        admission.enter(Caller(key_id="b"), [4.0])
        theirs = admission.enter(Caller(key_id="a"), [256.0] * 9, prompts=[128] * 9)
        for place in theirs:
            place.progress(128, 1)
        assert granted(theirs) == 4

    asyncio.run(run())


def test_a_batch_is_full_where_a_step_takes_the_same_time_whatever_is_in_it():
    async def run():
        admission = Admission(lambda: 64, 1e9, lambda: True)
        inside_of(admission, [1], "b")
        assert granted(inside_of(admission, [0] * 100)) == 56

    asyncio.run(run())


@given(
    st.floats(0, 1000),
    st.lists(st.tuples(st.integers(1, 80), st.floats(0.1, 10), st.integers(0, 500)), min_size=1, max_size=6),
)
def test_every_key_that_asks_is_let_in(fixed, keys):
    """Whatever their weights and numbers, as others leave."""

    async def run():
        admission = Admission(lambda: 64, math.inf, lambda: True, fixed)
        places = [
            place
            for n, (count, weight, prompt) in enumerate(keys)
            for place in admission.enter(
                Caller(key_id=str(n)), [prompt + 4.0] * count, weight, [prompt] * count
            )
        ]
        for _ in places:
            inside = next(place for place in places if place.inside and not place.left)
            inside.leave()
        assert not admission.inside and not admission.waiting

    asyncio.run(run())


def test_a_faster_engine_is_read_ahead_further_and_servers_of_others_without_limit():
    async def run():
        for read_ahead, rate, wanted in ((128, 20_000.0, 9), (256, 500.0, 2), (math.inf, 500.0, 20)):
            admission = Admission(lambda: 64, 1e9, lambda: True, read_ahead=read_ahead)
            admission.rate.value = rate
            inside_of(admission, [10], "b")
            assert granted(inside_of(admission, [200] * 20)) == wanted  # 1,800 tokens are 0.09 s at most

    asyncio.run(run())


def test_a_key_that_is_alone_is_read_ahead_without_limit(monkeypatch):
    async def run():
        admission = Admission(lambda: 64, 1e9, lambda: True)
        assert granted(inside_of(admission, [300] * 20)) == 20
        (other,) = inside_of(admission, [10], "b")
        other.leave()
        assert (
            granted(inside_of(admission, [300] * 20)) == 0
        )  # the first 20 are unread, and b was here lately
        monkeypatch.setattr("steelyard.serving.base.admission.LATELY_S", -1.0)
        assert granted(inside_of(admission, [300])) == 1

    asyncio.run(run())
