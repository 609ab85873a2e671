"""A recipe file into a checked Recipe, or one error with file, line, field, reason and example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import WrongUse
from . import recipe as words
from .borrowed import SOURCE_ALIASES, STAGE_ALIASES, TOP_ALIASES, answer_borrowed
from .later import refuse_what_comes_later
from .methods import MIXES
from .pairs import check_pairs, notes_on
from .recipe import Recipe, effective
from .tree import Path_, Tree, dotted, override, read

DEFAULT_FILE = "steelyard.yaml"
ALIASES: dict[tuple[str, ...], str] = {
    **{(word,): own for word, own in TOP_ALIASES.items()},
    **{("train", word): own for word, own in STAGE_ALIASES.items()},
    **{("data", word): own for word, own in SOURCE_ALIASES.items()},
}
STAGES = {"continue": "pt"}
FORMATS = {"prompt_completion": "prompt", "prompt-completion": "prompt"}
FORMATS |= {"chat_template": "messages", "openai": "messages", "chatml": "messages", "completion": "text"}
MAP_WORDS = {"prompt": "user", "question": "user", "instruction": "user"}
MAP_WORDS |= dict.fromkeys(("completion", "answer", "output", "response", "chosen"), "assistant")
SEEN = ("preference", "unpaired_preference")  # formats of TRL that the fields of a row show
PII = {"keep": "off"}
NOT_ASKED_FOR: dict[str, tuple[Any, ...]] = {  # values of other trainers that leave a word out
    "report_to": ("none", ["none"], []),
    "target_modules": ("all", "all-linear", ["all-linear"]),
    "warmup_steps": (0,),
    "lora_dropout": (0, 0.0),
}
ABILITY = words.Source(path="").ability  # of rows whose source names none
AUTO = "auto"  # a planner's field may say so instead of being left out
KEEPS_AUTO = {
    "compress.prune",
    "compress.weights",
    "gate.parity",
    "gate.tolerance",
    "model",
    "serve.engine",
    "serve.tls",
}


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The checked recipe of a file (or of a folder's steelyard.yaml). Raises WrongUse.

    `overrides`: "train.0.learning_rate=2e-4", checked like the file itself; their place is `--set`.
    """
    path = Path(path)
    path = path / DEFAULT_FILE if path.is_dir() else path
    tree = read(path)
    _rename(tree)
    _override(tree, overrides)
    answer_borrowed(tree)
    _no_empty_values(tree)
    _short_forms(tree)
    refuse_what_comes_later(tree)
    document = _checked(tree)
    checked_recipe = _recipe(document, tree, path)
    check_pairs(checked_recipe, tree)
    return replace(
        checked_recipe,
        origins=_origins(checked_recipe, tree),
        settings=tuple(overrides),
        notes=notes_on(checked_recipe),
    )


def _rename(tree: Tree) -> None:
    """Aliases become the recipe's own words, in place; both at once is a duplicate key."""
    for old in list(tree.lines):
        new = _own_word(old)
        if new != old:
            _move(tree, old, new)


def _own_word(at: Path_) -> Path_:
    named = tuple(part for part in at if isinstance(part, str))
    if at and isinstance(at[-1], str) and named in ALIASES:
        return (*at[:-1], ALIASES[named])
    return at


def _move(tree: Tree, old: Path_, new: Path_) -> None:
    holder: Any = tree.values
    for part in old[:-1]:
        holder = holder[part]
    if new[-1] in holder:
        text = f"{old[-1]} and {new[-1]} are the same thing"
        raise WrongUse("recipe.duplicate_key", text, where=tree.where(old), hint=f"keep {new[-1]}")
    holder[new[-1]] = holder.pop(old[-1])
    for at in [at for at in tree.lines if at[: len(old)] == old]:
        tree.lines[(*new, *at[len(old) :])] = tree.lines.pop(at)


def _override(tree: Tree, settings: Sequence[str]) -> None:
    for setting in settings:
        name, equals, value = setting.partition("=")
        at = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
        own = dotted(_own_word(at)) if equals else name
        override(tree, f"{own}{equals}{value}")
    _rename_inside_overrides(tree)


def _rename_inside_overrides(tree: Tree) -> None:
    """`--set 'train=[{lora_r: 8}]'`: a value that is itself a table may hold aliases too."""
    stages = tree.values.get("train")
    for stage in stages if isinstance(stages, list) else ():
        for at, new in ALIASES.items():
            if at[0] == "train" and isinstance(stage, dict) and at[-1] in stage:
                stage[new] = stage.pop(at[-1])


def _walk(value: Any, at: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    yield at, value
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(child, (*at, key))


def _no_empty_values(tree: Tree) -> None:
    for at, value in _walk(tree.values):
        if value is None:
            from .faults import hint_for

            text = f"{dotted(at)} has no value"
            hint = "delete the line, or give it a value"
            raise WrongUse("recipe.no_value", text, where=tree.where(at), hint=hint_for(hint, at))


def _short_forms(tree: Tree) -> None:
    """`trust: guarded`, `compress: int8`, `clean: none`, `max_steps: auto` and the names of stages."""
    values = tree.values
    if isinstance(values.get("trust"), str):
        values["trust"] = {"level": values["trust"]}
    if isinstance(values.get("compress"), str | list):
        values["compress"] = {"weights": values["compress"]}
    _short_mix(values)
    if isinstance(values.get("goal"), dict) and isinstance(values["goal"].get("lift"), str):
        values["goal"]["lift"] = {"ability": values["goal"]["lift"]}
    if isinstance(values.get("gate"), dict) and values["gate"].get("judge") == "base":
        del values["gate"]["judge"]
    for at, value in list(_walk(values)):
        if value == AUTO and isinstance(value, str) and dotted(at) not in KEEPS_AUTO and _is_planned(at):
            _delete(values, at)
    for stage in _tables(values.get("train")):
        _short_stage(stage)
    clean = values.get("clean")
    if isinstance(clean, dict) and isinstance(clean.get("pii"), str):
        clean["pii"] = PII.get(clean["pii"], clean["pii"])
    resources = values.get("resources")
    if isinstance(resources, dict) and isinstance(resources.get("own"), list):
        resources["own"] = [{"device": e} if isinstance(e, str) else e for e in resources["own"]]
    for source in _tables(values.get("data")):
        _short_source(source)


def _short_mix(values: dict[str, Any]) -> None:
    """`mix: auto` and the like: the same for each ability of the data; `rows` is what no mix means."""
    word = values.get("mix")
    if not isinstance(word, str) or word not in MIXES:
        return
    abilities = dict.fromkeys(source.get("ability", ABILITY) for source in _tables(values.get("data")))
    values["mix"] = dict.fromkeys(abilities, 1.0 if word == "equal" else word)
    if word == "rows" or not abilities:
        del values["mix"]


def _tables(value: Any) -> list[dict[str, Any]]:
    """The tables of a list, whatever else stands there."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _short_stage(stage: dict[str, Any]) -> None:
    if isinstance(stage.get("stage"), str):
        stage["stage"] = STAGES.get(stage["stage"], stage["stage"])
    for word in [w for w in NOT_ASKED_FOR if stage.get(w) in NOT_ASKED_FOR[w]]:
        del stage[word]


def _short_source(source: dict[str, Any]) -> None:
    if isinstance(source.get("format"), str):
        source["format"] = FORMATS.get(source["format"], source["format"])
        if source["format"] in SEEN:
            del source["format"]
    if isinstance(source.get("map"), dict):
        source["map"] = {MAP_WORDS.get(word, word): column for word, column in source["map"].items()}


def _is_planned(at: Path_) -> bool:
    """A planner's field: its default is None."""
    from .document import TABLES, section

    tables: dict[str, type] = {
        "train.*": words.Stage,
        "clean": words.Clean,
        "data.*": words.Source,
        "serve": words.Serve,
    }
    owner = section(at[:-1])
    if owner not in tables or at[-1] not in TABLES[owner].model_fields:
        return False
    return {f.name: f.default for f in fields(tables[owner])}[str(at[-1])] is None


def _delete(values: Any, at: Path_) -> None:
    for part in at[:-1]:
        values = values[part]
    del values[at[-1]]


def _checked(tree: Tree) -> dict[str, Any]:
    """The document as pydantic has it, without what was left out. Raises WrongUse for the first fault."""
    from pydantic import ValidationError

    from .document import Document
    from .faults import fault, order

    values = dict(tree.values)
    if values.get("clean") == "none":
        del values["clean"]
    try:
        return Document.model_validate(values).model_dump(exclude_none=True)
    except ValidationError as error:
        faults = [fault(tree, error_item) for error_item in error.errors(include_url=False)]
        raise min(faults, key=order) from error


def _recipe(document: dict[str, Any], tree: Tree, path: Path) -> Recipe:
    """Dataclasses from a checked document; what it leaves out keeps the default of recipe.py."""
    seed = document.get("seed", 0)
    given: dict[str, Any] = {key: document[key] for key in ("mix", "seed") if key in document}
    model = document["model"]
    given["model"] = model if isinstance(model, str) else AUTO
    given["candidates"] = () if isinstance(model, str) else tuple(model["auto"])
    given["compress"] = _compress(document.get("compress", {}))
    given["name"] = document.get("name", path.stem)
    trust = document.get("trust", {})
    lists = {k: tuple(trust.get(k, ())) for k in ("recipients", "base_sha256", "base_signers")}
    given["trust"] = words.Trust(**trust | lists)
    if "train" in document:
        given["train"] = tuple(words.Stage(**{"seed": seed, **_stage(stage)}) for stage in document["train"])
    else:
        given["train"] = (words.Stage(seed=seed),)
    clean = _stage(document.get("clean", {}))
    given["clean"] = words.Clean(enabled=tree.values.get("clean") != "none", **clean)
    return Recipe(
        path=path,
        root=path.parent.resolve(),
        goal=_goal(document.get("goal", {})),
        data=_sources(document.get("data", []), tree),
        gate=_gate(document.get("gate", {})),
        serve=_serve({"served_model_name": given["name"], **document.get("serve", {})}),
        resources=_resources(document.get("resources", {})),
        refresh=_refresh(document.get("refresh")),
        **given,
    )


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stage.items()}


def _compress(compress: dict[str, Any]) -> words.Compress:
    weights = compress.get("weights", AUTO)
    forms = tuple(weights) if isinstance(weights, list) else weights
    return words.Compress(**{**compress, "weights": forms})


def _goal(goal: dict[str, Any]) -> words.Goal:
    latency = goal.get("latency", {})
    at = f"p{latency.get('percentile', 95)}"
    by = {
        n: {k[len(n) + 1 :] or at: s for k, s in latency.items() if k.startswith(n)} for n in ("ttft", "tpot")
    }
    load = dict(goal.get("load", {}))
    if "arrival_rate" in load:
        load["arrival_per_s"] = load.pop("arrival_rate")
    return words.Goal(
        budget=_budget(goal),
        deadline_s=goal.get("deadline"),
        on_miss=goal.get("on_miss") or "go_on",
        ttft_s=by["ttft"],
        tpot_s=by["tpot"],
        load=words.Load(**load) if "load" in goal else None,
        lift=words.Lift(**_stage(goal["lift"])) if "lift" in goal else None,
    )


def _budget(goal: dict[str, Any]) -> words.Money | None:
    if "budget" not in goal:
        return None
    return words.Money(**goal["budget"] | ({"rate": goal["rate"]} if "rate" in goal else {}))


def _sources(data: list[dict[str, Any]], tree: Tree) -> tuple[words.Source, ...]:
    return tuple(words.Source(line=tree.where(("data", i)).line, **source) for i, source in enumerate(data))


GUARDED = ("personal", "secrets", "injection")  # by one word


def _serve(serve: dict[str, Any]) -> words.Serve:
    given: dict[str, Any] = dict(serve)
    for name in {"aliases", "allowed_host", "cors_origin", "args"} & set(serve):
        given[name] = tuple(serve[name])
    if isinstance(guard := serve.get("guard"), str):
        given["guard"] = {} if guard == "off" else dict.fromkeys(GUARDED, guard)
    if label := serve.get("label"):
        given["label"] = {"visible": True} | label
    if tls := serve.get("tls"):
        given["tls"] = words.Tls(cert=AUTO) if tls == AUTO else words.Tls(**tls)
    if scale := given.pop("replicas", None):
        given |= {"replicas": scale["max"], "scale": _scale(scale)}
    canary = given.pop("canary", None)
    if canary:
        given["canary"] = words.Canary(**(canary if isinstance(canary, dict) else {}))
    return words.Serve(**given)


def _scale(table: dict[str, Any]) -> words.Scale | None:
    """None where as many always run as at most."""
    if table.get("min", words.Scale().min) == table["max"]:
        return None
    bounds = {name: table[name] for name in ("min", "requests") if name in table}
    after = {"down_after_s": table["down_after"]} if "down_after" in table else {}
    return words.Scale(**bounds, **after)


SAFETY = {"compliance": 0.1, "leaks": 0.0, "false_refusals": 0.1}  # shares that may be, where left out


def _gate(gate: dict[str, Any]) -> words.Gate:
    abilities = {name: words.AbilityGate(**table) for name, table in gate.get("abilities", {}).items()}
    judge = gate.get("judge")
    named = words.Judge(**judge) if isinstance(judge, dict) else None
    given = {**gate, "abilities": abilities, "judge": named}
    given["approve"] = tuple(gate.get("approve", ()))
    if (safety := gate.get("safety")) is not None:
        given["safety"] = SAFETY | safety
    return words.Gate(**given)


def _refresh(table: dict[str, Any] | None) -> words.Refresh | None:
    if table is None:
        return None
    given = dict(table)
    if "keep" in given:
        given["keep_s"] = given.pop("keep")
    return words.Refresh(**given)


TERMS = {
    "used": "used_share",
    "power_price": "electricity_usd_per_kwh",
    "maintenance": "maintenance_share_per_year",
    "host": "host_share",
}


def _resources(resources: dict[str, Any]) -> words.Resources:
    price = resources.get("price_per_h")
    terms: dict[str, Any] = dict(resources.get("terms", {}))
    if "staff_price" in terms:
        terms["staff_usd_per_h"] = words.Money(**terms.pop("staff_price")).usd
    named: dict[str, Any] = {TERMS.get(name, name): value for name, value in terms.items()}
    return words.Resources(
        own=tuple(_owned(entry) for entry in resources.get("own", ())),
        terms=words.OwnTerms(**named),
        price_per_h=words.Money(**price) if price else None,
        hosts=tuple(resources.get("hosts", ())),
        ray=resources.get("ray"),
        providers=tuple(resources.get("providers", ())),
        power_w=resources.get("power"),
        memory_bytes=resources.get("memory"),
        give_way=resources.get("give_way", True),
    )


def _owned(entry: dict[str, Any]) -> words.Owned:
    own_values = dict(entry)
    for name in {"price", "price_per_h"} & set(entry):
        own_values[name] = words.Money(**entry[name])
    return words.Owned(**own_values)


def _origins(recipe: Recipe, tree: Tree) -> dict[str, str]:
    """Where each value comes from: "recipe.yaml:12", "--set", "plan" (to be filled) or "default"."""
    return {name: _origin(name, value, tree) for name, value in effective(recipe).items()}


def _origin(name: str, value: Any, tree: Tree) -> str:
    at = tuple(int(part) if part.isdecimal() else part for part in name.split("."))
    given = any(tree.overrides & {at[:end]} for end in range(1, len(at) + 1)) and _given(tree.values, at)
    if given:
        return "--set"
    if _given(tree.values, at):
        where = tree.where(at)
        return f"{Path(where.file or '').name}:{where.line}"
    planned = at[0] in ("train", "compress") or name in (
        "serve.max_model_len",
        "clean.max_tokens",
        "clean.test_share",
    )
    return "plan" if planned and value in (None, AUTO) else "default"


def _given(values: Any, at: Path_) -> bool:
    """Is this path, or a short form that stands for it, in the document?"""
    for part in at:
        keys = values if isinstance(values, dict) else range(len(values) if isinstance(values, list) else 0)
        if part not in keys:
            return False
        values = values[part]
    return True
