"""The network of a dense decoder, from a Hugging Face folder and back.

One class for all families that have a file in families/: what differs stands in their `Decoder`. Query, key
and value are one matrix here, gate and up another; `load` joins them, `save` splits them. In float32 the
logits equal Hugging Face's within 1e-4. The head is apart (`logits`), so that it runs only where it counts.

Not here: generation (serving), adapters' training (training).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from steelyard.errors import Where, WrongUse
from steelyard.shape import shards

from .companions import copy_companions
from .decoder import read_decoder
from .families import FAMILIES, Decoder
from .fp8 import Fp8
from .frequencies import attention_factor, inverse_frequencies
from .kernels import Chance, Layout, Linear, Norm, attention, rope, swiglu
from .weights import write_each

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # in safetensors' words
FLOATS = (*DTYPES.values(), torch.float64)


class Block(nn.Module):
    """One decoder layer on flat tokens [T, H]."""

    def __init__(self, decoder: Decoder, layer: int, get: Reader) -> None:
        super().__init__()
        names, at = decoder.names, decoder.names.layer.format(layer)
        self.config = decoder
        self.window = decoder.windows[layer]
        self.input_norm = get.norm(at + names.attention_norm)
        self.qkv = get.linear((at + names.query, at + names.key, at + names.value))
        self.o = get.linear((at + names.output,))
        self.q_norm = get.norm(at + names.query_norm) if decoder.head_norms else None
        self.k_norm = get.norm(at + names.key_norm) if decoder.head_norms else None
        self.post_norm = get.norm(at + names.mlp_norm)
        self.gate_up = get.linear((at + names.gate, at + names.up))
        self.down = get.linear((at + names.down,))
        self.sizes = (decoder.heads + decoder.kv_heads, decoder.kv_heads)
        if self.qkv.weight.shape[0] != sum(self.sizes) * decoder.head_dim:
            raise WrongUse("model.shape", f"{at}*: the matrices do not match config.json")

    def linears(self) -> Iterator[Linear]:
        """Its matrices, in the order of their use."""
        return (module for module in self.modules() if isinstance(module, Linear))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout, keep: Tensor | None = None
    ) -> Tensor:
        """x [T, H] float32 -> [T, H]; with `keep` only those tokens go on after attention."""
        config = self.config
        heads = self.qkv(self.input_norm(x)).view(x.shape[0], -1, config.head_dim)
        qk, v = heads.split(self.sizes, dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((config.heads, config.kv_heads), dim=1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        q, k = rope(qk, cos, sin).split((config.heads, config.kv_heads), dim=1)
        attended = attention(q, k, v, layout, self.window)
        if keep is not None:
            x, attended = x.index_select(0, keep), attended.index_select(0, keep)
        x = x + self.o(attended)
        # In place: no kernel keeps x for its gradient. The layer's own input above is left as it came.
        return x.add_(self.down(self.gated(self.gate_up(self.post_norm(x)))))

    def gated(self, gate_up: Tensor) -> Tensor:
        """[T, 2F] -> [T, F], the MLP between its matrices."""
        return swiglu(gate_up)


class Network(nn.Module):
    """A decoder. `forward` gives the last norm's output, `logits` the scores over the vocabulary."""

    def __init__(self, decoder: Decoder, get: Reader) -> None:
        super().__init__()
        self.config, names = decoder, decoder.names
        layer = FAMILIES[decoder.family].layer
        block = Block if layer is None else layer()
        self.embed = nn.Parameter(get.tensor(f"{names.embedding}.weight"), requires_grad=False)  # [V, H]
        self.layers = nn.ModuleList(block(decoder, i, get) for i in range(decoder.layers))
        self.norm = get.norm(names.norm)
        head = None if decoder.tied else get.tensor(f"{names.head}.weight")
        self.head = None if head is None else nn.Parameter(head, requires_grad=False)
        self.embed_grad: Tensor | None = None  # float32 [V, H] where the embedding is trained
        self.head_grad: Tensor | None = None
        self.anchor: Tensor | None = None
        self.chance = Chance()
        self.fp8: Fp8 | None = None  # the state of products in FP8
        self.recomputes = False  # a layer's inner values in the backward pass: memory for time
        self.inv_freq = _inverse_frequencies(decoder)
        self.rope_factor = attention_factor(decoder.rope)

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        """ids, positions, segments [B, T] -> hidden [B, T, H].

        Tokens see earlier tokens of their own segment in their own row; segments None: the whole row is one.
        """
        batch, length = ids.shape
        lengths = [length] * batch if segments is None else segment_lengths(segments)
        hidden = self.flat(ids.reshape(-1), positions.reshape(-1), self.layout(lengths))
        return hidden.view(batch, length, -1)

    def flat(self, ids: Tensor, positions: Tensor, layout: Layout, keep: Tensor | None = None) -> Tensor:
        """The same on flat tokens [T] -> [T, H], or [N, H] of the N tokens in `keep`.

        The residual stream is float32 whatever the matrices are: in bf16 it would lose what each layer adds.
        """
        dtype = self.embed.dtype
        cos, sin = (turn.to(dtype) for turn in self.turns(positions))
        x = self._embedded(ids)
        for layer in self.layers[:-1]:
            x = self._through(layer, x, cos, sin, layout)
        return self.norm(self._through(self.layers[-1], x, cos, sin, layout, keep))

    def _through(self, layer: nn.Module, *inputs: Any) -> Tensor:
        if not (self.recomputes and torch.is_grad_enabled()):
            return layer(*inputs)
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of each position, [T, 1, D/2] float32."""
        angle = positions[:, None, None].float() * self.inv_freq
        return angle.cos() * self.rope_factor, angle.sin() * self.rope_factor

    def layout(self, lengths: list[int]) -> Layout:
        """The attention layout of consecutive segments with these lengths, for `flat`."""
        return Layout.of(lengths, self.config.heads, self.config.kv_heads)

    def _embedded(self, ids: Tensor) -> Tensor:
        if self.embed_grad is not None and torch.is_grad_enabled():
            return _Embed.apply(self.anchor, self, ids)
        return F.embedding(ids, self.embed).float()

    @property
    def output(self) -> Tensor:
        """The head's matrix [V, H]; the embedding itself where they are tied."""
        return self.embed if self.head is None else self.head

    @property
    def output_grad(self) -> Tensor | None:
        """Where the gradient of the head's matrix is added, if it is trained."""
        return self.embed_grad if self.head is None else self.head_grad

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., H] -> scores [..., V] in the network's dtype."""
        return F.linear(hidden, self.output)

    def linears(self) -> Iterator[Linear]:
        """Every matrix of the layers, bottom up."""
        for module in self.layers.modules():
            if isinstance(module, Linear):
                yield module

    def weights(self) -> Iterator[tuple[nn.Module, str]]:
        """Every matrix, bias and norm as (module, attribute); its gradient buffer is `<attribute>_grad`."""
        yield self, "embed"
        for module in self.modules():
            if isinstance(module, Linear | Norm):
                yield module, "weight"
            if isinstance(module, Linear) and module.bias is not None:
                yield module, "bias"
        if self.head is not None:
            yield self, "head"

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its name in a Hugging Face checkpoint, split into the models' own matrices."""
        names = self.config.names
        yield f"{names.embedding}.weight", self.embed
        for module in self.layers.modules():
            if isinstance(module, Norm):
                yield module.name, module.weight
            elif isinstance(module, Linear):
                yield from _split(module)
        yield self.norm.name, self.norm.weight
        if self.head is not None:
            yield f"{names.head}.weight", self.head


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, network: Network, ids: Tensor) -> Tensor:
        ctx.network = network
        ctx.save_for_backward(ids)
        return F.embedding(ids, network.embed).float()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, None, None]:
        ctx.network.embed_grad.index_add_(0, ctx.saved_tensors[0], dy.float())
        return None, None, None


def _split(layer: Linear) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for name, rows in layer.parts:
        yield f"{name}.weight", layer.weight[start : start + rows]
        if layer.bias is not None:
            yield f"{name}.bias", layer.bias[start : start + rows]
        start += rows


def segment_lengths(segments: Tensor) -> list[int]:
    """Lengths of the runs of equal numbers in [B, T], row by row."""
    new = torch.ones_like(segments, dtype=torch.bool)
    new[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = torch.nonzero(new.reshape(-1)).reshape(-1)
    ends = torch.cat((starts[1:], torch.tensor([segments.numel()])))
    return (ends - starts).tolist()


def _inverse_frequencies(config: Decoder) -> Tensor:
    """[D/2] float32, computed in float32 for the default and llama3 as transformers does, bit for bit."""
    rope = config.rope
    if rope["rope_type"] in ("linear", "yarn"):
        return torch.from_numpy(inverse_frequencies(rope, config.head_dim)).float()
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequency = 1.0 / (rope["rope_theta"] ** exponent)
    if rope["rope_type"] != "llama3":
        return frequency
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    share = ((smooth - low) / (high - low)).clamp(0, 1)
    return (1 - share) * frequency / rope["factor"] + share * frequency


class Reader:
    """Tensors of a safetensors folder by name, in one dtype."""

    def __init__(self, folder: Path, eps: float, dtype: torch.dtype) -> None:
        self.folder, self.eps, self.dtype = folder, eps, dtype
        self.where = weight_files(folder)

    def find(self, name: str) -> Tensor | None:
        if name not in self.where:
            return None
        tensor = self.where[name].get_tensor(name)
        if tensor.dtype not in FLOATS:
            raise WrongUse(
                "model.dtype", f"{name} is stored as {tensor.dtype}", where=Where(str(self.folder)),
                why="its numbers mean nothing without the scales beside it",
                hint="use the checkpoint in BF16 that this one was made from",
            )  # fmt: skip
        return tensor.to(self.dtype)

    def tensor(self, name: str) -> Tensor:
        tensor = self.find(name)
        if tensor is None:
            raise WrongUse("model.weights", f"the weights lack {name}", where=Where(str(self.folder)))
        return tensor

    def norm(self, name: str) -> Norm:
        return Norm(self.tensor(f"{name}.weight"), self.eps, f"{name}.weight")

    def linear(self, names: tuple[str, ...]) -> Linear:
        weights = [self.tensor(f"{name}.weight") for name in names]
        biases = [self.find(f"{name}.bias") for name in names]
        present = [bias for bias in biases if bias is not None]
        if present and len(present) != len(biases):  # one matrix here, so a missing bias is a zero one
            biases = [self._zeros(w) if b is None else b for b, w in zip(biases, weights, strict=True)]
            present = [bias for bias in biases if bias is not None]
        parts = tuple((name, weight.shape[0]) for name, weight in zip(names, weights, strict=True))
        return Linear(_joined(weights), _joined(present) if present else None, parts)

    def _zeros(self, weight: Tensor) -> Tensor:
        return torch.zeros(weight.shape[0], dtype=self.dtype)


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def weight_files(folder: Path) -> dict[str, Any]:
    """Each tensor's name and the open safetensors file that holds it. Raises WrongUse."""
    from safetensors import SafetensorError, safe_open

    where: dict[str, Any] = {}
    for path in shards(folder):
        try:
            handle = safe_open(path, framework="pt")
        except SafetensorError as e:
            raise WrongUse(
                "model.half_written",
                f"{path.name} is not a whole safetensors file: {e}",
                where=Where(str(path)),
                hint="fetch the model again",
            ) from e
        where.update({name: handle for name in handle.keys()})  # noqa: SIM118 - not a dict
    if not where:
        raise WrongUse(
            "model.no_weights",
            "no *.safetensors in the model's folder",
            where=Where(str(folder)),
            hint="fetch the model again, or point at a folder in Hugging Face format",
        )
    return where


def load(folder: Path, dtype: str = "float32") -> Network:
    """The network of a Hugging Face folder, frozen; dtype float32 or bfloat16. Raises WrongUse."""
    folder = Path(folder)
    decoder = read_decoder(folder)
    return Network(decoder, Reader(folder, decoder.eps, DTYPES[dtype]))


def save(
    network: Network,
    folder: Path,
    base_folder: Path,
    dtype: str = "bfloat16",
    delta: Callable[[str], Tensor | None] | None = None,
) -> None:
    """Write a Hugging Face folder: the network's weights, its companions as they are in the base's folder.

    With `delta` (name -> what is added, float32, or None) the weights are the base's own, read again in
    float32, plus it: an adapter is merged with one rounding, whatever the network computed in. One tensor at
    a time is in memory beside the network.
    """
    copy_companions(base_folder, folder, dtype)
    where = weight_files(base_folder) if delta is not None else {}
    tensors = dict(network.tensors())

    def values(name: str) -> np.ndarray:
        value = tensors[name].detach()
        if delta is not None and (added := delta(name)) is not None:
            value = where[name].get_tensor(name).float().add_(added)
        return _bits(value.to(DTYPES[dtype]).contiguous())

    kind = STORED[dtype]
    write_each({n: (kind, tuple(t.shape)) for n, t in tensors.items()}, values, folder / "model.safetensors")


def _bits(tensor: Tensor) -> np.ndarray:
    """As numpy, which has no bfloat16: its bits as uint16."""
    return (
        tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
    )
