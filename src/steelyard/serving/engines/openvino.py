"""OpenVINO GenAI's continuous batching on the CPU.

`step` holds the interpreter lock, so nothing else of this process runs meanwhile: no threads here.
Teacher-forced scores come from the same IR in the plain runtime, loaded when first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
import orjson

from .openvino_grammar import Grammars, load_tokenizer, structured
from .openvino_prefix import PrefixBlocks
from .openvino_speculation import draft, speculation
from .protocol import EngineSettings, Event, GenRequest, Scores, kv_bytes_per_token, kv_precision, read_form

BLOCK_TOKENS = 32  # of GenAI's paged KV cache on CPU
SCORE_CHUNK = 128  # tokens: their logits are 25 MB at a vocabulary of 49k
UNLOAD_AFTER_S = 60.0  # the scorer keeps a second copy of the prepared weights
FINISH = {"STOP": "stop", "LENGTH": "length"}


@dataclass(slots=True)
class Running:
    """A request in GenAI's hands; `cached` until it has been told."""

    handle: Any
    logprobs: bool
    cached: int | None


class OpenVinoEngine:
    name = "openvino"

    def __init__(self, settings: EngineSettings) -> None:
        self.folder = Path(settings.folder)
        self.form = read_form(self.folder)
        self.properties = properties(self.form, settings)
        self.speculative = settings.speculative
        scheduler = _scheduler(settings, self.form, self.folder)
        extra = speculation(settings)
        self.pipeline, tokenizer = _pipeline(self.folder, scheduler, {**self.properties, **extra})
        self.grammars = tokenizer and Grammars(tokenizer, _config_of(self.folder)["vocab_size"])
        self.prefixes = PrefixBlocks(scheduler.num_kv_blocks if settings.prefix_cache else 0, BLOCK_TOKENS)
        self.running: dict[int, Running] = {}
        self.scorer: _Scorer | None = None

    def add(self, request: GenRequest) -> None:
        """Raises ValueError for what this engine cannot do."""
        config = _config(request)
        if self.speculative != "off":
            draft(config, len(self.running))
        if request.grammar:
            self._follow(request.grammar, request.stop_ids)
            config.structured_output_config = structured(request.grammar)
        ids = ov.Tensor(np.array([request.ids], np.int64))
        handle = self.pipeline.add_request(request.request_id, ids, config)
        cached = self.prefixes.take(request.request_id, request.ids)
        self.running[request.request_id] = Running(handle, request.logprobs, cached)

    def _follow(self, grammar: tuple[str, str], stop_ids: tuple[int, ...]) -> None:
        """Raises ValueError where the grammar cannot be followed."""
        if self.grammars is None:
            raise ValueError("grammars need openvino_tokenizers and the model's tokenizer.json")
        if not stop_ids:
            raise ValueError("a grammar ends an answer by an end token, which this request does not heed")
        self.grammars.check(grammar)

    def cancel(self, request_id: int) -> None:
        if running := self._forget(request_id):
            running.handle.cancel()

    def busy(self) -> bool:
        return self.pipeline.has_non_finished_requests()

    def step(self) -> list[Event]:
        self.pipeline.step()
        return list(self._events())

    def _events(self) -> Iterator[Event]:
        for request_id, running in list(self.running.items()):
            if running.handle.can_read():
                for output in running.handle.read().values():
                    yield self._event(request_id, running, output)
            elif running.handle.get_status() == genai.GenerationStatus.IGNORED:
                # The scheduler drops what its cache can never hold.
                yield Event(request_id, [], finish="error")
                self._forget(request_id)

    def _event(self, request_id: int, running: Running, output: Any) -> Event:
        finish = FINISH.get(output.finish_reason.name)
        ids = list(output.generated_ids)
        logprobs = list(output.generated_log_probs) if running.logprobs else None
        cached, running.cached = running.cached, None
        self.prefixes.grow(request_id, ids)
        if finish:
            self._forget(request_id)
        return Event(request_id, ids, logprobs, finish, cached=cached)

    def _forget(self, request_id: int) -> Running | None:
        self.prefixes.leave(request_id)
        return self.running.pop(request_id, None)

    def score(self, ids: list[int], top: int) -> Scores:
        if self.scorer is None:
            self.scorer = _Scorer(self.folder, self.properties)
        return self.scorer.score(ids, top)

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise NotImplementedError("a model that generates has no embeddings; serve an encoder beside it")

    def load_adapter(self, name: str, folder: str) -> None:
        raise NotImplementedError("adapters are not loaded by this engine")

    def drop_adapter(self, name: str) -> None:
        raise NotImplementedError("adapters are not loaded by this engine")

    def idle(self, seconds: float) -> None:
        if seconds >= UNLOAD_AFTER_S:
            self.scorer = None

    def metrics(self) -> dict[str, float]:
        found = self.pipeline.get_metrics()
        return {
            "cache_usage": found.cache_usage / 100,
            "prefix_queries": self.prefixes.queries,
            "prefix_hits": self.prefixes.hits,
        }

    def close(self) -> None:
        for request_id in list(self.running):
            self.cancel(request_id)


def properties(form: dict[str, Any], settings: EngineSettings) -> dict[str, Any]:
    """OpenVINO's properties; the exact mode is f32 throughout, whatever the weights are stored as."""
    return {
        "INFERENCE_PRECISION_HINT": "f32" if settings.mode == "exact" else form["precision"],
        "KV_CACHE_PRECISION": settings.kv_precision or kv_precision(form, settings.mode),
        "INFERENCE_NUM_THREADS": settings.threads,
    }


def _pipeline(folder: Path, scheduler: Any, properties: dict[str, Any]) -> tuple[Any, Any | None]:
    """The pipeline, and the tokenizer that its grammars go by."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        return genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties), None
    made = genai.ContinuousBatchingPipeline(str(folder), tokenizer, scheduler, "CPU", **properties)
    return made, tokenizer


def _config_of(folder: Path) -> dict[str, Any]:
    return orjson.loads((folder / "config.json").read_bytes())


def _scheduler(settings: EngineSettings, form: dict[str, Any], folder: Path) -> Any:
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = settings.max_num_batched_tokens
    scheduler.max_num_seqs = settings.max_num_seqs
    precision = settings.kv_precision or kv_precision(form, settings.mode)
    block_bytes = kv_bytes_per_token(folder, precision) * BLOCK_TOKENS
    # One request of full length must always fit, or the scheduler would drop it.
    least = settings.max_model_len // BLOCK_TOKENS + 2
    scheduler.num_kv_blocks = max(int(settings.cache_bytes / block_bytes), least)
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = settings.prefix_cache
    return scheduler


def _config(request: GenRequest) -> Any:
    c = genai.GenerationConfig()
    c.apply_chat_template = False  # the server has done it
    c.max_new_tokens = request.max_tokens
    c.ignore_eos = not request.stop_ids
    c.set_eos_token_id(min(request.stop_ids, default=0))  # without one GenAI refuses every request
    c.stop_token_ids = set(request.stop_ids) or {0}
    c.min_new_tokens = request.min_tokens
    c.logprobs = int(request.logprobs)
    c.presence_penalty = request.presence_penalty
    c.frequency_penalty = request.frequency_penalty
    c.repetition_penalty = request.repetition_penalty
    c.do_sample = request.temperature > 0
    if c.do_sample:
        c.temperature, c.top_p, c.rng_seed = request.temperature, request.top_p, request.seed
        c.min_p = request.min_p
        if request.top_k > 0:
            c.top_k = request.top_k
    return c


class _Scorer:
    """The same IR in the plain runtime, one sequence at a time, its state carried over chunks."""

    def __init__(self, folder: Path, properties: dict[str, Any]) -> None:
        model = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", properties)
        self.request = model.create_infer_request()

    def score(self, ids: list[int], top: int) -> Scores:
        """Scores of ids[1:], the first id has nothing before it."""
        self.request.reset_state()
        scores = Scores([], [], [])
        for start in range(0, len(ids) - 1, SCORE_CHUNK):
            end = min(start + SCORE_CHUNK, len(ids) - 1)
            logits = self._logits(ids, start, end)
            _append(scores, logits, ids[start + 1 : end + 1], top)
        return scores

    def _logits(self, ids: list[int], start: int, end: int) -> np.ndarray:
        """[T, vocabulary] for ids[start:end], after all that came before."""
        inputs = {
            "input_ids": np.array([ids[start:end]], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self.request.infer(inputs)
        return self.request.get_tensor("logits").data[0]


def _append(scores: Scores, logits: np.ndarray, targets: list[int], top: int) -> None:
    peak = logits.max(-1, keepdims=True)
    total = peak[:, 0] + np.log(np.exp(logits - peak).sum(-1, dtype=np.float64))
    rows = np.arange(len(targets))
    scores.logprobs += (logits[rows, targets] - total).tolist()
    if not top:
        return
    best = np.argpartition(logits, -top, axis=-1)[:, -top:]
    order = np.argsort(-np.take_along_axis(logits, best, -1), axis=-1, kind="stable")
    best = np.take_along_axis(best, order, -1)
    scores.top_ids += best.tolist()
    scores.top_logprobs += (np.take_along_axis(logits, best, -1) - total[:, None]).tolist()
