"""What /metrics tells, under vLLM's names so that its dashboards work.

Tokens and successes move by what `usage` says, and when it is said: health checks, warm-up and broken-off
requests are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LONG_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


class Measures:
    """One registry for one served model."""

    def __init__(self, model_name: str, engine: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": engine}
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens processed")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens generated")
        self._success = Counter(
            "vllm:request_success",
            "Requests finished",
            (*self._labels, "finished_reason"),
            registry=self.registry,
        )
        for reason in ("stop", "length"):
            self._success.labels(**self._labels, finished_reason=reason)
        self.ttft = self._histogram("vllm:time_to_first_token_seconds", "Time to first token", LONG_S)
        self.inter_token = self._histogram("vllm:inter_token_latency_seconds", "Between tokens", SHORT_S)
        self.e2e = self._histogram("vllm:e2e_request_latency_seconds", "Whole request", LONG_S)

    def success(self, reason: str) -> None:
        self._success.labels(**self._labels, finished_reason=reason).inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        self._gauge(name, text).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, tuple(self._labels), registry=self.registry).labels(**self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, tuple(self._labels), registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(name, text, tuple(self._labels), registry=self.registry, buckets=buckets)
        return made.labels(**self._labels)
