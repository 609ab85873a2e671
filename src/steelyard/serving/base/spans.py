"""OpenTelemetry `gen_ai` spans of requests, where its packages are installed; else nothing.

Names of the semantic conventions (gen-ai-spans 1.38). No prompt and no answer stands in a span.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


@cache
def _trace() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


def export_spans(service: str) -> None:
    """Send them where OTEL_TRACES_EXPORTER (otlp, console) or OTEL_EXPORTER_OTLP_ENDPOINT says."""
    kind = os.environ.get("OTEL_TRACES_EXPORTER") or (
        "otlp" if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else "none"
    )
    if kind not in ("otlp", "console") or _trace() is None:
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(_exporter(kind)))
    _trace().set_tracer_provider(provider)


def _exporter(kind: str) -> Any:
    if kind == "console":
        import sys

        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


@contextmanager
def span(scope: Any, headers: dict[bytes, bytes], request_id: bytes) -> Iterator[None]:
    """Around one request of a generating route; a caller's traceparent is its parent."""
    operation = OPERATIONS.get(scope["path"]) if scope["method"] == "POST" else None
    if operation is None or _trace() is None:
        yield
        return
    from opentelemetry.propagate import extract

    carrier = {"traceparent": headers.get(b"traceparent", b"").decode("latin-1")}
    with (
        _trace()
        .get_tracer("steelyard")
        .start_as_current_span(operation, context=extract(carrier), kind=_trace().SpanKind.SERVER) as current
    ):
        current.set_attribute("gen_ai.operation.name", operation)
        current.set_attribute("gen_ai.provider.name", "steelyard")
        current.set_attribute("steelyard.request_id", request_id.decode("latin-1"))
        yield


def tell(model: str | None = None, **attributes: Any) -> None:
    """Add to the request's span; `model` names it too. Attribute names have `__` where a dot stands."""
    if _trace() is None or not (current := _trace().get_current_span()).is_recording():
        return
    if model is not None:
        current.set_attribute("gen_ai.request.model", model)
        current.update_name(f"{current.attributes['gen_ai.operation.name']} {model}")
    for name, value in attributes.items():
        if value is not None:
            current.set_attribute(name.replace("__", "."), value)
