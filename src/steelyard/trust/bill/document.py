"""CycloneDX 1.6 as JSON: of what is installed, and of a model with what it was made of.

Specification: https://cyclonedx.org/docs/1.6/json/. The same parts give the same serial number.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...clock import utc_now
from .installed import Part

Row = dict[str, Any]


def bill(subject: Row, components: Sequence[Row], dependencies: Iterable[Row], version: str) -> Row:
    """A whole document; `version`: of steelyard, which made it."""
    content = {"components": list(components), "dependencies": list(dependencies)}
    text = json.dumps([subject, content], sort_keys=True)
    maker = {"type": "application", "name": "steelyard", "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}",
        "version": 1,
        "metadata": {
            "timestamp": utc_now(),
            "tools": {"components": [maker]},
            "component": subject,
        },
    } | content


def sha256(value: str) -> list[Row]:
    return [{"alg": "SHA-256", "content": value}]


# ------------------------------------------------------------------ what is installed


def bill_of_parts(parts: Sequence[Part], files: bool = False) -> Row:
    """The first part is the subject; with `files` each file of each part has its hash too."""
    rows = [component(part, files) for part in parts]
    named = {part.name: part.purl for part in parts}
    needs = [{"ref": part.purl, "dependsOn": [named[n] for n in part.needs]} for part in parts]
    return bill(rows[0] | {"type": "application"}, rows[1:], needs, parts[0].version)


def component(part: Part, files: bool = False) -> Row:
    """The hash is of the RECORD, the list with a hash of every installed file."""
    row: Row = {"type": "library", "bom-ref": part.purl, "name": part.name, "version": part.version}
    row |= {"licenses": [{"expression": part.licence}]} if part.licence else {}
    if part.record:
        row |= {
            "hashes": sha256(part.record),
            "properties": [{"name": "steelyard:hash_of", "value": "RECORD"}],
        }
    row |= {"purl": part.purl}
    if files and part.files:
        row["components"] = [
            {"type": "file", "name": name, "hashes": sha256(value)} for name, value in part.files
        ]
    return row


# ------------------------------------------------------------------ a model


def bill_of_model(
    name: str,
    content_hash: str,
    files: Sequence[tuple[str, str]],
    licence: str | None,
    manifest: Mapping[str, Any],
    version: str,
) -> Row:
    """Files by SHA-256, and from an artefact's manifest what it was made of, by what, with which figures.

    `manifest`: {} for a model that is no artefact.
    """
    reference = f"model:{content_hash}"
    subject: Row = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": name,
        "version": content_hash[:16],
    }
    subject |= {"hashes": sha256(content_hash)}
    subject |= {"licenses": [licence_row(licence)]} if licence else {}
    inputs = {f"{i['kind']}:{i['hash']}": i for i in manifest.get("inputs", ())}
    if manifest:
        subject["modelCard"] = card(manifest, [ref for ref, i in inputs.items() if i["kind"] == "dataset"])
    subject["components"] = [{"type": "file", "name": path, "hashes": sha256(value)} for path, value in files]
    made = (manifest.get("made_by") or {}).get("versions") or {}
    tools = [
        {"type": "library", "bom-ref": f"made-by:{n}@{v}", "name": n, "version": str(v)}
        for n, v in sorted(made.items())
    ]
    rows = [input_row(reference, row) for reference, row in inputs.items()] + tools
    refs = [row["bom-ref"] for row in rows]
    return bill(subject, rows, [{"ref": reference, "dependsOn": refs}, *({"ref": r} for r in refs)], version)


def card(manifest: Mapping[str, Any], datasets: Sequence[str]) -> Row:
    figures = [
        {"type": name, "value": f"{value:g}"} for name, value in sorted(manifest.get("figures", {}).items())
    ]
    parameters = {"datasets": [{"ref": ref} for ref in datasets]} if datasets else {}
    return {"modelParameters": parameters, "quantitativeAnalysis": {"performanceMetrics": figures}}


def input_row(reference: str, row: Mapping[str, Any]) -> Row:
    kind = "data" if row["kind"] == "dataset" else "machine-learning-model"
    known = {"type": kind, "bom-ref": reference, "name": row["role"], "version": row["hash"][:16]}
    return known | {"hashes": sha256(row["hash"])}


def licence_row(text: str) -> Row:
    """By its SPDX expression where it is one, else by its name: models have licences of their own."""
    from .licences import spdx

    expression = spdx(text)
    return {"expression": expression} if expression else {"license": {"name": text}}
