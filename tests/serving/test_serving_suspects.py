"""A request that ends the engine fails, and takes everybody else with it once at most. A fake engine."""

from __future__ import annotations

import asyncio

from faked import FakeEngine, client_of, served_app

from steelyard.serving.engines import Event
from steelyard.serving.host.engine_process import EngineCrashed
from steelyard.serving.host.quarantine import Quarantine

POISON = 42


class Fragile(FakeEngine):
    """Ends over a prompt that begins with POISON, at its first token or its third, with all in flight."""

    def __init__(self, fresh: bool = True) -> None:
        super().__init__(slots=64)
        self.inside: dict[int, asyncio.Queue] = {}
        self.fresh, self.ends = fresh, 0
        self.hit: dict[int, int] = {}  # by the first token id: how often it was interrupted

    async def submit(self, request, ended=lambda: None, generated=lambda prompt, ids: None):
        self.requests.append(request)
        number, first = len(self.requests), request["ids"][0]
        self.inside[number] = asyncio.Queue()
        try:
            for step in range(request["max_tokens"]):
                await asyncio.sleep(0)
                if first == POISON and step == (0 if self.fresh else 2):
                    self._end()
                if not self.inside[number].empty():
                    self.hit[first] = self.hit.get(first, 0) + 1
                    crash = EngineCrashed("gone")
                    crash.fresh = step == 0
                    raise crash
                generated(0 if step else len(request["ids"]), 1)
                finish = "length" if step == request["max_tokens"] - 1 else None
                if finish:
                    ended()
                yield Event(1, [5], None, finish)
        finally:
            del self.inside[number]

    def _end(self):
        self.ends += 1
        for queue in self.inside.values():
            queue.put_nowait(None)


def asked_together(tokenizer_folder, engine, others=24):
    async def run():
        application, served = served_app(tokenizer_folder, engine)
        async with client_of(application) as client:

            async def ask(first, delay):
                for _ in range(delay):
                    await asyncio.sleep(0)
                body = {"prompt": [first, 5, 5], "max_tokens": 30, "ignore_eos": True}
                return (await client.post("/v1/completions", json=body)).status_code

            firsts = [n + 100 for n in range(others)]
            *good, bad = await asyncio.gather(*(ask(first, first % 7) for first in firsts), ask(POISON, 40))
        assert served.admission.inside == 0
        return good, bad

    return asyncio.run(run())


def test_who_ends_the_engine_fails_and_the_others_are_interrupted_once(tokenizer_folder):
    engine = Fragile()
    good, bad = asked_together(tokenizer_folder, engine)
    assert set(good) == {200} and bad == 503
    assert engine.ends == 2 and engine.hit.pop(POISON) == 2
    assert set(engine.hit.values()) <= {1}


def test_who_ends_it_later_is_told_by_two_ends(tokenizer_folder):
    engine = Fragile(fresh=False)
    good, bad = asked_together(tokenizer_folder, engine)
    assert set(good) == {200} and bad == 503 and engine.ends == 3
    assert max(engine.hit.values()) <= 3


def test_suspects_run_alone_and_bystanders_together():
    async def run():
        quarantine, running, log = Quarantine(), set(), []

        async def attempt(request, suspect):
            async with quarantine.again(request, suspect):
                running.add((request, suspect))
                log.append(set(running))
                for _ in range(5):
                    await asyncio.sleep(0)
                running.discard((request, suspect))

        kinds = [(1, False), (2, True), (3, False), (4, True), (4, True), (5, False)]
        await asyncio.gather(*(attempt(*kind) for kind in kinds))
        assert quarantine.together == quarantine.answers == 0 and quarantine.alone is None
        for together in log:
            suspects = {request for request, suspect in together if suspect}
            assert len(suspects) <= 1 and (not suspects or len(together) == 1)
        assert {request for together in log for request, _ in together} == {1, 2, 3, 4, 5}

        waiting = asyncio.create_task(attempt(6, True))  # who gives up while waiting leaves nothing behind
        async with quarantine.again(7, False):
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await attempt(8, True)

    asyncio.run(run())
