"""Services in FP8, AWQ, GPTQ and MXFP4 (their weights, widened, in an f32 server) against their model."""

from __future__ import annotations

import json
import subprocess
import sys

import drifts
import numpy as np
import pytest
import quantise

from steelyard.errors import WrongUse
from steelyard.gate import check, exact_reference
from steelyard.gate.base.modes import CHECKPOINTS, COARSE_MEAN, LIMITS, MODES, judged_mode
from steelyard.model import Tokenizer


@pytest.fixture(scope="module")
def tuned(tiny_models):
    """Every id has a text; sizes that groups divide."""
    vocab = Tokenizer(tiny_models("llama")).vocab_size
    return tiny_models("llama", vocab_size=vocab, hidden_size=128, intermediate_size=256, head_dim=32)


@pytest.fixture(scope="module")
def quantised(tuned, tmp_path_factory):
    draw = np.random.default_rng(0)
    rows = [draw.integers(3, 250, 40).tolist() for _ in range(8)]

    def make(form, folder=None):
        at = tmp_path_factory.mktemp(form)
        stored = quantise.quantised(folder or tuned, at / "stored", form, rows)
        return stored, quantise.widened(stored, at / "widened", dtype="F32")

    return make


@pytest.fixture(scope="module", params=CHECKPOINTS)
def form(request, quantised):
    return request.param, *quantised(request.param)


def failed(verdict):
    return [c.name for c in verdict.checks if c.passed is False]


def test_a_form_is_held_to_its_own_weights(tuned, form, serve):
    name, stored, widened = form
    found = check(tuned, serve(widened), mode=name, served=stored)
    assert (found.verdict, failed(found)) == ("passed", [])
    assert next(c.value for c in found.checks if c.name == "logprob_mean") < 1e-4


def test_a_quantised_folder_is_judged_as_what_it_is(form, serve):
    """No mode, no unquantised model: the checkpoint itself says how it is to be read."""
    _, stored, widened = form
    found = check(stored, serve(widened))
    assert (found.verdict, failed(found)) == ("passed", [])


def test_other_weights_in_the_same_form_fail(tuned, form, quantised, serve, tmp_path):
    name, stored, _ = form
    draw = np.random.default_rng(1)

    def change(tensor, w):
        return w + 0.3 * w.std() * draw.standard_normal(w.shape).astype(np.float32) if w.ndim == 2 else w

    other = drifts.with_tensors(tuned, tmp_path / "other", change)
    _, widened = quantised(name, other)
    found = check(tuned, serve(widened), mode=name, served=stored)
    assert found.verdict == "failed"
    assert {"logprob_mean", "logprob_worst"} & set(failed(found))


@pytest.mark.parametrize(
    ("mode", "own", "served", "wanted"),
    [
        ("fast", None, False, "fast"),
        ("int4", None, True, "int4_form"),
        ("exact", None, True, "exact"),
        ("awq", None, False, "awq"),
        ("awq", None, True, "awq_form"),
        ("fast", "mxfp4", False, "mxfp4_form"),
        ("gptq", "gptq", False, "gptq_form"),
        ("exact", "fp8", False, "exact"),
    ],
)
def test_the_limits_follow_from_mode_and_folders(tuned, quantised, mode, own, served, wanted):
    folder = quantised(own)[0] if own else tuned
    assert judged_mode(mode, folder, folder if served else None) == wanted


def test_an_unknown_mode_is_refused_with_the_modes(tuned):
    with pytest.raises(WrongUse, match="bf16") as error:
        judged_mode("bf16", tuned, None)
    assert all(mode in error.value.hint for mode in MODES)


def test_every_mode_has_limits_and_its_own_weights_are_held_closer():
    for mode in MODES:
        assert mode in LIMITS and mode in COARSE_MEAN
        if f"{mode}_form" in LIMITS:
            assert LIMITS[f"{mode}_form"].mean < LIMITS[mode].mean
            assert COARSE_MEAN[f"{mode}_form"] < COARSE_MEAN[mode]


def test_a_checkpoint_beside_its_base_keeps_the_way_between_them(tuned, form, tmp_path):
    """What rounding changed in the tuned model is added to its base."""
    name, stored, _ = form
    base = drifts.with_tensors(tuned, tmp_path / "base", lambda n, w: w * 0.98 if w.ndim == 2 else w)
    plain = [dict(exact_reference(f).network.tensors()) for f in (tuned, base)]
    rounded = [
        dict(exact_reference(f, served=stored, of=of).network.tensors())
        for f, of in ((tuned, None), (base, tuned))
    ]
    for tensor in plain[0]:
        wanted = plain[0][tensor] - plain[1][tensor]
        assert np.allclose(rounded[0][tensor] - rounded[1][tensor], wanted, atol=1e-5), (name, tensor)


def test_the_command_takes_a_quantised_folder_and_the_one_that_is_served(tuned, quantised, serve):
    """Through the command line: a checkpoint by itself, and one beside the unquantised model."""
    stored, widened = quantised("fp8_block")
    url = serve(widened)
    for words in ([str(stored), url], [str(tuned), url, "--mode", "fp8", "--served", str(stored)]):
        command = [sys.executable, "-m", "steelyard", "gate", *words, "--json"]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert (ran.returncode, json.loads(ran.stdout).get("verdict")) == (0, "passed"), ran.stdout
