"""Where vLLM is: its 147 packages stand in an environment of their own, and so does the engine's child.

The interpreter is named by `--engine-python` or $STEELYARD_VLLM_PYTHON; else it is this one, if vLLM is here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

from ..protocol import Capability

PYTHON = "STEELYARD_VLLM_PYTHON"
NEEDED = ("vllm", "orjson", "numpy")  # orjson: what the two processes speak
FIND_S = 30.0


def interpreter(named: str | None = None) -> str | None:
    """The Python that runs vLLM's child; None: this one."""
    return named or os.environ.get(PYTHON) or None


@cache
def missing(python: str | None) -> tuple[str, ...]:
    """Packages that the interpreter lacks; all where it does not run. Nothing heavy is imported."""
    if python is None or python == sys.executable:
        return tuple(name for name in NEEDED if find_spec(name) is None)
    look = f"import importlib.util as u; print(*(n for n in {NEEDED!r} if u.find_spec(n) is None))"
    try:
        done = subprocess.run(
            [python, "-c", look], capture_output=True, timeout=FIND_S, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return NEEDED
    return tuple(done.stdout.split())


def capability(python: str | None = None) -> Capability:
    """What vLLM can do where `python` (else $STEELYARD_VLLM_PYTHON) finds it. Devices change none of it."""
    lacking = missing(interpreter(python))
    return Capability(
        continuous=True,
        prefix_cache=True,
        prompt_logprobs=True,
        gen_logprobs=True,
        top_logprobs=True,
        grammar=("json_schema", "regex", "ebnf"),
        logit_bias=True,
        min_tokens=True,
        lora="fixed",
        mixed_adapters=True,
        speculative=(),  # its n-gram drafts were not run on a CPU
        embed=False,
        forms=("bf16", "f32"),
        kv_forms=("bf16", "f32"),
        unusable=f"{', '.join(lacking)} not installed; name its interpreter in ${PYTHON}"
        if lacking
        else None,
    )
