"""vLLM, stepped in this process; the child runs under the interpreter of vLLM's own environment.

CPU is measured here. NVIDIA, AMD, Gaudi (its plugin) and XPU are reached by the same calls and are untested.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ..protocol import EngineSettings, Event, GenRequest, Scores

FINISH = {"stop": "stop", "length": "length", "abort": "error", "error": "error"}
MAX_TOP = 64  # likeliest tokens that may be asked for
RANKS = (8, 16, 32, 64, 128, 256)  # that vLLM makes room for
MAX_LORAS = 4  # adapters in one batch
SCORED = "score"  # the request of `score`; those of answers are numbers


class VllmEngine:
    name = "vllm"

    def __init__(self, settings: EngineSettings) -> None:
        prepare_process(settings)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.settings = settings
        self.engine = LLMEngine.from_engine_args(EngineArgs(**arguments(settings)))
        self.requests: dict[int, GenRequest] = {}
        self.adapters: dict[str, Any] = {}
        self.numbers = 0  # vLLM tells adapters apart by number
        self.queries = self.hits = 0
        self.begun: set[int] = set()  # those that have made a token
        self.early: list[Event] = []  # what others made while a prompt was scored
        for name, folder in settings.adapters.items():
            self.load_adapter(name, folder)

    def add(self, request: GenRequest) -> None:
        lora = self._adapter(request.adapter)
        salted = {"cache_salt": request.salt} if request.salt else {}
        prompt = {"prompt_token_ids": request.ids, **salted}
        self.engine.add_request(str(request.request_id), prompt, parameters(request), lora_request=lora)
        self.requests[request.request_id] = request

    def _adapter(self, name: str | None) -> Any:
        if name is None:
            return None
        if name not in self.adapters:
            raise ValueError(f"no adapter {name!r} is loaded")
        return self.adapters[name]

    def cancel(self, request_id: int) -> bool:
        if request_id in self.requests:
            self._forget(request_id)
            self.engine.abort_request([str(request_id)])
        return False  # vLLM does not say how far it was

    def holds(self, request_id: int) -> bool:
        return False  # `cancel` is at once

    def busy(self) -> bool:
        return bool(self.early) or self.engine.has_unfinished_requests()

    def step(self) -> list[Event]:
        if self.early:
            early, self.early = self.early, []
            return early
        return [event for output in self.engine.step() if (event := self._event(output))]

    def _event(self, output: Any) -> Event | None:
        request = self.requests.get(int(output.request_id))
        completion = output.outputs[0] if output.outputs else None
        if request is None or completion is None or not (completion.token_ids or completion.finish_reason):
            return None
        event = Event(request.request_id, list(completion.token_ids))
        event.finish = FINISH.get(completion.finish_reason, "error") if completion.finish_reason else None
        if request.logprobs and completion.logprobs is not None:
            places = list(zip(completion.token_ids, completion.logprobs, strict=False))
            event.logprobs = [place[token].logprob for token, place in places]
            event.tops = [likeliest(place, request.top) for _, place in places] if request.top else None
        if request.request_id not in self.begun:
            self.begun.add(request.request_id)
            event.cached = max(output.num_cached_tokens or 0, 0)
            self.queries += len(request.ids)
            self.hits += event.cached
        if event.finish:
            self._forget(request.request_id)
        return event

    def _forget(self, request_id: int) -> None:
        self.requests.pop(request_id, None)
        self.begun.discard(request_id)

    def score_pieces(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        yield self.score(ids, top)

    def score(self, ids: list[int], top: int) -> Scores:
        """A prefill with the prompt's log-probabilities; answers under way are stepped along with it."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=top, detokenize=False, temperature=0.0)
        self.engine.add_request(SCORED, {"prompt_token_ids": ids}, params)
        finished = None
        while finished is None:
            for output in self.engine.step():
                if output.request_id == SCORED:
                    finished = output if output.finished else None
                elif event := self._event(output):
                    self.early.append(event)
        return scores_of(finished.prompt_logprobs, ids, top)

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise NotImplementedError("a model that generates has no embeddings; serve an encoder beside it")

    def load_adapter(self, name: str, folder: str) -> None:
        if not self.settings.adapters:
            raise ValueError("vLLM reserves room for adapters at its start: name one there (--adapter)")
        from vllm.lora.request import LoRARequest

        self.numbers += 1
        request = LoRARequest(name, self.numbers, folder)
        if not self.engine.add_lora(request):
            raise ValueError(f"vLLM does not take the adapter {name!r}")
        self.adapters[name] = request

    def drop_adapter(self, name: str) -> None:
        self.engine.remove_lora(self.adapters.pop(name).lora_int_id)

    def forget_grammars(self) -> None:
        """Its cache is its own affair."""

    def idle(self, seconds: float) -> None:
        """Nothing is given back: the cache is one block, taken at the start."""

    def metrics(self) -> dict[str, float]:
        core = self.engine.engine_core.engine_core  # in this process
        return {
            "cache_usage": float(core.scheduler.kv_cache_manager.usage),
            "prefix_cache_queries": float(self.queries),
            "prefix_cache_hits": float(self.hits),
        }

    def close(self) -> None:
        self.engine.engine_core.shutdown()


# ------------------------------------------------------------------ settings


def prepare_process(settings: EngineSettings) -> None:
    """What vLLM and OpenMP read while they are imported.

    Traps: on few cores vLLM keeps one for its front end, here in another process; a core in a process of its
    own outlives a killed parent; a start on the network waits for a hub that is not asked for anything.
    """
    words = {
        "OMP_NUM_THREADS": settings.threads,
        "VLLM_CPU_NUM_OF_RESERVED_CPU": 0,
        "VLLM_ENABLE_V1_MULTIPROCESSING": 0,
        "VLLM_NO_USAGE_STATS": 1,
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": 1,
        "TOKENIZERS_PARALLELISM": "false",
    }
    os.environ.update({name: str(value) for name, value in words.items()})
    if settings.cores:
        os.sched_setaffinity(0, settings.cores)


def arguments(settings: EngineSettings) -> dict[str, Any]:
    """Of EngineArgs. The exact mode computes in f32 and compiles nothing."""
    exact = settings.mode == "exact"
    values: dict[str, Any] = {
        "model": settings.folder,
        "dtype": "float32" if exact else "bfloat16",
        "enforce_eager": exact,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        # Chunks shorter than the context are what vLLM calls chunked prefill; it is on.
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "kv_cache_memory_bytes": settings.cache_bytes,
        "enable_prefix_caching": settings.prefix_cache,
        "max_logprobs": MAX_TOP,
        "disable_log_stats": True,
    }
    if settings.adapters:
        values |= {"enable_lora": True, "max_loras": MAX_LORAS, "max_lora_rank": rank_of(settings.adapters)}
    return values


def rank_of(adapters: dict[str, str]) -> int:
    """The least rank that vLLM knows and all of them fit in. Raises ValueError where one is higher."""
    highest = max(
        orjson.loads((Path(folder) / "adapter_config.json").read_bytes())["r"] for folder in adapters.values()
    )
    fitting = [rank for rank in RANKS if rank >= highest]
    if not fitting:
        raise ValueError(f"vLLM takes adapters of rank {RANKS[-1]} at most, one has {highest}")
    return fitting[0]


def parameters(request: GenRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    constrained = None
    if request.grammar:
        kind, text = request.grammar
        constrained = StructuredOutputsParams(**{GRAMMARS[kind]: text})
    return SamplingParams(
        max_tokens=request.max_tokens,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        stop_token_ids=list(request.stop_ids),
        # Its own end tokens count only where the request names them, or a grammar has come to its end.
        ignore_eos=constrained is None,
        logprobs=request.top if request.logprobs else None,
        logit_bias=dict(request.logit_bias) or None,
        structured_outputs=constrained,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


GRAMMARS = {"json_schema": "json", "regex": "regex", "ebnf": "grammar"}


def likeliest(place: Any, top: int) -> list[tuple[int, float]]:
    """The `top` of one place; vLLM adds the chosen token where it is not among them."""
    ranked = sorted(place.items(), key=lambda item: item[1].rank)
    return [(token, entry.logprob) for token, entry in ranked if entry.rank <= top]


def scores_of(places: Any, ids: list[int], top: int) -> Scores:
    scores = Scores([], [], [])
    for token, place in zip(ids[1:], places[1:], strict=True):
        scores.logprobs.append(place[token].logprob)
        if top:
            best = likeliest(place, top)
            scores.top_ids.append([n for n, _ in best])
            scores.top_logprobs.append([logprob for _, logprob in best])
    return scores
