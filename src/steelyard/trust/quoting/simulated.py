"""A simulated platform for tests and rehearsals: quotes and collateral as real ones, under its own root.

The keys live as long as the object and are never written. The root's name says SIMULATED, and so does
whatever is made under it; a policy accepts it only by naming that root in `root_ca`, and never where
STEELYARD_ENV is production. Nothing here protects anything.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

FMSPC, PCE_ID, PCE_SVN = bytes.fromhex("51a1b0000000"), b"\0\0", 13
SVN = (5, 5, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
TEE_SVN = bytes((6, 1, 3, *([0] * 13)))  # a TDX module of version 1, with an identity of its own
QE_SIGNER = hashlib.sha256(b"a simulated quoting enclave").digest()
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TD_BODY = {"tee_tcb_svn": 16, "mr_seam": 48, "mr_signer_seam": 48, "seam_attributes": 8, "td_attributes": 8,
           "xfam": 8, "mr_td": 48, "mr_config_id": 48, "mr_owner": 48, "mr_owner_config": 48, "rtmr0": 48,
           "rtmr1": 48, "rtmr2": 48, "rtmr3": 48, "report_data": 64}  # fmt: skip
TD_BODY_15 = TD_BODY | {"tee_tcb_svn2": 16, "mr_service_td": 48}
DAY = timedelta(days=1)
PEOPLE = {  # name: (issuer, common name, is a CA)
    "root": ("root", "SIMULATED SGX Root CA", True),
    "pck_ca": ("root", "SIMULATED SGX PCK Platform CA", True),
    "signer": ("root", "SIMULATED SGX TCB Signing", False),
    "pck": ("pck_ca", "SIMULATED SGX PCK Certificate", False),
}


class SimulatedTee:
    """A platform of `tee`, sgx or tdx, whose certificates and collateral hold for 30 days around `at`."""

    def __init__(self, tee: str, at: datetime, flags: Iterable[int] = ()) -> None:
        """`flags`: 1 dynamic platform, 2 cached keys, 3 SMT."""
        from cryptography.hazmat.primitives.asymmetric import ec

        self.tee, self.at, self.flags = tee, at, tuple(flags)
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in PEOPLE}
        self.certificates: dict[str, Certificate] = {}
        for name in PEOPLE:
            self.certificates[name] = self._certify(name)

    @property
    def root_pem(self) -> bytes:
        return self._pem("root").encode()

    # -------------------------------------------------------------- quotes

    def quote(self, report_data: bytes, version: int | None = None, **fields: bytes) -> bytes:
        """A quote over `report_data`; `fields` replace those of its body. Versions: SGX 3, TDX 4 or 5."""
        from cryptography.hazmat.primitives.asymmetric import ec

        version = version or (3 if self.tee == "sgx" else 4)
        key = ec.generate_private_key(ec.SECP256R1())
        public = raw_public(key)
        header = struct.pack("<HHI4s16s20s", version, 2, 0x81 * (self.tee == "tdx"), b"", QE_VENDOR, b"")
        signed = header + self._body(version, {"report_data": report_data} | fields)
        certified = self._certification(public, version)
        auth = raw_signature(key, signed) + public + certified
        return signed + struct.pack("<I", len(auth)) + auth

    def _body(self, version: int, fields: Mapping[str, bytes]) -> bytes:
        if self.tee == "sgx":
            return enclave_report(**{"attributes": b"\x05", **fields})  # type: ignore[arg-type]
        defaults = {"tee_tcb_svn": TEE_SVN, "tee_tcb_svn2": TEE_SVN, "td_attributes": b"\0\0\0\x10"}
        sizes = TD_BODY_15 if version == 5 else TD_BODY
        values = defaults | dict(fields)
        body = b"".join(values.get(name, b"").ljust(size, b"\0") for name, size in sizes.items())
        return (struct.pack("<HI", 3, len(body)) if version == 5 else b"") + body

    def _certification(self, attestation_key: bytes, version: int) -> bytes:
        qe_data = b"simulated quoting enclave".ljust(32, b"\0")
        bound = hashlib.sha256(attestation_key + qe_data).digest()
        report = enclave_report(
            attributes=b"\x11",
            mr_signer=QE_SIGNER,
            isv_prod_id=self._qe_product(),
            isv_svn=4,
            report_data=bound,
        )
        chain = "".join(map(self._pem, ("pck", "pck_ca", "root"))).encode() + b"\0"
        signature = raw_signature(self.keys["pck"], report)
        inner = (
            report + signature + struct.pack("<H", 32) + qe_data + struct.pack("<HI", 5, len(chain)) + chain
        )
        return inner if version == 3 else struct.pack("<HI", 6, len(inner)) + inner

    def _qe_product(self) -> int:
        return 2 if self.tee == "tdx" else 1

    # -------------------------------------------------------------- collateral

    def collateral(
        self,
        tcb_info: Mapping[str, Any] | None = None,
        qe_identity: Mapping[str, Any] | None = None,
        revoked: Iterable[str] = (),
    ) -> bytes:
        """The nine fields as JSON, signed; documents default to those below. `revoked`: names of PEOPLE."""
        signer = self._pem("signer") + self._pem("root")
        fields = {
            "pck_crl_issuer_chain": self._pem("pck_ca") + self._pem("root"),
            "root_ca_crl": self._crl("root", revoked),
            "pck_crl": self._crl("pck_ca", revoked),
        }
        for name, document in (
            ("tcb_info", tcb_info or self.tcb_info()),
            ("qe_identity", qe_identity or self.qe_identity()),
        ):
            text = json.dumps(document, separators=(",", ":"))
            signature = raw_signature(self.keys["signer"], text.encode()).hex()
            fields |= {f"{name}_issuer_chain": signer, name: text, f"{name}_signature": signature}
        return json.dumps(fields).encode()

    def tcb_info(self) -> dict[str, Any]:
        """One level that this platform reaches: UpToDate."""
        tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": n} for n in SVN], "pcesvn": PCE_SVN}
        ids = {"fmspc": FMSPC.hex(), "pceId": PCE_ID.hex(), "tcbType": 0}
        document = {"id": self.tee.upper(), "version": 3} | self._dates() | ids
        if self.tee == "tdx":
            tcb["tdxtcbcomponents"] = [{"svn": n} for n in TEE_SVN]
            module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            levels = [self._level({"isvsvn": TEE_SVN[0]})]
            document |= {
                "tdxModule": module,
                "tdxModuleIdentities": [{"id": "TDX_01", "tcbLevels": levels} | module],
            }
        return document | {"tcbLevels": [self._level(tcb)]}

    def qe_identity(self) -> dict[str, Any]:
        report = {
            "miscselect": "00" * 4, "miscselectMask": "FF" * 4, "attributes": "11" + "00" * 15,
            "attributesMask": "FB" + "FF" * 7 + "00" * 8, "mrsigner": QE_SIGNER.hex(),
        }  # fmt: skip
        named = {"id": "TD_QE" if self.tee == "tdx" else "QE", "version": 2} | self._dates()
        return named | report | {"isvprodid": self._qe_product(), "tcbLevels": [self._level({"isvsvn": 4})]}

    def _dates(self) -> dict[str, Any]:
        span = {"issueDate": self.at - DAY, "nextUpdate": self.at + 29 * DAY}
        return {name: f"{when:%Y-%m-%dT%H:%M:%SZ}" for name, when in span.items()} | {
            "tcbEvaluationDataNumber": 18
        }

    def _level(self, tcb: Mapping[str, Any]) -> dict[str, Any]:
        return {"tcb": tcb, "tcbDate": f"{self.at - 30 * DAY:%Y-%m-%dT00:00:00Z}", "tcbStatus": "UpToDate"}

    # -------------------------------------------------------------- certificates

    def _certify(self, name: str) -> Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256

        issuer, common, ca = PEOPLE[name]
        builder = x509.CertificateBuilder(
            issuer_name=named(PEOPLE[issuer][1]),
            subject_name=named(common),
            public_key=self.keys[name].public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=self.at - 30 * DAY,
            not_valid_after=self.at + 30 * DAY,
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(key_usage(ca), critical=True)
        if name == "pck":
            builder = builder.add_extension(sgx_extension(self.flags), critical=False)
        return builder.sign(self.keys[issuer], SHA256())

    def _crl(self, issuer: str, revoked: Iterable[str]) -> str:
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        builder = x509.CertificateRevocationListBuilder(
            issuer_name=named(PEOPLE[issuer][1]), last_update=self.at - DAY, next_update=self.at + 29 * DAY
        )
        for name in revoked:
            if PEOPLE[name][0] == issuer:
                serial = self.certificates[name].serial_number
                entry = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=self.at - DAY)
                builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.keys[issuer], SHA256()).public_bytes(Encoding.DER).hex()

    def _pem(self, name: str) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificates[name].public_bytes(Encoding.PEM).decode()


# ------------------------------------------------------------------ bytes


def enclave_report(
    *,
    attributes: bytes = b"",
    mr_enclave: bytes = b"",
    mr_signer: bytes = b"",
    isv_prod_id: int = 0,
    isv_svn: int = 0,
    report_data: bytes = b"",
) -> bytes:
    parts = (
        bytes(SVN),
        0,
        b"",
        attributes,
        mr_enclave,
        b"",
        mr_signer,
        b"",
        isv_prod_id,
        isv_svn,
        b"",
        report_data,
    )
    return struct.pack("<16sI28s16s32s32s32s96sHH60s64s", *parts)


def raw_public(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def raw_signature(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = decode_dss_signature(key.sign(data, ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def named(common: str) -> Any:
    from cryptography.x509 import Name, NameAttribute
    from cryptography.x509.oid import NameOID

    return Name([NameAttribute(NameOID.COMMON_NAME, common)])


def key_usage(ca: bool) -> Any:
    from cryptography.x509 import KeyUsage

    return KeyUsage(
        digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def sgx_extension(flags: Iterable[int]) -> Any:
    """FMSPC, PCE-ID, the TCB and the configuration, as Intel writes them into a PCK certificate."""
    from cryptography.x509 import ObjectIdentifier, UnrecognizedExtension

    svns = [entry((2, n), der(0x02, bytes([svn]))) for n, svn in enumerate(SVN, 1)]
    tcb = der(0x30, b"".join([*svns, entry((2, 17), der(0x02, bytes([PCE_SVN])))]))
    setting = [entry((7, n), der(0x01, b"\xff" if n in set(flags) else b"\0")) for n in (1, 2, 3)]
    parts = {2: tcb, 3: der(0x04, PCE_ID), 4: der(0x04, FMSPC), 7: der(0x30, b"".join(setting))}
    content = der(0x30, b"".join(entry((n,), value) for n, value in parts.items()))
    return UnrecognizedExtension(ObjectIdentifier("1.2.840.113741.1.13.1"), content)


def entry(path: tuple[int, ...], value: bytes) -> bytes:
    return der(0x30, der(0x06, bytes.fromhex("2a864886f84d010d01") + bytes(path)) + value)


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    long = bytes([0x82, *size.to_bytes(2, "big")]) if size > 0xFF else bytes([0x81, size])
    return bytes([tag]) + (bytes([size]) if size < 0x80 else long) + content
