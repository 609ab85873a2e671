"""Does scaling input channels before rounding help: AWQ beside and before GPTQ in int4, SmoothQuant in int8.

    python bench/scaling.py WORK BASE [--test 50] [--ways "NAME;NAME"]

The tuned model is bench/models.py's. Each way rounds it layer by layer over 8,192 tokens of its training
rows, a layer fitted to what the rounded ones below it give, as compression/calibrate.py does. Scales are
folded into what stands before a matrix, which changes nothing before rounding: the norms, the rows of `v`,
those of `up`.

    awq      s = mean |x| ^ alpha, alpha by the least error of the matrix's output after rounding to nearest
             (Lin et al. 2023, arXiv 2306.00978)
    smooth   s = max |x| ^ 0.5 / max |w| ^ 0.5 (Xiao et al. 2022, arXiv 2211.10438)
    a8 token, a8 32   inputs of every matrix in int8 too, a scale a token, or one for 32 inputs of a token

Of each way, on test rows that no training saw: loss a token of the answers, KL of it to the model that is not
rounded, share of rows whose answer tokens are all likeliest. f32 arithmetic, so that rounding alone counts.
What is done lies in WORK/scaling.json and is kept. Two to four minutes a way on one idle core.

    python bench/scaling.py WORK BASE --matrices 5

is the cheap look before it, a minute: in that many layers of the exact model, the error of each matrix's
output on 2,048 tokens of the test rows as a share of its mean square, by as many tokens of the training rows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from models import TASKS, rows_of, tuned
from torch import Tensor
from torch.nn import functional as F

from steelyard.compression.activations import chunks_of, inputs_to
from steelyard.compression.calibrate import CALIBRATION_TOKENS, _grid, _rounded, _widened
from steelyard.compression.rounding import LEVELS, rounded_groups
from steelyard.compression.rows import calibration_rows
from steelyard.forms import INT4_GROUP
from steelyard.model import Tokenizer, group_of, load
from steelyard.training.rows import batch_of, read_rows
from steelyard.training.teacher import batches

POWERS = tuple(n / 10 for n in range(10))
SMOOTH = 0.5
LOOK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the rows give a matrix: mean of x x', [I, I], of |x| and the largest |x|, [I]."""

    gram: Tensor
    mean: Tensor
    most: Tensor

    def by(self, s: Tensor) -> Inputs:
        return Inputs(self.gram / s / s[:, None], self.mean / s, self.most / s)


Round = Callable[[Tensor, Inputs], Tensor]
Shared = Callable[[Tensor], Tensor]
Scale = Callable[[Tensor, Inputs, Shared], Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    round: Round
    scale: Scale | None = None
    at: tuple[str, ...] = ("o", "down", "qkv", "gate_up")  # what is scaled, in this order
    inputs: int | None = None  # of the matrices in int8: a scale for so many of a token, 0: for all of them


# ------------------------------------------------------------------ rounding


def nearest(weight: Tensor, seen: Inputs) -> Tensor:
    """`int4_rtn`."""
    g = rounded_groups(weight.numpy(), INT4_GROUP)
    codes, scale, zero = (torch.from_numpy(each).float() for each in (g.codes, g.scale, g.zero))
    return _widened(codes, scale, zero, g.size)


def clipped(weight: Tensor, seen: Inputs) -> Tensor:
    """To nearest, each group's range clipped where the rows lose least by it: AWQ's second search."""
    size = group_of(weight.shape[1], INT4_GROUP)
    return at_grid(weight, *_grid(weight, seen.gram.diagonal(), size), size)


def plain(weight: Tensor) -> Tensor:
    """To nearest between least and most: what AWQ's search for a scale looks at."""
    size = group_of(weight.shape[1], INT4_GROUP)
    w = weight.view(len(weight), -1, size)
    low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
    scale = ((high - low) / LEVELS).clamp(min=6e-8).half().float()
    return at_grid(weight, scale, (-low / scale).round().clamp(0, LEVELS), size)


def at_grid(weight: Tensor, scale: Tensor, zero: Tensor, size: int) -> Tensor:
    w = weight.view(len(weight), -1, size)
    codes = (w / scale[..., None]).round_().add_(zero[..., None]).clamp_(0, LEVELS)
    return _widened(codes.view_as(weight), scale, zero, size)


def gptq(weight: Tensor, seen: Inputs) -> Tensor:
    """`int4`, as it stands."""
    return _rounded(weight, seen.gram, group_of(weight.shape[1], INT4_GROUP), "the matrix")[1]


def int8(weight: Tensor, seen: Inputs | None = None) -> Tensor:
    """By row, symmetric."""
    scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-7).half().float()
    return (weight / scale).round_().clamp_(-127, 127).mul_(scale)


BY_ROWS = (clipped, gptq)

# ------------------------------------------------------------------ scaling


def centred(s: Tensor) -> Tensor:
    return s / (s.max() * s.min()).sqrt()


def awq(weight: Tensor, seen: Inputs, shared: Shared) -> Tensor:
    size = shared(seen.mean).clamp(min=1e-5)
    tried = [centred(size**power) for power in POWERS]
    return min(tried, key=lambda s: float(output_error(plain(weight * s) / s - weight, seen.gram)))


def output_error(error: Tensor, gram: Tensor) -> Tensor:
    return ((error @ gram) * error).sum()


def smooth(weight: Tensor, seen: Inputs, shared: Shared) -> Tensor:
    inputs = shared(seen.most).clamp(min=1e-5)
    weights = shared(weight.abs().amax(0)).clamp(min=1e-5)
    return inputs**SMOOTH / weights ** (1 - SMOOTH)


def fold(layer: Any, linear: Any, s: Tensor) -> None:
    """Into what stands before it; its own columns grow."""
    linear.weight.mul_(s)
    if linear is layer.qkv:
        layer.input_norm.weight.div_(s)
    elif linear is layer.gate_up:
        layer.post_norm.weight.div_(s)
    elif linear is layer.down:
        divide_rows(layer.gate_up, s)
    else:
        divide_rows(layer.qkv, s.view(*by_heads(layer))[:, 0].reshape(-1))


def divide_rows(linear: Any, s: Tensor) -> None:
    """The last rows of a matrix."""
    linear.weight[-len(s) :].div_(s[:, None])
    if linear.bias is not None:
        linear.bias[-len(s) :].div_(s)


def by_heads(layer: Any) -> tuple[int, int, int]:
    """Inputs of `o` as KV heads, query heads of each, channels."""
    c = layer.config
    return c.kv_heads, c.heads // c.kv_heads, c.head_dim


def shared_of(layer: Any, linear: Any) -> Shared:
    """Query heads of one KV head have one `v` before them, hence one scale."""
    if linear is not layer.o:
        return lambda values: values
    shape = by_heads(layer)
    return lambda values: values.view(*shape).mean(1, keepdim=True).expand(shape).reshape(-1)


# ------------------------------------------------------------------ a model rounded


def rounded(folder: Path, rows: list[list[int]], way: Way | None) -> Any:
    network = load(folder).eval()
    if way is None:
        return network
    chunks = list(chunks_of(rows, network)) if way.scale or way.round in BY_ROWS else []
    for layer in network.layers:
        round_layer(layer, chunks, way)
    network.embed.copy_(int8(network.embed))
    return network


def round_layer(layer: Any, chunks: list[Any], way: Way) -> None:
    """Without chunks nothing looks at inputs. The rounded layer's output goes on."""
    seen = inputs_of(layer, chunks)
    if way.scale:
        for linear in (getattr(layer, name) for name in way.at):
            s = way.scale(linear.weight, seen[linear], shared_of(layer, linear))
            fold(layer, linear, s)
            seen[linear] = seen[linear].by(s)
    for linear in layer.linears():
        linear.weight.copy_(way.round(linear.weight, seen[linear]))
        if way.inputs is not None:
            linear.register_forward_pre_hook(eighth(way.inputs))
    for chunk in chunks:
        chunk.x = layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)


def inputs_of(layer: Any, chunks: list[Any]) -> dict[Any, Inputs]:
    linears, tokens = list(layer.linears()), sum(len(chunk.x) for chunk in chunks)
    sums = {
        linear: Inputs(torch.zeros(n, n), torch.zeros(n), torch.zeros(n))
        for linear, n in ((linear, linear.weight.shape[1]) for linear in linears)
    }

    def take(linear: Any, x: Tensor) -> None:
        own = sums[linear]
        own.gram.addmm_(x.t(), x, alpha=1 / tokens)
        own.mean.add_(x.abs().sum(0) / tokens)
        torch.maximum(own.most, x.abs().amax(0), out=own.most)

    with inputs_to(linears, take):
        for chunk in chunks:
            layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    return sums


def eighth(size: int) -> Callable[..., tuple[Tensor]]:
    """A hook that rounds a matrix's inputs to int8."""

    def hook(linear: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        x = inputs[0]
        parts = x.reshape(len(x), -1, size or x.shape[1])
        scale = (parts.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
        return ((parts / scale).round_().clamp_(-127, 127).mul_(scale).view_as(x),)

    return hook


NORMS = ("qkv", "gate_up")  # what a norm stands before
WAYS: dict[str, Way | None] = {
    "unrounded": None,
    "int4 nearest": Way(nearest),
    "int4 nearest, clipped": Way(clipped),
    "int4 awq": Way(clipped, awq),
    "int4 gptq": Way(gptq),
    "int4 awq, gptq": Way(gptq, awq),
    "int8": Way(int8),
    "int8 smooth": Way(int8, smooth),
    "int8, a8 32": Way(int8, inputs=32),
    "int8 smooth, a8 32": Way(int8, smooth, inputs=32),
    "int8, a8 token": Way(int8, inputs=0),
    "int8 smooth, a8 token": Way(int8, smooth, inputs=0),
    "int8 smooth norms, a8 32": Way(int8, smooth, NORMS, 32),
    "int4 gptq, a8 32": Way(gptq, inputs=32),
    "int4 awq, gptq, a8 32": Way(gptq, awq, inputs=32),
}


# ------------------------------------------------------------------ what is measured


def outputs(network: Any, rows: list[Any]) -> Iterator[tuple[list[Any], Tensor, Tensor]]:
    """(rows, hidden states that predict their answers, the answers' tokens), pass by pass."""
    for batch in batches(rows):
        flat = batch_of(batch, network)
        hidden = network.flat(flat.ids, flat.positions, flat.layout, flat.before)
        yield batch, hidden[: flat.answers], flat.targets[: flat.answers]


def scored(network: Any, rows: list[Any], exact: list[Tensor], head: Tensor) -> dict[str, Any]:
    """By row: nats of the answer, KL to the exact model (nats, summed over tokens), right or not."""
    per_row: list[dict[str, Any]] = []
    for (batch, hidden, targets), true in zip(outputs(network, rows), exact, strict=True):
        loss, away, right = by_token(hidden @ network.output.t(), true @ head.t(), targets)
        counts = [row.taught_tokens for row in batch]
        parts = zip(loss.split(counts), away.split(counts), right.split(counts), batch, strict=True)
        per_row += [
            {"ability": row.ability, "tokens": len(a), "loss": float(a.sum()), "kl": float(b.sum()),
             "right": bool(c.all())}
            for a, b, c, row in parts
        ]  # fmt: skip
    return per_row


def by_token(own: Tensor, true: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logq, logp = F.log_softmax(own, -1), F.log_softmax(true, -1)
    loss = F.nll_loss(logq, targets, reduction="none")
    return loss, (logp.exp() * (logp - logq)).sum(-1), own.argmax(-1) == targets


def summed(per_row: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = sum(row["tokens"] for row in per_row)
    whole = {name: sum(row[name] for row in per_row) / tokens for name in ("loss", "kl")}
    whole["right"] = sum(row["right"] for row in per_row) / len(per_row)
    return whole


def first_of(per_row: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first rows of each task: a way that was scored on more stands beside one on fewer."""
    places: dict[str, int] = {}
    kept = []
    for row in per_row:
        places[row["ability"]] = places.get(row["ability"], 0) + 1
        kept += [row] if places[row["ability"]] <= count else []
    return kept


def beside(own: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, float]:
    """Mean difference a row of the nats of the answer and of the KL, with its standard error."""
    found = {}
    for name in ("loss", "kl"):
        apart = torch.tensor([(a[name] - b[name]) / a["tokens"] for a, b in zip(own, other, strict=True)])
        found |= {name: float(apart.mean()), f"{name}_error": float(apart.std() / len(apart) ** 0.5)}
    return found


def figures(per_row: list[dict[str, Any]]) -> dict[str, Any]:
    abilities = sorted({row["ability"] for row in per_row})
    return summed(per_row) | {a: summed([r for r in per_row if r["ability"] == a]) for a in abilities}


# ------------------------------------------------------------------ matrix by matrix


def matrices(asked: argparse.Namespace) -> dict[str, Any]:
    """{way: {matrix: [error of each layer that was looked at]}}, and what scaling makes of it."""
    folder = tuned(asked.work, asked.base, "tuned", TASKS)
    network = load(folder).eval()
    texts = asked.work / "data-tuned" / "train.jsonl", test_rows(asked)
    rows = [calibration_rows(path, Tokenizer(folder), LOOK_TOKENS) for path in texts]
    train, test = (list(chunks_of(own, network)) for own in rows)
    looked = {round(n * (len(network.layers) - 1) / (asked.matrices - 1)) for n in range(asked.matrices)}
    errors: dict[str, dict[str, list[float]]] = {name: {} for name in asked.ways or WAYS if WAYS[name]}
    for number, layer in enumerate(network.layers):
        if number in looked:
            layer_errors(layer, train, test, errors)
            print(number, file=sys.stderr, flush=True)
        for chunk in (*train, *test):
            chunk.x = layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    scaled = {n: ratios(errors[n], errors[o]) for n, o in PAIRS.items() if {n, o} <= errors.keys()}
    return {"errors": errors, "scaled": scaled}


def layer_errors(
    layer: Any, train: list[Any], test: list[Any], errors: dict[str, dict[str, list[float]]]
) -> None:
    seen, given = inputs_of(layer, train), given_to(layer, test)
    for linear in layer.linears():
        name = linear.parts[-1][0].rpartition(".")[2]
        exact = given[linear] @ linear.weight.t()
        for words, found in errors.items():
            wrong = output(layer, linear, WAYS[words], seen[linear], given[linear]) - exact
            found.setdefault(name, []).append(float(wrong.square().sum() / exact.square().sum()))


def given_to(layer: Any, chunks: list[Any]) -> dict[Any, Tensor]:
    parts: dict[Any, list[Tensor]] = {}
    with inputs_to(list(layer.linears()), lambda linear, x: parts.setdefault(linear, []).append(x.clone())):
        for chunk in chunks:
            layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    return {linear: torch.cat(own) for linear, own in parts.items()}


def output(layer: Any, linear: Any, way: Way, seen: Inputs, x: Tensor) -> Tensor:
    """Of one matrix rounded that way, its inputs divided by its scale."""
    s = torch.ones(x.shape[1])
    if way.scale and any(linear is getattr(layer, name) for name in way.at):
        s = way.scale(linear.weight, seen, shared_of(layer, linear))
    rounded_weight = way.round(linear.weight * s, seen.by(s))
    inputs = x / s if way.inputs is None else eighth(way.inputs)(linear, (x / s,))[0]
    return inputs @ rounded_weight.t()


def ratios(own: dict[str, list[float]], other: dict[str, list[float]]) -> dict[str, float]:
    """Geometric mean over the layers, by matrix and of all: below 1 scaling helps."""
    logs = {n: [math.log(a / b) for a, b in zip(own[n], other[n], strict=True)] for n in own}
    logs["all"] = [each for values in logs.values() for each in values]
    return {n: math.exp(sum(values) / len(values)) for n, values in logs.items()}


def test_rows(asked: argparse.Namespace) -> Path:
    path: Path = asked.work / "test.jsonl"
    lines = [row for task in TASKS for row in rows_of(task, "test", asked.test)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), "utf-8")
    return path


# ------------------------------------------------------------------ all of it


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    folder = tuned(asked.work, asked.base, "tuned", TASKS)
    train = asked.work / "data-tuned" / "train.jsonl"
    rows = read_rows(test_rows(asked), Tokenizer(folder), {"stage": "sft", "max_length": 1024}).examples
    calibration = calibration_rows(train, Tokenizer(folder), CALIBRATION_TOKENS)
    output = asked.work / "scaling.json"
    done = json.loads(output.read_text()) if output.exists() else {}
    network = load(folder).eval()
    exact, head = [hidden for _, hidden, _ in outputs(network, rows)], network.output.detach()
    del network
    for name in asked.ways or WAYS:
        if name in done:
            continue
        begun = time.monotonic()
        network = rounded(folder, calibration, WAYS[name])
        rounded_s = time.monotonic() - begun
        per_row = scored(network, rows, exact, head)
        done[name] = {"figures": figures(per_row), "s": rounded_s, "rows": per_row}
        output.write_text(json.dumps(done) + "\n")
        print(name, json.dumps(summed(per_row)), f"{rounded_s:.0f} s", file=sys.stderr, flush=True)
    return told(done)


PAIRS = {  # scaled: the same without
    "int4 awq": "int4 nearest", "int4 awq, gptq": "int4 gptq", "int8 smooth": "int8",
    "int8 smooth, a8 token": "int8, a8 token", "int8 smooth, a8 32": "int8, a8 32",
    "int8 smooth norms, a8 32": "int8, a8 32",    "int4 awq, gptq, a8 32": "int4 gptq, a8 32",
}  # fmt: skip


def told(done: dict[str, Any]) -> dict[str, Any]:
    """Each way on the rows that all have, and what scaling changed."""
    fewest = min(len(each["rows"]) for each in done.values()) // len(TASKS)
    rows = {name: first_of(each["rows"], fewest) for name, each in done.items()}
    apart = {
        one: beside(rows[one], rows[other]) for one, other in PAIRS.items() if {one, other} <= rows.keys()
    }
    return {"rows": fewest * len(TASKS), "ways": {n: figures(own) for n, own in rows.items()}, "by": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--test", type=int, default=50, help="of each task, to score on")
    parser.add_argument("--ways", type=lambda words: words.split(";"), help="NAME;NAME")
    parser.add_argument("--matrices", type=int, help="layers, 2 or more")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        print(json.dumps(matrices(asked) if asked.matrices else bench(asked), indent=1))


if __name__ == "__main__":
    main()
