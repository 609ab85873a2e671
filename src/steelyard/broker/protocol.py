"""Bodies, paths and errors of the protocol: what is read from a client, what is told to it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from .keys import NoKey, read_jwk

VERSION = "0.4.0"
TEES = ("sgx", "tdx")  # of those that the page names; `sample` proves nothing
COOKIE = "kbs-session-id"
PREFIX = "/kbs/v0/"
ERRORS = "https://github.com/confidential-containers/kbs/errors/"
PROBLEM = "application/problem+json"
DETAILS = {  # status, and what is told; why exactly stands in the broker's own log
    "AdminAuth": (401, "the broker's policies and resources are files: nobody changes them over the wire"),
    "AttestationError": (401, "the attestation failed"),
    "InvalidRequestPath": (404, "there is no such resource"),
    "JweError": (401, "no answer can be encrypted for this tee-pubkey"),
    "PluginNotFound": (404, "there is no such endpoint"),
    "PolicyDeny": (401, "the policy does not allow it"),
    "SerdeError": (401, "the body is no JSON of this protocol"),
    "TokenNotFound": (401, "neither an attested session nor a token was shown"),
    "TokenVerifierError": (401, "the token does not hold"),
}
SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
DIGESTS = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


class Denied(Exception):
    """`kind`: of DETAILS. `why` is for the log; `detail` replaces what is told."""

    def __init__(self, kind: str, why: str, detail: str | None = None) -> None:
        super().__init__(why)
        self.kind, self.why = kind, why
        self.status, told = DETAILS[kind]
        self.detail = detail or told

    @property
    def document(self) -> dict[str, str]:
        return {"type": ERRORS + self.kind, "detail": self.detail}


def read_object(data: bytes) -> dict[str, Any]:
    """Raises Denied."""
    try:
        told = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as e:
        raise Denied("AttestationError", f"no JSON: {e}") from e
    if not isinstance(told, dict):
        raise Denied("AttestationError", "the body is no object")
    return told


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def read_request(data: bytes) -> str:
    """The TEE of a Request. Raises Denied."""
    told = read_object(data)
    if told.get("version") != VERSION:
        detail = f"KBS Client Protocol Version Mismatch: expect ={VERSION}"
        raise Denied("AttestationError", f"version {told.get('version')!r:.40}", detail)
    if told.get("tee") not in TEES:
        raise Denied("AttestationError", f"tee {told.get('tee')!r:.40}", f"tee is one of {', '.join(TEES)}")
    return str(told["tee"])


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """`bound`: what the quote's report data is the SHA-384 of. `init_data`: as it came, None without."""

    nonce: str
    jwk: dict[str, str] = field(repr=False)
    quote: bytes
    bound: bytes
    init_data: Any = field(default=None, repr=False)


def read_attestation(data: bytes) -> Attestation:
    """Raises Denied."""
    told = read_object(data)
    try:
        runtime, evidence = told["runtime-data"], told["tee-evidence"]
        nonce, additional = runtime["nonce"], evidence["additional_evidence"]
        jwk = read_jwk(runtime["tee-pubkey"])
        quote = base64.b64decode(evidence["primary_evidence"]["quote"], validate=True)
        if not isinstance(nonce, str) or additional not in ("", "{}"):
            raise ValueError("additional evidence is not judged here" if additional else "no nonce")
        bound = bound_data(nonce, jwk, additional)
    except (KeyError, TypeError, ValueError, binascii.Error, NoKey) as e:
        raise Denied("AttestationError", f"{type(e).__name__}: {e}") from e
    return Attestation(nonce=nonce, jwk=jwk, quote=quote, bound=bound, init_data=told.get("init-data"))


def bound_data(nonce: str, jwk: dict[str, str], additional: str) -> bytes:
    """RFC 8785 of what the primary evidence vouches for: texts alone, so sorted keys are enough."""
    said = {"tee-pubkey": jwk, "nonce": nonce, "additional-evidence": additional}
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(init_data: Any) -> bytes | None:
    """Of init data: by the algorithm that it names, cut or filled to the 48 bytes of MRCONFIGID.

    None where it is no such data. For what an accepted quote vouches for alone: a text of a stranger keeps
    `tomllib` busy for hours (its time grows with the square of the parts of a key).
    """
    import tomllib

    try:
        body = init_data["body"]
        read = {"json": json.loads, "toml": tomllib.loads}[init_data["format"]](body)
        return DIGESTS[read["algorithm"]](body.encode()).digest()[:48].ljust(48, b"\0")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def read_path(path: str) -> tuple[str, str, str]:
    """Repository (`default` where it is empty), type and tag. Raises Denied."""
    parts = path.split("/")
    parts = ["default", *parts[1:]] if len(parts) == 3 and not parts[0] else parts
    if len(parts) != 3 or not all(map(SEGMENT.fullmatch, parts)):
        raise Denied("InvalidRequestPath", f"path {path!r:.100}")
    repository, kind, tag = parts
    return repository, kind, tag
