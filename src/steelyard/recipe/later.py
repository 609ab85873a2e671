"""Words of a recipe that the design has and this version has not: named, never ignored."""

from __future__ import annotations

from typing import Any

from ..errors import WrongUse
from .tree import Path_, Tree, dotted

# (path with * for any entry) -> (the values that come later; None = all), what to do instead
LATER: dict[tuple[str, ...], tuple[tuple[Any, ...] | None, str]] = {
    ("data", "*", "format"): (
        ("docx", "pdf", "html", "markdown"),
        "save it as JSONL, CSV or XLSX",
    ),
    ("clean", "dedup"): (("semantic",), "example: dedup: near"),
    ("clean", "decontaminate"): (None, "delete the line; held-out rows never equal a training row"),
    ("train", "*", "stage"): (
        ("pretrain", "ppo", "cpo", "simpo"),
        "of those that are: pt, sft, distil, dpo, kto, orpo, grpo, rm",
    ),
    ("train", "*", "finetuning_type"): (("qlora", "dora", "freeze"), "example: finetuning_type: lora"),
    ("train", "*", "dataset"): (None, "name the file under `data:`"),
    ("compress", "weights"): (("fp8", "gptq", "awq", "q4_k_m"), "example: weights: int4"),
    ("serve", "tide"): (None, "delete the line"),
    ("serve", "engine"): (
        ("llamacpp",),
        "delete the line; steelyard serve CHECKPOINT --engine NAME serves what was tuned",
    ),
    ("resources", "cpu"): (None, "delete the line: this machine's cores are used"),
    ("resources", "gpu"): (
        None,
        "delete the line: this version runs on CPUs; devices to plan for: resources.own",
    ),
    ("resources", "max_price"): (None, "example: goal: {budget: 50 USD}"),
}
HARMLESS: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("serve", "tide"): (False,),
    ("clean", "decontaminate"): (False,),
}


def refuse_what_comes_later(tree: Tree) -> None:
    """Raises WrongUse where the recipe asks for what is not built; drops words that ask for nothing."""
    for pattern, (values, instead) in LATER.items():
        for holder, at in _matches(tree.values, pattern):
            value = holder[at[-1]]
            if value in HARMLESS.get(pattern, ()) and type(value) is type(HARMLESS[pattern][0]):
                del holder[at[-1]]
            elif values is None or (isinstance(value, str) and value.lower() in values):
                _refuse(tree, at, value, asks_for_value=values is not None, instead=instead)


def _refuse(tree: Tree, at: Path_, value: Any, *, asks_for_value: bool, instead: str) -> None:
    name = f"{dotted(at)}: {value}" if asks_for_value else dotted(at)
    raise WrongUse(
        "recipe.not_yet",
        f"{name} is not yet available",
        where=tree.where(at),
        why="it comes later; this version would have to ignore it",
        hint=instead,
    )


def _matches(values: Any, pattern: tuple[str, ...], at: Path_ = ()) -> list[tuple[Any, Path_]]:
    """(holder, path) for each place a pattern names."""
    if len(pattern) == 1:
        present = isinstance(values, dict) and pattern[0] in values
        return [(values, (*at, pattern[0]))] if present else []
    if pattern[0] == "*":
        entries = enumerate(values) if isinstance(values, list) else ()
        return [m for i, child in entries for m in _matches(child, pattern[1:], (*at, i))]
    if not isinstance(values, dict) or pattern[0] not in values:
        return []
    return _matches(values[pattern[0]], pattern[1:], (*at, pattern[0]))
