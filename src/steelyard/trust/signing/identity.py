"""Who signs, and whom a reader trusts: two PEM files, one with private keys (0600), one with public ones.

The first key is of an elliptic curve: the OpenSSF form of a model's signature wants one. Ed25519 and
ML-DSA-65 follow it: the hybrid form, which holds only where both hold. Another program's file has the first.

Not here: what is signed (envelope.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Lacking, Refused, Where, WrongUse
from ...places import config_folder
from ..disk import disk_problem, write_once

VARIABLE = "STEELYARD_SIGN_KEY"
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # of the OMS registry of algorithms
BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n.+?\n-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Signer:
    """Private keys: of a curve, and of the hybrid form (Ed25519, ML-DSA-65) or none."""

    path: Path
    curve: Any
    hybrid: tuple[Any, ...] = ()

    @property
    def public(self) -> Trusted:
        return Trusted(self.path, self.curve.public_key(), tuple(key.public_key() for key in self.hybrid))


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys of one signer."""

    path: Path
    curve: Any
    hybrid: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The fingerprint of the elliptic key, by which a signature names its signer."""
        return fingerprint(self.curve)


def fingerprint(public: Any) -> str:
    """Hex SHA-256 of the public key's PEM, as `model-signing` writes it into a bundle."""
    return hashlib.sha256(pem_of_public(public)).hexdigest()


def pem_of_public(public: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def sign(key: Any, data: bytes) -> bytes:
    """By a private key of any of the three kinds."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hash_of(key.curve)))
    return bytes(key.sign(data))


def is_signed(public: Any, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, data, ec.ECDSA(hash_of(public.curve)))
        else:
            public.verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def hash_of(curve: Any) -> Any:
    """As Sigstore's protocol has it: P-256 with SHA-256, P-384 with SHA-384, P-521 with SHA-512."""
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[curve.key_size]


# ------------------------------------------------------------------ files


def default_signing_key() -> Path:
    """$STEELYARD_SIGN_KEY, else sign.key in the user's folder of settings."""
    return Path(os.environ.get(VARIABLE) or config_folder() / "sign.key")


def public_path(path: Path) -> Path:
    """Where the public keys of a private file lie."""
    return path.with_suffix(".pub")


def make_signing_keys(path: Path | None = None) -> Signer:
    """New keys at `path` (0600), the public ones beside it (.pub), never over a file. Raises WrongUse."""
    place = path or default_signing_key()
    public = public_path(place)
    if place == public:
        raise WrongUse(
            "sign.key_name",
            "a private key's file may not end in .pub",
            where=Where(str(place)),
            hint="steelyard keys new --output NAME.key",
        )
    if path is None:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer = new_signer(place)
    for file, pem, mode in (
        (place, b"".join(map(pem_of_private, (signer.curve, *signer.hybrid))), 0o600),
        (public, b"".join(map(pem_of_public, (signer.public.curve, *signer.public.hybrid))), 0o644),
    ):
        write_new(file, pem, mode)
    return signer


def new_signer(path: Path) -> Signer:
    from cryptography.hazmat.primitives.asymmetric import ec

    return Signer(path, ec.generate_private_key(ec.SECP256R1()), new_hybrid())


def new_hybrid() -> tuple[Any, ...]:
    """Raises Lacking where `cryptography` was built without ML-DSA."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        return Ed25519PrivateKey.generate(), MLDSA65PrivateKey.generate()
    except (ImportError, UnsupportedAlgorithm) as e:
        raise Lacking(
            "sign.no_mldsa",
            "this `cryptography` has no ML-DSA-65",
            why=str(e) or None,
            hint="pip install 'cryptography>=50'",
        ) from e


def pem_of_private(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, never over a file that is there. Raises WrongUse, Lacking."""
    try:
        write_once(path, data, mode)
    except FileExistsError as e:
        raise WrongUse(
            "sign.key_there",
            f"there is a file {path} already",
            where=Where(str(path)),
            why="what it signed could not be told from what a new key signs",
            hint="steelyard keys new --output ANOTHER.key",
        ) from e
    except FileNotFoundError as e:
        raise no_folder(path) from e
    except OSError as e:
        raise disk_problem(e, path) from e


def no_folder(path: Path) -> WrongUse:
    return WrongUse(
        "sign.no_folder",
        f"there is no folder {path.parent}",
        where=Where(str(path)),
        hint="make the folder, or name another",
    )


def load_signer(path: Path | None = None) -> Signer:
    """The private keys of a file that only its owner can read. Raises WrongUse, Refused."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    place = path or default_signing_key()
    data, mode = read_keys(place, "sign.no_key", "steelyard keys new makes one")
    blocks = blocks_of(data, b"PRIVATE KEY")
    if not blocks:
        raise no_keys(place, "it has no private key")
    if mode & 0o077:
        raise Refused(
            "sign.key_mode",
            f"others can read the key file {place} (mode {stat.S_IMODE(mode):04o})",
            where=Where(str(place)),
            hint=f"chmod 600 {place}",
        )
    try:
        keys = [load_pem_private_key(block, None) for block in blocks]
    except (ValueError, TypeError) as e:  # TypeError: it wants a password
        raise no_keys(place, str(e)) from e
    return Signer(place, *sorted_keys(place, keys))


def load_trusted(path: Path | None = None) -> Trusted:
    """The public keys of a signer; without a path one's own. Raises WrongUse."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    place = path or public_path(default_signing_key())
    data, _ = read_keys(place, "sign.no_public_key", "name the signer's public key with --key FILE")
    try:
        keys = [load_pem_public_key(block) for block in blocks_of(data, b"PUBLIC KEY")]
    except ValueError as e:
        raise no_keys(place, str(e)) from e
    return Trusted(place, *sorted_keys(place, keys))


def read_keys(path: Path, code: str, hint: str) -> tuple[bytes, int]:
    """What stands in it, and the mode of that very file: another may lie there by the next look."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 20), os.fstat(file.fileno()).st_mode
    except OSError as e:
        raise unreadable_key(code, path, e, hint) from e


def unreadable_key(code: str, path: Path, error: OSError, hint: str) -> WrongUse:
    return WrongUse(
        code, f"cannot read the key file {path}", where=Where(str(path)), why=error.strerror, hint=hint
    )


def blocks_of(data: bytes, kind: bytes) -> list[bytes]:
    """The PEM blocks of one kind; "EC PRIVATE KEY" of older tools counts as private."""
    text = data.replace(b"\r\n", b"\n")
    return [match.group() for match in BLOCK.finditer(text) if match.group(1).endswith(kind)]


def sorted_keys(path: Path, keys: list[Any]) -> tuple[Any, tuple[Any, ...]]:
    """One key of a known curve, and either both of the hybrid form or none."""
    by_kind = {kind_of(key): key for key in keys}
    hybrid = tuple(by_kind[kind] for kind in ("ed25519", "mldsa65") if kind in by_kind)
    if len(by_kind) != len(keys) or "curve" not in by_kind or len(hybrid) == 1 or "other" in by_kind:
        raise no_keys(path, f"it has {', '.join(map(kind_of, keys)) or 'no key'}")
    return by_kind["curve"], hybrid


def kind_of(key: Any) -> str:
    """curve, ed25519, mldsa65 or other; private or public."""
    curve = getattr(key, "curve", None)
    if curve is not None:
        return "curve" if curve.name in CURVES else "other"
    name = type(key).__name__.lower()
    return next((kind for kind in ("ed25519", "mldsa65") if name.startswith(kind)), "other")


def no_keys(path: Path, why: str) -> WrongUse:
    return WrongUse(
        "sign.keys",
        f"{path} has no keys to sign or verify with",
        where=Where(str(path)),
        why=why,
        hint="PEM without a password: a key of P-256, P-384 or P-521; Ed25519 and ML-DSA-65 both or neither",
    )
