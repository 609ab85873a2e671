"""OpenVINO GenAI's continuous batching on the CPU.

`step` holds the interpreter lock, so nothing else of this process runs meanwhile: no threads here, save
the one that loads an adapter, which the library does without the lock.
Teacher-forced scores come from the same IR in the plain runtime, loaded when first asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
import orjson

from ..protocol import EngineSettings, Event, GenRequest, Scores, kv_bytes_per_token, kv_precision, read_form
from .batch import BLOCK_TOKENS, Batch
from .grammar import Beside, Grammars, load_tokenizer, structured
from .lora import adapter_config
from .pages import handed_back
from .speculation import draft, small_model

SCORE_CHUNK = 128  # tokens: their logits are 25 MB at a vocabulary of 49k
WEIGHTS = "openvino_model.bin"
SCORER_ROOM = 1.5  # of the weights: they are laid out anew beside the file
UNLOAD_AFTER_S = 60.0  # the scorer keeps a second copy of the prepared weights
ADAPTER_CACHE = 0.25  # of the base's bytes, for each adapter on top: at least one request of full length


class OpenVinoEngine:
    name = "openvino"

    def __init__(self, settings: EngineSettings) -> None:
        self.folder = Path(settings.folder)
        self.form = read_form(self.folder)
        self.settings = settings
        self.properties = properties(self.form, settings)
        # Shared: it holds the compiled grammars.
        self.tokenizer = load_tokenizer(self.folder, wordless=settings.speculative == "draft")
        self.beside = _beside(self.tokenizer, self.folder, self._begins) if self.tokenizer else None
        self.batches: dict[str | None, Batch] = {None: self._batch(settings.cache_bytes)}
        self.leaving: list[Batch] = []  # of adapters dropped or replaced: their answers end first
        self.gone = [0, 0]  # queries and hits of those
        self.turn = 0
        self.loader = ThreadPoolExecutor(1)
        for name, folder in settings.adapters.items():
            self.load_adapter(name, folder).result()
        self.scorer: _Scorer | None = None

    def _batch(self, cache_bytes: int, adapter: str | None = None) -> Batch:
        scheduler = _scheduler(self.settings, self.form, self.folder, cache_bytes)
        more = {"adapters": adapter_config(Path(adapter), self.folder)} if adapter else {}
        with self._speculation(scheduler) as drafting:
            all_properties = {**self.properties, **drafting, **more}
            pipeline = _pipeline(self.folder, self.tokenizer, scheduler, all_properties, self.settings)
        return Batch(pipeline, scheduler)

    @contextmanager
    def _speculation(self, scheduler: Any) -> Iterator[dict[str, Any]]:
        """Properties of a pipeline that drafts, good for as long as it loads."""
        settings = self.settings
        if settings.speculative != "draft":
            yield {"prompt_lookup": True} if settings.speculative == "lookup" else {}
            return
        folder = Path(str(settings.draft))
        form = read_form(folder)
        own = replace(settings, mode="fast", kv_precision=None)  # a guess need not be exact
        its_scheduler = _scheduler(own, form, folder, 0)
        its_scheduler.num_kv_blocks = scheduler.num_kv_blocks  # as many tokens as the model itself
        with handed_back(folder / WEIGHTS), tempfile.TemporaryDirectory(prefix="steelyard-") as beside:
            yield {"draft_model": small_model(folder, Path(beside), its_scheduler, properties(form, own))}

    def _every(self) -> list[Batch]:
        return [*self.batches.values(), *self.leaving]

    def add(self, request: GenRequest) -> Future[None] | None:
        """A Future where its grammar compiles first, done once it is in the batch.

        Raises ValueError for what this engine cannot do, the Future too.
        """
        if request.adapter not in self.batches:
            raise ValueError(f"no adapter {request.adapter!r} is loaded")
        if request.grammar and (entered := self._entering(request)):
            return entered
        self._enter(request)
        return None

    def _enter(self, request: GenRequest) -> None:
        batch = self.batches.get(request.adapter)
        if batch is None:
            raise ValueError(f"no adapter {request.adapter!r} is loaded")
        config = _config(request)
        draft(config, self.settings.speculative, sum(len(each.running) for each in self._every()))
        if request.grammar:
            config.structured_output_config = structured(request.grammar)
        tensor = ov.Tensor(np.array([request.ids], np.int64))
        batch.add(request.request_id, request.ids, tensor, config, request.salt)

    def _entering(self, request: GenRequest) -> Future[None] | None:
        """None where its grammar is compiled. Raises ValueError where it could not be heeded."""
        if self.beside is None:
            raise ValueError("grammars need openvino_tokenizers and the model's tokenizer.json")
        if not request.stop_ids:
            raise ValueError("a grammar ends an answer by an end token, which this request does not heed")
        return self.beside.enter(request)

    def _begins(self, request_id: int) -> bool:
        return any(batch.begins(request_id) for batch in self._every())

    def _enter_compiled(self) -> None:
        for one in self.beside.ready() if self.beside else ():
            try:
                self._enter(one.request)
                one.entered.set_result(None)
            except Exception as e:  # whoever holds the Future is told
                one.entered.set_exception(e)

    def forget_grammars(self) -> None:
        if self.beside:
            self.beside.forget()

    def cancel(self, request_id: int) -> bool:
        if self.beside and self.beside.leave(request_id):
            return True
        return any([batch.cancel(request_id) for batch in self._every()])

    def holds(self, request_id: int) -> bool:
        return any(request_id in batch.running for batch in self._every())

    def busy(self) -> bool:
        return any(batch.busy() for batch in self._every()) or bool(self.beside and self.beside.busy())

    def step(self) -> list[Event]:
        """Of one pipeline that has work; the next call goes on with the one after it."""
        self._let_go()
        self._enter_compiled()
        batches = self._every()
        for _ in batches:
            self.turn = (self.turn + 1) % len(batches)
            if batches[self.turn].busy():
                return batches[self.turn].step()
        return []

    def _let_go(self) -> None:
        """Of pipelines that have left and ended; what they counted stays counted."""
        for batch in [batch for batch in self.leaving if not batch.busy()]:
            self.leaving.remove(batch)
            self.gone[0] += batch.prefixes.queries
            self.gone[1] += batch.prefixes.hits

    def score(self, ids: list[int], top: int) -> Scores:
        """Raises ValueError as `score_pieces` does."""
        *_, scores = self.score_pieces(ids, top)
        assert scores is not None
        return scores

    def score_pieces(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        """Raises ValueError where there is no memory for the second copy of the weights that it takes."""
        if self.scorer is None:
            check_room(self.scorer_bytes)
            self.scorer = _Scorer(self.folder, self.properties)
        yield from self.scorer.score(ids, top)

    @property
    def scorer_bytes(self) -> int:
        return (self.folder / WEIGHTS).stat().st_size

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise NotImplementedError("a model that generates has no embeddings; serve an encoder beside it")

    def load_adapter(self, name: str, folder: str) -> Future[None]:
        """Loads beside the steps, for seconds; then new requests under the name take it."""
        return self.loader.submit(self._load_adapter, name, folder)

    def _load_adapter(self, name: str, folder: str) -> None:
        batch = self._batch(int(self.settings.cache_bytes * ADAPTER_CACHE), folder)
        before, self.batches[name] = self.batches.get(name), batch
        if before:
            self.leaving.append(before)

    def drop_adapter(self, name: str) -> None:
        """Answers under way go on to their end."""
        if name not in self.batches:
            raise ValueError(f"no adapter {name!r} is loaded")
        self.leaving.append(self.batches.pop(name))
        self._let_go()

    def idle(self, seconds: float) -> None:
        if seconds >= UNLOAD_AFTER_S:
            self.scorer = None

    def metrics(self) -> dict[str, float]:
        batches = self._every()
        return {
            "cache_usage": sum(b.used_blocks() for b in batches) / sum(b.blocks for b in batches),
            "scorer_bytes": self.scorer_bytes if self.scorer else 0,
            "prefix_queries": self.gone[0] + sum(b.prefixes.queries for b in batches),
            "prefix_hits": self.gone[1] + sum(b.prefixes.hits for b in batches),
        }

    def close(self) -> None:
        for batch in self._every():
            for request_id in list(batch.running):
                batch.cancel(request_id)


def check_room(needed_bytes: int) -> None:
    """Raises ValueError."""
    import psutil

    free = psutil.virtual_memory().available
    if needed_bytes * SCORER_ROOM > free:
        raise ValueError(
            f"scoring needs a second copy of the weights, {needed_bytes / 1e9:.1f} GB, and of memory "
            f"{free / 1e9:.1f} GB are free; leave top_logprobs and echo out"
        )


def properties(form: dict[str, Any], settings: EngineSettings) -> dict[str, Any]:
    """OpenVINO's properties; the exact mode is f32 throughout, whatever the weights are stored as."""
    exact = settings.mode == "exact"
    values = {
        "INFERENCE_PRECISION_HINT": "f32" if exact else form["precision"],
        "KV_CACHE_PRECISION": settings.kv_precision or kv_precision(form, settings.mode),
        "INFERENCE_NUM_THREADS": settings.threads,
    }
    if exact:  # else what is multiplied with int8 and int4 weights is rounded to int8 on the way
        values["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    return values


def _pipeline(
    folder: Path, tokenizer: Any | None, scheduler: Any, properties: dict[str, Any], settings: EngineSettings
) -> Any:
    """Ready for its first request: the library lays the weights out anew when the first token is made."""
    with handed_back(folder / WEIGHTS):
        if tokenizer is None:  # this signature takes the properties as a mapping alone
            pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        else:
            more = (tokenizer, scheduler, "CPU")
            pipeline = genai.ContinuousBatchingPipeline(str(folder), *more, **properties)
        config = genai.GenerationConfig(max_new_tokens=1, ignore_eos=True, apply_chat_template=False)
        config.set_eos_token_id(0)  # ignored, but without one the library refuses
        draft(config, settings.speculative, 0)
        pipeline.generate([ov.Tensor(np.zeros((1, 1), np.int64))], [config])
    return pipeline


def _beside(tokenizer: Any, folder: Path, begins: Callable[[int], bool]) -> Beside:
    return Beside(Grammars(tokenizer, _config_of(folder)["vocab_size"]), begins)


def _config_of(folder: Path) -> dict[str, Any]:
    return orjson.loads((folder / "config.json").read_bytes())


def _scheduler(settings: EngineSettings, form: dict[str, Any], folder: Path, cache_bytes: int) -> Any:
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = settings.max_num_batched_tokens
    scheduler.max_num_seqs = settings.max_num_seqs
    precision = settings.kv_precision or kv_precision(form, settings.mode)
    block_bytes = kv_bytes_per_token(folder, precision) * BLOCK_TOKENS
    # One request of full length must always fit, or the scheduler would drop it.
    least = settings.max_model_len // BLOCK_TOKENS + 2
    scheduler.num_kv_blocks = max(int(cache_bytes / block_bytes), least)
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
        with handed_back(folder / WEIGHTS):
            model = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", properties)
            self.request = model.create_infer_request()
            self._logits([0], 0, 1)  # only now are the weights laid out

    def score(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        """Scores of ids[1:], the first id has nothing before it; None after each piece."""
        self.request.reset_state()
        scores = Scores([], [], [])
        for start in range(0, len(ids) - 1, SCORE_CHUNK):
            end = min(start + SCORE_CHUNK, len(ids) - 1)
            logits = self._logits(ids, start, end)
            _append(scores, logits, ids[start + 1 : end + 1], top)
            yield None
        yield scores

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
