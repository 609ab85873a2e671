"""A quote of this SGX enclave, from Gramine: /dev/attestation. Untested on hardware.

`user_report_data` takes 64 bytes, `quote` then gives the quote over them (Gramine, attestation page). A
process has one pair of them: its threads take turns, or one would get the quote over another's bytes.
"""

from __future__ import annotations

import threading
from pathlib import Path

from ...errors import Lacking

DEVICE = Path("/dev/attestation")
REPORT_DATA_BYTES = 64
_TURN = threading.Lock()


def quote_of_this_enclave(report_data: bytes, device: Path = DEVICE) -> bytes:
    """The quote over at most 64 bytes, zeros behind them. Raises Lacking where this is no enclave."""
    try:
        kind = (device / "attestation_type").read_text().strip()
        if kind != "dcap":
            raise no_enclave(f"Gramine attests by {kind}, not by dcap")
        with _TURN:
            (device / "user_report_data").write_bytes(report_data.ljust(REPORT_DATA_BYTES, b"\0"))
            return (device / "quote").read_bytes()
    except OSError as e:
        raise no_enclave(str(e)) from e


def no_enclave(why: str) -> Lacking:
    return Lacking(
        "attest.no_enclave",
        "this process runs in no SGX enclave that can make a quote",
        why=why,
        hint='run it by gramine-sgx with sgx.remote_attestation = "dcap": plan --export writes a manifest',
    )
