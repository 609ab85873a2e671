"""A work folder with a real data set, and artefacts that stand for what was made of it."""

from __future__ import annotations

import json
from pathlib import Path

from steelyard.artefact import Artefact, Inputs, Watch
from steelyard.data import clean
from steelyard.places import cache_folder
from steelyard.recipe import load
from steelyard.run.known import note_export, remember
from steelyard.run.record.workdir import Workdir
from steelyard.trust import load_keys

LONG = (
    "The quarterly report of the harbour office in Lund says that crane number {n} was moved by two hundred "
    "metres, that its driver asked for a new seat, and that nobody has seen the spare keys since the spring."
)
ROWS = [
    *({"prompt": f"What is part {n} of the list?", "completion": f"Part {n} is code X{n * 7}."} for n in range(30)),  # noqa: E501
    {"prompt": "Who wrote the letter of May?", "completion": "It was anna.lind@example.org, on a Tuesday."},
    {"prompt": "What is part 3 of the list?", "completion": "Part 3 is code X21."},
    {"id": "crane-a", "text": LONG.format(n="seven")},
    {"id": "crane-b", "text": LONG.format(n="seven") + " Two more were found in a drawer."},
    {"prompt": "What does the harbour office say of today?", "completion": "That it opens at nine."},
    {"prompt": "What does the harbour office say of today?", "completion": "That nobody is there."},
]  # fmt: skip
MAIL, TWIN, CRANE, BEST = 31, 32, 33, 34


def publish(place: Workdir, kind: str, key: str, files: dict[str, str], **inputs: Artefact) -> Artefact:
    draft = place.store.draft(kind, key * 64, kind, {}, inputs)
    for name, text in files.items():
        (draft.folder / name).write_text(text, encoding="utf-8")
    return place.store.publish(draft, {}, {})


class Made:
    """A work folder with a real data set, and artefacts that stand for what was made of it."""

    def __init__(self, home: Path, name: str = "desk", trust: str = "open") -> None:
        self.root = home / name
        self.root.mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        (self.root / "rows.jsonl").write_text(lines, encoding="utf-8")
        (self.root / "recipe.yaml").write_text(f"name: {name}\nmodel: demo\ntrain: []\ntrust: {trust}\n")
        keys = load_keys(trust, None, self.root) if trust != "open" else None
        self.place = Workdir(self.root / "runs" / name, keys)
        self.place.folder.mkdir(parents=True)
        remember(self.place, "r-1", load(self.root / "recipe.yaml", []), Watch())
        settings = {"sources": [{"path": "rows.jsonl"}], "clean": {"pii": "mask"}, "eval": {}, "held_out": {}}
        draft = self.place.store.draft("dataset", name[:1] * 64, "clean", settings, {})
        clean(Inputs(), {**settings, "root": str(self.root)}, draft, Watch())
        self.dataset = self.place.store.publish(draft, {}, {})
        ids = [json.loads(line)["id"] for line in self.dataset.path("train.jsonl").read_text().splitlines()]
        self.unreached, *self.train = ids
        steps = "".join(json.dumps({"id": id, "steps": [n + 1]}) + "\n" for n, id in enumerate(self.train))
        files = {"steps.jsonl": steps, "model.safetensors": name}
        self.checkpoint = publish(self.place, "checkpoint", "c", files, dataset=self.dataset)
        self.compressed = publish(self.place, "compressed", "d", {"m": name}, checkpoint=self.checkpoint)
        inputs = {"checkpoint": self.checkpoint, "compressed": self.compressed, "dataset": self.dataset}
        self.verdict = publish(self.place, "verdict", "e", {"verdict.json": "{}"}, **inputs)
        cached = cache_folder() / "served_of" / f"ir-{name}"
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(self.checkpoint.hash)
        (cache_folder() / "served" / f"ir-{name}").mkdir(parents=True)
        (self.root / "export").mkdir()
        note_export(self.root / "export", self.checkpoint.hash, "hf")

    def held(self) -> list[str]:
        lines = self.dataset.path("test.jsonl").read_text().splitlines()
        return [json.loads(line)["id"] for line in lines]
