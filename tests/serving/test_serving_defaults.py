"""What the service samples at where a request names no temperature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gate.standalone import declared_temperature
from steelyard.serving import ServeSettings, start
from steelyard.serving.turn.defaults import SamplingDefaults, sampling_defaults

GREEDY = SamplingDefaults()


def folder_with(folder: Path, config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "generation_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, GREEDY),
        ({"eos_token_id": 2}, GREEDY),
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.5}, GREEDY),
        ({"do_sample": True}, SamplingDefaults(temperature=1.0)),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20},
         SamplingDefaults(temperature=0.6, top_p=0.95, top_k=20)),  # Qwen3's
        ({"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.05},
         SamplingDefaults(temperature=0.6, repetition_penalty=1.05)),
        ({"temperature": "hot", "top_p": 7, "top_k": -3}, GREEDY),
        ("[]", GREEDY), ("not json", GREEDY), ("null", GREEDY),
    ],
)  # fmt: skip
def test_the_models_own_settings_else_greedy(tmp_path: Path, config: Any, expected: SamplingDefaults) -> None:
    assert sampling_defaults(folder_with(tmp_path, config)) == expected


def test_without_a_file_greedy_and_a_flag_wins(tmp_path: Path) -> None:
    assert sampling_defaults(tmp_path) == GREEDY
    folder_with(tmp_path, {"temperature": 0.6, "top_k": 20})
    assert sampling_defaults(tmp_path, 0.3) == SamplingDefaults(temperature=0.3)


@given(
    st.fixed_dictionaries(
        {},
        optional={"do_sample": st.booleans(), "temperature": st.floats(0, 2), "top_k": st.integers(0, 100)},
    )
)
def test_the_gate_expects_what_the_service_does(tmp_path_factory, config: dict[str, Any]) -> None:
    """Where the gate reads a declared temperature, the service samples at it; where it reads none, greedily
    (or at 1 where only do_sample stands)."""
    folder = folder_with(tmp_path_factory.mktemp("config"), config)
    declared, own = declared_temperature(folder), sampling_defaults(folder).temperature
    assert own == (declared if declared is not None else 1.0 if config.get("do_sample") else 0.0)


ASK = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 8, "ignore_eos": True}


def answers(url: str, **more: Any) -> list[str]:
    sent = [httpx.post(f"{url}/v1/chat/completions", json=ASK | more, timeout=60).json() for _ in range(4)]
    return [answer["choices"][0]["message"]["content"] for answer in sent]


def test_a_plain_request_is_answered_greedily(tiny) -> None:
    likeliest = answers(tiny.url, temperature=0)[0]
    assert answers(tiny.url) == [likeliest] * 4
    assert len(set(answers(tiny.url, temperature=1))) > 1
    card = httpx.get(f"{tiny.url}/v1/models").json()["data"][0]
    assert card["default_temperature"] == 0


def test_a_default_temperature_is_drawn_at(tiny_ir) -> None:
    service = start(tiny_ir, ServeSettings(name="tiny", mode="exact", default_temperature=1.5))
    try:
        assert len(set(answers(service.url))) > 1
        made = httpx.post(
            f"{service.url}/v1/responses", json={"input": "abc", "max_output_tokens": 2}, timeout=60
        )
        assert made.json()["temperature"] == 1.5
    finally:
        service.stop()
