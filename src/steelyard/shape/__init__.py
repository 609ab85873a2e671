"""Sizes and FLOPs of a model from its header: config.json, a safetensors file or a GGUF file.

Nothing but the headers is read: no weights, no torch, no gguf package. Not here: whether the
machine can hold it (planner), the weights themselves (model).
"""

from .config import SIZES, of_config, of_sizes
from .files import TensorAt, broken, read_json
from .gguf_file import Gguf, gguf_header
from .reading import read
from .safetensors_file import safetensors_header, shards, tensors
from .sizes import Shape

__all__ = [
    "SIZES", "Gguf", "Shape", "TensorAt", "broken", "gguf_header", "of_config", "of_sizes", "read",
    "read_json", "safetensors_header", "shards", "tensors",
]  # fmt: skip
