"""Gradients that a run on a BF16 processor uses: the plain attention of short rows, LoRA against PEFT's."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch.nn import functional as F

from steelyard.model import Tokenizer
from steelyard.model.kernels import PLAIN_MAX_TOKENS, _attend, _Plain
from steelyard.training import METHODS
from steelyard.training.rows import batch_of, read_rows
from steelyard.training.trainable import trainable

SHAPES = [(2, 4, 2, 7, 8), (1, 6, 2, 16, 4), (3, 2, 2, 5, 8)]  # segments, heads, kv_heads, tokens, width


def qkv(shape, dtype, seed=0):
    segments, heads, kv_heads, tokens, width = shape
    draw = torch.Generator().manual_seed(seed)
    sizes = [(segments, n, tokens, width) for n in (heads, kv_heads, kv_heads)]
    return [
        torch.randn(size, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes
    ]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_attention_has_the_gradient_of_its_formula(shape, window):
    inputs = qkv(shape, torch.float64)
    assert torch.autograd.gradcheck(lambda q, k, v: _Plain.apply(q, k, v, window), inputs)


def test_in_bf16_it_is_as_near_to_the_true_gradient_as_torchs_own():
    """What every BF16 run computes, against float64; torch's kernel on the same rows is the yardstick."""
    shape = (4, 4, 2, 32, 16)
    assert shape[3] <= PLAIN_MAX_TOKENS
    true = gradients(lambda q, k, v: reference(q, k, v), qkv(shape, torch.float64))
    ours = gradients(lambda q, k, v: _attend(q, k, v, None), qkv(shape, torch.bfloat16))
    theirs = gradients(lambda q, k, v: reference(q, k, v), qkv(shape, torch.bfloat16))
    for ours_grad, theirs_grad, wanted in zip(ours, theirs, true, strict=True):
        error, yardstick = (relative(grad, wanted) for grad in (ours_grad, theirs_grad))
        assert error < 2e-2 and error < 3 * yardstick + 1e-3


def reference(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def gradients(attend, inputs):
    out = attend(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (out.double() * weights).sum().backward()
    return [tensor.grad.double() for tensor in inputs]


def relative(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def test_lora_gradients_are_those_of_peft(base, data):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    settings = {**tiny.SETTINGS, "dtype": "f32"}
    network, learnt = trainable(base, settings)
    draw = torch.Generator().manual_seed(3)
    learnt.master.uniform_(-0.1, 0.1, generator=draw)  # B is zero at the start, and A's gradient with it
    learnt.push()
    row = read_rows(data / "train.jsonl", Tokenizer(base), {"max_length": 128}).examples[0]
    loss = METHODS["sft"](network, batch_of([row], network), row.taught_tokens)
    loss.backward()
    learnt.pull()

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        r=settings["lora_rank"], lora_alpha=settings["lora_alpha"], target_modules="all-linear"
    )
    theirs = peft.get_peft_model(model, config)
    matrices = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): weight
        for name, weight in theirs.named_parameters()
        if "lora_" in name
    }
    with torch.no_grad():
        for name, (a, b) in learnt.factors().items():
            matrices[f"{name}.lora_A"].copy_(a)
            matrices[f"{name}.lora_B"].copy_(b)
    labels = torch.tensor([[t if flag else -100 for t, flag in zip(row.ids, row.mask, strict=True)]])
    their_loss = theirs(torch.tensor([list(row.ids)]), labels=labels).loss
    their_loss.backward()
    assert abs(their_loss.item() - loss.item()) < 1e-5
    learnt.master.copy_(learnt.grad)  # the same vector, read as factors
    compared = 0
    for name, factors in learnt.factors().items():
        for letter, ours in zip("AB", factors, strict=True):
            wanted = matrices[f"{name}.lora_{letter}"].grad
            assert relative(ours, wanted) < 1e-4, (name, letter)
            compared += 1
    assert compared == len(matrices) == 2 * 7 * tiny.SIZES["layers"]
