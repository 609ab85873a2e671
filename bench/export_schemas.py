"""Write the schemas that exported files are tested against, from the projects that read those files.

    python bench/export_schemas.py --kuberay CHECKOUT --tag v1.7.0           its CRDs, Apache-2.0
    python bench/export_schemas.py --sky PYTHON                              of skypilot, Apache-2.0
    python bench/export_schemas.py --slurm CHECKOUT --tag slurm-26-05-3-1    names of options, nothing else

Into tests/launch/schemas/. Of a CRD the descriptions go, equal parts stand once ($defs), and a name that it
does not have is an error, as `kubectl apply --validate=strict` has it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parents[1] / "tests" / "launch" / "schemas"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
KEPT = ("type", "properties", "required", "items", "enum", "pattern", "format", "minimum", "maximum",
        "minItems", "maxItems", "additionalProperties", "anyOf", "oneOf", "allOf", "not")  # fmt: skip
SKY = """
import json, sky
from sky.utils import schemas
print(json.dumps({"version": sky.__version__, "task": schemas.get_task_schema(),
                  "resources": schemas.get_resources_schema()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kuberay", type=Path)
    parser.add_argument("--sky", type=Path)
    parser.add_argument("--slurm", type=Path)
    parser.add_argument("--tag", default="HEAD")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    if args.kuberay:
        kuberay(args.kuberay, args.tag)
    if args.sky:
        done = subprocess.run([args.sky, "-c", SKY], capture_output=True, text=True, check=True)
        read = json.loads(done.stdout.splitlines()[-1])
        source = f"sky/utils/schemas.py of SkyPilot {read.pop('version')}, Apache-2.0"
        write("skypilot.json", {"$comment": source} | read)
    if args.slurm:
        slurm(args.slurm, args.tag)


def write(name: str, document: Any) -> None:
    (OUT / name).write_text(json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{name}: {(OUT / name).stat().st_size:,} bytes")


def shown(checkout: Path, tag: str, path: str) -> str:
    words = ["git", "-C", str(checkout), "show", f"{tag}:{path}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


# ------------------------------------------------------------------ KubeRay


def kuberay(checkout: Path, tag: str) -> None:
    from ruamel.yaml import YAML

    kinds = {}
    for kind, name in KINDS.items():
        path = f"helm-chart/kuberay-operator/crds/ray.io_{name}.yaml"
        document = YAML(typ="safe").load(shown(checkout, tag, path))
        version = next(v for v in document["spec"]["versions"] if v["name"] == "v1")
        kinds[kind] = strict(version["schema"]["openAPIV3Schema"])
    common = Counter(text for kind in kinds.values() for text in parts(kind))
    often = [text for text, count in common.items() if count > 1 and len(text) > 150]
    names = {text: f"p{at}" for at, text in enumerate(sorted(often, key=len))}
    defs = {name: shared(json.loads(text), names, own=text) for text, name in names.items()}
    source = f"CRDs of KubeRay {tag} (helm-chart/kuberay-operator/crds), Apache-2.0; without descriptions"
    whole = {"$comment": source, "$defs": defs} | {k: shared(v, names) for k, v in kinds.items()}
    write("kuberay.json", whole)


def strict(node: Any) -> Any:
    """Of a structural schema what a validator reads; names that it does not list are refused."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Any] = {}
    for name, value in node.items():
        if name == "properties":
            kept[name] = {key: strict(one) for key, one in value.items()}
        elif name in KEPT:
            kept[name] = strict(value)
    if node.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return {"type": "object"}
    open_ = "additionalProperties" in kept or "properties" not in kept
    return kept if open_ else kept | {"additionalProperties": False}


def text_of(node: Any) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"))


def parts(node: Any) -> list[str]:
    """Every schema in a schema, as text."""
    found = []
    if isinstance(node, dict):
        if "type" in node and isinstance(node["type"], str):
            found.append(text_of(node))
        for value in node.values():
            found += parts(value)
    elif isinstance(node, list):
        for value in node:
            found += parts(value)
    return found


def shared(node: Any, names: dict[str, str], own: str | None = None) -> Any:
    if isinstance(node, dict):
        text = text_of(node)
        if text in names and text != own:
            return {"$ref": f"#/$defs/{names[text]}"}
        return {name: shared(value, names) for name, value in node.items()}
    return [shared(value, names) for value in node] if isinstance(node, list) else node


# ------------------------------------------------------------------ Slurm


def slurm(checkout: Path, tag: str) -> None:
    """Long options of sbatch and whether each takes a value (common_options of slurm_opt.c), and of srun."""
    text = shown(checkout, tag, "src/common/slurm_opt.c")
    options: dict[str, dict[str, str]] = {"sbatch": {}, "srun": {}}
    for block in re.findall(r"static slurm_cli_opt_t slurm_opt_\w+ = \{(.*?)\n\};", text, re.S):
        name = re.search(r'\.name = "([^"]+)"', block)
        has = re.search(r"\.has_arg = (\w+)", block)
        for program in options:
            everybody = "arg_set_func_" not in block and ".set_func = " in block
            if name and (f".set_func_{program} = " in block or everybody):
                kind = {"required_argument": "value", "optional_argument": "may"}
                options[program][name[1]] = kind.get(has[1] if has else "", "switch")
    source = f"names of options, read from src/common/slurm_opt.c of {tag}"
    write("slurm.json", {"$comment": source} | options)


if __name__ == "__main__":
    main()
