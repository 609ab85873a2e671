"""A hundred rows of a run: does a trace name the right artefacts, and is nothing left of them once erased?

    python bench/erasure.py [--model FOLDER] [--rows 400] [--asked 100] [--epochs 60] [--seed 7] [--serve]

A recipe of its own is run up to `compress`, with --serve through gate and promotion: chats with a code of
their own each (the canary), some with an e-mail address that is masked, some longer than max_length and
split, texts in near-duplicate pairs of which one is merged, a tenth held out. Without --model: a random
Llama of 0.1 M parameters, taught by heart.

trace    rows drawn by chance, asked by their canary. What is right is read from the files alone: train.jsonl,
         test.jsonl by the canary's bytes. The artefacts that `data trace` names must be these, and each step
         that it names must hold the row when the schedule is worked out again from seed and lengths
erase    `data erase IDS --remake --yes`, by its door: all of them; then every byte below the work folder, the
         state and the cache is searched for the canaries
answers  the likeliest continuation (greedy, transformers) of the question and "Its code is" by the old model
         and by the new one: how many are the canary; and how many bits a letter of it costs, beside a code
         that nobody was taught
served   with --serve: the service of the old model is asked over HTTP, greedily, and so is the one that
         stands in its place after the call: another fingerprint, on the same port, and no canary

The machine is not calibrated for it: nothing is predicted. One JSON document; exit 1 where one is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steelyard.hardware import Calibration
from steelyard.recipe import load
from steelyard.run import erase, trace, up
from steelyard.run.planning import prepare
from steelyard.serving import find

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
UNMEASURED = Calibration(fingerprint="-", rows=(), taken=(), skipped={}, measured_s=0, path="")

RECIPE = """
name: erasure
model: {model}
data: [{{path: rows.jsonl, ability: lookup}}]
clean: {{pii: mask, test_share: 0.1}}
train:
  - {{stage: sft, finetuning_type: full, max_length: 96, num_train_epochs: {epochs}, learning_rate: 0.004,
     packing: false, per_device_train_batch_size: 8, gradient_accumulation_steps: 1}}
serve: {{port: 18731}}
"""
WORDS = (
    "harbour", "crane", "driver", "spare", "keys", "winter", "ladder", "quiet", "bridge", "yellow", "market",
    "paper", "signal", "garden", "copper", "window", "letter", "Tuesday", "engine", "salt", "village",
    "border", "mirror", "basket", "river", "candle", "meadow", "barrel", "thread", "orchard",
)  # fmt: skip


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        home = Path(name)
        os.environ |= {f"STEELYARD_{part}": str(home / part.lower()) for part in ("STATE", "CACHE")}
        os.environ["STEELYARD_LEDGER"] = str(home / "ledger.db")
        prepare.calibrate = lambda machine, finetuning_types, watch: UNMEASURED
        try:
            document = measured(home, args)
        finally:
            if service := find(home / "runs" / "erasure" / "service"):
                service.stop()
    json.dump({"protocol": __doc__, **document}, sys.stdout, indent=2)
    print()
    return 0 if document["met"] else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder; else a tiny one is made")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--asked", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--serve", action="store_true", help="train, judge and serve, before and after")
    return parser.parse_args()


def measured(home: Path, args: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(args.seed)
    rows = list(made_rows(args.rows, chance))
    more = (
        greetings(args.rows, chance) if args.serve else []
    )  # a model that answers no held-out row is not served
    (home / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, *more]), encoding="utf-8"
    )
    model = args.model or tiny_model(home / "model")
    (home / "recipe.yaml").write_text(RECIPE.format(model=model, epochs=args.epochs), encoding="utf-8")
    began = time.monotonic()
    up(load(home / "recipe.yaml", []), until="serve" if args.serve else "compress")
    trained = time.monotonic() - began
    work = home / "runs" / "erasure"
    asked = chance.sample(range(len(rows)), args.asked)
    traced = traces(work, rows, asked)
    before = answered(work, rows, asked) | served(work, rows, asked)
    began = time.monotonic()
    (proof,) = erase([f"rows.jsonl:{n + 1}" for n in asked], work, remake=True)
    erased = time.monotonic() - began
    left = bytes_left(home, [canary_of(rows[n]) for n in asked])
    after = answered(work, rows, asked) | served(work, rows, asked)
    return {
        "rows": len(rows), "asked": len(asked), "kinds": traced["kinds"], "trace": traced,
        "erase": {
            "rows_on_the_list": len(proof["rows"]), "removed": len(proof["removed"]),
            "canaries_left": left["found"], "files_searched": left["files"], "wall_s": round(erased, 1),
        },
        "answers": {"old_model": before, "new_model": after}, "train_wall_s": round(trained, 1),
        "met": traced["right"] == len(asked) and not left["found"] and after["with_canary"] == 0
        and (not args.serve or was_replaced(before, after)),
    }  # fmt: skip


def was_replaced(before: dict[str, Any], after: dict[str, Any]) -> bool:
    same = before["service"]["url"] == after["service"]["url"]
    other = before["service"]["fingerprint"] != after["service"]["fingerprint"]
    return same and other and after["service"]["with_canary"] == 0 < before["service"]["with_canary"]


# ------------------------------------------------------------------ rows and a model


def made_rows(count: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """In ten: six chats, one with an e-mail address, one of two parts, two texts that are nearly the same."""
    while count > 0:
        for kind in range(9):
            code = "".join(chance.choice("bcdfghjkmnpqrstvwxz") for _ in range(6))
            subject = " ".join(chance.sample(WORDS, 3))
            if kind == 8:
                text = " ".join(chance.choice(WORDS) for _ in range(40))
                yield {"text": f"{text} and the code is {code}."}
                yield {"text": f"{text} and the code is {code}. It was noted twice."}
                continue
            answer = f"Its code is {code}."
            answer += f" Ask {code}@example.org for more." if kind == 6 else ""
            answer += " " + " ".join(chance.choice(WORDS) for _ in range(60)) if kind == 7 else ""
            yield {"prompt": f"What is the code of {subject}?", "completion": answer}
        count -= 10


def greetings(count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Rows of the same ability that can be answered without having seen them."""
    return [
        {"prompt": f"Greet {' '.join(chance.sample(WORDS, 6))}", "completion": "Hello."} for _ in range(count)
    ]


def canary_of(row: dict[str, Any]) -> str:
    text = row.get("text") or row["completion"]
    return text.split("code is ")[1].split(".")[0]


def tiny_model(folder: Path) -> str:
    import conftest

    folder.mkdir()
    conftest._tiny(folder, "llama", tied=True)
    return str(folder)


# ------------------------------------------------------------------ trace


def traces(work: Path, rows: list[dict[str, Any]], asked: list[int]) -> dict[str, Any]:
    store = work / "artefacts"
    dataset = next(store.glob("dataset-*"))
    steps = worked_out(dataset, next(store.glob("checkpoint-*")))
    wrong, kinds, steps_named = [], dict.fromkeys(KINDS, 0), 0
    for number in asked:
        told = trace([canary_of(rows[number])], work, text=True)
        want, kind = expected(dataset, canary_of(rows[number]), steps)
        kinds[kind] += 1
        found = {one.row.id: one.row for one in told.found}
        mine = found.get(f"rows.jsonl:{number + 1}")
        kinds["merged"] += bool(mine and mine.of)
        kinds["masked"] += bool(mine and mine.masked)
        named = {one.kind for one in told.holders} & {"dataset", "checkpoint", "compressed"}
        good = {id: s == steps.get(id) for one in told.holders for id, s in one.steps.items()}
        steps_named += len(good)
        if named != want or mine is None or not all(good.values()):
            wrong.append({"row": number + 1, "named": sorted(named), "want": sorted(want)})
    right = len(asked) - len(wrong)
    return {"right": right, "wrong": wrong[:5], "kinds": kinds, "rows_whose_steps_were_right": steps_named}


KINDS = ("taught", "too long to be taught", "held out", "merged", "masked")


def expected(dataset: Path, canary: str, steps: dict[str, Any]) -> tuple[set[str], str]:
    """By the files and the schedule: which kinds of artefacts must be named, and why."""
    for line in (dataset / "train.jsonl").read_text("utf-8").split("\n"):
        if canary in line:
            taught = json.loads(line)["id"] in steps
            models = {"checkpoint", "compressed"} if taught else set()
            return {"dataset", *models}, "taught" if taught else "too long to be taught"
    assert canary in (dataset / "test.jsonl").read_text("utf-8"), canary
    return {"dataset"}, "held out"


def worked_out(dataset: Path, checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """The steps of each row, from the settings in the manifest: seed, lengths, order."""
    from steelyard.model import Tokenizer
    from steelyard.training import schedule
    from steelyard.training.packing import prompts_of
    from steelyard.training.rows import read_rows
    from steelyard.training.step import held_out_from

    settings = json.loads((checkpoint / "manifest.json").read_text("utf-8"))["settings"]
    read = read_rows(dataset / "train.jsonl", Tokenizer(checkpoint), settings)
    held_out_from(read, settings)
    lengths = [len(one.ids) for one in read.examples]
    plan = schedule(lengths, prompts_of(settings), [e.ability for e in read.examples])
    taught: dict[str, set[int]] = {}
    for step, batches in enumerate(plan.steps, 1):
        for number in {n for batch in batches for n in batch}:
            taught.setdefault(read.names[read.examples[number].number], set()).add(step)
    return {id: tuple(sorted(own)) for id, own in taught.items()}


# ------------------------------------------------------------------ afterwards


def bytes_left(home: Path, canaries: list[str]) -> dict[str, Any]:
    """Below the work folder, the state and the cache; the sources and the list of ids are the user's."""
    wanted, found, files = [one.encode() for one in canaries], [], 0
    for folder in (home / "runs", home / "state", home / "cache"):
        for path in folder.rglob("*"):
            if path.is_file():
                files += 1
                data = path.read_bytes()
                found += [f"{path.name}: {one.decode()}" for one in wanted if one in data]
    return {"files": files, "found": found}


def answered(work: Path, rows: list[dict[str, Any]], asked: list[int]) -> dict[str, Any]:
    """Of the chats: likeliest answers with their canary; bits a letter of it, and of another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = max((work / "artefacts").glob("checkpoint-*"), key=lambda f: f.stat().st_mtime)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hits, bits = 0, {"its_own": [], "never_taught": []}
    for number in (n for n in asked if "prompt" in rows[n]):
        chat = [{"role": "user", "content": rows[number]["prompt"]}]
        text = (
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) + "Its code is "
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = network.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)
            hits += canary_of(rows[number]) in tokenizer.decode(out[0, ids.shape[1] :])
            for name, code in (("its_own", canary_of(rows[number])), ("never_taught", never_taught(number))):
                more = tokenizer(code, return_tensors="pt", add_special_tokens=False)["input_ids"]
                logits = network(torch.cat([ids, more], dim=1)).logits[0, ids.shape[1] - 1 : -1]
                chosen = logits.log_softmax(-1).gather(1, more[0][:, None])
                bits[name].append(-chosen.sum().item() / math.log(2) / len(code))
    told = {f"bits_a_letter_{name}": round(sum(all) / len(all), 2) for name, all in bits.items()}
    return {"chats": len(bits["its_own"]), "with_canary": hits} | told


def served(work: Path, rows: list[dict[str, Any]], asked: list[int]) -> dict[str, Any]:
    """What the live service answers to the questions; nothing where none lives."""
    import httpx

    service = find(work / "service")
    if service is None:
        return {}
    hits = 0
    for number in (n for n in asked if "prompt" in rows[n]):
        chat = [{"role": "user", "content": rows[number]["prompt"]}]
        body = {"model": "default", "messages": chat, "temperature": 0, "max_tokens": 24}
        answer = (
            httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60).raise_for_status().json()
        )
        hits += canary_of(rows[number]) in answer["choices"][0]["message"]["content"]
    return {"service": {"url": service.url, "fingerprint": service.fingerprint, "with_canary": hits}}


def never_taught(number: int) -> str:
    chance = random.Random(f"other {number}")
    return "".join(chance.choice("bcdfghjkmnpqrstvwxz") for _ in range(6))


if __name__ == "__main__":
    sys.exit(main())
