"""Tuned models under a byte budget: the one unused longest makes room, none in use does."""

from __future__ import annotations

import asyncio

import pytest

from steelyard.serving.base.errors import ApiError
from steelyard.serving.engines import EngineSettings
from steelyard.serving.host.adapters import AdapterCache, adapter_bytes


class Engine:
    """Notes what is loaded and dropped."""

    def __init__(self):
        self.adapters, self.orders = {"given": "at the start"}, []

    async def load_adapter(self, name, folder):
        await asyncio.sleep(0)
        if folder == "broken":
            raise ValueError("no adapter")
        self.orders.append(f"+{name}")
        self.adapters[name] = folder

    async def drop_adapter(self, name):
        self.orders.append(f"-{name}")
        del self.adapters[name]


def cache(count, budget=2.0):
    made = AdapterCache(Engine(), budget, lambda folder: 1.0)
    made.folders |= {name: name for name in "abcdef"[:count]}
    return made, made.engine.orders


async def use(made, *names):
    for name in names:
        async with made.using(name):
            assert name is None or name in made.engine.adapters


def test_the_one_unused_longest_makes_room():
    made, orders = cache(3)
    asyncio.run(use(made, "a", "b", "a", "given", None, "c", "b"))
    assert orders == ["+a", "+b", "-b", "+c", "-a", "+b"]
    assert "given" in made.engine.adapters  # what was named at the start stays


def test_one_in_use_is_not_dropped():
    async def both():
        made, orders = cache(4)
        async with made.using("a"), made.using("b"):
            with pytest.raises(ApiError) as full:
                await use(made, "c")
            assert (full.value.status, full.value.code) == (503, "adapters_busy")
            assert orders == ["+a", "+b"]  # nobody was sent away in vain
            await use(made, "a")
        await use(made, "c")
        assert orders == ["+a", "+b", "-b", "+c"] and not +made.in_use

    asyncio.run(both())


def test_many_at_once_load_each_but_once():
    async def many():
        made, orders = cache(2)
        await asyncio.gather(*(use(made, name) for name in "abab" * 5))
        assert sorted(orders) == ["+a", "+b"]

    asyncio.run(many())


def test_what_cannot_be_loaded_or_is_dropped_leaves_nothing():
    async def run():
        made, orders = cache(1)
        made.folders["x"] = "broken"
        with pytest.raises(ValueError):
            await use(made, "x")
        assert not +made.in_use
        await use(made, "a")
        await made.drop("a")
        await made.drop("x")
        assert orders == ["+a", "-a"] and not made.folders

    asyncio.run(run())


def test_bytes_of_an_adapter(tmp_path):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder, name, size in ((model, "openvino_model.bin", 100), (adapter, "adapter_model.safetensors", 7)):
        folder.mkdir()
        (folder / name).write_bytes(b"x" * size)
    settings = EngineSettings(folder=str(model), cache_bytes=40)
    assert adapter_bytes(settings, 2)(str(adapter)) == 2 * (100 + 10 + 7)
    assert adapter_bytes(EngineSettings(folder=str(model), engine="llamacpp"), 1)(str(adapter)) == 7
