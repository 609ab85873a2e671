"""The child that computes the exact reference of a run: rows, directions, errors and its end."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

from steelyard.errors import Lacking, Problem
from steelyard.gate import exact_reference
from steelyard.gate.reference.continuations import Continuation
from steelyard.run.service.references import Model, References


@pytest.fixture
def references():
    child = References()
    yield child
    child.close()


def rows(count=14):
    draw = np.random.default_rng(0)
    drawn = [draw.integers(3, 250, 20).tolist() for _ in range(count)]
    return [(ids[:8], ids[8:]) for ids in drawn]


def test_rows_and_directions_are_those_of_the_reference_here(tiny_models, references):
    folder = tiny_models("qwen2")
    here = exact_reference(folder)
    for a, b in zip(references.ask(Model(folder), rows()), here(rows()), strict=True):
        assert np.allclose(a, b, atol=1e-5)
    draw = np.random.default_rng(1)
    texts = [
        Continuation(
            prompt=tuple(prompt), answer=tuple(answer), served=a[:-1, 0] + 0.01 * draw.standard_normal(12)
        )
        for (prompt, answer), a in zip(rows(), here(rows()), strict=True)
    ]
    there, own = references.deviation(Model(folder), texts), here.deviation(texts)
    assert {d.name for d in there.directions} == {d.name for d in own.directions}
    assert np.allclose(there.delta, own.delta, atol=1e-5)


def test_an_error_of_the_child_arrives_with_its_words(tiny_models, references, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(Problem) as error:
        references.ask(Model(folder), rows(1))
    assert error.value.exit_code == 2
    assert "model.safetensors" in str(error.value.where)
    assert references.ask(Model(tiny_models("llama")), rows(1))[0].shape == (13, 4)  # it goes on


def test_a_killed_child_is_lacking_memory_most_likely(tiny_models, references):
    references.ask(Model(tiny_models("llama")), rows(1))
    os.kill(references._child.pid, signal.SIGKILL)
    with pytest.raises(Lacking, match="ended early"):
        references.ask(Model(tiny_models("llama")), rows(2))
