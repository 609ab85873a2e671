"""llama.cpp on the CPU, for GGUF files as they are: continuous batching over its C functions.

One KV cache for all sequences. A finished answer's part of it stays until the room is needed, and a later
prompt takes over what it shares with it. One forward pass serves one adapter; requests of others wait a step.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from ....artefact import folder_beside
from ..prefix import common_prefix
from ..protocol import EngineSettings, Event, GenRequest, Scores, kv_bytes_per_token, kv_precision, read_form
from ..sampling import Sampler, logprob_of, scores
from .lora import write_gguf
from .native import Grammar, Native

MODEL = "model.gguf"  # of a served folder
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
SOON_TOKENS = 128  # room kept free for each answer under way before another is let in
DECODE_OUTPUTS = 64  # rows of logits a pass may give; at a vocabulary of 151k 39 MB
DRIFT_TEXT = "The 12,345 €-prices aren't   listed (naïve)…\n\n\tdef f(x): return x**2 # 机器学习 🙂 Ωмега\n"


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer: its request, all its tokens, and how many of them lie in the KV cache."""

    request: GenRequest
    sampler: Sampler
    tokens: list[int]  # of the prompt and of the answer so far
    grammar: Grammar | None = None
    slot: int = -1
    held: int = 0  # tokens whose keys and values are in the cache
    cached: int | None = None  # told with the first token
    begun: bool = False

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.ids)

    @property
    def reserved(self) -> int:
        """What it holds and will soon: few answers are as long as they may be."""
        return len(self.tokens) + min(self.request.max_tokens - self.generated, SOON_TOKENS)


@dataclass(slots=True, eq=False)
class CachedSequence:
    """A finished sequence's part of the cache."""

    slot: int
    tokens: list[int]
    adapter: str | None
    salt: str = ""


class LlamaCppEngine:
    name = "llamacpp"

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, folder = settings, Path(settings.folder)
        kv = settings.kv_precision or kv_precision(read_form(folder), settings.mode)
        cells = int(settings.cache_bytes / kv_bytes_per_token(folder, kv))
        self.cells = -(-max(cells, settings.max_model_len + 64) // 256) * 256  # llama.cpp pads to 256
        self.slots = min(2 * settings.max_num_seqs, MAX_SEQUENCES)
        self.outputs = max(DECODE_OUTPUTS, self.slots)  # llama.cpp wants one a sequence
        if settings.cores:
            os.sched_setaffinity(0, settings.cores)
        self.native = Native(
            folder / MODEL, cells=self.cells, batch=settings.max_num_batched_tokens, sequences=self.slots,
            outputs=self.outputs, threads=settings.threads, kv=kv,
        )  # fmt: skip
        check_tokenizer(self.native, folder)
        self.free = list(range(self.slots))
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.cached_sequences: list[CachedSequence] = []  # the longest unused first
        self.adapters: dict[str, int] = {}
        self.active: str | None = None
        self.queries = self.hits = 0  # prompt tokens, and those found in the cache
        for name, place in settings.adapters.items():
            self.load_adapter(name, place)

    # ------------------------------------------------------------------ requests

    def add(self, request: GenRequest) -> None:
        if request.adapter is not None and request.adapter not in self.adapters:
            raise ValueError(f"no adapter {request.adapter!r} is loaded")
        grammar = self.native.grammar(*request.grammar) if request.grammar else None
        self.waiting.append(Sequence(request, Sampler(request), list(request.ids), grammar))

    def cancel(self, request_id: int) -> bool:
        begun = any(s.request.request_id == request_id for s in self.running)
        for sequence in [s for s in (*self.waiting, *self.running) if s.request.request_id == request_id]:
            self._end(sequence)
        return not begun

    def holds(self, request_id: int) -> bool:
        return False  # `cancel` is at once

    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def _end(self, sequence: Sequence) -> None:
        if sequence.grammar:
            sequence.grammar.close()
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Out of the batch; what lies in the cache stays there for later prompts."""
        self.running.remove(sequence)
        if self.settings.prefix_cache and sequence.held:
            held = sequence.tokens[: sequence.held]
            request = sequence.request
            self.cached_sequences.append(CachedSequence(sequence.slot, held, request.adapter, request.salt))
        else:
            self._release(sequence.slot)

    def _release(self, slot: int) -> None:
        self.native.forget(slot)
        self.free.append(slot)

    # ------------------------------------------------------------------ steps

    def step(self) -> list[Event]:
        """One forward pass: a token for each answer under way, and a part of the new prompts."""
        self._fit()
        events = list(self._admit())
        work = self._work()
        if not work:
            return events
        if (code := self._decode(work)) != 0:
            return [*events, *self._failed(work, code)]
        return [*events, *self._sample(work)]

    def _fit(self) -> None:
        """Where the cache is full, drop what is kept; then the last come waits again and is read anew."""
        while (
            sum(len(s.tokens) for s in self.running) + sum(len(k.tokens) for k in self.cached_sequences)
            > self.cells
        ):
            if self.cached_sequences:
                self._drop(self.cached_sequences[0])
            elif len(self.running) > 1:
                last = self.running[-1]
                self._leave(last)
                self.waiting.appendleft(last)
            else:
                return

    def _admit(self) -> Iterator[Event]:
        """Move what waits into the batch, first come first served, as far as room goes."""
        while self.waiting and len(self.running) < self.settings.max_num_seqs:
            sequence = self.waiting[0]
            if len(sequence.request.ids) + sequence.request.max_tokens > self.cells:
                self._end(sequence)
                yield Event(sequence.request.request_id, [], finish="error")
                continue
            if not self._make_room(sequence):
                return
            self.waiting.popleft()
            self.running.append(sequence)

    def _make_room(self, sequence: Sequence) -> bool:
        """Give `sequence` a slot and what the cache knows of its prompt. False: not yet."""
        best, length = self._longest_match(sequence)
        if not self._clear(sequence.reserved, best):
            return False
        self._place(sequence, best, length)
        return True

    def _clear(self, tokens: int, best: CachedSequence | Sequence | None = None) -> bool:
        """Drop kept parts until `tokens` more fit and a slot is free; `best` last: it can be taken over."""
        room = self.cells - sum(s.reserved for s in self.running) - tokens
        if room < 0:
            return False
        for sequence in [k for k in self.cached_sequences if k is not best]:
            if self.free and sum(len(k.tokens) for k in self.cached_sequences) <= room:
                return True
            self._drop(sequence)
        return True

    def _drop(self, sequence: CachedSequence) -> None:
        self.cached_sequences.remove(sequence)
        self._release(sequence.slot)

    def _place(self, sequence: Sequence, best: CachedSequence | Sequence | None, length: int) -> None:
        ids = sequence.tokens
        length = min(length, len(ids) - 1)  # the last one is read again: its logits are wanted
        if isinstance(best, CachedSequence) and (
            length >= len(best.tokens) - 1 or not self._both_fit(sequence)
        ):
            self.cached_sequences.remove(best)  # a chat goes on where it was left
            slot = best.slot
            self.native.forget(slot, length)
        else:
            slot = self.free.pop()
            if best is not None and length:
                self.native.share(best.slot, slot, length)
            if isinstance(best, CachedSequence):
                self.cached_sequences.append(self.cached_sequences.pop(self.cached_sequences.index(best)))
        sequence.slot, sequence.held = slot, length
        if not sequence.begun:  # one sent back has been counted
            sequence.begun, sequence.cached = True, length
            self.queries += len(ids)
            self.hits += length

    def _both_fit(self, sequence: Sequence) -> bool:
        taken = sum(s.reserved for s in self.running) + sum(len(k.tokens) for k in self.cached_sequences)
        return bool(self.free) and taken + sequence.reserved <= self.cells

    def _longest_match(self, sequence: Sequence) -> tuple[CachedSequence | Sequence | None, int]:
        """Whose part of the cache begins as these tokens do, and for how many; of the same salt alone."""
        best: CachedSequence | Sequence | None = None
        length = 0
        if not self.settings.prefix_cache:
            return best, length
        adapter, salt = sequence.request.adapter, sequence.request.salt
        places: list[tuple[CachedSequence | Sequence, list[int]]] = [
            *((k, k.tokens) for k in self.cached_sequences if (k.adapter, k.salt) == (adapter, salt)),
            *(
                (s, s.tokens[: s.held])
                for s in self.running
                if (s.request.adapter, s.request.salt) == (adapter, salt)
            ),
        ]
        for place, tokens in places:
            if (n := common_prefix(tokens, sequence.tokens)) > length:
                best, length = place, n
        return best, length

    def _work(self) -> list[tuple[Sequence, int]]:
        """Who reads how many tokens in this pass: those that write come first, then prompts in parts."""
        if not self.running:
            return []
        adapter = self._turn()
        room = self.settings.max_num_batched_tokens
        work = []
        for sequence in sorted(self.running, key=lambda s: len(s.tokens) - s.held > 1):
            if sequence.request.adapter == adapter and room > 0:
                n = min(len(sequence.tokens) - sequence.held, room)
                work.append((sequence, n))
                room -= n
        return work

    def _turn(self) -> str | None:
        """The adapter of this pass: each in its turn, the one of the last pass last."""
        wanted = list(dict.fromkeys(s.request.adapter for s in self.running))
        after = wanted.index(self.active) + 1 if self.active in wanted else 0
        chosen = wanted[after % len(wanted)]
        if chosen != self.active:
            self.native.use_adapter(self.adapters[chosen] if chosen else None)
            self.active = chosen
        return chosen

    def _decode(self, work: list[tuple[Sequence, int]]) -> int:
        tokens: list[int] = []
        places: list[int] = []
        slots: list[int] = []
        out: list[int] = []
        for sequence, n in work:
            end = sequence.held + n
            tokens += sequence.tokens[sequence.held : end]
            places += range(sequence.held, end)
            slots += [sequence.slot] * n
            out += [0] * (n - 1) + [int(end == len(sequence.tokens))]
        return self.native.decode(tokens, places, slots, out)

    def _failed(self, work: list[tuple[Sequence, int]], code: int) -> list[Event]:
        """A pass that llama.cpp refused: give up its last-come request, so that the others go on."""
        victim = work[-1][0]
        print(
            orjson.dumps({"event": "llamacpp.decode_failed", "code": code}).decode(),
            file=sys.stderr,
            flush=True,
        )
        self._end(victim)
        self._forget_cached()
        return [Event(victim.request.request_id, [], finish="error")]

    def _forget_cached(self) -> None:
        for sequence in list(self.cached_sequences):
            self._drop(sequence)

    # ------------------------------------------------------------------ tokens

    def _sample(self, work: list[tuple[Sequence, int]]) -> list[Event]:
        done = []
        for sequence, n in work:
            sequence.held += n
            if sequence.held == len(sequence.tokens):
                done.append(sequence)
        rows = self.native.logits(len(done)) if done else ()
        return [self._token(sequence, row) for sequence, row in zip(done, rows, strict=True)]

    def _token(self, sequence: Sequence, row: np.ndarray) -> Event:
        request = sequence.request
        token = self._chosen(sequence, row)
        sequence.tokens.append(token)
        event = Event(request.request_id, [token], cached=sequence.cached)
        sequence.cached = None
        if request.logprobs:
            logprob, tops = logprob_of(row, token, request.top)
            event.logprobs, event.tops = [logprob], [tops] if request.top else None
        event.finish = self._finish(sequence, token)
        if event.finish:
            self._end(sequence)
        return event

    def _chosen(self, sequence: Sequence, row: np.ndarray) -> int:
        grammar, greedy = sequence.grammar, sequence.request.temperature <= 0
        if grammar is None:
            return sequence.sampler.choose(row)

        def allow(shaped: np.ndarray) -> np.ndarray:
            # The likeliest is allowed in most places, and looking at one token is 10,000 times cheaper.
            return shaped if greedy and grammar.permits(int(shaped.argmax())) else grammar.allow(shaped)

        token = sequence.sampler.choose(row, allow)
        grammar.accept(token)
        return token

    def _finish(self, sequence: Sequence, token: int) -> str | None:
        request = sequence.request
        if token in request.stop_ids:
            return "stop"
        if sequence.grammar and self.native.ends(token):
            return "stop"  # the grammar is complete; nothing can follow
        return "length" if sequence.generated >= request.max_tokens else None

    # ------------------------------------------------------------------ the rest of the protocol

    def score_pieces(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        yield self.score(ids, top)

    def score(self, ids: list[int], top: int) -> Scores:
        """Teacher-forced, without adapter, in a slot of its own. RuntimeError where the cache is full."""
        if not self._clear(len(ids)):
            raise RuntimeError("the KV cache is full: ask again when fewer answers are under way")
        slot = self.free.pop()
        self.native.use_adapter(None)
        self.active = None
        result = Scores([], [], [])
        try:
            for start in range(0, len(ids) - 1, self.outputs):
                end = min(start + self.outputs, len(ids) - 1)
                n = end - start
                if self.native.decode(ids[start:end], range(start, end), [slot] * n, [1] * n):
                    raise RuntimeError("the KV cache is full: ask again when fewer answers are under way")
                own, best, theirs = scores(self.native.logits(n), ids[start + 1 : end + 1], top)
                result.logprobs += own
                result.top_ids += best
                result.top_logprobs += theirs
        finally:
            self._release(slot)
        return result

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise NotImplementedError("a model that generates has no embeddings; serve an encoder beside it")

    def load_adapter(self, name: str, folder: str) -> None:
        """A PEFT LoRA folder, translated to GGUF on the way. Raises ValueError where it does not fit."""
        with folder_beside(Path(folder)) as place:
            file = place / "adapter.gguf"
            write_gguf(Path(folder), Path(self.settings.folder), file)
            handle = self.native.load_adapter(file)
        if name in self.adapters:
            self.drop_adapter(name)
        self.adapters[name] = handle

    def drop_adapter(self, name: str) -> None:
        """Its answers under way end with an error when next stepped; new ones are refused."""
        handle = self.adapters.pop(name)
        if any(s.request.adapter == name for s in (*self.running, *self.waiting)):
            self.adapters[name] = handle
            raise ValueError(f"answers with the adapter {name!r} are under way")
        for sequence in [k for k in self.cached_sequences if k.adapter == name]:
            self._drop(sequence)
        if self.active == name:
            self.native.use_adapter(None)
            self.active = None
        self.native.lib.llama_adapter_lora_free(handle)

    def forget_grammars(self) -> None:
        """Each answer reads its own."""

    def idle(self, seconds: float) -> None:
        """Nothing is given back: the cache is one block, taken at the start."""

    def metrics(self) -> dict[str, float]:
        used = sum(s.held for s in self.running)
        return {
            "cache_usage": used / self.cells,
            "prefix_cache_queries": float(self.queries),
            "prefix_cache_hits": float(self.hits),
        }

    def close(self) -> None:
        self.native.close()


def check_tokenizer(native: Native, folder: Path) -> None:
    """Do ids mean the same to the file's vocabulary and to tokenizer.json? Raises ValueError where not.

    How llama.cpp would cut a text itself matters to nobody here; where it differs, the log says so.
    """
    from ....model import Tokenizer

    began = time.perf_counter()
    tokenizer = Tokenizer(folder)
    for n in range(min(native.vocab_size, tokenizer.vocab_size)):
        ours = tokenizer.token_of(n)
        if ours is not None and ours != (theirs := native.piece(n)):
            raise ValueError(f"token {n} is {theirs!r} in the GGUF file and {ours!r} in tokenizer.json")
    ours_ids, their_ids = tokenizer.encode(DRIFT_TEXT), native.tokenize(DRIFT_TEXT)
    word = {
        "event": "llamacpp.tokenizer", "same_ids": ours_ids == their_ids, "ours": len(ours_ids),
        "theirs": len(their_ids), "seconds": round(time.perf_counter() - began, 3),
    }  # fmt: skip
    print(orjson.dumps(word).decode(), file=sys.stderr, flush=True)
