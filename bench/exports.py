"""Which files of `steelyard plan --export` their readers' own parsers take: plans over devices, jobs, models.

    python bench/exports.py --python /path/of/python [--python ...] --out bench/results/exports.json

Each `--python` is an interpreter with some of the packages (vllm, trl, accelerate, torchtitan; Megatron-LM
checked out on its PYTHONPATH); a parser that none of them has is answered by its documented schema.

    python bench/exports.py --facts --python ... --ovms DIR --habana DIR

writes launch/parsers.json: what each parser takes, read from the parser itself, or from its sources.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tables import record, write

from steelyard.errors import Problem
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.launch import schema_faults, service_target, source_of, training_target
from steelyard.planner import Constants, Request, exported_service, named_shape, plan, planned_training
from steelyard.run.planning.export_parsers import PARSERS
from steelyard.run.planning.exporting import ask

FACTS = Path(__file__).resolve().parents[1] / "src" / "steelyard" / "launch" / "parsers.json"
DEVICES = (
    *("h100-sxm", "a100-80-sxm", "b200", "rtx-4090", "l4", "v100-32", "mi300x", "mi250x", "gaudi2", "gaudi3"),
    *("max-1550", "arc-b580", "xeon-8592plus", "xeon-8480plus", "epyc-9654"),
)
MODELS = (
    "smollm2-135m",
    "llama3-8b",
    "llama3-70b",
    "qwen3-14b",
    "qwen3-30b-a3b",
    "mixtral-8x7b",
    "deepseek-v3",
)
JOBS: dict[str, dict[str, Any]] = {
    "pretrain": {"job": "pretrain", "tokens": 2e10},
    "continue, fp8": {"job": "continue", "tokens": 1e9, "precisions": ("fp8",)},
    "sft": {"job": "sft", "tokens": 1e8},
    "sft, long": {"job": "sft", "tokens": 1e8, "seq_len": 32768},
    "sft, LoRA": {"job": "sft", "tokens": 1e8, "finetuning_type": "lora"},
    "sft, QLoRA": {"job": "sft", "tokens": 1e7, "finetuning_type": "qlora"},
    "DPO": {"job": "prefer", "tokens": 1e7},
    "serve": {"job": "serve", "users": 16},
    "serve, fp8": {"job": "serve", "users": 64, "precisions": ("fp8",), "kv_precisions": ("fp8",)},
    "serve, look-up": {"job": "serve", "users": 2, "draft_tokens": 4, "accept": 0.8},
    "serve, arrivals": {"job": "serve", "arrival_per_s": 20.0, "prompt_tokens": 700, "output_tokens": 200},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--facts", action="store_true")
    parser.add_argument("--ovms", type=Path, help="its sources")
    parser.add_argument("--habana", type=Path, help="training_args.py and the scripts")
    parser.add_argument("--only", action="append", help="this parser alone; --out keeps the others' rows")
    parser.add_argument("--each", type=int, default=10**9, help="plans of one parser that are asked at most")
    args = parser.parse_args()
    if args.facts:
        return write_facts(args.python, args.ovms, args.habana)
    table = measured(args.python, args.each, args.only or ())
    if args.only and args.out and args.out.exists():
        before = json.loads(args.out.read_text())
        kept = [row for row in before["refused"] if row["by"] not in args.only]
        table["parsers"] = dict(sorted((before["parsers"] | table["parsers"]).items()))
        table["refused"] = kept + table["refused"]
    if args.out:
        write(args.out, recorded(table))
    for name, row in table["parsers"].items():
        print(f"{name:32} {row['by']:7} {row['of']:40} {row['taken']:4} of {row['asked']}")


def recorded(table: dict[str, Any]) -> dict[str, Any]:
    """The table as docs/figures.md shows it, and all of it."""
    ways = {"parser": "its own parser", "schema": "its documented schema"}
    rows = [
        [name, ways[row["by"]], row["of"], f"{row['taken']} of {row['asked']}", str(row["plans"])]
        for name, row in table["parsers"].items()
    ]
    columns = ["files for", "checked by", "of", "taken", "plans"]
    made = record("Files of exported plans, by who reads them", "python bench/exports.py", (columns, rows))
    return made | {name: table[name] for name in ("parsers", "refused", "lost")}


# ------------------------------------------------------------------ the plans


Made = tuple[str, Any, dict[str, Any]]  # what was planned, its target, the plan's settings


def targets() -> list[Made]:
    """Each plan that fits, in the files of its stack; a service by vLLM and by SGLang."""
    devices, models, constants = catalogue(), named_models(), Constants.from_json(published_constants())
    ids = {d.id for d in devices}
    chosen, made = tuple(d for d in DEVICES if d in ids), []
    for model, (name, words) in product(MODELS, JOBS.items()):
        shape = named_shape(model, models)
        try:
            request = Request(shape=shape, name=model, devices=chosen, **words)
            plans = plan(request, devices, constants).plans
        except Problem:  # the model's context is shorter than the sequences
            continue
        for p in plans:
            if p.fits:
                made += _of(f"{name} of {model} on {p.devices} x {p.device}", p, request, devices)
    return made


def _of(what: str, p: Any, request: Request, devices: Any) -> list[Made]:
    trainings = planned_training(p, request, devices)
    trained = [(what, target, dict(t.settings)) for t in trainings if (target := training_target(t))]
    services = [exported_service(p, request, devices, engine) for engine in ("auto", "sglang")]
    made = [(what, service_target(s), dict(s.settings)) for s in services if s]
    return [*made, *trained]


def measured(pythons: list[str], each: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """{"parsers": {parser: by whom, of which version, asked, taken}, "refused": [...], "lost": {...}}.

    `each`: of the plans of one parser so many are asked, evenly taken.
    """
    made = targets()
    lost = Counter(f"{t.name}: {name}" for _, t, settings in made for name in t.lost(settings))
    refused = [{"what": what, "by": "schema", "why": f} for what, t, _ in made if (f := schema_faults(t))]
    by_parser: dict[str, list[tuple[str, str, Any]]] = {}
    for what, target, _ in made:
        for parser in target.given:
            label = f"{parser}, Gaudi" if target.name == "vllm-gaudi" else parser
            by_parser.setdefault(label, []).append((what, parser, target))
    rows = {}
    for label, some in sorted(by_parser.items()):
        if only and label not in only:
            continue
        rows[label], more = _row(some[:: max(1, len(some) // each)], pythons)
        rows[label]["plans"] = len(some)
        refused += more
    return {"parsers": rows, "refused": refused, "lost": dict(sorted(lost.items()))}


def _row(some: list[tuple[str, str, Any]], pythons: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One parser over its plans: the first interpreter that has it answers, else the schema."""
    parser = some[0][1]
    for python in pythons if parser in PARSERS else ():
        with tempfile.TemporaryDirectory() as folder:
            places = [_written(Path(folder) / str(i), t) for i, (_, _, t) in enumerate(some)]
            jobs = [(at, t.argv.get(parser, ())) for at, (_, _, t) in zip(places, some, strict=True)]
            answers = ask(parser, jobs, python)
        if answers[0] and "absent" not in answers[0]:
            told = [a or {"error": "no answer"} for a in answers]
            bad = [(what, a["error"]) for (what, _, _), a in zip(some, told, strict=True) if "error" in a]
            row = {"by": "parser", "of": answers[0]["version"], "asked": len(some)}
            return row | {"taken": len(some) - len(bad)}, [
                {"what": what, "by": parser, "why": why} for what, why in bad
            ]
    bad = [t for _, _, t in some if schema_faults(t)]
    return {"by": "schema", "of": source_of(parser), "asked": len(some), "taken": len(some) - len(bad)}, []


def _written(folder: Path, target: Any) -> Path:
    folder.mkdir()
    for name, text in target.files.items():
        (folder / name).write_text(text)
    return folder


# ------------------------------------------------------------------ the facts

# In the target's own interpreter: one line of JSON {"version", "names"}.
READERS = {
    "trl sft": "from trl.scripts.sft import make_parser; parser = make_parser(); package = 'trl'",
    "trl dpo": "from trl.scripts.dpo import make_parser; parser = make_parser(); package = 'trl'",
    "megatron-lm": (
        "import argparse; from megatron.training.arguments import add_megatron_arguments;"
        "parser = argparse.ArgumentParser(allow_abbrev=False);"
        "parser = add_megatron_arguments(parser); package = 'megatron-core'"
    ),
}
OF_ARGPARSE = """
import argparse, importlib.metadata, json
names = {}
for action in parser._actions:
    switch = action.nargs == 0
    kind = "switch" if switch else getattr(action.type, "__name__", "str")
    for word in action.option_strings:
        if word.startswith("--"):
            names[word[2:]] = {"type": kind, "choices": [str(c) for c in action.choices or ()]}
print("\\n" + json.dumps({"version": importlib.metadata.version(package), "names": names}))
"""
OF_ACCELERATE = """
import dataclasses, importlib.metadata, json
from accelerate.commands.config.config_args import ClusterConfig
names = {f.name: {} for f in dataclasses.fields(ClusterConfig)}
print("\\n" + json.dumps({"version": importlib.metadata.version("accelerate"), "names": names}))
"""
OF_TITAN = """
import dataclasses, importlib.metadata, json, typing
from torchtitan.models.llama3.config_registry import llama3_8b
names = {}
def walk(value, prefix):
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        inner, kind = getattr(value, field.name), hints[field.name]
        if dataclasses.is_dataclass(inner):
            walk(inner, f"{prefix}{field.name}.")
            continue
        choices = [str(c) for c in typing.get_args(kind)] if typing.get_origin(kind) is typing.Literal else []
        fact = {"type": getattr(kind, "__name__", "str"), "choices": choices}
        names[prefix + field.name] = fact
        if kind is bool:
            names[f"{prefix}no-{field.name.replace('_', '-')}"] = fact
walk(llama3_8b(), "")
print("\\n" + json.dumps({"version": importlib.metadata.version("torchtitan"), "names": names}))
"""
KINDS = ("int", "float", "bool", "switch")


def write_facts(pythons: list[str], ovms: Path | None, habana: Path | None) -> None:
    """Each part that can be read anew; the others stay as they are."""
    document = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    programs = {name: head + OF_ARGPARSE for name, head in READERS.items()}
    programs |= {"accelerate": OF_ACCELERATE, "torchtitan": OF_TITAN}
    for name, program in programs.items():
        for python in pythons:
            if read := _run(python, program):
                document[name] = {"version": read["version"], "source": "its parser", "names": read["names"]}
                break
    if ovms:
        document["ovms"] = _of_ovms(ovms)
    if habana:
        for script in ("run_clm.py", "run_lora_clm.py"):
            document[f"optimum-habana {script}"] = _of_habana(habana, script)
    for part in document.values():
        part["names"] = {name: _short(fact) for name, fact in sorted(part["names"].items())}
    FACTS.write_text(written(document))
    for name, part in sorted(document.items()):
        print(f"{name}: {part['version']}, {part['source']}, {len(part['names'])} names")


def _short(fact: dict[str, Any]) -> dict[str, Any]:
    kept = {"type": fact["type"]} if fact.get("type") in KINDS else {}
    return kept | ({"choices": fact["choices"]} if fact.get("choices") else {})


def written(document: dict[str, Any]) -> str:
    """One name a line."""
    parts = []
    for parser, part in sorted(document.items()):
        rows = ",\n".join(
            f"   {json.dumps(name)}: {json.dumps(fact)}" for name, fact in part["names"].items()
        )
        head = f'"version": {json.dumps(part["version"])}, "source": {json.dumps(part["source"])}'
        parts.append(f' {json.dumps(parser)}: {{{head}, "names": {{\n{rows}\n }}}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _run(python: str, program: str) -> dict[str, Any] | None:
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    try:
        read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return read


def _of_ovms(place: Path) -> dict[str, Any]:
    """cxxopts' own declarations: ("name", "text", cxxopts::value<type>...)."""
    names: dict[str, Any] = {}
    for file in ("src/cli_parser.cpp", "src/graph_export/graph_cli_parser.cpp"):
        pattern = r'\(\s*"([a-zA-Z_-]+)",\s*"((?:[^"\\]|\\.)*)",?\s*(?:cxxopts::value<([a-z0-9_:]+)>)?'
        for name, _, kind in re.findall(pattern, (place / file).read_text()):
            names[name] = {"type": "int" if kind.startswith("uint") else "str", "choices": []}
    names["target_device"]["choices"] = []
    names["task"] = {"choices": ["text_generation", "embeddings", "rerank", "image_generation"]}
    names["kv_cache_precision"] = {"choices": ["u8", ""]}
    names["model_distribution_policy"] = {"choices": ["TENSOR_PARALLEL", "PIPELINE_PARALLEL", ""]}
    return {"version": "2026.3", "source": "its sources and docs/parameters.md", "names": names}


def _of_habana(place: Path, script: str) -> dict[str, Any]:
    """Fields of its dataclasses, of transformers' TrainingArguments and of the script's own."""
    names: dict[str, Any] = {}
    for file in ("transformers_training_args.py", "gaudi_training_args.py", script):
        for node in ast.walk(ast.parse((place / file).read_text())):
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, ast.AnnAssign):
                        names[ast.unparse(part.target)] = {"type": _kind(ast.unparse(part.annotation))}
    return {"version": "1.21", "source": "its sources", "names": names}


def _kind(annotation: str) -> str:
    plain = re.fullmatch(r"(?:Optional\[)?(int|float|bool)\]?", annotation)
    return plain[1] if plain else "str"


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(str(problem))
