"""Prompts that choose their adapter: over the fake engine for every dialect, once over a real service."""

from __future__ import annotations

import json
import random

import httpx
import numpy as np
import pytest
from faked import FakeEngine, post_all, served_app
from safetensors.numpy import save_file

from steelyard.errors import CheckFailed, WrongUse
from steelyard.router import fit_router, write_router
from steelyard.serving import ServeSettings, check_alike, prepare, promote, router_of, start

SQL, LOG, FOREIGN = "SELECT a FROM t WHERE x > 7", "2026-01-02 ERROR elm-7: evict took 3 ms", "Wer bist du?"


def rows() -> list[dict]:
    chance = random.Random(0)

    def row(ability: str, text: str) -> dict:
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]
        return {"ability": ability, "messages": messages}

    made = []
    for _ in range(60):
        column, table, number = chance.choice("abc"), chance.choice("tuv"), chance.randrange(999)
        made.append(row("sql", f"SELECT {column} FROM {table} WHERE x > {number}"))
        made.append(row("log", f"2026-01-02 ERROR elm-{number}: evict took {chance.randrange(99)} ms"))
    return made


@pytest.fixture(scope="module")
def router():
    return fit_router(rows())


@pytest.fixture
def routed(tokenizer_folder, router):
    """(post, the engine's requests, what is served): two adapters, routed."""
    engine = FakeEngine()
    engine.adapters = {"sql": "a", "log": "b"}
    application, served = served_app(tokenizer_folder, engine, aliases=("gpt-*",))
    served.router = router

    def post(path: str, **body):
        return post_all(application, path, [{"max_tokens": 2, **body}])[0]

    return post, engine.requests, served


def chat(text: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": text}], **more}


@pytest.mark.parametrize(("text", "adapter"), [(SQL, "sql"), (LOG, "log"), (FOREIGN, None)])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
def test_each_dialect_sends_a_prompt_to_its_adapter(routed, path, text, adapter):
    post, requests, _ = routed
    bodies = {"/v1/completions": {"prompt": text}, "/v1/responses": {"input": text, "store": False}}
    body = bodies.get(path) or chat(text)
    if path == "/v1/responses":
        body |= {"max_output_tokens": 16}
    answer = post(path, model="default", **body)
    assert answer.status_code == 200, answer.text
    assert requests[-1]["adapter"] == adapter
    assert answer.headers["x-steelyard-adapter"] == (adapter or "base")
    assert 0 < float(answer.headers["x-steelyard-route-probability"]) <= 1


@pytest.mark.parametrize(
    ("model", "adapter", "told"),
    [("default:log", "log", False), ("tiny:log", "log", False), ("log", "log", False),
     ("default:base", None, False), ("tiny", "sql", True), ("gpt-4", "sql", True)],
)  # fmt: skip
def test_a_name_that_names_one_is_not_routed(routed, model, adapter, told):
    post, requests, _ = routed
    answer = post("/v1/chat/completions", model=model, **chat(SQL))
    assert answer.status_code == 200 and requests[-1]["adapter"] == adapter
    assert ("x-steelyard-adapter" in answer.headers) == told


def test_an_unknown_adapter_is_one_error_that_names_the_others(routed):
    answer = routed[0]("/v1/chat/completions", model="default:code", **chat(SQL))
    error = answer.json()["error"]
    assert answer.status_code == 404 and error["code"] == "model_not_found"
    assert "tiny:sql" in error["message"] and "tiny:base" in error["message"]


def test_a_stream_tells_it_too(routed):
    answer = routed[0]("/v1/chat/completions", model="default", **chat(SQL, stream=True))
    assert answer.headers["x-steelyard-adapter"] == "sql"


def test_without_a_router_nothing_is_routed(routed):
    post, requests, served = routed
    served.router = None
    answer = post("/v1/chat/completions", model="default", **chat(SQL))
    assert requests[-1]["adapter"] is None and "x-steelyard-adapter" not in answer.headers
    assert post("/v1/chat/completions", model="default:base", **chat(SQL)).status_code == 404


def test_decisions_are_counted_and_no_text_is(routed):
    post, _, served = routed
    for text in (SQL, SQL, LOG, FOREIGN):
        post("/v1/chat/completions", model="default", **chat(text))
    page = served.measures.text().decode()
    counted = [line for line in page.splitlines() if line.startswith("steelyard:requests_routed_total")]
    assert {line.rpartition(" ")[2] for line in counted if 'adapter="sql"' in line} == {"2.0"}
    assert any('adapter="base"' in line and line.endswith(" 1.0") for line in counted)
    assert "SELECT" not in page and "evict" not in page


# ------------------------------------------------------------------ what does not belong together


def lora(folder, wide: int = 64, base: str | None = None):
    place = folder / "adapter"
    place.mkdir(parents=True)
    key = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {"lora_A": np.zeros((4, wide), np.float32), "lora_B": np.zeros((64, 4), np.float32)}
    save_file({f"{key}.{n}.weight": v for n, v in factors.items()}, place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    if base:
        (folder / "manifest.json").write_text(json.dumps({"inputs": [{"role": "base", "hash": base}]}))
    return str(place)


def test_adapters_of_one_base_belong_together(tmp_path):
    check_alike({"sql": lora(tmp_path / "a", base="x" * 64), "log": lora(tmp_path / "b", base="x" * 64)})


@pytest.mark.parametrize("other", [{"wide": 32}, {"base": "y" * 64}])
def test_adapters_of_different_bases_are_refused(tmp_path, other):
    adapters = {"sql": lora(tmp_path / "a", base="x" * 64), "log": lora(tmp_path / "b", **other)}
    with pytest.raises(WrongUse) as error:
        check_alike(adapters)
    assert error.value.code == "serve.adapters_differ" and "sql and log" in error.value.message.replace(
        "log and sql", "sql and log"
    )


def test_an_adapter_of_a_damaged_artefact_is_refused(tmp_path):
    adapters = {"sql": lora(tmp_path / "a", base="x" * 64), "log": lora(tmp_path / "b")}
    (tmp_path / "b" / "manifest.json").write_text('{"inputs": [')
    with pytest.raises(CheckFailed) as error:
        check_alike(adapters)
    assert error.value.code == "artefact.manifest" and error.value.where.file.endswith("b/manifest.json")


@pytest.mark.parametrize(
    ("adapters", "code"),
    [({"code": "x"}, "serve.route_abilities"), ({}, "serve.route_alone")],
)
def test_a_router_of_other_abilities_is_refused(tmp_path, router, adapters, code):
    write_router(router, tmp_path / "router")
    with pytest.raises(WrongUse) as error:
        router_of(str(tmp_path / "router"), adapters)
    assert error.value.code == code


def test_an_ability_without_an_adapter_is_the_bases(tmp_path, router):
    write_router(router, tmp_path / "router")
    assert router_of(str(tmp_path / "router"), {"sql": "x"}) is not None


# ------------------------------------------------------------------ a real service


def test_a_service_routes_once_it_is_published(tiny_models, tmp_path, router, monkeypatch):
    """The gate judges a candidate: there every prompt is the model's own."""
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    write_router(router, tmp_path / "router")
    adapters = {name: lora(tmp_path / name) for name in ("sql", "log")}
    folder = prepare(str(tiny_models("llama")), form="f32").folder
    service = start(folder, ServeSettings(name="tiny", adapters=adapters, route=str(tmp_path / "router")))
    try:
        body = {"model": "default", "max_tokens": 2, **chat(SQL)}
        before = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60)
        assert before.status_code == 200 and "x-steelyard-adapter" not in before.headers
        published = promote(service, "127.0.0.1", 0)
        after = httpx.post(f"{published.url}/v1/chat/completions", json=body, timeout=60)
        assert after.headers["x-steelyard-adapter"] == "sql"
        page = httpx.get(f"{published.url}/metrics").text
        assert "steelyard:routing_seconds_count" in page
    finally:
        service.stop(now=True)
