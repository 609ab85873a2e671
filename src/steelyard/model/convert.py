"""An IR through transformers and OpenVINO's converter, for families that the graph builder lacks.

Needs torch and transformers, which serving alone does not: entered only where openvino_graph.py knows no
better. The network is traced once, its KV cache made the graph's state, so that GenAI's paged attention takes
it. Weights are stored as f16 or f32; no form is rounded here.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import Lacking, WrongUse

STORED = {"bf16": True, "f16": True, "f32": False}  # form: whether weights are compressed to f16
CONVERTED_FORMS = tuple(STORED)
TRACED_TOKENS = 3


def convert(folder: Path, form: str, xml: Path) -> int:
    """Write `xml` and its .bin; returns the longest context. Raises WrongUse and Lacking."""
    config = json.loads((folder / "config.json").read_text())
    if form not in STORED:
        raise WrongUse(
            "model.form_of_family", f"{config['model_type']} cannot be served in the form {form!r}",
            why="the family goes through OpenVINO's converter, which keeps the weights",
            hint=f"one of {', '.join(STORED)}",
        )  # fmt: skip
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise Lacking(
            "model.no_converter", f"models of the family {config['model_type']!r} need {', '.join(missing)}",
            why="the graph builder lacks this family", hint=f"pip install {' '.join(missing)}",
        )  # fmt: skip
    import openvino as ov

    ov.save_model(_traced(folder), xml, compress_to_fp16=STORED[form])
    return int(config.get("max_position_embeddings", 2048))


def _traced(folder: Path) -> Any:
    import openvino as ov
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    wrapper = _wrapped(network.eval())
    c = network.config
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    past = tuple(torch.rand(1, heads, 2, width) for _ in range(2 * c.num_hidden_layers))
    ids = torch.ones(1, TRACED_TOKENS, dtype=torch.int64)
    mask = torch.ones(1, TRACED_TOKENS + 2, dtype=torch.int64)
    places = torch.arange(2, TRACED_TOKENS + 2)[None]
    beam = torch.zeros(1, dtype=torch.int32)
    with torch.no_grad():
        model = ov.convert_model(wrapper, example_input=(ids, mask, places, beam, *past))
    pairs = _name(model, c.num_hidden_layers, heads, width)
    apply_make_stateful_transformation(model, pairs)
    _begin_empty(model, heads, width)
    return model


def _begin_empty(model: Any, heads: int, width: int) -> None:
    """Each state starts as [B, heads, 0, width]; the CPU plugin needs it stated."""
    import numpy as np
    import openvino.opset13 as op

    def ints(*values: int) -> Any:
        return op.constant(np.array(values, np.int64))

    batch = op.gather(op.shape_of(model.input("input_ids"), "i64"), ints(0), op.constant(np.int64(0)))
    shape = op.concat([batch, ints(heads), ints(0), ints(width)], 0)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([op.broadcast(op.constant(np.float32(0)), shape).output(0)])
    model.validate_nodes_and_infer_types()


def _name(model: Any, layers: int, heads: int, width: int) -> dict[str, str]:
    """Names and open shapes of all inputs and outputs; pairs of cache in and cache out."""
    import openvino as ov

    given = ["input_ids", "attention_mask", "position_ids", "beam_idx"]
    cache = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    past, present = [f"past_key_values.{c}" for c in cache], [f"present.{c}" for c in cache]
    for port, name in zip(model.inputs, given + past, strict=True):
        port.get_tensor().set_names({name})
        shape = [-1] if name == "beam_idx" else [-1, -1] if name in given else [-1, heads, -1, width]
        port.get_node().set_partial_shape(ov.PartialShape(shape))
        port.get_node().set_friendly_name(name)
    for port, name in zip(model.outputs, ["logits", *present], strict=True):
        port.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()
    return dict(zip(past, present, strict=True))


def _wrapped(network: Any) -> Any:
    """The network as a function of plain tensors."""
    import torch
    from transformers import DynamicCache

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, input_ids: Any, attention_mask: Any, position_ids: Any, beam_idx: Any, *past: Any
        ) -> Any:
            cache: Any = DynamicCache(config=network.config)
            for layer, held in enumerate(cache.layers):
                # Set directly: `update` on an empty layer would be traced as the first call for ever.
                held.lazy_initialization(past[2 * layer], past[2 * layer + 1])
                held.keys = past[2 * layer].index_select(0, beam_idx)
                held.values = past[2 * layer + 1].index_select(0, beam_idx)
            out = self.network(
                input_ids=input_ids, attention_mask=_mask(input_ids, attention_mask), use_cache=True,
                position_ids=position_ids, past_key_values=cache,
            )  # fmt: skip
            return (out.logits, *(t for held in cache.layers for t in (held.keys, held.values)))

    return Wrapped()


def _mask(ids: Any, attention_mask: Any) -> Any:
    """[B, 1, T, past + T], true where a token attends: transformers' own mask cannot be traced."""
    import torch

    total = attention_mask.shape[1]
    keys = torch.arange(total)
    queries = keys[total - ids.shape[1] :]
    causal = keys[None, :] <= queries[:, None]
    return causal[None, None] & attention_mask[:, None, None, :].bool()
