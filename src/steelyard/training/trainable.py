"""What is trained, as one flat float32 vector: LoRA factors or every weight.

The vector (`master`) and its gradient are contiguous, so that clipping, AdamW and a checkpoint are a few
calls whatever the model.

    network (bf16 or f32)  --backward-->  its gradients  --pull-->  grad [P]
           ^                                                          | clip, AdamW with m [P] and v [P]
           +------------------------- push ----------------------- master [P]

    master = | matrix | matrix | ... | norm | bias | ... |     decay acts on the first `decayed` elements

`anchor` is a scalar that asks for a gradient, so that autograd runs the backward passes of weights that it
does not know as leaves. A checkpoint is master, m and v, with the names and shapes of the pieces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from steelyard.errors import Where, WrongUse
from steelyard.model import Dropout, Fp8, load, read_factors, save, write_peft

COMPUTE = {"bf16": torch.bfloat16, "f32": torch.float32}
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW


Layout = list[tuple[str, list[int]]]


class Trainable(Protocol):
    master: Tensor  # float32 [P]
    grad: Tensor  # float32 [P]
    decayed: int  # the first elements, on which weight decay acts: norms and biases stand behind them

    def layout(self) -> Layout: ...

    def pull(self) -> None: ...
    def push(self) -> None: ...
    def write(self, folder: Path, base: Path) -> None: ...
    def write_checkpoint(self, folder: Path, base: Path) -> None: ...


def trainable(
    base: Path, settings: Mapping[str, Any], kind: Callable[[Any, Mapping[str, Any]], Trainable] | None = None
) -> tuple[Any, Trainable]:
    """The network of a folder, ready for the finetuning_type of the settings, and what is trained of it: a
    `kind` of its own where given."""
    lora = settings["finetuning_type"] == "lora"
    network = load(base, "bfloat16" if lora and settings["dtype"] == "bf16" else "float32")
    if settings.get("train_from_scratch"):
        forget(network, json.loads((base / "config.json").read_bytes()), settings["seed"])
    network.anchor = torch.zeros((), requires_grad=True)
    network.fp8 = _in_fp8(network) if settings.get("fp8") else None
    network.recomputes = bool(settings.get("gradient_checkpointing"))
    return network, (kind or (Lora if lora else Full))(network, settings)


def forget(network: Any, config: Mapping[str, Any], seed: int) -> None:
    """Random weights in place of the base's, as transformers begins: matrices normal with the configuration's
    `initializer_range`, norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for owner, name in network.weights():
        weight = getattr(owner, name)
        if weight.ndim > 1:
            weight.data.normal_(0.0, config.get("initializer_range", 0.02), generator=generator)
        else:
            weight.data.fill_(0.0 if name == "bias" else 1.0)


def _in_fp8(network: Any) -> Fp8:
    """Every matrix of the layers; head and embedding stay as they are."""
    layers = list(network.linears())
    state = Fp8(len(layers))
    for number, layer in enumerate(layers):
        layer.fp8 = (state, number)
    return state


class Lora:
    """Factors A (uniform, as in PEFT) and B (zero), `lora_rank` each, on every matrix of the layers, or on
    those that target_modules names: of a matrix that stacks several, those of them that are named."""

    def __init__(self, network: Any, settings: Mapping[str, Any]) -> None:
        self.network = network
        self.rank: int = settings["lora_rank"]
        self.alpha: float = settings["lora_alpha"]
        self.scale = self.alpha / self.rank
        self.targets = tuple(settings.get("target_modules") or ())
        self.layers = [layer for layer in network.linears() if self._chosen(layer)]
        self._named_must_exist(network)
        self.dropout: float = settings.get("lora_dropout") or 0.0
        sizes = [self._sizes(layer) for layer in self.layers]
        self.master = torch.zeros(sum(a + b for a, b in sizes))
        self.grad = torch.zeros_like(self.master)
        self.decayed = self.master.numel()
        self._views = _cut(self.master, sizes)
        self._grads = _cut(self.grad, sizes)
        self._start(settings)
        self._attach()
        self.push()

    def _chosen(self, layer: Any) -> list[tuple[str, slice]]:
        """Of the model's own matrices in this one, those that get factors, and which rows are theirs."""
        ends = list(accumulate(rows for _, rows in layer.parts))
        places = [(name, slice(end - rows, end)) for (name, rows), end in zip(layer.parts, ends, strict=True)]
        return [(n, rows) for n, rows in places if not self.targets or n.rpartition(".")[2] in self.targets]

    def _named_must_exist(self, network: Any) -> None:
        own = {name.rpartition(".")[2] for layer in network.linears() for name, _ in layer.parts}
        if unknown := [name for name in self.targets if name not in own]:
            raise WrongUse(
                "train.target_modules",
                f"the model's layers have no matrix {unknown[0]}",
                where=Where(field="train.target_modules"),
                hint=f"of {', '.join(sorted(own))}; all-linear takes them all",
            )

    def _sizes(self, layer: Any) -> tuple[int, int]:
        chosen = self._chosen(layer)
        rows = sum(place.stop - place.start for _, place in chosen)
        return len(chosen) * self.rank * layer.weight.shape[1], rows * self.rank

    def _start(self, settings: Mapping[str, Any]) -> None:
        """At random, or where an adapter stands that is gone on from."""
        if "adapter" in settings:
            begun = read_factors(Path(settings["adapter"]))
            for name, pair in self.factors().items():
                for factor, value in zip(pair, begun[name], strict=True):
                    factor.copy_(value)
            return
        generator = torch.Generator().manual_seed(settings["seed"])
        for layer, (a, _) in zip(self.layers, self._views, strict=True):
            bound = 1 / math.sqrt(layer.weight.shape[1])
            a.uniform_(-bound, bound, generator=generator)

    def _attach(self) -> None:
        for number, (layer, (a_grad, _)) in enumerate(zip(self.layers, self._grads, strict=True)):
            rows, columns = layer.weight.shape
            stacked = len(self._chosen(layer)) * self.rank
            dtype = layer.weight.dtype
            layer.adapt(
                torch.empty(stacked, columns, dtype=dtype),
                torch.zeros(rows, stacked, dtype=dtype),
                a_grad.view(stacked, columns),
                torch.zeros(rows, stacked),
                Dropout(self.dropout, number, self.network.chance) if self.dropout else None,
            )
            layer.anchor = self.network.anchor

    def pull(self) -> None:
        for layer, (_, b_grad) in zip(self.layers, self._grads, strict=True):
            for place, block in self._blocks(layer, b_grad):
                torch.mul(layer.adapter.b_grad[place], self.scale, out=block)
            layer.adapter.b_grad.zero_()

    def push(self) -> None:
        for layer, (a, b) in zip(self.layers, self._views, strict=True):
            layer.adapter.a.copy_(a.view(layer.adapter.a.shape))
            for place, block in self._blocks(layer, b):
                layer.adapter.b[place] = block * self.scale

    def _blocks(self, layer: Any, b: Tensor) -> list[tuple[tuple[slice, slice], Tensor]]:
        """Where each part's B [rows, r] stands in the stacked matrix, and its values in the vector."""
        blocks, start = [], 0
        rows_of = b.view(-1, self.rank)
        for part, (_, rows) in enumerate(self._chosen(layer)):
            stop = start + rows.stop - rows.start
            blocks.append(((rows, slice(part * self.rank, (part + 1) * self.rank)), rows_of[start:stop]))
            start = stop
        return blocks

    def layout(self) -> Layout:
        """Name and shape of every piece of the vector, in order."""
        return [
            ("+".join(name for name, _ in self._chosen(layer)), [a, b, self.rank])
            for layer in self.layers
            for a, b in [self._sizes(layer)]
        ]

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A [r, in], B [out, r]) by the name of the model's own matrix."""
        factors = {}
        for layer, (a, b) in zip(self.layers, self._views, strict=True):
            chosen = self._chosen(layer)
            stacked = a.view(len(chosen), self.rank, -1)
            for (name, _), own, (_, block) in zip(chosen, stacked, self._blocks(layer, b), strict=True):
                factors[name] = (own, block)
        return factors

    def write(self, folder: Path, base: Path) -> None:
        """The merged model, and the adapter alone in PEFT's format."""
        factors = self.factors()

        def delta(name: str) -> Tensor | None:
            pair = factors.get(name.removesuffix(".weight"))
            return None if pair is None else (pair[1] @ pair[0]).mul_(self.scale)

        save(self.network, folder, base, "bfloat16", delta)
        self.write_checkpoint(folder / "adapter", base)

    def write_checkpoint(self, folder: Path, base: Path) -> None:
        """The adapter alone, in PEFT's format."""
        write_peft(folder, self.factors(), self.rank, self.alpha, self.dropout)


def _cut(flat: Tensor, sizes: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    pieces = flat.split([n for pair in sizes for n in pair])
    return list(zip(pieces[::2], pieces[1::2], strict=True))


class Full:
    """Every weight: float32 masters from the base's own values, and copies in the compute dtype.

    Masters made from copies in bfloat16 would lose the first updates. Norms and biases stand at the end: like
    in transformers' Trainer, weight decay leaves them alone.
    """

    def __init__(self, network: Any, settings: Mapping[str, Any]) -> None:
        self.network = network
        weights = [(owner, name, getattr(owner, name)) for owner, name in network.weights()]
        self.weights = sorted(weights, key=lambda w: w[2].ndim < 2)  # stable: matrices first, as they came
        sizes = [weight.numel() for _, _, weight in self.weights]
        self.decayed = sum(weight.numel() for _, _, weight in self.weights if weight.ndim >= 2)
        self.master = torch.empty(sum(sizes))
        self.grad = torch.zeros_like(self.master)
        self._views: list[Tensor] = []
        dtype = COMPUTE[settings["dtype"]]
        for piece, slope, (owner, name, weight) in zip(
            self.master.split(sizes), self.grad.split(sizes), self.weights, strict=True
        ):
            view = piece.view(weight.shape)
            view.copy_(weight)
            weight.data = view.to(dtype)  # the master itself where the run computes in float32
            setattr(owner, f"{name}_grad", slope.view(weight.shape))
            owner.anchor = network.anchor
            self._views.append(view)

    def layout(self) -> Layout:
        """Name and shape of every piece of the vector, in order."""
        return [
            (f"{type(owner).__name__}.{name}", list(weight.shape)) for owner, name, weight in self.weights
        ]

    def pull(self) -> None:
        """Gradients are added into the vector itself."""

    def push(self) -> None:
        for view, (_, _, weight) in zip(self._views, self.weights, strict=True):
            if weight.dtype != torch.float32:
                weight.data.copy_(view)

    def write_checkpoint(self, folder: Path, base: Path) -> None:
        """As it stands."""
        folder.mkdir()
        self.write(folder, base)

    def write(self, folder: Path, base: Path) -> None:
        """The trained model, rounded once."""
        for view, (_, _, weight) in zip(self._views, self.weights, strict=True):
            weight.data = view
        save(self.network, folder, base, "bfloat16")


class AdamW:
    """AdamW over parts of the vector, by the fused kernel that torch.optim.AdamW calls: equal to the bit.

    Not by that class: its first use loads torch's compiler, 1.4 s of a core at the start of each training.
    `step()` updates `master` in place, from `grad`, both [P]; `moments` are m and v, [P] each.

    `decays`: (part, weight decay) for parts that together are the whole. `rate` is the learning rate.
    """

    def __init__(
        self,
        master: Tensor,
        grad: Tensor,
        moments: tuple[Tensor, Tensor],
        decays: Sequence[tuple[slice, float]],
    ) -> None:
        self.rate = 0.0
        self.parts = [
            ([vector[part] for vector in (master, grad, *moments)], decay)
            for part, decay in decays
            if master[part].numel()
        ]
        self.begin_at(0)

    def begin_at(self, step: int) -> None:
        """So many steps are behind: the moments' bias is corrected by their count."""
        self.counts = [torch.tensor(float(step)) for _ in self.parts]

    @torch.no_grad()
    def step(self) -> None:
        for (weights, grad, m, v), decay, count in (
            (*part, count) for part, count in zip(self.parts, self.counts, strict=True)
        ):
            adamw(
                [weights], [grad], [m], [v], [], [count], fused=True, amsgrad=False, beta1=BETAS[0],
                beta2=BETAS[1], lr=self.rate, weight_decay=decay, eps=EPS, maximize=False,
            )  # fmt: skip
