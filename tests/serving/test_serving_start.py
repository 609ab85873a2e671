"""What a start loads before it answers: each import is time until the first token."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRONT = "import sys, steelyard.serving.service.foreground; print(*sys.modules)"


@pytest.mark.parametrize(
    "heavy", ["numpy", "openvino", "torch", "steelyard.compression.export", "steelyard.model.gguf"]
)
def test_a_front_loads_nothing_that_only_an_export_needs(loaded, heavy):
    """The engine's own process loads what it computes with; numbers and graphs are for a first start."""
    assert heavy not in loaded


@pytest.fixture(scope="module")
def loaded():
    ran = subprocess.run([sys.executable, "-c", FRONT], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())
