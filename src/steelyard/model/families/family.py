"""What a family says of itself, and the decoder that comes of one model's config.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How a Hugging Face checkpoint names the weights; those of a layer stand below `layer`."""

    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"  # the last one
    head: str = "lm_head"
    layer: str = "model.layers.{}."
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    attention_norm: str = "input_layernorm"  # in front of the attention
    mlp_norm: str = "post_attention_layernorm"  # in front of the MLP


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A dense decoder of gated layers: all that the network and the graph need of a config.json."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    eps: float
    rope: dict[str, Any]  # as rope_of gives it
    windows: tuple[int | None, ...]  # tokens that each layer looks back, None = all
    tied: bool
    max_position: int
    head_norms: bool = False  # query and key are normalised by head
    names: Names = Names()

    @property
    def max_context(self) -> int:
        """The longest context over which full attention is the same."""
        return min([self.max_position, *(w for w in self.windows if w is not None)])

    def tensors(self) -> Iterator[str]:
        """The weights that every such model holds; biases come on top, a tied head may be absent."""
        n = self.names
        yield from (f"{n.embedding}.weight", f"{n.norm}.weight")
        yield from () if self.tied else (f"{n.head}.weight",)
        inside = [n.query, n.key, n.value, n.output, n.gate, n.up, n.down, n.attention_norm, n.mlp_norm]
        inside += [n.query_norm, n.key_norm] if self.head_norms else []
        for layer in range(self.layers):
            yield from (f"{n.layer.format(layer)}{name}.weight" for name in inside)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufForm:
    """How llama.cpp stores the family."""

    architecture: str  # general.architecture
    interleaved: bool = False  # rows of query and key: the two halves of each rotated head are interleaved
    biases: bool = False  # of query, key and value


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family: `read` makes a Decoder of (config.json, its path); None where it has no network here.

    `layer` and `graph` give a class to use instead of network.Block and openvino_graph.Graph: for a family
    whose layer is another. They are calls, so that the file itself loads neither torch nor OpenVINO.
    """

    name: str  # model_type of config.json
    architecture: str  # as in `architectures` of config.json
    read: Callable[[Mapping[str, Any], Path], Decoder] | None = None
    gguf: GgufForm | None = None
    layer: Callable[[], type] | None = None
    graph: Callable[[], type] | None = None
    foreign: bool = False  # no file here: transformers runs it

    @property
    def trainable(self) -> bool:
        """Whether there is a network of it here."""
        return self.read is not None
