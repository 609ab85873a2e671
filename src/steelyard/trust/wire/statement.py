"""What a service says of itself, and whether a client believes it.

    runtime data   canonical JSON: artefact, code_sha256, ohttp_keys (base64), release, revision,
                   tls_spki_sha256, version 2; null where there is none (bill/release.py)
    by a quote     report data = SHA-512(nonce + runtime data): `attest verify` judges it, binding sha512
    by a pin       Ed25519 and ML-DSA-65 over "steelyard/statement/1" + 0 + nonce + runtime data: both hold

The sealing key in it lives as long as the service's process. The pin is the SHA-256 of the public signing
keys, which last. Not here: HTTP, TLS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import Refused, Where, WrongUse
from ..attest import Case, Verdict, judge, read_bytes, report_data_of
from ..bill.release import Release, read_runtime_data, release_of, runtime_data_of
from ..keys import make_key_file, read_key_file
from ..quoting import SimulatedTee, quote_of_this_domain, quote_of_this_enclave
from ..sealing.ciphers import derive
from .ohttp import KeyConfig, read_keys_document
from .sealing import NotSealed

SCHEMA = "steelyard.attestation/1"
DOMAIN = b"steelyard/statement/1\0"
EVIDENCE = ("none", "tdx", "sgx", "simulated")
MAKERS = {"tdx": quote_of_this_domain, "sgx": quote_of_this_enclave}
CURVE_PUBLIC_BYTES, CURVE_SIGNATURE_BYTES = 32, 64
FILE_BYTES_MAX = 1 << 20


class Identity:
    """Signing keys that last, of a service without attestation: Ed25519 and ML-DSA-65."""

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        self._curve = Ed25519PrivateKey.from_private_bytes(derive(secret, b"steelyard/identity/1/ed25519"))
        self._lattice = MLDSA65PrivateKey.from_seed_bytes(derive(secret, b"steelyard/identity/1/mldsa65"))
        self.public = (
            self._curve.public_key().public_bytes_raw() + self._lattice.public_key().public_bytes_raw()
        )

    @classmethod
    def of(cls, file: Path) -> Identity:
        """Of a key file, which is made on first use. Raises Lacking, Refused, WrongUse."""
        if not file.exists():
            make_key_file(file, parents=True)
        return cls(read_key_file(file))

    @property
    def pin(self) -> str:
        return hashlib.sha256(self.public).hexdigest()

    def sign(self, data: bytes) -> bytes:
        return self._curve.sign(data) + self._lattice.sign(data)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Who makes quotes: over 64 bytes, with the platform's collateral, None where the client brings it."""

    tee: str
    quote: Callable[[bytes], bytes]
    collateral: Callable[[], bytes | None]
    root_pem: bytes | None = None  # of a simulated platform


def evidence_source(kind: str, collateral: Path | None) -> Evidence | None:
    """None for `none`. Raises Refused (simulated in production), Lacking (no TEE of that kind), WrongUse."""
    if kind not in EVIDENCE:
        hint = f"one of {', '.join(EVIDENCE)}"
        raise WrongUse(
            "attest.kind", f"there is no evidence {kind!r}", where=Where(field="--attest"), hint=hint
        )
    if kind == "none":
        return None
    if make := MAKERS.get(kind):
        if collateral is not None:
            read_bytes(collateral, FILE_BYTES_MAX)
        make(bytes(64))  # now rather than when the first client asks
        read = (lambda: None) if collateral is None else (lambda: read_bytes(collateral, FILE_BYTES_MAX))
        return Evidence(tee=kind, quote=make, collateral=read)
    if os.environ.get("STEELYARD_ENV") == "production":
        raise Refused(
            "attest.simulated",
            "a SIMULATED platform vouches for nothing, and STEELYARD_ENV is production",
            where=Where(field="--attest"),
            hint="--attest tdx on a TDX guest, or none and a pin",
        )
    platform = SimulatedTee("tdx", datetime.now(UTC))
    return Evidence(
        tee="tdx", quote=platform.quote, collateral=platform.collateral, root_pem=platform.root_pem
    )


class ServiceStatement:
    """A service's own. `tls_spki`: the public key of its certificate as DER, None where it speaks HTTP."""

    def __init__(
        self,
        config: KeyConfig,
        *,
        tls_spki: bytes | None,
        release: Release,
        evidence: Evidence | None,
        identity: Identity | None,
    ) -> None:
        self.evidence, self.identity = evidence, identity
        self.runtime_data = runtime_data_of(
            release,
            ohttp_keys=base64.b64encode(config.document).decode(),
            tls_spki_sha256=hashlib.sha256(tls_spki).hexdigest() if tls_spki else None,
        )

    def answer(self, nonce: str) -> dict[str, Any]:
        """The document. Raises WrongUse for what is no nonce, Lacking where no quote can be made."""
        bound = report_data_of(nonce, self.runtime_data)
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "nonce": nonce,
            "runtime_data": base64.b64encode(self.runtime_data).decode(),
            "evidence": None,
            "identity": None,
        }
        if self.evidence:
            told["evidence"] = self._evidence(self.evidence, bound)
        elif self.identity:
            signature = self.identity.sign(DOMAIN + bytes.fromhex(nonce) + self.runtime_data)
            told["identity"] = {
                "public": base64.b64encode(self.identity.public).decode(),
                "signature": base64.b64encode(signature).decode(),
            }
        return told

    def _evidence(self, source: Evidence, bound: bytes) -> dict[str, Any]:
        collateral = source.collateral()
        told = {
            "tee": source.tee,
            "quote": base64.b64encode(source.quote(bound)).decode(),
            "collateral": json.loads(collateral) if collateral else None,
        }
        if source.root_pem:
            told["simulated_root"] = source.root_pem.decode()
        return told


# ------------------------------------------------------------------ the client's side


@dataclass(frozen=True, kw_only=True)
class Appraised:
    """What holds of a service once it is believed. `verdict` is None where a pin was enough."""

    keys: KeyConfig
    tls_spki_sha256: str | None
    release: Release
    verdict: Verdict | None


def appraise_statement(
    document: Any,
    nonce: str,
    *,
    policy: Path | None,
    pin: str | None,
    collateral: Path | None,
    at: datetime,
) -> Appraised:
    """Believed by the policy, by the pin, or by both where both are given. Raises Refused, WrongUse."""
    if policy is None and pin is None:
        raise WrongUse(
            "appraisal.nothing", "neither a policy nor a pin says which service to trust",
            where=Where(field="--policy"),
            hint="--policy POLICY.yaml, or --pin SHA256 as the service prints it",
        )  # fmt: skip
    try:
        runtime_data = base64.b64decode(document["runtime_data"], validate=True)
        said = read_runtime_data(runtime_data)
        keys = read_keys_document(base64.b64decode(said["ohttp_keys"], validate=True))
        if document["schema"] != SCHEMA:
            raise ValueError(f"it is not {SCHEMA}")
    except (RecursionError, KeyError, TypeError, ValueError, binascii.Error, NotSealed) as e:
        raise refused("its statement cannot be read", str(e) or type(e).__name__) from e
    if pin is not None:
        check_identity(document.get("identity"), pin, nonce, runtime_data)
    verdict = None
    if policy is not None:
        verdict = check_evidence(document.get("evidence"), policy, collateral, nonce, runtime_data, at)
    return Appraised(
        keys=keys, tls_spki_sha256=said["tls_spki_sha256"], release=release_of(said), verdict=verdict
    )


def check_identity(told: Any, pin: str, nonce: str, runtime_data: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

    if told is None:
        raise refused(
            "it has no identity to pin",
            "it is attested in place of that",
            hint="give --policy POLICY.yaml in place of --pin",
        )
    try:
        public = base64.b64decode(told["public"], validate=True)
        signature = base64.b64decode(told["signature"], validate=True)
        if hashlib.sha256(public).hexdigest() != pin.lower():
            raise refused(
                "it is not the one that is pinned",
                f"its pin is {hashlib.sha256(public).hexdigest()}",
                hint="somebody stands between, or it was set up anew: ask its owner for the pin",
            )
        signed = DOMAIN + bytes.fromhex(nonce) + runtime_data
        curve = Ed25519PublicKey.from_public_bytes(public[:CURVE_PUBLIC_BYTES])
        lattice = MLDSA65PublicKey.from_public_bytes(public[CURVE_PUBLIC_BYTES:])
        curve.verify(signature[:CURVE_SIGNATURE_BYTES], signed)
        lattice.verify(signature[CURVE_SIGNATURE_BYTES:], signed)
    except (KeyError, TypeError, ValueError, binascii.Error, InvalidSignature) as e:
        raise refused("its signature does not hold", type(e).__name__) from e


def check_evidence(
    told: Any, policy: Path, collateral: Path | None, nonce: str, runtime_data: bytes, at: datetime
) -> Verdict:
    if told is None:
        raise refused("it shows no evidence of a TEE", "its statement holds no quote",
                      hint="start it with --attest tdx, or trust it by --pin SHA256")  # fmt: skip
    try:
        quote = base64.b64decode(told["quote"], validate=True)
        sent = told["collateral"]
    except (KeyError, TypeError, ValueError, binascii.Error) as e:
        raise refused("its evidence cannot be read", type(e).__name__) from e
    if collateral is None and sent is None:
        raise refused("there is no collateral for its quote", "the service sends none and none was given",
                      hint="give --collateral FILE, or start the service with it")  # fmt: skip
    brought = json.dumps(sent).encode() if collateral is None else read_bytes(collateral, FILE_BYTES_MAX)
    case = Case(
        quote=quote,
        collateral=brought,
        policy=read_bytes(policy, FILE_BYTES_MAX),
        policy_folder=policy.parent,
        at=at,
        nonce=nonce,
        runtime_data=runtime_data,
    )
    verdict = judge(case)
    if not verdict.accepted:
        hint = "the policy needs `binding: sha512`" if verdict.reason == "policy_invalid" else None
        raise refused("it fails its appraisal", f"{verdict.reason}: {verdict.detail}", hint)
    return verdict


def refused(what: str, why: str, hint: str | None = None) -> Refused:
    return Refused(
        "appraisal.refused",
        f"the service is not trusted: {what}",
        why=why,
        hint=hint or "nothing was sent; ask who runs the service, or mend the policy",
    )
