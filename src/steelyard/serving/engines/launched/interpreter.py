"""Where vLLM and SGLang are: each pins its torch and some 150 packages, in an environment of its own.

The interpreter is named by `serve.engine_python`, `--engine-python` or the variable of PYTHONS; else it is
this one, if the engine is here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

from ..protocol import Capability

PYTHONS = {"vllm": "STEELYARD_VLLM_PYTHON", "sglang": "STEELYARD_SGLANG_PYTHON"}
FIND_S = 30.0
# Device files of NVIDIA, AMD, Gaudi and Intel GPUs; what is not here is a CPU.
DEVICE_FILES = {"cuda": "/dev/nvidia0", "rocm": "/dev/kfd", "gaudi": "/dev/accel/accel0"}


def interpreter(engine: str, named: str | None = None) -> str:
    """The Python that runs the engine's server."""
    python = named or os.environ.get(PYTHONS[engine]) or sys.executable
    return os.path.abspath(python) if os.sep in python else python


@cache
def is_missing(engine: str, python: str) -> bool:
    """Whether the interpreter lacks the engine, or does not run. Nothing heavy is imported."""
    if python == sys.executable:
        return find_spec(engine) is None
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec({engine!r}) is None)"
    try:
        done = subprocess.run([python, "-c", look], capture_output=True, timeout=FIND_S)
    except (OSError, subprocess.SubprocessError):
        return True
    return done.returncode != 0


@cache
def engine_version(engine: str, named: str | None = None) -> str:
    """Of the engine where its interpreter is; "" where that does not tell."""
    look = f"from importlib.metadata import version; print(version({engine!r}))"
    try:
        done = subprocess.run(
            [interpreter(engine, named), "-c", look], capture_output=True, timeout=FIND_S, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def platform_here() -> str:
    """What an engine started on this machine computes on."""
    return next((name for name, file in DEVICE_FILES.items() if os.path.exists(file)), "cpu")


def capability(engine: str, python: str | None = None) -> Capability:
    """What the engine can do where `python` (else the variable) finds it. Devices change none of it."""
    variable = PYTHONS[engine]
    missing = is_missing(engine, interpreter(engine, python))
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
        speculative=(),  # its own kinds go by serve.args
        embed=False,
        forms=("bf16", "f32"),
        kv_forms=("bf16", "f32"),
        unusable=f"{engine} not installed; name its interpreter in ${variable}" if missing else None,
    )
