"""The child of a TransformersNetwork: `PYTHON -I child.py FD PARENT`. Imports nothing of steelyard.

A question is a JSON object with an "op"; its answer is one too, with the bytes of an array behind it where
it says "shape". Each sequence has a cache of its own and is computed by itself: no padding, and no other
sequence, enters what it is answered.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

CACHES = ("cache", "past_key_values", "cache_params")  # keys, values and states, by family and release
Answer = tuple[dict[str, Any], Any]  # and an array, or None


def die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


class Network:
    """One model, and the caches of the sequences under way."""

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if threads:
            torch.set_num_threads(threads)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
        self.words = inspect.signature(self.model.forward).parameters
        self.caches: dict[int, tuple[str, Any]] = {}
        self.ids: dict[int, list[int]] = {}  # of sequences whose family gives no cache: all is read again

    def forward(self, ids: list[int], keep: int, slot: int | None = None) -> Any:
        """[keep, V] f32: the logits of the last `keep` of `ids`, which follow what the slot's cache holds."""
        import torch

        more: dict[str, Any] = {"logits_to_keep": keep} if "logits_to_keep" in self.words else {}
        if slot in self.caches:
            name, cache = self.caches[slot]
            more[name] = cache
        out = self.model(input_ids=torch.tensor([ids]), use_cache=slot is not None, **more)
        if slot is not None:
            self.remember(slot, out)
        return out.logits[0, -keep:].float()

    def remember(self, slot: int, out: Any) -> None:
        name = next((n for n in CACHES if n in self.words and out.get(n) is not None), None)
        if name:
            self.caches[slot] = name, out[name]

    # ------------------------------------------------------------------ questions

    def prefill(self, slot: int, ids: list[int]) -> Answer:
        """[1, V]"""
        logits = self.forward(ids, 1, slot)
        if slot not in self.caches:
            self.ids[slot] = list(ids)
        return {}, logits.numpy()

    def decode(self, slots: list[int], ids: list[int]) -> Answer:
        """[N, V]: a token more for each."""
        import numpy as np

        return {}, np.concatenate([self.further(slot, token) for slot, token in zip(slots, ids, strict=True)])

    def further(self, slot: int, token: int) -> Any:
        if slot in self.caches:
            return self.forward([token], 1, slot).numpy()
        self.ids[slot].append(token)
        return self.forward(self.ids[slot], 1).numpy()

    def drop(self, slot: int) -> Answer:
        self.caches.pop(slot, None)
        self.ids.pop(slot, None)
        return {}, None

    def score(self, ids: list[int], top: int) -> Answer:
        """Log-probabilities of ids[1:], and the `top` likeliest at each place."""
        import torch

        logprobs = torch.log_softmax(self.forward(ids, len(ids))[:-1], -1)
        own = logprobs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        best = logprobs.topk(min(top, logprobs.shape[-1]), -1)
        likeliest = {"top_ids": best.indices.tolist(), "top_logprobs": best.values.tolist()}
        return {"logprobs": own} | (likeliest if top else {"top_ids": [], "top_logprobs": []}), None

    def teach(self, prompt: list[int], answer: list[int]) -> Answer:
        """[T + 1, 4] f64 as the gate's references have it: log-probability of answer[i], the likeliest id,
        its own log-probability, the probability of what is likelier than answer[i]."""
        import numpy as np
        import torch

        logprobs = torch.log_softmax(self.forward([*prompt, *answer], len(answer) + 1), -1)
        array, top = np.zeros((len(answer) + 1, 4)), logprobs.max(-1)
        array[:, 1], array[:, 2] = top.indices.numpy(), top.values.numpy()
        if answer:
            given = logprobs[:-1]
            picked = given.gather(-1, torch.tensor(answer)[:, None])
            array[:-1, 0] = picked[:, 0].numpy()
            array[:-1, 3] = given.exp().masked_fill_(~(given > picked), 0).sum(-1).numpy()
        return {}, array


def send(line: Connection, message: dict[str, Any], array: Any = None) -> None:
    told = {} if array is None else {"shape": list(array.shape), "type": str(array.dtype)}
    line.send_bytes(json.dumps(message | told).encode())
    if array is not None:
        line.send_bytes(array.tobytes())


def failed(error: Exception) -> dict[str, Any]:
    words = str(error)
    lacks = isinstance(error, MemoryError) or any(w in words.lower() for w in ("out of memory", "allocate"))
    return {"failed": f"{type(error).__name__}: {words}"[:400], "memory": lacks}


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = Connection(int(sys.argv[1]))
    network: Network | None = None
    while True:
        try:
            question = json.loads(line.recv_bytes())
        except EOFError:
            return
        op = question.pop("op")
        try:
            if network is None:
                network = Network(**question)
                send(line, {"parameters": sum(p.numel() for p in network.model.parameters())})
                continue
            import torch

            with torch.inference_mode():
                answer = getattr(network, op)(**question)
            send(line, *answer)
        except Exception as error:  # one bad question must not end it
            send(line, failed(error))


if __name__ == "__main__":
    main()
