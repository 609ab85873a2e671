"""What /metrics tells, under vLLM's names so that its dashboards work.

Tokens and successes move by what `usage` says, and when it is said: health checks, warm-up and broken-off
requests are left out. What is counted by key are tokens computed for it, whoever left.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from .accounts.account import Tokens

SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LONG_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
ROUTING_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.05)
KEYS = 1000  # that have a line of their own; those that first ask after them share one
OTHERS, NOBODY = "(others)", "(none)"  # no key's id has brackets


@dataclass(slots=True)
class KeyCount:
    """What was done for one key."""

    tokens: Tokens = field(default_factory=Tokens)
    requests: Counts[str] = field(default_factory=Counts)  # by their outcome


def outcome_of(status: int, left: bool) -> str:
    """ok, refused (4xx), failed (5xx), or left: the client did not wait for the end."""
    return "left" if left else "ok" if status < 400 else "refused" if status < 500 else "failed"


class Measures:
    """One registry for one served model."""

    def __init__(self, model_name: str, engine: str) -> None:
        self.model_name = model_name
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

        self.queue_time = self._histogram("vllm:request_queue_time_seconds", "Before the batch", LONG_S)
        self.prefix_queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up")
        self.prefix_hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found in the cache")
        self._retried = self._counter("steelyard:request_retries", "Requests begun anew after a crash")
        self._refused = Counter(
            "steelyard:requests_refused", "Requests told to come again",
            (*self._labels, "reason"), registry=self.registry,
        )  # fmt: skip
        self._requests = Counter(
            "steelyard:http_requests", "Requests answered, by route and status",
            (*self._labels, "route", "status"), registry=self.registry,
        )  # fmt: skip
        self._routed = Counter(
            "steelyard:requests_routed", "Requests whose adapter the prompt has chosen",
            (*self._labels, "adapter"), registry=self.registry,
        )  # fmt: skip
        self._guarded = Counter(
            "steelyard:guard_finds", "Values in answers and orders in prompts that the guard has found",
            (*self._labels, "category", "action"), registry=self.registry,
        )  # fmt: skip
        self.routing = self._histogram("steelyard:routing_seconds", "To choose the adapter", ROUTING_S)
        self.by_key: dict[str, KeyCount] = {}

    def of_key(self, key_id: str | None) -> KeyCount:
        """Of this key; of all others once there are KEYS of them."""
        name = NOBODY if key_id is None else key_id
        if name not in self.by_key and len(self.by_key) >= KEYS:
            name = OTHERS
        return self.by_key.setdefault(name, KeyCount())

    def request(self, route: str | None, status: int, key_id: str | None, left: bool) -> None:
        """One that has come to its end; `route` is a template, None where there is none."""
        self._requests.labels(**self._labels, route=route or "(none)", status=str(status)).inc()
        self.of_key(key_id).requests[outcome_of(status, left)] += 1

    def prefix(self, looked_up: int, hits: int) -> None:
        self.prefix_queries.inc(looked_up)
        self.prefix_hits.inc(hits)

    def routed(self, adapter: str, seconds: float) -> None:
        """By the prompt, to this adapter or to the base."""
        self._routed.labels(**self._labels, adapter=adapter).inc()
        self.routing.observe(seconds)

    def guarded(self, category: str, action: str, count: int) -> None:
        """Found by the guard of answers, and what was done about it."""
        self._guarded.labels(**self._labels, category=category, action=action).inc(count)

    def retried(self) -> None:
        self._retried.inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(**self._labels, reason=reason).inc()

    def watch_service(self, engine: Any, admission: Any, encoding: Any) -> None:
        """Gauges of the engines and of the queues before them: of answers, and of the encoder."""
        self.watch(
            "vllm:num_requests_running", "Requests in the batch", lambda: admission.running + encoding.running
        )
        self.watch(
            "vllm:num_requests_waiting", "Requests that wait", lambda: admission.waiting + encoding.waiting
        )
        self.watch(
            "steelyard:num_requests_deserted",
            "Requests that the engine still computes though their clients have gone",
            lambda: admission.deserted + encoding.deserted,
        )
        self.watch(
            "vllm:kv_cache_usage_perc",
            "Share of the KV cache",
            lambda: engine.metrics.get("cache_usage", 0.0),
        )
        self.watch(
            "steelyard:scorer_bytes",
            "Of the second copy of the weights that scoring loads",
            lambda: engine.metrics.get("scorer_bytes", 0.0),
        )
        self.watch("steelyard:engine_restarts", "Times an engine started again", lambda: engine.restarts)
        self.watch("steelyard:work_rate", "Prompt tokens a second, full batch", lambda: admission.rate.value)
        engines = getattr(engine, "engines", [engine])
        labels = (*self._labels, "replica")
        pid = Gauge("steelyard:engine_pid", "Process of an engine", labels, registry=self.registry)
        for i in range(len(engines)):
            pid.labels(**self._labels, replica=str(i)).set_function(partial(_pid, engines, i))
        self.watch(
            "steelyard:replicas", "Engines that get requests", lambda: len(getattr(engine, "taking", engines))
        )

    def success(self, reason: str) -> None:
        self._success.labels(**self._labels, finished_reason=reason).inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        self._gauge(name, text).set_function(value)

    def text(self, key_id: str | None = None) -> bytes:
        """For Prometheus; with the counts of one key alone, or of all."""
        by_key = CollectorRegistry()
        by_key.register(_ByKey(self, key_id))
        return generate_latest(self.registry) + generate_latest(by_key)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, tuple(self._labels), registry=self.registry).labels(**self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, tuple(self._labels), registry=self.registry).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, text, tuple(self._labels), registry=self.registry, buckets=buckets)
        return histogram.labels(**self._labels)


def _pid(engines: Sequence[Any], number: int) -> float:
    """0 where it is away."""
    return float((engines[number].pid or 0) if engines[number].state != "closed" else 0)


class _ByKey(Collector):
    """Counts of keys as Prometheus reads them. `only`: one key's."""

    def __init__(self, measures: Measures, only: str | None) -> None:
        self.measures, self.only = measures, only

    def collect(self) -> Iterator[CounterMetricFamily]:
        own = self.measures._labels
        prompt, made, requests = (
            CounterMetricFamily(f"steelyard:key_{name}", text, labels=[*own, "key", *more])
            for name, text, more in (
                ("prompt_tokens", "Prompt tokens computed for a key", ()),
                ("generation_tokens", "Tokens generated for a key", ()),
                ("requests", "Requests of a key", ("outcome",)),
            )
        )
        for name, count in list(self.measures.by_key.items()):
            if self.only in (None, name):
                labels = [*own.values(), name]
                prompt.add_metric(labels, count.tokens.prompt)
                made.add_metric(labels, count.tokens.completion)
                for outcome, number in count.requests.items():
                    requests.add_metric([*labels, outcome], number)
        yield from (prompt, made, requests)
