"""Whether a signature is of someone the reader trusts: the refusals that models and receipts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ...errors import CheckFailed, Where, WrongUse
from .bundle import Bundle, Keyless
from .chain import Untrusted, chain_of, check_chain, name_of
from .envelope import MOST_BYTES, Envelope, Malformed
from .identity import Trusted, fingerprint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a reader believes: keys, roots of certificates; these must hold `at` that time (None: now)."""

    keys: Sequence[Trusted] = ()
    roots: Sequence[Any] = field(default=())
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SignedBy:
    """The key that signed: its fingerprint, its certificate's name, its hybrid keys."""

    key: str
    certificate: str | None = None
    hybrid: tuple[Any, ...] = ()


def read_file(path: Path, parse: Callable[[bytes], T]) -> T:
    """What a signature's file says. Raises CheckFailed: missing, malformed, of a method not verified here."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as e:
        raise missing(path, e) from e
    try:
        if len(data) > MOST_BYTES:
            raise Malformed(f"it has more than {MOST_BYTES} bytes")
        return parse(data)
    except Keyless as e:
        raise of_another_method(path, str(e)) from e
    except Malformed as e:
        raise malformed(path, str(e)) from e


def check_bundle(path: Path, bundle: Bundle, trust: Trust) -> SignedBy:
    """Raises CheckFailed where it is not signed by whom the reader trusts."""
    if bundle.certificates:
        return by_certificate(path, bundle, trust)
    if not trust.keys:
        raise no_trust(path, "it is signed by a key, and no key is named")
    own = [key for key in trust.keys if bundle.key in (None, key.name)]
    if not own:
        raise wrong_key(path, bundle.key or "", trust.keys)
    for key in own:
        if bundle.envelope.holds(key.curve, bundle.envelope.signatures[0]):
            return SignedBy(key.name, hybrid=key.hybrid)
    raise invalid(path, f"by the key {own[0].name[:16]} it should be")


def by_certificate(path: Path, bundle: Bundle, trust: Trust) -> SignedBy:
    if not trust.roots:
        raise no_trust(path, "it is signed by a certificate, and no root is named")
    try:
        chain = chain_of(bundle.certificates)
        key = check_chain(chain, trust.roots, trust.at)
    except Malformed as e:
        raise malformed(path, str(e)) from e
    except Untrusted as e:
        raise untrusted(path, str(e)) from e
    if not bundle.envelope.holds(key, bundle.envelope.signatures[0]):
        raise invalid(path, f"by the key of {name_of(chain[0])} it should be")
    name = fingerprint(key)
    hybrid = next((known.hybrid for known in trust.keys if known.name == name), ())
    return SignedBy(name, name_of(chain[0]), hybrid)


def check_hybrid(path: Path, envelope: Envelope, hybrid: Sequence[Any]) -> None:
    """Every one of these keys, and nobody else. Raises CheckFailed."""
    if not all(map(envelope.by, hybrid)) or len(envelope.signatures) != len(hybrid):
        raise invalid(path, "Ed25519 and ML-DSA-65 must both hold, and none beside them")


# ------------------------------------------------------------------ refusals


def missing(path: Path, error: OSError) -> CheckFailed:
    return CheckFailed(
        "signature.missing",
        f"there is no signature {path}",
        where=Where(str(path)),
        why=error.strerror,
        hint="name it with --signature, or ask the signer for it",
    )


def malformed(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "signature.malformed",
        f"{path.name} is no whole signature",
        where=Where(str(path)),
        why=why,
        hint="fetch it again: it was changed, cut, or is another file",
    )


def of_another_method(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "signature.method",
        f"{path.name} is signed in a way that is not verified here",
        where=Where(str(path)),
        why=why,
        hint="verify it with model-signing",
    )


def wrong_key(path: Path, key: str, trusted: Sequence[Trusted]) -> CheckFailed:
    names = ", ".join(t.name[:16] for t in trusted)
    return CheckFailed(
        "signature.wrong_key",
        f"{path.name} is signed by another key",
        where=Where(str(path)),
        why=f"it names {key[:16]}; trusted: {names}",
        hint="do not use it, unless you trust that key: --key FILE",
    )


def invalid(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "signature.invalid",
        f"a signature of {path.name} does not hold",
        where=Where(str(path)),
        why=why,
        hint="do not use it: what was signed, or the signature, was changed",
    )


def untrusted(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "signature.certificate",
        f"the certificate in {path.name} is not trusted",
        where=Where(str(path)),
        why=why,
        hint="do not use it, unless you trust its root: --root FILE; of another time: --at",
    )


def misstated(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "signature.statement",
        f"what {path.name} states does not hold together",
        where=Where(str(path)),
        why=why,
        hint="ask the signer for one that does",
    )


def no_trust(path: Path, why: str) -> WrongUse:
    return WrongUse(
        "signature.no_trust",
        f"nothing says whom to trust for {path.name}",
        where=Where(str(path)),
        why=why,
        hint="--key FILE: the signer's public key; --root FILE: a root certificate",
    )
