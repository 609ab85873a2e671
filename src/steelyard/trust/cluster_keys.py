"""A private CA, a certificate for each machine and one token: what a cluster asks of whoever joins it.

DIR/ca.key  stays where it was made: whoever has it can make more machines
DIR/HOST/   ca.crt, node.crt, node.key, token: to that machine's keys folder
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import Lacking, Where, WrongUse
from ..places import data_folder

VARIABLE = "STEELYARD_CLUSTER_KEYS"
FILES = ("ca.crt", "node.crt", "node.key", "token")
LIFE = datetime.timedelta(days=825)
LOCAL = ("127.0.0.1", "localhost")  # Ray's processes of one machine speak to each other there too


def keys_folder() -> Path:
    """Of this machine: $STEELYARD_CLUSTER_KEYS, else in the user's data folder."""
    return Path(os.environ.get(VARIABLE) or data_folder() / "cluster")


def ray_environment(keys: Path) -> dict[str, str]:
    """What Ray reads: token and mutual TLS, always. Raises Lacking where a file is not there."""
    if missing := [name for name in FILES if not (keys / name).is_file()]:
        raise Lacking(
            "cluster.no_keys",
            f"there are no keys for a cluster: {keys / missing[0]}",
            where=Where(field=VARIABLE),
            why="machines of a cluster know each other by a token and by certificates of one CA",
            hint="steelyard cluster keys DIR HOST ...; then copy DIR/HOST to this folder of each host",
        )
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(keys / "token"),
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(keys / "ca.crt"),
        "RAY_TLS_SERVER_CERT": str(keys / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(keys / "node.key"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else a worker's child, the training, runs at 15
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }


def make_keys(folder: Path, hosts: Sequence[str]) -> list[Path]:
    """A folder for each host; CA and token are those that the folder has already. Raises WrongUse for a host
    that has one."""
    for host in hosts:
        if not host or host.startswith((".", "-")) or "/" in host:
            raise WrongUse("cluster.host", f"{host!r} is no address", where=Where(field="HOST"))
        if (folder / host).exists():
            hint = f"remove {folder / host}, or name another folder"
            raise WrongUse("cluster.keys", f"{host} has its keys", where=Where(str(folder / host)), hint=hint)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, ca_cert = _ca(folder)
    token = folder / "token"
    if not token.exists():
        _private(token, secrets.token_hex(32).encode())
    made = []
    for host in hosts:
        own = folder / host
        own.mkdir(mode=0o700)
        key = _new_key()
        cert = _certificate(host, key, ca_cert.subject, ca_key, (host, address_of(host), *LOCAL))
        _private(own / "node.key", _pem_of_key(key))
        _private(own / "node.crt", _pem(cert))
        _private(own / "ca.crt", (folder / "ca.crt").read_bytes())
        _private(own / "token", token.read_bytes())
        made.append(own)
    return made


def address_of(host: str) -> str:
    """By which Ray knows a machine. Raises WrongUse for a name that no resolver knows."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        hint = "name hosts by their addresses in your network: 10.0.0.2"
        raise WrongUse(
            "cluster.host", f"no address of the host {host!r} is known", why=error.strerror, hint=hint
        ) from error


def _ca(folder: Path) -> tuple[Any, Any]:
    """The CA's key and certificate, made where the folder has none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not (folder / "ca.key").exists():
        key = _new_key()
        _private(folder / "ca.key", _pem_of_key(key))
        _private(folder / "ca.crt", _pem(_certificate("steelyard cluster", key, None, key, ())))
    key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    return key, x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())


def _certificate(name: str, key: Any, issuer: Any, issuer_key: Any, names: Sequence[str]) -> Any:
    """`issuer` None: a CA's own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_name(n) for n in dict.fromkeys(names)]), False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _name(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem(cert: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(cert.public_bytes(Encoding.PEM))


def _pem_of_key(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _private(path: Path, content: bytes) -> None:
    """Readable by its owner alone, from its first byte on."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fsync(fd)
