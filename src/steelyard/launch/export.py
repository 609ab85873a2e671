"""Which stack carries out a plan on its device, and whether its files say what that stack reads. Pure.

parsers.json holds facts of each stack: names, kinds, choices, and where they were read (bench/exports.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from .flags import flags_of, version_of
from .habana import habana
from .megatron import megatron
from .ovms import ovms
from .services import Service, engine
from .target import Target, Training
from .titan import titan
from .trl import trl

Maker = Callable[[Training], Target | None]
# Who trains on a platform; the first of equals where the plan's own stack is none of them.
TRAINERS: dict[str, tuple[Maker, ...]] = {
    "cuda": (trl, titan, megatron),
    "rocm": (trl, titan, megatron),
    "xpu": (trl, titan),
    "gaudi": (habana, megatron),
    "cpu": (trl,),
}
# A stack of the planner -> who writes its files: DeepSpeed runs under the trainers of Hugging Face.
WRITERS: dict[str, tuple[Maker, ...]] = {
    "megatron-lm": (megatron,),
    "megatron-fsdp": (megatron,),
    "torchtitan": (titan,),
    "deepspeed": (trl, habana),
    "trl": (trl,),
}
ENGINES = ("vllm", "sglang")


def training_targets(stages: Sequence[Training]) -> list[Target]:
    """The plan's own stack for all its stages; where nobody writes its files, the one that states most of the
    plan, which then lists the stack as not stated. [] where no stack that is written runs on the device."""
    makers = TRAINERS.get(stages[0].platform, ()) if stages else ()
    own = [maker for maker in WRITERS.get(stages[0]["stack"] or "", ()) if maker in makers] if stages else []
    if made := [targets for maker in own if (targets := _made(maker, stages))]:
        return [_named(target) for target in made[0]]
    made = [targets for maker in makers if (targets := _made(maker, stages))]
    return min(made, key=lambda targets: _losses(targets, stages), default=[])


def training_target(training: Training) -> Target | None:
    """Of one stage, as `training_targets`."""
    return next(iter(training_targets([training])), None)


def _made(maker: Maker, stages: Sequence[Training]) -> list[Target]:
    made = [target for training in stages if (target := maker(training))]
    return made if len(made) == len(stages) else []


def _losses(targets: Sequence[Target], stages: Sequence[Training]) -> int:
    return sum(len(t.lost(training.settings)) for t, training in zip(targets, stages, strict=True))


def writes(stack: str, platform: str | None) -> bool:
    """Whether files of a stack are written for a platform."""
    makers = TRAINERS.get(platform or "", ())
    return any(maker in makers for maker in WRITERS.get(stack, ()))


def _named(target: Target) -> Target:
    """A target that is the plan's own stack, or starts it."""
    return replace(target, stated={**target.stated, "stack": "run.sh: the program that it starts"})


def service_target(service: Service) -> Target:
    """The service in the files of its engine."""
    return ovms(service) if service.engine == "ovms" else engine(service)


# ------------------------------------------------------------------ what the parsers take


@cache
def _facts() -> dict[str, dict[str, Any]]:
    text = files(__package__).joinpath("parsers.json").read_text(encoding="utf-8")
    document: dict[str, dict[str, Any]] = json.loads(text)
    return document


def source_of(parser: str) -> str:
    """What the facts of a parser were read from: "trl 1.16.0, its parser"."""
    if parser in ENGINES:
        return f"{parser} {version_of(parser)}, its sources"
    facts = _facts()[parser]
    return f"{parser.partition(' ')[0]} {facts['version']}, {facts['source']}"


def schema_faults(target: Target) -> list[str]:
    """What a stack's documented schema would refuse of these files; [] where nothing."""
    return [
        f"{parser}: {fault}" for parser, given in target.given.items() for fault in _faults(parser, given)
    ]


def _faults(parser: str, given: Mapping[str, Any]) -> Iterator[str]:
    names = _names(parser)
    for name, value in given.items():
        fact = names.get(name)
        if fact is None:
            yield f"there is no {name}"
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            if fact.get("choices") and str(one) not in fact["choices"]:
                yield f"{name} is {one!r}, not one of {', '.join(fact['choices'])}"
            elif not _reads(fact.get("type", "str"), one):
                yield f"{name} is {one!r}, not of type {fact['type']}"


def _names(parser: str) -> Mapping[str, Mapping[str, Any]]:
    if parser not in ENGINES:
        names: dict[str, dict[str, Any]] = _facts()[parser]["names"]
        return names
    spelled = flags_of(parser)
    return {
        name: {"type": "switch" if flag.kind == "switch" else flag.type, "choices": list(flag.choices)}
        for name, flag in spelled.items()
    }


def _reads(kind: str, value: Any) -> bool:
    if kind in ("switch", "bool"):
        return isinstance(value, bool) or value in ("true", "false", "True", "False")
    if kind in ("int", "float"):
        try:
            (int if kind == "int" else float)(value)
        except (TypeError, ValueError):
            return False
    return True
