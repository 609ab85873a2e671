"""Which release and model a service says that it is: part of the runtime data that its quote binds.

The runtime data are canonical JSON (RFC 8785; all values are ASCII text or null): docs/why/sealed-prompts.md.
What a service says of itself is worth what its measurement is: code that is measured tells the truth.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 2  # of the runtime data


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`code_sha256`: of steelyard's own files; `revision`: of its source, `artefact`: hash of the model."""

    version: str
    code_sha256: str
    revision: str | None = None
    artefact: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def runtime_data_of(release: Release, *, ohttp_keys: str, tls_spki_sha256: str | None) -> bytes:
    """What a service's quote or its two signatures bind."""
    return canonical(
        {
            "artefact": release.artefact,
            "code_sha256": release.code_sha256,
            "ohttp_keys": ohttp_keys,
            "release": release.version,
            "revision": release.revision,
            "tls_spki_sha256": tls_spki_sha256,
            "version": VERSION,
        }
    )


def read_runtime_data(data: bytes) -> dict[str, Any]:
    """The fields. Raises ValueError for what is not written exactly so."""
    said = json.loads(data)
    if not isinstance(said, dict) or said.get("version") != VERSION or canonical(said) != data:
        raise ValueError("it is no canonical statement of version 2")
    texts, others = ("code_sha256", "ohttp_keys", "release"), ("artefact", "revision", "tls_spki_sha256")
    right = all(isinstance(said.get(name), str) for name in texts) and all(
        name in said and (said[name] is None or isinstance(said[name], str)) for name in others
    )
    if not right or len(said) != len(texts) + len(others) + 1:
        raise ValueError("its fields are others, or of other types")
    return said


def release_of(said: dict[str, Any]) -> Release:
    return Release(
        version=said["release"],
        code_sha256=said["code_sha256"],
        revision=said["revision"],
        artefact=said["artefact"],
    )
