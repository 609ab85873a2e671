"""How far a service in FP8, AWQ, GPTQ or MXFP4 may lie from its model: what the gate's limits follow from.

    python bench/form_study.py WORK BASE [--models NAME ...] [--drifts NAME ...] [--minutes 5] [--table]

Three models (bench/form_models.py), each in every form (bench/quantise.py), clean and with one thing wrong.
The answers are those of the clean model behind its HTTP server in bf16; what each form makes of the same
tokens is EMULATED: the dequantised weights, written back as bf16, in torch's bf16 arithmetic, and for FP8
every matrix's input rounded to E4M3 with a scale a token. vLLM's kernels were not run. Figures against the
unquantised model (`model_`) and against the form's own weights in exact arithmetic (`form_`). One file a run
in WORK/forms: after `--minutes` the study ends, and the next call goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import drifts
import numpy as np
import quantise
import torch
from form_models import all_forms_models
from models import TASKS, rows_of

from steelyard import serving
from steelyard.gate.continuations import continued
from steelyard.gate.endpoint import Endpoint
from steelyard.gate.parity import observe
from steelyard.gate.pieces import answer_ids
from steelyard.gate.probes import probes, task_probes
from steelyard.model import Tokenizer, export_openvino, load, network_of

FORMS = ("bf16", "fp8", "fp8_block", "awq", "gptq", "mxfp4")
OPEN, SURE = math.log(0.95), math.log(0.999)
BATCH_TOKENS = 2048
ROWS, TEXTS = 3, 16  # task rows a task; continued texts
Answers = list[tuple[list[int], list[int]]]  # prompt and answer

DRIFTS: dict[str, Callable[[Path, Path, Path, int], Path]] = {
    "clean": lambda tuned, base, out, middle: tuned,
    "layer by 1.1": lambda tuned, base, out, middle: drifts.scaled_layer(tuned, out, middle, 1.1),
    "adapter at 80 %": lambda tuned, base, out, middle: drifts.stale_adapter(tuned, base, out, 0.8),
    "adapter at 50 %": lambda tuned, base, out, middle: drifts.stale_adapter(tuned, base, out, 0.5),
    "base": lambda tuned, base, out, middle: base,
}


def main() -> None:
    args = arguments()
    out = args.work / "forms"
    out.mkdir(parents=True, exist_ok=True)
    if args.table:
        table([json.loads(f.read_text()) for f in sorted(out.glob("*.json"))])
        return
    until_s = time.monotonic() + 60 * args.minutes
    models = all_forms_models(args.work, args.base)
    for name in args.models or models:
        study: Study | None = None
        for drift in args.drifts:
            for form in FORMS:
                file = out / f"{name}-{form}-{drift}.json".replace(" ", "-").replace("%", "pc")
                if file.exists() or time.monotonic() >= until_s:
                    continue
                study = study or Study(name, *models[name], args.work)
                found = {"model": name, "form": form, "drift": drift} | study.run(form, drift)
                file.write_text(json.dumps(found, indent=1, sort_keys=True))
                print(name, form, drift, found["model_"]["mean"], found["form_"]["mean"], flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--drifts", nargs="*", choices=tuple(DRIFTS), default=tuple(DRIFTS))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


class Study:
    """One model: its answers, and the exact scores of their tokens."""

    def __init__(self, name: str, tuned: Path, base: Path, work: Path) -> None:
        self.tuned, self.base, self.folder = tuned, base, work / "forms" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.middle = int(json.loads((tuned / "config.json").read_text())["num_hidden_layers"]) // 2
        self.answers = self._answers()
        self.exact = scores(network_of(tuned), self.answers)
        self.of_form: dict[str, np.ndarray] = {}

    def _answers(self) -> Answers:
        file = self.folder / "answers.json"
        if not file.exists():
            ir = self.folder / "ir"
            export_openvino(self.tuned, ir, "bf16")
            service = serving.start(ir, serving.ServeSettings(mode="fast"))
            try:
                file.write_text(json.dumps(asyncio.run(asked(self.tuned, service.url))))
            finally:
                service.stop()
            shutil.rmtree(ir)
        found: Answers = json.loads(file.read_text())
        return found

    def run(self, form: str, drift: str) -> dict[str, Any]:
        with ExitStack() as scratch:
            made = self.folder / "scratch"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            scratch.callback(shutil.rmtree, made, ignore_errors=True)
            altered = DRIFTS[drift](self.tuned, self.base, made / "altered", self.middle)
            served = scores(self.network(form, altered, made), self.answers)
        if form not in self.of_form:
            self.of_form = {form: self._exact_of(form)}
        return {"model_": figures(served, self.exact, self.answers),
                "form_": figures(served, self.of_form[form], self.answers)}  # fmt: skip

    def network(self, form: str, folder: Path, made: Path) -> Any:
        if form == "bf16":
            return load(folder, dtype="bfloat16").eval()
        stored = self._quantised(form, folder, made / "quantised")
        network = load(quantise.widened(stored, made / "widened"), dtype="bfloat16").eval()
        return with_fp8_inputs(network) if form.startswith("fp8") else network

    def _quantised(self, form: str, folder: Path, out: Path) -> Path:
        """The clean one is kept for the form's own reference."""
        out = self.folder / form if folder == self.tuned else out
        if not (out / "model.safetensors").exists():
            rows = [row for task in TASKS for row in rows_of(task, "train", 16)]
            tokenizer = Tokenizer(folder)
            ids = [list(tokenizer.chat_ids(r["messages"])) for r in rows]
            quantise.quantised(folder, out, form, ids)
        return out

    def _exact_of(self, form: str) -> np.ndarray:
        if form == "bf16":
            return self.exact
        return scores(network_of(self._quantised(form, self.tuned, self.folder / form)), self.answers)


async def asked(folder: Path, url: str) -> Answers:
    tokenizer = Tokenizer(folder)
    rows = [row for task in TASKS for row in rows_of(task, "test", ROWS)]
    async with Endpoint(url=url) as endpoint:
        seen = await observe(endpoint, [*probes(0), *task_probes(rows, len(rows), 0)])
        texts = await continued(endpoint, tokenizer, 0)
    pairs = [
        (list(tokenizer.chat_ids(list(o.probe.messages))), answer_ids(tokenizer, o.answer)) for o in seen
    ]
    return [(p, list(a)) for p, a in pairs if a] + [(list(t.prompt), list(t.answer)) for t in texts[:TEXTS]]


def scores(network: Any, answers: Answers) -> np.ndarray:
    """[N, V] f32 log-probabilities at each position from which an answer's token follows."""
    order = sorted(range(len(answers)), key=lambda i: sum(map(len, answers[i])))
    found: dict[int, torch.Tensor] = {}
    batch: list[int] = []
    with torch.inference_mode():
        for place in [*order, None]:
            held = sum(sum(map(len, answers[i])) for i in batch)
            if batch and (place is None or held + sum(map(len, answers[place])) > BATCH_TOKENS):
                found |= dict(zip(batch, _batch(network, [answers[i] for i in batch]), strict=True))
                batch = []
            if place is not None:
                batch.append(place)
    return torch.cat([found[i] for i in range(len(answers))]).numpy()


def _batch(network: Any, answers: Answers) -> list[torch.Tensor]:
    sequences = [p + a for p, a in answers]
    lengths = [len(s) for s in sequences]
    positions = torch.cat([torch.arange(n) for n in lengths])
    hidden = network.flat(torch.tensor([i for s in sequences for i in s]), positions, network.layout(lengths))
    parts = zip(hidden.split(lengths), answers, strict=True)
    return [
        torch.log_softmax(network.logits(h[len(p) - 1 : len(p) - 1 + len(a)]).float(), -1)
        for h, (p, a) in parts
    ]


def with_fp8_inputs(network: Any) -> Any:
    """Every matrix's input rounded to E4M3, one scale a token: what FP8 kernels multiply."""

    def rounded(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        x = inputs[0].float()
        scale = (x.abs().amax(-1, keepdim=True) / 448).clamp(min=1e-12)
        return (((x / scale).to(torch.float8_e4m3fn).float() * scale).to(inputs[0].dtype),)

    for linear in network.linears():
        linear.register_forward_pre_hook(rounded)
    return network


def figures(served: np.ndarray, exact: np.ndarray, answers: Answers) -> dict[str, float]:
    """The candidates for limits, as the gate takes them: nats over the tokens of the answers."""
    ids = np.concatenate([np.array(a) for _, a in answers])
    at = np.arange(len(ids))
    own, delta = exact[at, ids], served[at, ids] - exact[at, ids]
    likeliest = served.argmax(1)
    margin = exact.max(1) - exact[at, likeliest]
    chats = np.concatenate([np.full(len(a), i < len(answers) - TEXTS) for i, (_, a) in enumerate(answers)])
    free, chat = delta[~chats], chats & (own < OPEN)
    sure = delta[own > SURE]
    return {
        "tokens": float(len(ids)), "open_tokens": float(chat.sum()),
        "mean": float(np.abs(delta[chat]).mean()), "worst": float(np.abs(delta[chats]).max()),
        "shift": float(delta[chat].mean()), "texts_mean": float(np.abs(free).mean()),
        "sure": float(np.median(sure)) if len(sure) else 0.0,
        "margin_mean": float(margin[chats].mean()), "margin_worst": float(margin[chats].max()),
        "same": float((margin[chats] == 0).mean()),
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> None:
    for of in ("model_", "form_"):
        print("against the", "unquantised model" if of == "model_" else "form's own weights")
        for form in FORMS:
            for drift in DRIFTS:
                rows = [r for r in found if r["form"] == form and r["drift"] == drift]
                cells = [f"{r['model']} {r[of]['mean']:.3f}/{r[of]['worst']:.2f}/{r[of]['shift']:+.3f}/"
                         f"{r[of]['margin_mean']:.4f}/{r[of]['margin_worst']:.2f}" for r in rows]  # fmt: skip
                print(f"  {form:10} {drift:16}", " | ".join(cells))


if __name__ == "__main__":
    main()
