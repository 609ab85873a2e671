"""Llama 2, 3, 3.1 and 3.2 (text), SmolLM2, DeepSeek-R1-Distill-Llama: the plain dense decoder."""

from .dense import dense
from .family import Family, GgufForm

FAMILY = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read=dense,
    gguf=GgufForm(architecture="llama", interleaved=True),
)
