"""Write docs/reference from the thing itself: Typer, the recipe's schema, the exit codes, devices.csv.

And docs/why/claims.md, in English and Chinese, from `steelyard plan --claims`; docs/figures.md from
bench/results.

python docs/build.py            write the pages
python docs/build.py --check    exit 1 where a page is stale
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import figures

os.environ |= {"STEELYARD_LANG": "en", "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs"
MADE = "<!-- Made by docs/build.py; edit the source, then `make docs`. -->\n\n"


def main() -> int:
    pages = {"cli.md": cli(), "recipe.md": recipe(), "errors.md": errors(), "devices.md": devices()}
    pages = {f"reference/{name}": MADE + text for name, text in pages.items()}
    pages["reference/recipe.schema.json"] = schema()
    pages |= {"why/claims.md": MADE + claims("en"), "why/claims.zh.md": MADE + claims("zh")}
    pages["figures.md"] = MADE + figures.page()
    stale = [name for name, text in pages.items() if not _same(OUT / name, text)]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} is stale: make docs", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (OUT / name).parent.mkdir(parents=True, exist_ok=True)
        (OUT / name).write_text(pages[name], encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


# ------------------------------------------------------------------ cli.md


def cli() -> str:
    """Each verb with its own --help."""
    from typer.main import get_command

    from steelyard.cli.app import make
    from steelyard.cli.telling.options import EVERYWHERE

    group: Any = get_command(make())
    parts = ["# Commands\n", EVERYWHERE + " Exit codes: [errors.md](errors.md).\n", _help(group, "steelyard")]
    for name, command in group.commands.items():
        parts.append(f"\n## {name}\n\n" + _help(command, f"steelyard {name}"))
        for word, inner in getattr(command, "commands", {}).items():
            parts.append(f"\n### {name} {word}\n\n" + _help(inner, f"steelyard {name} {word}"))
    return "\n".join(parts)


def _help(command: Any, name: str) -> str:
    context = command.make_context(
        name, [], resilient_parsing=True, terminal_width=100, max_content_width=100
    )
    return f"```\n{command.get_help(context).rstrip()}\n```\n"


# ------------------------------------------------------------------ recipe.md


def recipe() -> str:
    """A table for each table of the recipe: key, what it may be, default, meaning, example."""
    from steelyard.recipe.document import TABLES

    parts = ["# The recipe\n", "A dash means that the plan fills it. `auto` does too.\n"]
    for name, table in TABLES.items():
        title = f"`{name.replace('.*', '[]')}`" if name else "The whole"
        parts += [f"\n## {title}\n", "| key | default | meaning | example |", "| --- | --- | --- | --- |"]
        parts += [_row(name, key, field) for key, field in table.model_fields.items()]
    return "\n".join(parts) + "\n"


def schema() -> str:
    """For editors: `# yaml-language-server: $schema=...` on a recipe's first line."""
    from steelyard.recipe import schema as made

    return json.dumps(made(), indent=1, ensure_ascii=False) + "\n"


def _row(table: str, key: str, field: Any) -> str:
    from steelyard.recipe.faults import flow

    example = flow(field.examples[0]) if field.examples else ""
    default = "required" if field.is_required() else _default(table, key)
    return f"| `{key}` | {default} | {field.description} | `{key}: {example}` |"


def _default(table: str, key: str) -> str:
    from steelyard import recipe as words

    owners: dict[str, type] = {
        "goal.load": words.Load,
        "data.*": words.Source,
        "clean": words.Clean,
        "train.*": words.Stage,
        "compress": words.Compress,
        "gate": words.Gate,
        "serve": words.Serve,
        "resources": words.Resources,
        "resources.own.*": words.Owned,
        "resources.terms": words.OwnTerms,
        "trust": words.Trust,
    }
    known = {f.name: f.default for f in fields(owners[table])} if table in owners else {}
    if table == "resources.terms":
        known = _term_defaults()
    value = known.get(key)
    plain = isinstance(value, str | int | float) and not is_dataclass(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if plain else "-"


def _term_defaults() -> dict[str, Any]:
    """Of owned hardware, in the recipe's own words."""
    from steelyard.recipe import Resources
    from steelyard.recipe.recipe import _resources

    return _resources(Resources())["terms"]


# ------------------------------------------------------------------ errors.md

MEANING = {
    0: "done, all checks hold",
    1: "an internal fault: a bug",
    2: "wrong use: flag, recipe or input file",
    3: "refused by policy: trust, budget, deadline",
    4: "a check found something: gate, scan, verification",
    5: "the environment lacks something: package, memory, disk, port",
    6: "interrupted; the same command goes on",
}
BRANCHES = {"WrongUse": 2, "Refused": 3, "CheckFailed": 4, "Lacking": 5, "Stopped": 6, "Problem": 1}
BRANCHES |= {"Diverged": 4}  # a CheckFailed that says which step


def errors() -> str:
    """Exit codes, and every error code with its message and its advice, as the source raises them."""
    parts = ["# Exit codes and errors\n", "| code | meaning |", "| --- | --- |"]
    parts += [f"| {code} | {text} |" for code, text in MEANING.items()]
    parts.append(
        '\nWith `--json` an error is one document on standard output: `{"error": {"code", "message", '
        '"where": {"file", "line", "field"}, "why", "hint"}}`. An ellipsis stands for a value.\n'
    )
    parts += ["| error | exit code | what happened | what to do |", "| --- | --- | --- | --- |"]
    for (code, exit_code), (message, hint) in sorted(described().items()):
        parts.append(f"| `{code}` | {exit_code} | {_bar(message)} | {_bar(hint)} |")
    return "\n".join(parts) + "\n"


@cache
def described() -> dict[tuple[str, int], tuple[str, str]]:
    """(code, exit code) -> (what happened, what to do): the fullest that the source says of each."""
    from steelyard.errors import OS_REFUSALS

    found: dict[tuple[str, int], tuple[str, str]] = {}
    for code, why, hint in OS_REFUSALS.values():
        found[code, BRANCHES["Lacking"]] = (f"cannot write …: {why}", hint)
    for code, exit_code, message, hint in _raised():
        old = found.get((code, exit_code), ("", ""))
        found[code, exit_code] = (old[0] or message, old[1] or hint)
    return {key: otherwise(key[0], *texts) for key, texts in found.items()}


# Of codes whose message or advice is made from values alone; by the first part of a code for all of its kind.
OTHERWISE: dict[str, tuple[str, str]] = {
    "chat.broken_off": ("the service ended the answer with an error", "ask again"),
    "cluster.hosts_file": ("a line of HOSTS.yaml has a fault", "mend the line that is named"),
    "data": ("", "mend the row that is named, or leave it out with `clean: {unreadable: drop}`"),
    "gc": ("", "run `steelyard up RECIPE` once with this version: it notes what it refers to"),
    "gate.bad_task": (
        "a line of the tasks is no row with messages",
        "write it like the example in the message",
    ),
    "gate": ("", "name a model with a chat template"),
    "hub": ("", "name another folder with --output, or remove this one"),
    "memory": ("", "less at once: a smaller micro-batch, a shorter max_length, LoRA, or a smaller model"),
    "model": ("", "name another model: docs/how-to/choose-a-form.md lists the families"),
    "model.not_trainable": ("", "name a model of a family that is trained: docs/how-to/choose-a-form.md"),
    "model.quantised": ("", "use the checkpoint in BF16 that it was made from, or --engine vllm"),
    "model.demo_missing": ("", "in the steelyard checkout: make setup"),
    "model.encoder_missing": ("", "in the steelyard checkout: make setup"),
    "plan.sizes": ("the sizes of the model are no decoder's", "see the example in the hint"),
    "recipe": ("", "the hint has the nearest word or an example; all words: recipe.md"),
    "recipe.impossible_pair": ("two values exclude each other", "keep one of the two"),
    "resources": ("", "counts are 1 or more"),
    "results": ("", "mend the cell, or leave the row out: its prediction has this reason"),
    "serve.control": ("", "stop the service and start it again"),
    "serve": ("", "see the hint: it says what to install"),
    "simulate": ("what shall be simulated cannot be", "the hint has an example"),
    "trace": ("a line of a trace has a fault", "mend the line that is named"),
    "events": ("the file of events cannot be written", "name a path in a folder that can be written"),
    "table": ("", "name a CSV file in UTF-8 with a header"),
}


def otherwise(code: str, message: str, hint: str) -> tuple[str, str]:
    """With what stands in for an empty message or advice."""
    own, kind = OTHERWISE.get(code, ("", "")), OTHERWISE.get(code.split(".")[0], ("", ""))
    return message or own[0] or kind[0], hint or own[1] or kind[1]


def _makers(tree: ast.AST) -> dict[str, int]:
    """Helpers that are annotated to return an exception -> its exit code."""
    return {
        node.name: BRANCHES[node.returns.id]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and getattr(node.returns, "id", None) in BRANCHES
    }


@cache
def _makers_of_all() -> dict[str, int]:
    found: dict[str, int] = {}
    for tree in _trees():
        found |= _makers(tree)
    return found


@cache
def _trees() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "src").rglob("*.py")))


def _raised() -> Iterator[tuple[str, int, str, str]]:
    """From calls of the exceptions, and of helpers that are annotated to return one, imported ones too."""
    for tree in _trees():
        names = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        elsewhere = {name: code for name, code in _makers_of_all().items() if name in names}
        own = _makers(tree)
        if not (own or elsewhere or names & BRANCHES.keys()):
            continue
        makers = BRANCHES | elsewhere | own
        for scope in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Module)):
            assigned = _assigned(scope)
            for call in _calls(scope, makers):
                texts = {name: value for line, name, value in assigned if line < call.lineno}
                for code in _codes(call):
                    hint = next((k.value for k in call.keywords if k.arg == "hint"), None)
                    yield code, makers[call.func.id], _message(call, code, texts), _text(hint, texts)


def _calls(scope: ast.AST, makers: dict[str, int]) -> Iterator[Any]:
    """Calls in a scope itself; those of a function within it belong to that function."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if isinstance(node, ast.ClassDef):
                yield from _calls(node, makers)
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in makers:
            yield node
        yield from _calls(node, makers)


def _assigned(scope: ast.AST) -> list[tuple[int, str, ast.AST]]:
    """(line, name, value) where a scope names a text: `text = ".."`, `where, hint = Where(..), ".."`."""
    texts: list[tuple[int, str, ast.AST]] = []
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name):
                texts.append((node.lineno, target.id, value))
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=False)
                texts += [(node.lineno, t.id, v) for t, v in pairs if isinstance(t, ast.Name)]
    return sorted(texts, key=lambda entry: entry[0])


def _message(call: ast.Call, code: str, texts: dict[str, ast.AST]) -> str:
    """The argument behind the code."""
    places = [i for i, a in enumerate(call.args) if isinstance(a, ast.Constant) and a.value == code]
    after = call.args[places[0] + 1] if places and places[0] + 1 < len(call.args) else None
    return _text(after, texts)


def _text(node: ast.AST | None, texts: dict[str, ast.AST], depth: int = 0) -> str:
    """A text as a reader sees it, with an ellipsis for each value; "" where it is none."""
    if node is None or depth > 4:
        return ""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values).strip()
    if isinstance(node, ast.Name) and node.id in texts:
        return _text(texts[node.id], texts, depth + 1)
    if isinstance(node, ast.BinOp):
        return f"{_text(node.left, texts, depth + 1)} {_text(node.right, texts, depth + 1)}".strip()
    if isinstance(node, ast.BoolOp):
        return next((t for v in node.values if (t := _text(v, texts, depth + 1))), "")
    if isinstance(node, ast.IfExp):
        return _text(node.body, texts, depth + 1) or _text(node.orelse, texts, depth + 1)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say" and node.args:
        return re.sub(r"{\w+}", "…", _text(node.args[0], texts, depth + 1))
    return ""


def _codes(call: ast.Call) -> list[str]:
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    found = [text for text in texts if re.fullmatch(r"[a-z]+\.[a-z0-9_]+", text)]
    return [text for text in found if not text.endswith((".json", ".csv", ".yaml"))][:1]


# ------------------------------------------------------------------ devices.md


def devices() -> str:
    """The catalogue, one line a device; sources in devices.csv."""
    from steelyard.hardware import catalogue

    parts = [
        "# Devices\n",
        "From `src/steelyard/hardware/devices.csv`, where each figure has its source.\n",
        "| id | name | memory GB | GB/s | BF16 TFLOP/s | INT8 TOP/s | W | USD/h | confidence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for d in catalogue():
        figures = (d.memory_bytes / 1e9, d.memory_bytes_per_s / 1e9, *_peaks(d), d.tdp_w, d.price_usd_per_h)
        parts.append(f"| `{d.id}` | {d.name} | {' | '.join(_number(f) for f in figures)} | {d.confidence} |")
    return "\n".join(parts) + "\n"


def _peaks(device: Any) -> tuple[float | None, float | None]:
    bf16, int8 = device.peak_flops("bf16"), device.peak_flops("int8")
    return bf16 and bf16 / 1e12, int8 and int8 / 1e12


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


# ------------------------------------------------------------------ claims.md

CLAIMS = {
    "en": {
        "title": "# Claims about models and devices, checked",
        "intro": "What was claimed in public, and what this planner finds. *Holds*: the claimed figure lies "
        "in our 80 % interval and within 25 % of our figure. *Undecided*: in the interval, but farther off. "
        "*Does not hold*: outside. *Partly*: figures differ. A figure of a data sheet counts as met within "
        "10 %, since it was told aloud ([decision 065](../decisions/065-what-a-verdict-means.md)). Made by "
        "`steelyard plan --claims`.",
        "head": "| figure | claimed | by the model | 80 % interval | known by | |",
        "checked": "Checked by hand:",
        "rest": "## What a plan cannot judge",
        "rest_head": "| claim | verdict | source |",
        "not": "These were checked by their sources alone.",
    },
    "zh": {
        "title": "# 关于模型与设备的公开说法：逐条核对",
        "intro": "公开的说法，与本规划器得出的数字。**成立**：所称数字落在我们的 80 % 区间内，"
        "且与我们的数字相差不超过 25 %。**未定**：在区间内，但相差更远。**不成立**：在区间之外。"
        "**部分成立**：各项数字结论不一。数据表中的数字因多为口头转述，相差 10 % 以内视为相符"
        "（[决定 065](../decisions/065-what-a-verdict-means.md)）。由 `steelyard plan --claims` 生成。",
        "head": "| 数字 | 所称 | 模型给出 | 80 % 区间 | 来源 | |",
        "checked": "人工核对：",
        "rest": "## 规划无法判断的说法",
        "rest_head": "| 说法 | 结论 | 出处 |",
        "not": "以下各条只按出处核对。",
    },
}


def claims(language: str) -> str:
    """Every claim of claims.csv with our figures and the verdict."""
    from steelyard.hardware import catalogue, named_models, published_claims, published_constants
    from steelyard.planner import Constants, check_claims

    words = CLAIMS[language]
    constants = Constants.from_json(published_constants())
    found = [c.as_json() for c in check_claims(published_claims(), catalogue(), named_models(), constants)]
    judged = [c for c in found if c["figures"]]
    parts = [f"{words['title']}\n", f"{words['intro']}\n"]
    parts += [_claim(c, words, language) for c in judged]
    parts += [f"\n{words['rest']}\n", f"{words['not']}\n", words["rest_head"], "| --- | --- | --- |"]
    zh = language == "zh"
    for c in found:
        if not c["figures"]:
            told = (c["claim_zh"], c["checked_verdict_zh"]) if zh else (c["claim"], c["checked_verdict"])
            parts.append(f"| {_bar(told[0])} | {_bar(told[1])} | {_bar(c['source'] or '-')} |")
    return "\n".join(parts) + "\n"


def _claim(claim: dict[str, Any], words: dict[str, str], language: str) -> str:
    zh = language == "zh"
    title = claim["claim_zh"] if zh else claim["claim"]
    verdict = claim["checked_verdict_zh"] if zh else claim["checked_verdict"]
    colon, stop = ("：", "。") if zh else (": ", ". ")
    head = f"\n## {title}{colon}{_said(claim['verdict'], zh)}\n"
    lines = [head, words["head"], "| --- " * 6 + "|", *(_claim_row(f, zh) for f in claim["figures"])]
    lines.append(f"\n{words['checked']} {verdict}{stop}{claim['source'].rstrip('.')}.")
    return "\n".join(lines)


def _claim_row(f: dict[str, Any], zh: bool) -> str:
    from steelyard.units import show_number

    value, low, high = (show_number(f[name], f["unit"]) for name in ("value", "low", "high"))
    span = "" if low == high else f"{low} .. {high}"
    what, origin, holds = f["what_zh" if zh else "what"], _said(f["provenance"], zh), _said(f["holds"], zh)
    return f"| {' | '.join(_bar(cell) for cell in (what, f['claimed'], value, span, origin, holds))} |"


def _said(word: str | None, zh: bool) -> str:
    from steelyard.cli.telling.messages import catalogue

    return (catalogue()["texts"].get(word, word) if zh else word) if word else ""


def _bar(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
