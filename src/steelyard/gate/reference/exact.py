"""The exact reference: the model's own FP32 network, teacher-forced over given ids.

In memory where that fits beside the service, else with one layer in memory at a time (layerwise.py). A family
without a network here is computed by transformers, whole in memory.
Heavy: torch is loaded by the call, in whatever process makes it (`run` gives it a worker).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import Lacking, Where, WrongUse
from ...units import show_bytes
from .arrays import ABOVE, BATCH_TOKENS, LOGPROB, TOP_ID, TOP_LOGPROB, PromptAnswer, Reference, by_length
from .forms import tensors_of
from .remembered import Remembered

if TYPE_CHECKING:
    from .continuations import Continuation
    from .deviation import Deviation

__all__ = [
    "ABOVE",
    "LOGPROB",
    "TOP_ID",
    "TOP_LOGPROB",
    "AnyReference",
    "ExactReference",
    "Reference",
    "StreamedReference",
    "TransformersReference",
    "exact_reference",
]

# f32 logits of 256 positions over 50k words are 50 MB; more gains nothing on a CPU.
HEAD_CHUNK = 256
# Of the free memory that one network may take: a gate holds up to three, and a service's cache may yet grow.
MEMORY_SHARE = 0.3


class ExactReference:
    """A Reference over a network in memory; it also tells along which directions a server deviates."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
        arrays: dict[int, np.ndarray] = {}
        for batch in by_length([len(p) + len(a) for p, a in answers], BATCH_TOKENS):
            computed = _teach(self.network, [answers[i] for i in batch])
            arrays |= dict(zip(batch, computed, strict=True))
        return [arrays[i] for i in range(len(answers))]

    def deviation(self, texts: Sequence[Continuation]) -> Deviation:
        from .deviation import NetworkPasses, deviation

        return deviation(NetworkPasses(self.network, texts), texts)


class StreamedReference:
    """The same with one layer in memory at a time. A call reads all weights once: ask for much at once.

    What was computed is remembered, so that a prompt that comes after its answer costs no second pass.
    """

    def __init__(self, layers: Any) -> None:
        self.layers = layers
        self._remembered = Remembered(self._computed)

    def __call__(self, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
        return self._remembered(answers)

    def _computed(self, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
        from .layerwise import layerwise

        return layerwise(self.layers, answers)

    def deviation(self, texts: Sequence[Continuation]) -> Deviation:
        from .deviation import deviation
        from .layerwise import LayerwisePasses

        return deviation(LayerwisePasses(self.layers, texts), texts)


class TransformersReference:
    """A Reference over a family that transformers runs, in a child; directions it has none."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
        return [self.network.teach(prompt, answer) for prompt, answer in answers]


AnyReference = ExactReference | StreamedReference | TransformersReference


def exact_reference(
    folder: Path,
    form: str = "stored",
    served: Path | None = None,
    of: Path | None = None,
    in_memory: bool | None = None,
) -> AnyReference:
    """A callable over token ids of the model in `folder` (Hugging Face layout), FP32.

    A quantised checkpoint (FP8, AWQ, GPTQ, MXFP4) is widened to the weights that it stands for. `form` int8:
    the matrices rounded as that form rounds them, the arithmetic still exact; so a service of that form can
    be told from one whose weights differ otherwise. `served`: a folder of any form made from the model; its
    matrices, widened, take the place of the stored ones. `of`: the model that `served` was made from, where
    it is another; what rounding changed in that one is added: the two stay as far apart as they were.
    `in_memory`: None decides by what is free. Raises WrongUse for a folder that cannot be read; Lacking where
    transformers is needed and is not there, or has no memory.
    """
    from ...model import family_of, layers_from_disk, network_of

    if not family_of(Path(folder)).trainable:
        return by_transformers(Path(folder), form, served)
    tensors = tensors_of(Path(folder), form, served, of)
    layers = layers_from_disk(tensors)
    if fits(network_bytes(layers.config)) if in_memory is None else in_memory:
        return ExactReference(network_of(tensors).eval())
    return StreamedReference(layers)


def by_transformers(folder: Path, form: str = "stored", served: Path | None = None) -> TransformersReference:
    """The reference of a family without a network here. Raises WrongUse for the weights of another form than
    the stored one, Lacking where the model in float32 does not fit into the free memory."""
    from ...hardware import free_bytes
    from ...model import TransformersNetwork
    from ...shape import read

    if form != "stored" or served is not None:
        raise WrongUse(
            "gate.form",
            "this family is compared in its stored weights alone",
            where=Where(str(folder)),
            why="transformers runs it; its matrices cannot be put in the place of others",
            hint="leave out the served folder",
        )
    needed, free = 4 * read(folder).params, free_bytes()
    if needed > free:
        raise Lacking(
            "gate.reference_memory",
            f"the exact reference needs {show_bytes(needed)} in float32, {show_bytes(free)} are free",
            where=Where(str(folder)),
            why="transformers holds the whole network; only families with a network here go layer by layer",
            hint="free memory, or gate: {parity: off} and compare elsewhere: steelyard gate",
        )
    return TransformersReference(TransformersNetwork(folder))


def fits(needed_bytes: int) -> bool:
    """Whether a network of that size fits into the free memory now."""
    from ...hardware import free_bytes

    return needed_bytes <= MEMORY_SHARE * free_bytes()


def network_bytes(config: Any) -> int:
    """Of the whole network in float32, from the config alone: 7 matrices a layer, embedding and head."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = config.hidden * (2 * queries + 2 * keys + 3 * config.ffn)
    ends = config.vocab * config.hidden * (1 if config.tied else 2)
    return 4 * (config.layers * layer + ends)


def _teach(network: Any, batch: Sequence[PromptAnswer]) -> list[np.ndarray]:
    """All sequences in one row, a segment each: no padding is computed, and no scores within prompts."""
    import torch

    lengths = torch.tensor([len(p) + len(a) for p, a in batch])
    ids = torch.tensor([i for p, a in batch for i in (*p, *a)])
    starts = [len(p) - 1 for p, _ in batch]
    places = torch.cat([torch.arange(n) for n in lengths.tolist()])
    segments = torch.repeat_interleave(torch.arange(len(batch)), lengths)
    with torch.inference_mode():
        hidden = network(ids[None], places[None], segments[None])[0]
        parts = zip(hidden.split(lengths.tolist()), ids.split(lengths.tolist()), starts, strict=True)
        return [_rows(network, h[start:], i[start:]) for h, i, start in parts]


def _rows(network: Any, hidden: Any, ids: Any) -> np.ndarray:
    """[T, H] and [T] -> [T, 4]."""
    import torch

    array = np.zeros((len(ids), 4))
    for start in range(0, len(ids), HEAD_CHUNK):
        logits = network.logits(hidden[start : start + HEAD_CHUNK]).float()
        logprobs = torch.log_softmax(logits, -1)
        top = logprobs.max(-1)
        stop = start + len(logits)
        array[start:stop, TOP_ID] = top.indices.numpy()
        array[start:stop, TOP_LOGPROB] = top.values.numpy()
        following = ids[start + 1 : stop + 1]
        picked = logprobs[: len(following)].gather(-1, following[:, None])[:, 0]
        array[start : start + len(following), LOGPROB] = picked.numpy()
        likelier = logprobs[: len(following)] > picked[:, None]
        above = logprobs[: len(following)].exp().masked_fill_(~likelier, 0).sum(-1)
        array[start : start + len(following), ABOVE] = above.numpy()
    return array
