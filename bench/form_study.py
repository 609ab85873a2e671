"""How far a service in FP8, AWQ, GPTQ or MXFP4 may lie from its model: what the gate's limits follow from.

    python bench/form_study.py WORK BASE [--models NAME ...] [--drifts NAME ...] [--minutes 5] [--table]

Three models (bench/form_models.py), each in every form (bench/quantise.py), clean and with one thing wrong.
Each is read over the tasks' test rows and passages of this project's pages; what counts at a position is the
exact model's likeliest token there, as a greedy answer would give it. What each form makes of it is EMULATED:
the dequantised weights, written back as bf16, in torch's bf16 arithmetic, and for FP8 every matrix's input
rounded to E4M3 with a scale a token. vLLM's kernels were not run. Figures against the unquantised model
(`model_`) and against the form's own weights in exact arithmetic (`form_`). One file a run in WORK/forms:
after `--minutes` the study ends, and the next call goes on.
"""

from __future__ import annotations

import argparse
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

from steelyard.model import Tokenizer, load, network_of

FORMS = ("bf16", "fp8", "mxfp4", "awq", "fp8_block", "gptq")
OPEN, SURE = math.log(0.95), math.log(0.999)
BATCH_TOKENS = 2048
ROWS, TEXTS = 4, 16  # task rows a task; passages
PROMPT_TOKENS, PASSAGE_TOKENS = 8, 48
PAGES = Path(__file__).resolve().parents[1] / "docs" / "why"
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
                record = {"model": name, "form": form, "drift": drift} | study.run(form, drift)
                file.write_text(json.dumps(record, indent=1, sort_keys=True))
                print(name, form, drift, record["model_"]["mean"], record["form_"]["mean"], flush=True)


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
        self.answers = answers_of(tuned)
        self.exact = scores(network_of(tuned), self.answers)
        self.of_form: dict[str, np.ndarray] = {}

    def run(self, form: str, drift: str) -> dict[str, Any]:
        with ExitStack() as scratch:
            scratch_folder = self.folder / "scratch"
            shutil.rmtree(scratch_folder, ignore_errors=True)
            scratch_folder.mkdir()
            scratch.callback(shutil.rmtree, scratch_folder, ignore_errors=True)
            altered = DRIFTS[drift](self.tuned, self.base, scratch_folder / "altered", self.middle)
            served = scores(self.network(form, altered, scratch_folder), self.answers)
        if form not in self.of_form:
            self.of_form = {form: self._exact_of(form)}
        return {"model_": figures(served, self.exact, self.answers),
                "form_": figures(served, self.of_form[form], self.answers)}  # fmt: skip

    def network(self, form: str, folder: Path, scratch_folder: Path) -> Any:
        if form == "bf16":
            return load(folder, dtype="bfloat16").eval()
        stored = self._quantised(form, folder, scratch_folder / "quantised")
        network = load(quantise.widened(stored, scratch_folder / "widened"), dtype="bfloat16").eval()
        return with_fp8_inputs(network) if form.startswith("fp8") else network

    def _quantised(self, form: str, folder: Path, out: Path) -> Path:
        """The clean one stays for the form's own reference."""
        out = self.folder / form if folder == self.tuned else out
        if not (out / "model.safetensors").exists():
            rows = [row for task in TASKS for row in rows_of(task, "train", 4)]
            tokenizer = Tokenizer(folder)
            ids = [list(tokenizer.chat_ids(r["messages"])) for r in rows]
            quantise.quantised(folder, out, form, ids)
        return out

    def _exact_of(self, form: str) -> np.ndarray:
        if form == "bf16":
            return self.exact
        return scores(network_of(self._quantised(form, self.tuned, self.folder / form)), self.answers)


def answers_of(folder: Path) -> Answers:
    tokenizer = Tokenizer(folder)
    pairs: Answers = []
    for row in (row for task in TASKS for row in rows_of(task, "test", ROWS)):
        *before, answer = row["messages"]
        pairs.append((list(tokenizer.chat_ids(before)), list(tokenizer.encode(answer["content"]))))
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md")))
    ids = list(tokenizer.encode(text[:200_000]))
    step = len(ids) // TEXTS
    passages = [ids[i * step : i * step + PROMPT_TOKENS + PASSAGE_TOKENS] for i in range(TEXTS)]
    return pairs + [(p[:PROMPT_TOKENS], p[PROMPT_TOKENS:]) for p in passages]


def scores(network: Any, answers: Answers) -> np.ndarray:
    """[N, V] f32 log-probabilities at each position from which an answer's token follows."""
    order = sorted(range(len(answers)), key=lambda i: sum(map(len, answers[i])))
    by_place: dict[int, torch.Tensor] = {}
    batch: list[int] = []
    with torch.inference_mode():
        for place in [*order, None]:
            tokens = sum(sum(map(len, answers[i])) for i in batch)
            if batch and (place is None or tokens + sum(map(len, answers[place])) > BATCH_TOKENS):
                by_place |= dict(zip(batch, _batch(network, [answers[i] for i in batch]), strict=True))
                batch = []
            if place is not None:
                batch.append(place)
    return torch.cat([by_place[i] for i in range(len(answers))]).numpy()


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
    at, ids = np.arange(len(exact)), exact.argmax(1)
    own, delta = exact[at, ids], served[at, ids] - exact[at, ids]
    margin = own - exact[at, served.argmax(1)]
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


def table(records: list[dict[str, Any]]) -> None:
    for of in ("model_", "form_"):
        print("against the", "unquantised model" if of == "model_" else "form's own weights")
        for form in FORMS:
            for drift in DRIFTS:
                rows = [r for r in records if r["form"] == form and r["drift"] == drift]
                cells = [f"{r['model']} {r[of]['mean']:.3f}/{r[of]['worst']:.2f}/{r[of]['shift']:+.3f}/"
                         f"{r[of]['margin_mean']:.4f}/{r[of]['margin_worst']:.2f}" for r in rows]  # fmt: skip
                print(f"  {form:10} {drift:16}", " | ".join(cells))


if __name__ == "__main__":
    main()
