"""The engines by name. To add one: a file here with a class of the protocol, and its two lines below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ...forms import FORMS
from .launched.interpreter import capability
from .protocol import (
    Capability,
    Engine,
    EngineSettings,
    Event,
    GenRequest,
    Scores,
    kv_bytes_per_token,
    kv_precision,
    read_form,
)

__all__ = [
    "CAPABILITIES",
    "ENGINES",
    "TRIALS",
    "Capability",
    "Engine",
    "EngineSettings",
    "Event",
    "GenRequest",
    "Scores",
    "kv_bytes_per_token",
    "kv_precision",
    "read_form",
]


def _openvino() -> Callable[[EngineSettings], Engine]:
    from .openvino.engine import OpenVinoEngine

    return OpenVinoEngine


def _openvino_capability() -> Capability:
    from importlib.util import find_spec

    missing = [name for name in ("openvino", "openvino_genai") if find_spec(name) is None]
    return Capability(
        continuous=True,
        prefix_cache=True,
        prompt_logprobs=True,
        gen_logprobs=True,
        top_logprobs=False,
        grammar=("json_schema", "regex", "ebnf") if find_spec("openvino_tokenizers") else (),
        logit_bias=False,
        min_tokens=True,
        lora="hot",  # each in a pipeline of its own: the weights and a quarter of the KV cache once more
        mixed_adapters=False,
        speculative=("lookup", "draft"),
        embed=False,
        forms=tuple(FORMS),
        kv_forms=tuple(dict.fromkeys(form.kv_precision for form in FORMS.values())),
        unusable=f"{', '.join(missing)} not installed" if missing else None,
    )


def _openvino_trial() -> Callable[[Path], Trial]:
    from .openvino.grammar import trial_of

    return trial_of


def _encoder() -> Callable[[EngineSettings], Engine]:
    from .encoder import EncoderEngine

    return EncoderEngine


def _encoder_capability() -> Capability:
    from importlib.util import find_spec

    return Capability(
        continuous=False,
        prefix_cache=False,
        prompt_logprobs=False,
        gen_logprobs=False,
        top_logprobs=False,
        grammar=(),
        logit_bias=False,
        min_tokens=False,
        lora="none",
        mixed_adapters=False,
        speculative=(),
        embed=True,
        forms=("f32",),
        kv_forms=(),
        unusable=None if find_spec("openvino") else "openvino not installed",
    )


def _llamacpp() -> Callable[[EngineSettings], Engine]:
    from .llamacpp.engine import LlamaCppEngine

    return LlamaCppEngine


def _llamacpp_capability() -> Capability:
    from .llamacpp.native import capability

    return capability()


def _transformers() -> Callable[[EngineSettings], Engine]:
    from .transformers import TransformersEngine

    return TransformersEngine


def _transformers_capability() -> Capability:
    from .transformers import transformers_capability

    return transformers_capability()


def _launched() -> Callable[[EngineSettings], Engine]:
    from .launched.engine import LaunchedEngine

    return LaunchedEngine


Trial = Callable[[tuple[str, str]], None]  # raises ValueError for a grammar that cannot be followed

# Of those whose compiler can run without the model, in a process of its own (turn/grammars).
TRIALS: dict[str, Callable[[], Callable[[Path], Trial]]] = {"openvino": _openvino_trial}
ENGINES: dict[str, Callable[[], Callable[[EngineSettings], Engine]]] = {
    "openvino": _openvino,
    "encoder": _encoder,
    "llamacpp": _llamacpp,
    "transformers": _transformers,
    "vllm": _launched,
    "sglang": _launched,
}
CAPABILITIES: dict[str, Callable[[], Capability]] = {
    "openvino": _openvino_capability,
    "encoder": _encoder_capability,
    "llamacpp": _llamacpp_capability,
    "transformers": _transformers_capability,
    "vllm": partial(capability, "vllm"),
    "sglang": partial(capability, "sglang"),
}
