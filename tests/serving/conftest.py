"""One real service of a tiny model and one of SmolLM2, shared by the tests that only ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from watching import read_metrics

from steelyard.serving import ServeSettings, Service, prepare, start


@pytest.fixture(scope="session")
def tiny_form(tiny_models, tmp_path_factory) -> Callable[[str], Path]:
    """`tiny_form("int8")`: the tiny llama as the engine loads it, exported once."""
    from steelyard.compression import export_form

    @cache
    def exported(form: str) -> Path:
        out = tmp_path_factory.mktemp(f"tiny-{form}")
        export_form(tiny_models("llama"), out, form)
        return out

    return exported


@pytest.fixture(scope="session")
def tiny_ir(tiny_form) -> Path:
    return tiny_form("f32")


@pytest.fixture(scope="session")
def tiny(tiny_ir) -> Iterator[Service]:
    """512 tokens of context; its words are nonsense, its counts are not."""
    service = start(tiny_ir, ServeSettings(name="tiny", mode="exact", fingerprint="abc"))
    yield service
    service.stop()


@pytest.fixture(scope="session")
def talker(smol, tmp_path_factory) -> Iterator[Service]:
    """SmolLM2 in the exact mode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = prepare(str(smol)).folder
    service = start(folder, ServeSettings(name="smol", mode="exact"))
    yield service
    service.stop()


@pytest.fixture
def counters(tiny) -> Callable[[], dict[str, float]]:
    return lambda: read_metrics(tiny)
