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
        self.routes: dict[int, Any] = {}  # by layer: what its router has picked

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

    # ------------------------------------------------------------------ mixtures of experts

    def route(self, ids: list[int]) -> Answer:
        """Counts what every router picks for these tokens."""
        if not self.routes:
            self.watch_routers()
        self.forward(ids, 1)
        return {}, None

    def routed(self) -> Answer:
        """[L, 2 + E, E] f64, of the layers named: by expert how often it was picked, the weights that it had
        then, and the weights that it had times the probability of each other expert."""
        import numpy as np

        return {"layers": list(self.routes)}, np.stack([counts.numpy() for counts in self.routes.values()])

    def watch_routers(self) -> None:
        import torch

        for name, part in self.model.named_modules():
            if isinstance(getattr(part, "experts", None), torch.nn.Module) and hasattr(part, "gate"):
                layer = next(int(word) for word in name.split(".") if word.isdecimal())
                part.gate.register_forward_hook(self.counting(layer, part.gate.weight.shape[0]))
        if not self.routes:
            raise ValueError("it has no routers")

    def counting(self, layer: int, experts: int) -> Any:
        """A hook for a router, which gives logits [T, E], weights and numbers of the picked [T, K]."""
        import torch

        counts = self.routes[layer] = torch.zeros(2 + experts, experts, dtype=torch.float64)

        def count(router: Any, inputs: Any, given: Any) -> None:
            logits, weights, picked = given
            ones, weights = torch.ones_like(weights, dtype=torch.float64), weights.double()
            counts[0].index_add_(0, picked.flatten(), ones.flatten())
            counts[1].index_add_(0, picked.flatten(), weights.flatten())
            own = torch.zeros(len(picked), experts, dtype=torch.float64).scatter_(1, picked, weights)
            counts[2:] += own.t() @ logits.double().softmax(-1)

        return count


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
