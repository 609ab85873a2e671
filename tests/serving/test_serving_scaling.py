"""Replicas that come ahead of the load and go: the decision by properties, the rest through the door."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.forecast import ENOUGH
from steelyard.recipe import load
from steelyard.serving import ServeSettings, start
from steelyard.serving.engines import EngineSettings
from steelyard.serving.host.engine_process import EngineLost, EngineProcess
from steelyard.serving.host.replicas import Replicas, Scale, Scaler, Scaling
from steelyard.serving.host.replicas import scaler as module
from steelyard.serving.host.replicas.cores import physical_cores
from steelyard.serving.service import front

LOADS = st.lists(st.integers(0, 200), min_size=1, max_size=400)


def wanted(counts: list[int], scale: Scale, step_s: float = 1.0) -> list[int]:
    scaling = Scaling(scale)
    return [scaling.sample(step_s * second, count) for second, count in enumerate(counts)]


@given(LOADS, st.integers(1, 3), st.integers(0, 5), st.integers(1, 20), st.sampled_from([1.0, 7.0, 90.0]))
def test_within_its_bounds_up_at_once_and_down_by_one(counts, least, more, requests, step_s):
    scale = Scale(least=least, most=least + more, requests=requests, down_s=30.0)
    found = wanted(counts, scale, step_s)
    assert all(least <= number <= least + more for number in found)
    assert all(before - after <= 1 for before, after in pairwise(found))
    steady = wanted([counts[-1]] * 6, scale)
    assert steady[-1] >= min(-(-counts[-1] // requests), scale.most)


@given(LOADS, st.integers(0, 300), LOADS)
def test_what_comes_later_changes_nothing_before(counts, at, others):
    scale = Scale(most=8, requests=4)
    kept = counts[:at]
    assert wanted(kept + others, scale)[: len(kept)] == wanted(counts, scale)[: len(kept)]


def test_it_goes_only_after_its_time_and_a_burst_begins_the_time_anew():
    scale = Scale(most=4, requests=8, down_s=60.0)
    found = wanted([20] * 10 + [4] * 40 + [20] * 10 + [4] * 900, scale)
    assert found[9] == 3 and min(found[9:110]) >= 3  # 40 s of little are no minute
    assert found[-1] == 1
    assert wanted([9, 0, 0, 0, 0, 0], Scale(most=4, requests=8))[-1] == 2  # it has been needed


def test_a_tide_that_rises_is_met_before_it_is_there():
    """A load that grows by 4 a minute: each replica is wanted before it is needed."""
    counts = [4 + 4 * (second // 60) for second in range(600)]
    found = wanted(counts, Scale(most=12, requests=8, down_s=60.0))
    needed = [-(-count // 8) for count in counts]
    assert all(f >= n for f, n in zip(found[185:], needed[185:], strict=True))
    first = {n: found.index(n) for n in set(found)}
    assert all(found[needed.index(n)] > n - 1 and needed.index(n) - first.get(n, 0) >= 0 for n in (3, 4, 5))


def test_no_request_is_lost_while_replicas_come_and_go(tiny_ir):
    if len(physical_cores()) < 2:
        pytest.skip("two replicas need two cores")
    scale = {"least": 1, "requests": 2, "down_s": 2.0}
    service = start(tiny_ir, ServeSettings(replicas=2, scale=scale, max_num_seqs=4))
    try:
        statuses, most = asyncio.run(_under_load(service.url))
        assert statuses and set(statuses) == {200}
        assert most == 2
        _until(service.url, 1)
        end = time.monotonic() + 60
        while len(_running(service.url)) > 1:  # either may be the one that stays
            assert time.monotonic() < end
            time.sleep(0.2)
        asked = httpx.post(f"{service.url}/v1/completions", json=BODY, timeout=60)
        assert asked.status_code == 200
    finally:
        service.stop()


BODY = {"model": "default", "prompt": "tell me " * 8, "max_tokens": 48, "ignore_eos": True}


def _figure(url: str, name: str, label: str = "") -> float:
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = (line for line in text.splitlines() if line.startswith(f"steelyard:{name}{{") and label in line)
    return float(next(found).split()[-1])


def _running(url: str) -> list[str]:
    """The replicas that have a process."""
    return [one for one in "01" if _figure(url, "engine_pid", f'replica="{one}"')]


def _until(url: str, replicas: int) -> None:
    end = time.monotonic() + 60
    while _figure(url, "replicas") != replicas:
        assert time.monotonic() < end
        time.sleep(0.2)


async def _under_load(url: str) -> tuple[list[int], int]:
    """Eight clients that ask without a pause until the second replica has served, and through its going."""
    statuses: list[int] = []
    over = asyncio.Event()
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def ask(number: int) -> None:
            while not over.is_set():
                got = await client.post("/v1/completions", json=BODY | {"stream": bool(number % 2)})
                assert '"error"' not in got.text
                statuses.append(got.status_code)

        clients = [asyncio.create_task(ask(number)) for number in range(8)]
        await asyncio.to_thread(_until, url, 2)
        most = int(_figure(url, "replicas"))
        seen = len(statuses)
        while len(statuses) < seen + 24:
            await asyncio.sleep(0.1)
        over.set()
        await asyncio.gather(*clients[2:])
        over.clear()
        one = asyncio.create_task(ask(1))  # goes on while the other is drained
        await asyncio.to_thread(_until, url, 1)
        over.set()
        await asyncio.gather(one, *clients[:2])
    return statuses, most


def test_bounds_in_a_recipe(tmp_path):
    recipe = tmp_path / "r.yaml"
    text = "name: r\nmodel: demo\ntrain: []\nserve: {replicas: {min: %d, max: 2, down_after: 5m}}\n"
    recipe.write_text(text % 1)
    serve = load(recipe).serve
    assert serve.replicas == 2 and serve.scale.min == 1 and serve.scale.down_after_s == 300.0
    recipe.write_text(text % 3)
    with pytest.raises(WrongUse, match="at least 3 replicas, and at most 2"):
        load(recipe)


def test_rare_bursts_hold_no_replicas():
    """Three bursts in two hours beside one request at once: what the bursts were is no measure of the one."""
    scaling = Scaling(Scale(most=8, requests=8, down_s=60.0))
    for minute in range(180):
        for second in range(0, 60, 5):
            burst = minute in (30, 60, 90) and second < 20
            scaling.sample(60.0 * minute + second, 40 if burst else 1)
    assert len(scaling.forecast.ordered) >= ENOUGH and scaling.wanted == 1
    for second in range(0, 1200, 5):
        scaling.sample(60.0 * 180 + second, 8)
    assert scaling.wanted == 2  # twice what there is


# ---------------------------------------------------------------------- replicas without processes


class Alone(EngineProcess):
    """Ready, and does at once what it is asked about adapters, unless `going` is cleared."""

    def __init__(self, **settings):
        super().__init__(EngineSettings(folder="", **settings), lambda *a, **k: None)
        self.state, self.going, self.sent = "ready", asyncio.Event(), []
        self.load = {"rss_bytes": 100.0}
        self.going.set()

    def _send(self, message):
        self.sent.append((message["op"], message.get("name")))
        if "adapter" in message["op"]:
            asyncio.get_running_loop().create_task(self._reply(message["request_id"]))

    async def _reply(self, request_id):
        await self.going.wait()
        self._dispatch({"done": request_id})


def scaler_of(replicas, **scale):
    told = []
    scaling = Scaling(Scale(most=len(replicas.engines), **scale))
    return Scaler(replicas, scaling, lambda: 1, lambda event, **more: told.append(event)), told


async def settled(until, limit_s=10.0):
    async with asyncio.timeout(limit_s):
        while not until():
            await asyncio.sleep(0.01)


def test_a_question_is_waited_for_and_none_is_left_without_a_word():
    async def run():
        engine, left = Alone(), []
        questions = [asyncio.create_task(q) for q in (engine.score([1, 2], 1), engine.embed([[1]]))]
        answer = asyncio.create_task(anext(engine.submit({"ids": [1], "max_tokens": 1}, left.append)))
        engine._callbacks[99] = (left.append, lambda *a: None, 1)  # its reader has left
        await asyncio.sleep(0)
        assert engine.active == 4
        await engine.close()
        for task in (*questions, answer):
            with pytest.raises(EngineLost, match="closed"):
                await asyncio.wait_for(task, 5)
        assert engine.active == 0 and left == [True]
        away = Alone()
        away.state = "loading"
        waiting = asyncio.create_task(away.score([1, 2], 1))
        await asyncio.sleep(0)
        assert away.active == 1  # it asks once the engine is there again
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert away.active == 0

    asyncio.run(run())


def test_the_one_to_go_has_least_to_do_or_is_away():
    async def run():
        replicas = Replicas([Alone(), Alone(), Alone()])
        assert replicas.idlest() == 2
        asked = [asyncio.create_task(replicas.embed([[1, 2, 3]])) for _ in range(2)]
        await asyncio.sleep(0)
        busy = [number for number, one in enumerate(replicas.engines) if one.active]
        assert len(busy) == 2 and replicas.idlest() not in busy
        replicas.engines[busy[0]].state = "stalled"
        assert replicas.idlest() == busy[0]
        replicas.end_all("over")
        await asyncio.gather(*asked, return_exceptions=True)
        assert not any(one.backlog for one in replicas.balance.replicas)

    asyncio.run(run())


def test_one_that_comes_back_has_the_adapters_of_the_others():
    async def run():
        replicas = Replicas([Alone(adapters={"old": "/o"}), Alone(adapters={"old": "/o"})])
        scaler, told = scaler_of(replicas)
        replicas.engines[1]._callbacks[1] = (lambda begun: None, lambda *a: None, 0)  # so it drains
        scaler._fewer()
        await replicas.load_adapter("new", "/n")
        await replicas.drop_adapter("old")
        scaler._more(0.0)
        await settled(lambda: len(replicas.taking) == 2)
        assert replicas.engines[1].adapters == {"new": "/n"} == replicas.adapters
        assert told == ["replica.draining", "replica.kept"] and not scaler.returning

    asyncio.run(run())


def test_one_that_cannot_come_back_goes_after_all():
    async def run():
        replicas = Replicas([Alone(), Alone()])
        scaler, told = scaler_of(replicas)
        replicas.engines[1]._callbacks[1] = (lambda begun: None, lambda *a: None, 0)
        scaler._fewer()
        await replicas.load_adapter("new", "/n")
        replicas.engines[1].state = "stalled"
        scaler._more(0.0)
        replicas.engines[1]._callbacks.clear()
        await settled(lambda: replicas.engines[1].state == "closed" and not scaler.returning)
        assert replicas.taking == {0} and "replica.failed" in told

    asyncio.run(run())


def test_a_newcomer_waits_for_an_adapter_that_is_being_loaded():
    async def run():
        replicas = Replicas([Alone(), Alone()], least=1)
        replicas.engines[0].going.clear()
        loading = asyncio.create_task(replicas.load_adapter("new", "/n"))
        await asyncio.sleep(0)
        coming = asyncio.create_task(replicas.take_in(1))
        await asyncio.sleep(0.02)
        replicas.engines[0].going.set()
        await asyncio.gather(loading, coming)
        assert replicas.engines[1].adapters == {"new": "/n"} and replicas.taking == {0, 1}

    asyncio.run(run())


def test_an_engine_that_ends_over_dropping_an_adapter_starts_without_it():
    async def run():
        engine = Alone(adapters={"old": "/o"})
        engine.going.clear()
        dropping = asyncio.create_task(Replicas([engine]).drop_adapter("old"))
        await asyncio.sleep(0)
        engine._lost()
        await dropping
        assert engine.adapters == {}

    asyncio.run(run())


def test_room_is_left_for_what_running_caches_have_yet_to_fill(monkeypatch):
    replicas = Replicas([Alone(cache_bytes=1000), Alone(cache_bytes=1000), Alone()], least=2)
    scaler, told = scaler_of(replicas)
    resident = iter([100, 700] * 2)  # bytes: of the first nothing is filled, of the second 600
    monkeypatch.setattr(module, "family", lambda pids: [1])
    monkeypatch.setattr(module, "resident_bytes", lambda pid: next(resident))
    needed = int(1.1 * 1100) + 1000 + 400
    monkeypatch.setattr(module, "free_bytes", lambda: needed - 1)
    assert not scaler._has_room(0.0) and told == ["replica.no_room"]
    monkeypatch.setattr(module, "free_bytes", lambda: needed)
    assert scaler._has_room(0.0)


@pytest.mark.parametrize("encodes", [True, False])
def test_counted_are_the_requests_that_the_replicas_answer(monkeypatch, encodes):
    """Embeddings have a line of their own; they count where the replicas make them."""
    counted = []

    class Counting(Scaler):
        def __init__(self, replicas, scaling, at_once, log):
            super().__init__(replicas, scaling, at_once, log)
            counted.append(at_once())

    async def run():
        line = SimpleNamespace
        engine = Replicas([Alone(), Alone()], least=1)
        service = SimpleNamespace(
            settings=SimpleNamespace(scale={"least": 1}, replicas=2), scale=Scale(most=2), engine=engine,
            encoder=engine if encodes else None,
            served=line(admission=line(running=2, waiting=1), encoding=line(running=4, waiting=9)),
        )  # fmt: skip
        monkeypatch.setattr(front, "Scaler", Counting)
        front.Front._scale(service)
        service.scaling.cancel()

    asyncio.run(run())
    assert counted == [16 if encodes else 3]
