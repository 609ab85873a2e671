"""The sealing key of this process, and who vouches for it: a quote, or keys that clients pin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from ...trust import Identity, SealingKey, ServiceStatement, certificate_file, evidence_source, release_here
from ..host.settings import ServeSettings
from .tls import tls_files


@dataclass(frozen=True)
class Sealing:
    """`about`: what clients need to know, {"pin"} or {"evidence"}."""

    statement: ServiceStatement
    key: SealingKey = field(repr=False)
    about: dict[str, str]


def sealing_of(settings: ServeSettings) -> Sealing | None:
    """None where prompts come as they are. Raises Refused, Lacking, WrongUse."""
    check_attest(settings)
    if not settings.sealed_prompts:
        return None
    evidence = evidence_source(settings.attest, Path(settings.collateral) if settings.collateral else None)
    identity = None if evidence else Identity.of(identity_file())
    key = SealingKey()
    statement = ServiceStatement(
        key.config,
        tls_spki=spki_of(settings),
        release=release_here(settings.fingerprint),
        evidence=evidence,
        identity=identity,
    )
    about = {"pin": identity.pin} if identity else {"evidence": settings.attest}
    return Sealing(statement, key, about)


def check_attest(settings: ServeSettings) -> None:
    """Raises WrongUse, Refused (simulated in production), Lacking (no trust domain)."""
    collateral = Path(settings.collateral) if settings.collateral else None
    evidence = evidence_source(settings.attest, collateral)
    if (evidence or collateral) and not settings.sealed_prompts:
        raise WrongUse(
            "serve.attest", "evidence vouches for a sealing key, and no prompts are sealed",
            where=Where(field="attest"), hint="--sealed-prompts, or serve.sealed_prompts: true",
        )  # fmt: skip


def identity_file() -> Path:
    """Of the keys that clients pin, beside the certificate that this user's services sign."""
    return certificate_file().with_name("identity.key")


def spki_of(settings: ServeSettings) -> bytes | None:
    """The public key of the service's certificate, as clients see it in the handshake."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if (files := tls_files(settings)) is None:
        return None
    leaf: Any = x509.load_pem_x509_certificates(Path(files[0]).read_bytes())[0]
    return bytes(leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
