"""The certificate of a service: the user's, or one that it signs itself."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import write_durably
from ...errors import Where, WrongUse
from ...trust import certificate_file
from ..host.settings import ServeSettings
from .address import WILDCARDS, outward_address

AUTO = "auto"
LIFE = datetime.timedelta(days=825)  # clients of Apple refuse a longer one


def tls_context(settings: ServeSettings) -> ssl.SSLContext | None:
    """None where the service speaks plain HTTP. Raises WrongUse for files that are no pair."""
    if (files := tls_files(settings)) is None:
        return None
    cert, key = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Sealed prompts have one kind of client, which speaks 1.3; others may still come with 1.2.
    newest_alone = settings.sealed_prompts or settings.sealed
    oldest = ssl.TLSVersion.TLSv1_3 if newest_alone else ssl.TLSVersion.TLSv1_2
    context.minimum_version = oldest
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # never ask at the terminal
    except FileNotFoundError as e:
        missing = next((file for file in (cert, key) if file and not Path(file).exists()), cert)
        raise _wrong("there is no such file", missing) from e
    except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
        why = getattr(e, "reason", None) or getattr(e, "strerror", None) or str(e)
        raise _wrong(why, cert) from e
    return context


def loopback_context(settings: ServeSettings) -> ssl.SSLContext | None:
    """Of a candidate, which the gate alone asks: none; where trust is sealed, of our own certificate."""
    if not settings.sealed:
        return None
    return tls_context(replace(settings, tls_cert=AUTO, tls_key=None))


def tls_files(settings: ServeSettings) -> tuple[str, str | None] | None:
    """Certificate and key (None: in the same file); None for plain HTTP. Raises WrongUse."""
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise _wrong("there is a key and no certificate", None, "tls_key")
        return None
    if settings.tls_cert == AUTO:
        return own_certificate(names_of(settings))
    return settings.tls_cert, settings.tls_key


def names_of(settings: ServeSettings) -> list[str]:
    """What clients may call this machine, each once."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), settings.host, *settings.allowed_host]
    if settings.host in WILDCARDS and not settings.allowed_host:
        names.append(outward_address(settings.host) or settings.host)
    return list(dict.fromkeys(name.lower() for name in names))


def _wrong(why: str, file: str | None, field: str = "tls_cert") -> WrongUse:
    return WrongUse(
        "serve.tls", "certificate and key cannot be used", where=Where(file, field=field), why=why,
        hint="give --tls-cert FILE and --tls-key FILE in PEM, the key without a password, or --tls-cert auto",
    )  # fmt: skip


def own_certificate(names: list[str]) -> tuple[str, str]:
    """Files of a certificate for these names, made once and again when they change or it runs out."""
    cert = certificate_file()
    folder, key = cert.parent, cert.with_name("key.pem")
    if not (key.exists() and _holds_for(cert, names)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret, public = _signed(names)
        key.touch(mode=0o600)
        write_durably(key, secret)
        key.chmod(0o600)
        write_durably(cert, public)
    return str(cert), str(key)


def _holds_for(cert: Path, names: list[str]) -> bool:
    from cryptography import x509

    if not cert.exists():
        return False
    read = x509.load_pem_x509_certificate(cert.read_bytes())
    own = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = read.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=30)
    return lasts and [_name(name) for name in names] == list(own)


def _signed(names: list[str]) -> tuple[bytes, bytes]:
    """Key and certificate as PEM: P-256, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "steelyard")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(itself)
        .issuer_name(itself)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return secret, built.public_bytes(serialization.Encoding.PEM)


def _name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)
