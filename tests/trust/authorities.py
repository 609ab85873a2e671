"""A root, an issuer below it and a signing certificate, made for a test or a bench: PEM in a folder."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def certificate(
    name: str, key: Any, issuer: tuple[str, Any], ca: bool, days: int = 30, signs: bool = True
) -> Any:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer[0]))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - 2 * DAY).not_valid_after(now + days * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
    builder = builder.add_extension(
        x509.KeyUsage(digital_signature=signs and not ca, key_cert_sign=ca, crl_sign=ca, **usage), True
    )
    return builder.sign(issuer[1], hashes.SHA256())


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def write_chain(
    folder: Path, days: int = 30, signs: bool = True, issuer_is_ca: bool = True
) -> dict[str, Path]:
    """{"key", "chain" (leaf, issuer), "root"}: paths."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    root = certificate("root", keys[0], ("root", keys[0]), True)
    issuer = certificate("issuer", keys[1], ("root", keys[0]), issuer_is_ca)
    leaf = certificate("signer", keys[2], ("issuer", keys[1]), False, days, signs)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "key": keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "leaf": leaf.public_bytes(Encoding.PEM),
        "issuer": issuer.public_bytes(Encoding.PEM),
        "chain": leaf.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM),
        "root": root.public_bytes(Encoding.PEM),
    }
    for name, pem in parts.items():
        (folder / f"{name}.pem").write_bytes(pem)
        (folder / f"{name}.pem").chmod(0o600)
    return {name: folder / f"{name}.pem" for name in parts}
