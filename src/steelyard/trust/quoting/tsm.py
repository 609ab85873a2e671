"""A quote of this trust domain, from the kernel: configfs-tsm (Linux 6.7 and later). Untested on hardware.

Documentation/ABI/testing/configfs-tsm: an entry is made, `inblob` takes the report data, `outblob` gives the
quote; `generation` says whether somebody else wrote in between. Not here:
SGX enclaves, which ask their own runtime.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ...errors import Lacking

REPORTS = Path("/sys/kernel/config/tsm/report")
PROVIDER = "tdx_guest"
REPORT_DATA_BYTES = 64  # the TDX provider takes no fewer


def quote_of_this_domain(report_data: bytes, reports: Path = REPORTS) -> bytes:
    """The quote over at most 64 bytes, zeros behind them. Raises Lacking where this is no trust domain."""
    entry = reports / f"steelyard-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        entry.mkdir()
    except OSError as e:
        raise no_domain(str(e)) from e
    try:
        provider = (entry / "provider").read_text().strip()
        if provider != PROVIDER:
            raise no_domain(f"the provider of reports is {provider}, not {PROVIDER}")
        (entry / "inblob").write_bytes(report_data.ljust(REPORT_DATA_BYTES, b"\0"))
        before = (entry / "generation").read_text()
        quote = (entry / "outblob").read_bytes()
        if (entry / "generation").read_text() != before:
            raise no_domain("another process wrote into the same report")
        return quote
    except OSError as e:
        raise no_domain(f"the kernel gave no report: {e}") from e
    finally:
        with suppress(OSError):
            entry.rmdir()  # of configfs: its files go with it


def no_domain(why: str) -> Lacking:
    return Lacking(
        "attest.no_trust_domain",
        "this machine cannot make a quote",
        why=why,
        hint="run it as root in a TDX guest with Linux 6.7 or later and configfs mounted",
    )
