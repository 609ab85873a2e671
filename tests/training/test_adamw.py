"""AdamW without torch's class: the same bits, and no compiler loaded for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from steelyard.training.trainable import BETAS, EPS, AdamW

LENGTH, DECAYED = 1000, 600
TRAINED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from steelyard.artefact import Watch
from steelyard.training import train
root, base, data = map(Path, sys.argv[2:])
print(train(*tiny.step(root, base, data, max_steps=2), Watch())["steps"], "torch._dynamo" in sys.modules)
"""


def reference(master, decays):
    """torch's own class over copies of the same parts."""
    parts = [(master[part].clone(), decay) for part, decay in decays]
    groups = [{"params": [weights], "weight_decay": decay} for weights, decay in parts]
    return [weights for weights, _ in parts], torch.optim.AdamW(groups, betas=BETAS, eps=EPS, fused=True)


def test_bits_are_those_of_torchs_class_also_after_a_resumption():
    draw = torch.Generator().manual_seed(0)
    master, grad = torch.randn(LENGTH, generator=draw), torch.zeros(LENGTH)
    moments = torch.zeros(LENGTH), torch.zeros(LENGTH)
    decays = [(slice(0, DECAYED), 0.1), (slice(DECAYED, None), 0.0)]
    theirs, optimiser = reference(master, decays)
    ours = AdamW(master, grad, moments, decays)
    for step in range(6):
        if step == 3:  # made anew from what a checkpoint holds
            ours = AdamW(master, grad, moments, decays)
            ours.begin_at(step)
        grad.copy_(torch.randn(LENGTH, generator=draw))
        for weights, (part, _), group in zip(theirs, decays, optimiser.param_groups, strict=True):
            weights.grad, group["lr"] = grad[part].clone(), 1e-2 / (step + 1)
        ours.rate = 1e-2 / (step + 1)
        optimiser.step()
        ours.step()
        assert torch.equal(master, torch.cat(theirs))


def test_an_empty_part_is_left_out():
    """Of an adapter every weight decays."""
    vectors = [torch.ones(4) for _ in range(4)]
    ours = AdamW(*vectors[:2], tuple(vectors[2:]), [(slice(0, 4), 0.1), (slice(4, None), 0.0)])
    assert len(ours.parts) == 1


def test_a_training_loads_no_compiler(base, data, tmp_path):
    words = [str(Path(__file__).parent), str(tmp_path), str(base), str(data)]
    done = subprocess.run([sys.executable, "-c", TRAINED, *words], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr
