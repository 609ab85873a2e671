"""A tiny real model with its tokenizer, and a small data set: what the tests of this room train on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import torch

from steelyard.artefact import Draft, Inputs, Store, Watch, adopt
from steelyard.model import Tokenizer, write_random_model

SIZES = {"hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "layers": 2, "vocab": 320}
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A training that ends by SIGKILL at its first checkpoint from a step on.
KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from steelyard.artefact import Watch
from steelyard.training import train
root, base, data = map(Path, sys.argv[2:5])
settings, limit = map(json.loads, sys.argv[5:7])
class Killed(Watch):
    def log(self, event, **fields):
        if event == "train.checkpoint" and fields["step"] >= limit:
            os.kill(os.getpid(), signal.SIGKILL)
train(*tiny.step(root, base, data, **settings), Killed())
"""
SETTINGS = {
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 4,
    "lora_alpha": 8,
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "max_steps": 0,
    "max_length": 128,
    "packing": True,
    "micro_batch": 1,
    "grad_accum": 2,
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "seed": 0,
    "threads": 1,  # tiny matrices gain nothing from a second
    "dtype": "bf16",
    "mix": {},
}


class Listening(Watch):
    """Keeps what a training logs."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []

    def log(self, event, **fields):
        self.events.append((event, fields))

    def of(self, wanted):
        return [fields for event, fields in self.events if event == wanted]


def model(folder: Path, **sizes) -> Path:
    """A random llama that reads bytes, as a Hugging Face folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    write_random_model(folder, **{**SIZES, **sizes})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(
        [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    )
    inner.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": inner.token_to_id("<|im_end|>")})
    )
    return folder


def dataset(folder: Path, rows: int = 24, text: bool = False) -> Path:
    """Rows `say N` -> `N`, two abilities in turn."""
    draw = random.Random(0)
    folder.mkdir()
    lines = []
    for i in range(rows):
        number = str(draw.randint(0, 10 ** draw.randint(1, 9)))
        chat = [{"role": "user", "content": f"say {number}"}, {"role": "assistant", "content": number}]
        body = {"text": f"{number} is a number."} if text else {"messages": chat}
        lines.append(json.dumps({"id": str(i), "ability": "ab"[i % 2], **body}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def compared(folder: Path, rows: int = 24, rated: bool = False) -> Path:
    """Pairs `say N` -> `N`, not `M`; rated: each second answer is `M`, and bad. Eight more are held out."""
    draw = random.Random(1)
    folder.mkdir()
    lines = []
    for i in range(rows + 8):
        right, wrong = (str(draw.randint(0, 10**9)) for _ in range(2))
        answers = [{"role": "assistant", "content": text} for text in (right, wrong)]
        question = {"role": "user", "content": f"say {right}"}
        body = {"messages": [question, answers[0]], "rejected": answers[1]}
        if rated:
            body = {"messages": [question, answers[i % 2]], "label": i % 2 == 0}
        lines.append(json.dumps({"id": str(i), "ability": "a", **body}))
    (folder / "train.jsonl").write_text("\n".join(lines[:rows]) + "\n")
    (folder / "test.jsonl").write_text("\n".join(lines[rows:]) + "\n")
    return folder


def step(root: Path, base: Path, data: Path, name: str = "store", **settings) -> tuple[Inputs, dict, Draft]:
    """What the step is called with, less the watch."""
    inputs = Inputs({"base": adopt(base), "dataset": adopt(data, "dataset")})
    resolved = {**SETTINGS, **settings}
    draft = Store(root / name).draft("checkpoint", "k" * 64, "train", resolved, inputs.artefacts)
    return inputs, resolved, draft


def killed(root: Path, base: Path, data: Path, settings: dict, step: int) -> Path:
    """Train in a process that ends by SIGKILL at its first checkpoint from `step` on; its scratch."""
    words = [str(Path(__file__).parent), str(root), str(base), str(data), json.dumps(settings), str(step)]
    dead = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, capture_output=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr[-2000:]
    return next((root / "store").glob(".scratch-*"))


def curve(folder: Path) -> list[dict]:
    """A point a step, of an artefact."""
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def payload(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def logits_of(network, tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """[T, V] of a network of ours."""
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        return network.logits(network(ids, torch.arange(ids.shape[1])[None]))[0]
