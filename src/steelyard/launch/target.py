"""A training plan in the files of a target that can run it, and what that target cannot say. Pure.

Every setting of the plan is either stated in a file or listed as lost: `Target.lost` is what nobody stated.
Not here: how one target spells it (trl.py, titan.py, megatron.py, habana.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

# What a setting is where nothing is asked for: it needs no words.
NEUTRAL: dict[str, Any] = {
    "tp": 1, "pp": 1, "virtual_stages": 1, "cp": 1, "ep": 1, "dp": 1, "sequence_parallel": False, "zero": 0,
    "offload": False, "recompute": "none", "finetuning_type": "full", "lora_rank": 0, "lora_alpha": 0,
    "warmup_ratio": 0.0, "weight_decay": 0.0, "prefill_replicas": 0, "evaluated": 0.0,
}  # fmt: skip
PLANNERS_OWN = ("grid", "stack_flags")  # how it searched, and the flags of its stack, which a file spells
OTHER_STACK = "steelyard writes no files for it: these are the nearest that it writes"
DATA = "data/train.jsonl"  # of chats or texts, beside the files
MERGED = "its adapter merged into the base (peft's merge_and_unload)"
AT_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The stage before one: its folder, how many steps it takes, whether it trains adapters alone."""

    place: str
    steps: int
    lora: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A planned training: its model, its devices, and every setting of the plan."""

    model: str  # that the plan begins with
    family: str  # model_type of its config.json
    sizes: Mapping[str, int]  # layers, hidden, heads, kv_heads, head_dim, ffn, vocab, experts, ...
    platform: str  # platform_of
    device: str
    hosts: int
    per_host: int  # devices of one host that take part
    step_s: float  # of one optimiser step
    settings: Mapping[str, Any]
    after: Earlier | None = None  # what it goes on from

    def __getitem__(self, name: str) -> Any:
        return self.settings.get(name, NEUTRAL.get(name))

    @property
    def devices(self) -> int:
        """All that take part."""
        return self.hosts * self.per_host

    @property
    def lora(self) -> bool:
        """Whether adapters are trained rather than the weights."""
        return bool(self["finetuning_type"] in ("lora", "qlora"))

    @property
    def accumulation(self) -> int:
        """Micro-batches of one optimiser step on one data-parallel rank."""
        return max(1, self["global_batch"] // (self["micro_batch"] * self["dp"]))

    @property
    def save_steps(self) -> int:
        """Optimiser steps between two checkpoints."""
        every_s = self["checkpoint_every_s"] or 3600
        return max(1, min(round(every_s / self.step_s), int(self["steps"]))) if self.step_s else 500

    @property
    def warmup_steps(self) -> int:
        """Optimiser steps over which the rate rises."""
        return round(float(self["warmup_ratio"]) * int(self["steps"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Files of one stack. `given`: what each file says, by the parser that reads it; `argv`: its words."""

    name: str
    files: Mapping[str, str]
    stated: Mapping[str, str]  # setting -> where it stands
    given: Mapping[str, Mapping[str, Any]]  # parser -> {name: value}
    argv: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # parser -> words of its command line
    reasons: Mapping[str, str] = field(default_factory=dict)  # setting -> why it cannot be said
    needs: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)  # that run.sh must be told -> what each is
    made_of: str | None = None  # what must be done with its checkpoints before another reads them as a model

    def lost(self, settings: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        """{setting: (value, why)} of what the plan asks for and no file states."""
        return {
            name: (value, self.reasons.get(name) or self._has_none(name))
            for name, value in settings.items()
            if name not in self.stated and name not in PLANNERS_OWN and value != NEUTRAL.get(name)
        }

    def tuned(self, place: str) -> tuple[str, str]:
        """Where the trained model lies for those in the folder beside, and who puts it there."""
        return tuned(place, self.made_of)

    def _has_none(self, name: str) -> str:
        return OTHER_STACK if name == "stack" else f"{self.name} has no setting for it"


def tuned(place: str, made_of: str | None) -> tuple[str, str]:
    """The folder of what was trained in `place`, and the need that says who writes it."""
    own = f"../{place}/checkpoints"
    if made_of is None:
        return own, f"{own}: what {place}/run.sh writes"
    return f"../{place}/tuned", f"../{place}/tuned: {own} with {made_of}, and its tokenizer"


def weights_need(model: str, file: str) -> tuple[str, ...]:
    """What a name asks for that is no id at the hub: one of the catalogue, a folder of another machine."""
    if AT_THE_HUB.fullmatch(model):
        return ()
    return (f"{model}: its folder on each host, or its id at the hub, in {file}",)


def begins(training: Training, file: str, made_of: str | None) -> tuple[str, tuple[str, ...]]:
    """What it starts from, which `file` names, and what must be there; `made_of`: of the stage before it."""
    if training.after is None:
        return training.model, weights_need(training.model, file)
    folder, need = tuned(training.after.place, made_of)
    return folder, (need,)


def merged(lora: bool) -> str | None:
    """What must be done with a folder that transformers' Trainer has written."""
    return MERGED if lora else None


# Setting -> the argument of transformers' Trainer that states it.
TRAINER = {
    "micro_batch": "per_device_train_batch_size", "global_batch": "gradient_accumulation_steps",
    "steps": "max_steps", "learning_rate": "learning_rate", "warmup_ratio": "warmup_steps",
    "weight_decay": "weight_decay", "checkpoint_every_s": "save_steps",
}  # fmt: skip


def trainer(training: Training) -> dict[str, Any]:
    """Arguments of transformers' Trainer, which TRL's and Optimum-Habana's share."""
    return {
        "per_device_train_batch_size": training["micro_batch"],
        "gradient_accumulation_steps": training.accumulation,
        "max_steps": int(training["steps"]),
        "learning_rate": float(training["learning_rate"]),
        "warmup_steps": training.warmup_steps,
        "weight_decay": float(training["weight_decay"]),
        "save_steps": training.save_steps,
    }


# Of transformers' Trainer, whose last file of a checkpoint is trainer_state.json: the newest that is whole.
NEWEST = "last=$(ls -d checkpoints/checkpoint-*/trainer_state.json 2>/dev/null | sort -V | tail -n 1)"
RESUMED = '${last:+--resume_from_checkpoint "${last%/*}"}'


def script(lines: Sequence[str], words: Sequence[str]) -> str:
    """A shell script: what must be there first, then one command that takes the shell's place."""
    return "\n".join(["#!/bin/sh", "set -eu", 'cd "$(dirname "$0")"', *lines, f"exec {wrapped(words)}", ""])


def wrapped(words: Sequence[str]) -> str:
    """A command line over several lines, broken before its flags; $VARIABLES stay the shell's."""
    quoted = [word if word.startswith(('"$', "${")) else shlex.quote(word) for word in words]
    lines: list[str] = []
    for word in quoted:
        if not lines or word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join(lines)


RANK = '"$NODE_RANK"'
ADDRESS = '"$MASTER_ADDR"'
OF_HOSTS = {"NODE_RANK": "the number of this host, from 0", "MASTER_ADDR": "the address of host 0"}


def torchrun(training: Training) -> tuple[str, ...]:
    """torchrun on each host."""
    many = ("--node-rank", RANK, "--master-addr", ADDRESS, "--master-port", "29500")
    own = ("--standalone",) if training.hosts == 1 else many
    return ("torchrun", "--nnodes", str(training.hosts), "--nproc-per-node", str(training.per_host), *own)


def told(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Lines that end the script where a variable is not set."""
    return tuple(f': "${{{name}:?{what}}}"' for name, what in variables.items())


def before(training: Training) -> tuple[str, ...]:
    """What the script checks first: on several hosts, who it is."""
    return told(OF_HOSTS) if training.hosts > 1 else ()


def options(values: Mapping[str, Any], dash: str = "--") -> tuple[str, ...]:
    """{name: value} as words; True is the flag alone, a list several words."""
    words: list[str] = []
    for name, value in values.items():
        words.append(f"{dash}{name}")
        if isinstance(value, list | tuple):
            words += [str(one) for one in value]
        elif value is not True:
            words.append(number(value))
    return tuple(words)


def number(value: Any) -> str:
    """A value as a word: a float short, and with the point that YAML 1.1 wants."""
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.6g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def yaml(values: Mapping[str, Any]) -> str:
    """A mapping as YAML 1.1, which PyYAML reads: 2.0e-05 is a number there, 2e-05 a word, no a boolean."""
    from ruamel.yaml import YAML

    written: list[str] = []
    writer: Any = YAML(typ="safe", pure=True)
    writer.version, writer.default_flow_style, writer.sort_base_mapping_type_on_output = (1, 1), False, False
    writer.dump(dict(values), SimpleNamespace(write=written.append, encoding=None))
    return "".join(written)


def documents(*each: Mapping[str, Any]) -> str:
    """YAML 1.1 documents after one another; texts of several lines stand as they are."""
    from ruamel.yaml import YAML

    written: list[str] = []
    writer: Any = YAML(typ="rt", pure=True)
    writer.version, writer.default_flow_style, writer.width = (1, 1), False, 4096
    for document in each:
        text: list[str] = []
        writer.dump(_blocks(document), SimpleNamespace(write=text.append, encoding=None))
        written.append("".join(text).removeprefix("%YAML 1.1\n").removeprefix("---\n").removesuffix("...\n"))
    return "---\n".join(written)


def _blocks(value: Any) -> Any:
    """With texts of several lines marked as blocks."""
    from ruamel.yaml.scalarstring import LiteralScalarString

    if isinstance(value, Mapping):
        return {name: _blocks(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_blocks(one) for one in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value
