"""A simulated SEV-SNP platform for tests: reports and collateral as AMD's, under a root of its own.

As simulated.py: its root says SIMULATED, a policy has to name it, production refuses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from .simulated import key_usage, named

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

RSA_BITS = 2048  # AMD's have 4096, which take seconds to make
PLACES = {"version": (0, 4), "guest_svn": (4, 4), "policy": (8, 8), "vmpl": (0x30, 4), "algorithm": (0x34, 4),
          "current_tcb": (0x38, 8), "platform_info": (0x40, 8), "key_info": (0x48, 4),
          "report_data": (0x50, 64), "measurement": (0x90, 48), "host_data": (0xC0, 32),
          "reported_tcb": (0x180, 8), "family": (0x188, 1), "chip_id": (0x1A0, 64),
          "committed_tcb": (0x1E0, 8), "launch_tcb": (0x1F0, 8)}  # fmt: skip
CHIP = hashlib.sha512(b"a simulated chip").digest()
TCB = {"boot_loader": 4, "tee": 0, "snp": 24, "microcode": 200}
TCB_PLACES = {"Milan": {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7},
              "Turin": {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7}}  # fmt: skip
SVNS = {"boot_loader": (3, 1), "tee": (3, 2), "snp": (3, 3), "microcode": (3, 8), "fmc": (3, 9)}
AMD = "1.3.6.1.4.1.3704.1."
DAY = timedelta(days=1)


class SimulatedSnp:
    """A chip of `product` (Milan or Turin) with its certificates, which hold for 30 days around `at`."""

    def __init__(self, at: datetime, product: str = "Milan") -> None:
        from cryptography.hazmat.primitives.asymmetric import ec, rsa

        self.at, self.product = at, product
        self.tcb = TCB | ({"fmc": 1} if product == "Turin" else {})
        self.ark, self.ask = (rsa.generate_private_key(65537, RSA_BITS) for _ in range(2))
        self.vcek = ec.generate_private_key(ec.SECP384R1())
        self.chip = CHIP[:8].ljust(64, b"\0") if product == "Turin" else CHIP
        self.certificates = {who: self._certify(who) for who in ("ark", "ask")}

    @property
    def root_pem(self) -> bytes:
        return pem(self.certificates["ark"]).encode()

    def tcb_bytes(self, **parts: int) -> bytes:
        raw = bytearray(8)
        for name, at in TCB_PLACES[self.product].items():
            raw[at] = (self.tcb | parts)[name]
        return bytes(raw)

    def report(self, report_data: bytes, **fields: bytes | int) -> bytes:
        """A signed report; `fields` of PLACES replace what stands there."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA384

        tcbs = {f"{name}_tcb": self.tcb_bytes() for name in ("current", "reported", "committed", "launch")}
        family = 0x1A if self.product == "Turin" else 0x19
        values: dict[str, bytes | int] = {
            "version": 3, "policy": 0x30000, "algorithm": 1, "report_data": report_data, "family": family,
            "chip_id": self.chip, **tcbs, **fields,
        }  # fmt: skip
        raw = bytearray(1184)
        for name, value in values.items():
            at, size = PLACES[name]
            raw[at : at + size] = (
                value.to_bytes(size, "little") if isinstance(value, int) else value.ljust(size, b"\0")
            )
        for at, half in zip(
            (0x2A0, 0x2E8),
            decode_dss_signature(self.vcek.sign(bytes(raw[:0x2A0]), ECDSA(SHA384()))),
            strict=True,
        ):
            raw[at : at + 72] = half.to_bytes(72, "little")
        return bytes(raw)

    def collateral(self, revoked: Iterable[str] = (), **changes: Any) -> bytes:
        """As JSON. `revoked`: of ask, vcek. `changes`: chip, tcb, product, of the VCEK."""
        chain = pem(self.certificates["ask"]) + pem(self.certificates["ark"])
        fields = {"vcek_certificate": pem(self._vcek(changes)), "vcek_issuer_chain": chain}
        return json.dumps(fields | {"ark_crl": self._crl(revoked)}).encode()

    # -------------------------------------------------------------- certificates

    def _names(self) -> dict[str, Any]:
        return {"ark": named(f"SIMULATED ARK-{self.product}"), "ask": named(f"SIMULATED SEV-{self.product}"),
                "vcek": named("SIMULATED SEV-VCEK")}  # fmt: skip

    def _builder(self, who: str, by: str, public: Any) -> Any:
        from cryptography.x509 import CertificateBuilder

        names = self._names()
        return CertificateBuilder(
            issuer_name=names[by], subject_name=names[who], public_key=public, serial_number=SERIALS[who],
            not_valid_before=self.at - 30 * DAY, not_valid_after=self.at + 30 * DAY,
        )  # fmt: skip

    def _certify(self, who: str) -> Certificate:
        from cryptography.x509 import BasicConstraints

        key = self.ark if who == "ark" else self.ask
        builder = self._builder(who, "ark", key.public_key())
        builder = builder.add_extension(BasicConstraints(True, None), critical=True)
        return signed_by(self.ark, builder.add_extension(key_usage(ca=True), critical=True))

    def _vcek(self, changes: Mapping[str, Any]) -> Certificate:
        from cryptography.x509 import ObjectIdentifier, UnrecognizedExtension

        product = str(changes.get("product", self.product)).encode()
        chip = changes.get("chip", self.chip[:8] if self.product == "Turin" else self.chip)
        values: dict[tuple[int, ...], bytes] = {(2,): b"\x16" + bytes([len(product)]) + product, (4,): chip}
        tcb = self.tcb | dict(changes.get("tcb", {}))
        for name in TCB_PLACES[self.product]:
            values[SVNS[name]] = integer(tcb[name])
        builder = self._builder("vcek", "ask", self.vcek.public_key())
        for path, value in values.items():
            name = AMD + ".".join(map(str, path))
            builder = builder.add_extension(
                UnrecognizedExtension(ObjectIdentifier(name), value), critical=False
            )
        return signed_by(self.ask, builder)

    def _crl(self, revoked: Iterable[str]) -> str:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._names()["ark"], last_update=self.at - DAY, next_update=self.at + 29 * DAY
        )
        for who in revoked:
            entry = x509.RevokedCertificateBuilder(serial_number=SERIALS[who], revocation_date=self.at - DAY)
            builder = builder.add_revoked_certificate(entry.build())
        return signed_by(self.ark, builder).public_bytes(Encoding.DER).hex()  # type: ignore[no-any-return]


SERIALS = {"ark": 1, "ask": 2, "vcek": 3}


def signed_by(key: Any, builder: Any) -> Any:
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
    from cryptography.hazmat.primitives.hashes import SHA384

    return builder.sign(key, SHA384(), rsa_padding=PSS(mgf=MGF1(SHA384()), salt_length=48))


def integer(value: int) -> bytes:
    """DER of a number of one byte: above 127 a zero stands before it."""
    raw = value.to_bytes(2 if value > 0x7F else 1, "big")
    return bytes([0x02, len(raw)]) + raw


def pem(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()
