"""The recipe as foreign text: pydantic models of what YAML may say, with an example each.

Only the edge: a checked document becomes the dataclasses of recipe.py at once. Defaults stand there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from .methods import MIXES
from .tables.data import CleanTable, SourceTable
from .tables.goal import GoalTable, LatencyTable, LiftTable, LoadTable
from .tables.proof import AbilityTable, CompressTable, GateTable, JudgeTable
from .tables.refresh import RefreshTable
from .tables.resources import OwnedTable, ResourcesTable, TermsTable, TrustTable
from .tables.serving import MOST_REPLICAS, ScaleTable, ServeTable
from .tables.stage import StageTable
from .tables.table import Table, say
from .tables.values import Text


def _folder_name(name: Any) -> Any:
    """Runs lie in runs/<name>: a name is one plain folder name."""
    if isinstance(name, str) and (len(name.encode()) > 200 or name[:1] in ". " or not name.isprintable()):
        raise ValueError(
            f"{name[:40]!r} is not a name of at most 200 bytes that begins with a letter or digit"
        )
    if isinstance(name, str) and "/" in name:
        raise ValueError(f"{name[:40]!r} is not a name: it holds a slash")
    return name


Name = Annotated[str, BeforeValidator(_folder_name), Field(min_length=1)]


class AutoTable(Table):
    auto: list[Text] | None = say("models to try, from small to large", ["demo", "Qwen/Qwen3-0.6B"])


def _model(value: Any) -> Any:
    """A name, or {auto: [names]}."""
    if isinstance(value, str) and value:
        return value
    names = value.get("auto") if isinstance(value, dict) and set(value) == {"auto"} else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise ValueError("wants a name, auto, or {auto: [small, larger]}")
    if len(set(names)) < len(names) or "auto" in names:
        raise ValueError("names each candidate once, and not auto itself")
    return value


def _mix(value: Any) -> Any:
    """Weights by ability; a word for all has become one of each (load.py)."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no mix: it is {', '.join(MIXES)}, or a weight for each ability")
    for ability, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if weight not in ("auto", "temperature") and not (number and 0 <= weight < math.inf):
            raise ValueError(f"{ability}: {weight!r} is neither a weight of 0 or more nor auto")
    return value


class Document(Table):
    """A whole recipe."""

    name: Name | None = say("name of the job; the file's name where left out", "support-desk")
    model: Annotated[str | AutoTable, BeforeValidator(_model)] = Field(
        description="demo, a folder, a GGUF file, a hub id, or auto: the smallest that passes the gate",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct"],
    )
    goal: GoalTable | None = say("what it may cost and how fast it must be", {"budget": "50 USD"})
    data: list[SourceTable] | None = say("what to learn from", [{"path": "rows.jsonl", "ability": "support"}])
    mix: Annotated[dict[Text, float | str], BeforeValidator(_mix)] | None = say(
        "weight of each ability; auto: steered while it trains; or one word for all: auto, rows, equal, "
        "temperature",
        {"support": 0.7},
    )
    clean: CleanTable | None = say("cleaning; the word none keeps every row", {"pii": "mask"})
    train: list[StageTable] | None = say("stages; [] serves the model as it is", [{"stage": "sft"}])
    compress: CompressTable | None = say("the served form", {"weights": "int8"})
    gate: GateTable | None = say("when it may go live", {"abilities": {"support": {"min": 0.9}}})
    serve: ServeTable | None = say("the service", {"port": 8000})
    resources: ResourcesTable | None = say("what there is to run on", {"price_per_h": "0.50 USD/h"})
    trust: TrustTable | None = say("open, guarded or sealed; or a table with a key_file", "guarded")
    refresh: RefreshTable | None = say(
        "train again from rated answers", {"every": "night", "feedback": "ratings"}
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = say("of the whole job", 0)


TABLES: dict[str, type[Table]] = {
    "": Document,
    "model": AutoTable,
    "goal": GoalTable,
    "goal.latency": LatencyTable,
    "goal.load": LoadTable,
    "goal.lift": LiftTable,
    "data.*": SourceTable,
    "clean": CleanTable,
    "train.*": StageTable,
    "compress": CompressTable,
    "gate": GateTable,
    "gate.abilities.*": AbilityTable,
    "gate.judge": JudgeTable,
    "serve": ServeTable,
    "serve.replicas": ScaleTable,
    "resources": ResourcesTable,
    "resources.own.*": OwnedTable,
    "resources.terms": TermsTable,
    "trust": TrustTable,
    "refresh": RefreshTable,
}


def section(at: tuple[str | int, ...]) -> str:
    """The name in TABLES of the table that stands at a path: ("train", 0) -> "train.*"."""
    starred = [
        "*" if isinstance(part, int) or at[:i] == ("gate", "abilities") else part for i, part in enumerate(at)
    ]
    return ".".join(str(part) for part in starred)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors. Short forms (`trust: guarded`, `judge: base`) are in it."""
    document = Document.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "steelyard recipe"
    _allow(document, "trust", {"enum": ["open", "guarded", "sealed"]})
    _allow(document, "clean", {"const": "none"})
    _allow(document, "mix", {"enum": list(MIXES)})
    document["$defs"]["GoalTable"]["properties"]["lift"]["anyOf"].insert(0, {"type": "string"})
    number = {"type": "integer", "minimum": 1, "maximum": MOST_REPLICAS}
    document["$defs"]["ServeTable"]["properties"]["replicas"]["anyOf"].insert(0, number)
    document["$defs"]["GateTable"]["properties"]["judge"]["anyOf"].insert(0, {"const": "base"})
    _foreign_text(document)
    return document


def _allow(document: dict[str, Any], field: str, short: dict[str, Any]) -> None:
    document["properties"][field]["anyOf"].insert(0, short)


WRITTEN_AS_TEXT = (
    "MoneyText",
    "seconds_of",
    "share_of",
    "_kept",
    "energy_price_of",
    "watts_of",
    "most_bytes_of",
    "rate_per_s",
    "_every",
)


def _foreign_text(document: dict[str, Any]) -> None:
    """Money, times and shares are written as text too; pydantic only sees what they become."""
    document["$defs"].pop("MoneyText", None)
    text = {"anyOf": [{"type": "string"}, {"type": "number"}]}
    for name, properties in _tables(document):
        for field, value in properties.items():
            wanted = TABLES[name].model_fields[field].annotation
            if any(name in str(wanted) for name in WRITTEN_AS_TEXT):
                keep = {k: value[k] for k in ("description", "examples", "default") if k in value}
                properties[field] = keep | (text if "dict" not in str(wanted) else {"type": "object"})


def _tables(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    by_class: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, table in TABLES.items():
        part = document if table is Document else document["$defs"][table.__name__]
        by_class[name] = part["properties"]
    return list(by_class.items())  # type: ignore[arg-type]
