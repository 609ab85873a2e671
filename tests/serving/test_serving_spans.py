"""OpenTelemetry spans of a real service, read from its log."""

from __future__ import annotations

import time

import httpx
import orjson
import pytest

from steelyard.serving import ServeSettings, start

pytest.importorskip("opentelemetry.sdk")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_leaves_a_span_without_its_words(tiny_ir, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    log = tmp_path / "log"
    service = start(tiny_ir, ServeSettings(name="tiny"), log=log)
    try:
        body = {
            "messages": [{"role": "user", "content": "a secret word"}],
            "max_tokens": 4,
            "ignore_eos": True,
        }
        url = f"{service.url}/v1/chat/completions"
        answer = httpx.post(
            url, json=body, headers={"traceparent": PARENT, "x-request-id": "mine"}, timeout=30
        )
        assert answer.status_code == 200
        end = time.monotonic() + 30
        while b"gen_ai" not in log.read_bytes() and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        service.stop()
    span = next(orjson.loads(line) for line in log.read_bytes().splitlines() if b"gen_ai" in line)
    told = span["attributes"]
    assert span["name"] == "chat tiny" and span["context"]["trace_id"].endswith(PARENT[3:35])
    assert told["gen_ai.usage.output_tokens"] == 4 and told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.request.model"] == "tiny" and told["steelyard.request_id"] == "mine"
    assert b"secret" not in log.read_bytes()
