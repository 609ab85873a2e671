"""No dependency reports on its user: telemetry is off before any of them is imported.

The package's `__init__` calls `switch_off` as its first act, so every process that imports any file of ours
(commands, steps' children, fronts, engines' children, tests, benches) has done this before it can reach an
engine. Children inherit the variables, in another interpreter too.

Not here: what a user names as a destination (a collector of traces, a hub to pull from).
"""

from __future__ import annotations

import os
import sys

# openvino requires it, and reports each import to Google Analytics unasked; no variable stops that. A module
# that is None cannot be imported (importlib), and OpenVINO then takes a stub of its own.
BLOCKED = ("openvino_telemetry",)

# A value that the user has set stands: it is a choice.
VARIABLES = {
    "DO_NOT_TRACK": "1",  # huggingface_hub, vLLM, and whoever keeps to donottrack.sh
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, trl: else named in the user agent too
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # asks PyPI for its newest version
    "VLLM_NO_USAGE_STATS": "1",  # vLLM posts to stats.vllm.ai
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray, where vLLM runs on several hosts
}


def switch_off() -> None:
    """Keep the packages that report out of this process, and tell its children's not to. Imports nothing."""
    for name in BLOCKED:
        if name not in sys.modules:  # else its host has imported it, and reported, before us
            sys.modules[name] = None  # type: ignore[assignment]
    for variable, value in VARIABLES.items():
        os.environ.setdefault(variable, value)
