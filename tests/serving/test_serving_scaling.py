"""Replicas that come ahead of the load and go: the decision by properties, the rest through the door."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.recipe import load
from steelyard.serving import ServeSettings, start
from steelyard.serving.host.replicas import Scale, Scaling
from steelyard.serving.host.replicas.cores import physical_cores

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
