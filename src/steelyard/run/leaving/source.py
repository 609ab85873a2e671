"""What is asked to leave: a model's folder, the verdict on it, and the rows that it was judged by.

By the lineage that artefacts keep: a verdict names the checkpoint and the data set that it was taken over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Store, adopt
from ...errors import CheckFailed, Where, WrongUse
from ...model import resolve, to_hf
from ...shape import read_json
from ...trust import load_keys
from ..known import status


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """`folder`: the model, plain to read. `why`: what the gate said of it where it did not pass."""

    folder: Path
    checkpoint: Artefact | None = None
    verdict: Artefact | None = None
    dataset: Artefact | None = None
    why: str = "nobody has judged it"
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        return self.checkpoint.hash if self.checkpoint else adopt(self.folder).hash

    @property
    def passed(self) -> bool:
        return self.verdict is not None

    def rows(self, name: str) -> Path | None:
        """train.jsonl or test.jsonl of its data set."""
        file = self.dataset.path(name) if self.dataset else None
        return file if file is not None and file.is_file() else None


@contextmanager
def named_model(name: str, key_file: Path | None = None) -> Iterator[Leaving]:
    """A service, a run, an artefact of a train step, a Hugging Face folder, or a GGUF converted for now.

    Raises WrongUse, and CheckFailed for an artefact without a sound manifest.
    """
    place = _artefact_of(name) or Path(name)
    if any((place / f"manifest.json{end}").exists() for end in ("", ".sealed")):
        yield _judged(_opened(place, key_file))
        return
    source = resolve(name, use="reference")
    if source.kind == "hf":
        yield Leaving(folder=source.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        to_hf(source, Path(folder) / "hf")
        yield Leaving(folder=Path(folder) / "hf")


def check_passed(model: Leaving, unproven: bool) -> None:
    """Raises CheckFailed for files that changed, and for what did not pass unless it may leave `unproven`."""
    if model.checkpoint:
        model.checkpoint.check()
    if model.passed or unproven:
        return
    raise CheckFailed(
        "export.unproven", "what did not pass the gate does not leave", where=Where(str(model.folder)),
        why=model.why, hint="steelyard up RECIPE judges it; --unproven exports it as it is",
    )  # fmt: skip


# ------------------------------------------------------------------ which artefact


def _artefact_of(name: str) -> Path | None:
    """The tuned model of a run or a service, by folder, id, name or address; None where `name` is neither.

    Raises WrongUse for a run that has trained nothing yet.
    """
    folder = Path(name) if (Path(name) / "artefacts").is_dir() else None
    if folder is None and not Path(name).exists():
        runs = [run for run in status() if name in _names(run)]
        folder = Path(runs[-1]["workdir"]) if runs else None
    if folder is None:
        return None
    tuned = [f for f in (folder / "artefacts").glob("checkpoint-*") if f.is_dir()]
    if not tuned:
        hint = "steelyard up RECIPE --until train makes one"
        raise WrongUse("export.not_trained", f"the run in {folder} has no tuned model yet", hint=hint)
    return _last_judged(folder / "artefacts", tuned) or max(tuned, key=lambda f: f.stat().st_mtime)


def _names(run: Mapping[str, Any]) -> tuple[str, ...]:
    url = (run["service"] or {}).get("url")
    return (run["run"], run["name"], *((url, f"{url}/v1") if url else ()))


def _last_judged(store: Path, tuned: list[Path]) -> Path | None:
    """The model of the newest verdict that passed, where nothing was trained after it.

    A run that climbs over models trains several, and what it serves is the one that passed.
    """
    verdicts = [f for f in store.glob("verdict-*") if (f / "manifest.json").is_file()]
    newest = max(verdicts, key=lambda f: f.stat().st_mtime, default=None)
    if newest is None or any(f.stat().st_mtime > newest.stat().st_mtime for f in tuned):
        return None
    inputs = {i["role"]: i["hash"] for i in read_json(newest / "manifest.json")["inputs"]}
    return next((f for f in tuned if _hash_of(f) == inputs.get("checkpoint")), None)


def _hash_of(folder: Path) -> str | None:
    file = folder / "manifest.json"
    return read_json(file).get("hash") if file.is_file() else None


def _opened(place: Path, key_file: Path | None) -> Artefact:
    sealed = (place / "manifest.json.sealed").exists()
    if sealed and key_file is None:
        raise WrongUse("export.key", f"{place} is sealed", where=Where(str(place)), hint="--key-file FILE")
    keys = load_keys("guarded", str(key_file), Path.cwd()) if sealed else None
    artefact = Store(place.parent, keys).open(place)
    if artefact.kind != "checkpoint":
        hint = "name the artefact of the train step, as `up --json` gives it"
        text = f"{place.name} is a {artefact.kind}, not a model with its weights"
        raise WrongUse("export.kind", text, where=Where(str(place)), hint=hint)
    return artefact


# ------------------------------------------------------------------ what was judged


def _judged(checkpoint: Artefact) -> Leaving:
    """With the newest verdict on it, passed or refused, of its own store."""
    store = Store(checkpoint.folder.parent, checkpoint.keys)
    every = store.all()
    about = [
        a for a in every if a.kind in ("verdict", "refusal") and _input(a, "checkpoint") == checkpoint.hash
    ]
    passed = [a for a in about if a.kind == "verdict"]
    newest = passed or about
    verdict = newest[-1] if newest else None
    # An unjudged one's rows are those that it was taught by.
    of = verdict or checkpoint
    dataset = next(
        (a for a in reversed(every) if a.kind == "dataset" and a.hash == _input(of, "dataset")), None
    )
    return Leaving(
        folder=checkpoint.path(), checkpoint=checkpoint, dataset=dataset,
        verdict=passed[-1] if passed else None, why=_why(verdict),
        scores=_document(verdict) if passed else {},
    )  # fmt: skip


def _input(artefact: Artefact, role: str) -> str | None:
    return next((i["hash"] for i in artefact.manifest["inputs"] if i["role"] == role), None)


def _document(verdict: Artefact | None) -> dict[str, Any]:
    file = verdict.path("verdict.json") if verdict else None
    return read_json(file) if file is not None and file.is_file() else {}


def _why(verdict: Artefact | None) -> str:
    if verdict is None:
        return "the gate has not judged it"
    failed = [c["name"] for c in _document(verdict).get("checks", ()) if c.get("passed") is not True]
    return f"the gate refused it: {', '.join(failed[:3]) or 'see its verdict'}"
