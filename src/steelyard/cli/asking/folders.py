"""What a user names as a model or artefact, as a plain Hugging Face folder; and a copy of one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import Where, WrongUse

if TYPE_CHECKING:
    from ...artefact import Artefact

# Beside the model in a checkpoint artefact, and no part of it.
NOT_MODEL = ("manifest.json", "curve.jsonl", "adapter", ".*")


@contextmanager
def hf_folder(name: str, key_file: Path | None = None, checked: bool = False) -> Iterator[Path]:
    """A run's tuned model, a train artefact's payload, a Hugging Face folder, or a GGUF converted for now.

    `checked`: an artefact's files are compared with its manifest first; raises CheckFailed.
    """
    place = _tuned_of_run(name) or Path(name)
    sealed = _is_sealed(place)
    if sealed or (place / "manifest.json").exists():
        artefact = _opened(place, key_file, sealed)
        if checked:
            artefact.check()
        yield artefact.path()
        return
    from ...model import resolve, to_hf

    source = resolve(name, use="reference")
    if source.kind == "hf":
        yield source.path
        return
    with tempfile.TemporaryDirectory() as folder:
        to_hf(source, Path(folder) / "hf")
        yield Path(folder) / "hf"


def _is_sealed(place: Path) -> bool:
    return (place / "manifest.json.sealed").exists()


def _tuned_of_run(name: str) -> Path | None:
    """The newest tuned model of a run, by its folder, its id or its name; None where `name` is no run.

    Raises WrongUse for a run that has trained nothing yet.
    """
    folder = Path(name) if (Path(name) / "artefacts").is_dir() else None
    if folder is None and not Path(name).exists():
        from ...run import status

        runs = [r for r in status() if name in (r["run"], r["name"])]
        folder = Path(runs[-1]["workdir"]) if runs else None
    if folder is None:
        return None
    tuned = [f for f in (folder / "artefacts").glob("checkpoint-*") if f.is_dir()]
    if not tuned:
        hint = "steelyard up RECIPE --until train makes one"
        raise WrongUse("export.not_trained", f"the run in {folder} has no tuned model yet", hint=hint)
    return max(tuned, key=lambda f: f.stat().st_mtime)


def _opened(place: Path, key_file: Path | None, sealed: bool) -> Artefact:
    from ...artefact import Store
    from ...trust import load_keys

    if sealed and key_file is None:
        hint = "--key-file FILE"
        raise WrongUse("export.key", f"{place} is sealed", where=Where(str(place)), hint=hint)
    keys = load_keys("guarded", str(key_file), Path.cwd()) if sealed else None
    artefact = Store(place.parent, keys).open(place)
    if artefact.kind != "checkpoint":
        hint = "name the artefact of the train step, as `up --json` gives it"
        text = f"{place.name} is a {artefact.kind}, not a model with its weights"
        raise WrongUse("export.kind", text, where=Where(str(place)), hint=hint)
    return artefact


def adapter_of(folder: Path) -> Path:
    """The LoRA adapter of a train artefact, in PEFT's format. Raises WrongUse where it has none."""
    if not (folder / "adapter" / "adapter_config.json").is_file():
        raise WrongUse(
            "export.no_adapter", f"there is no adapter in {folder.name}", where=Where(str(folder)),
            why="a stage with `finetuning_type: full` changes the model itself",
            hint="name the artefact of a train step with `finetuning_type: lora`, or --to hf",
        )  # fmt: skip
    return folder / "adapter"


def publish_copy(folder: Path, output: Path) -> None:
    """Copy the model's files, whole or not at all."""
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, part, ignore=shutil.ignore_patterns(*NOT_MODEL))
    part.rename(output)
