"""TCB levels: what Intel says of a platform's, a TDX module's and a quoting enclave's security versions.

The rules are those of Intel's SGX-TDX-DCAP-QuoteVerificationLibrary (`TcbLevelCheck.cpp`,
`TdxModuleCheck.cpp`, `EnclaveReportVerifier.cpp`), but for one: a TD that was launched before an update
stays OutOfDate, where Intel's library would say TDRelaunchAdvised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from .document import Document
from .document import broken as malformed
from .pck import Platform
from .verdict import Rejected

COMPONENTS = 16
STATUSES = ("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
            "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked")  # fmt: skip
OUT_OF_DATE = ("OutOfDate", "OutOfDateConfigurationNeeded")
CONFIGURATION = ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDateConfigurationNeeded")


@dataclass(frozen=True, slots=True)
class Level:
    """`svn`: what has to be reached; of a platform (16 SGX, PCE, 16 TDX), of an enclave or module one."""

    status: str
    date: datetime
    advisories: tuple[str, ...]
    sgx: tuple[int, ...] = ()
    pce_svn: int = 0
    tdx: tuple[int, ...] = ()
    isv_svn: int = 0

    @property
    def rank(self) -> tuple[tuple[int, ...], int, tuple[int, ...], int]:
        return self.sgx, self.pce_svn, self.tdx, self.isv_svn


@dataclass(frozen=True, slots=True)
class Module:
    """What a TDX module has to be; `levels` is empty for the module of version 0."""

    name: str
    mr_signer: bytes
    attributes: bytes
    levels: tuple[Level, ...] = ()


# ------------------------------------------------------------------ reading


def read_levels(document: Document, kind: str) -> tuple[Level, ...]:
    """Highest first, as Intel's library sorts them. `kind`: SGX, TDX, or ISV of an enclave or module."""
    levels = [read_level(level, kind) for level in document.each("tcbLevels")]
    return tuple(sorted(levels, key=lambda level: level.rank, reverse=True))


def read_level(document: Document, kind: str) -> Level:
    status, tcb = document.text("tcbStatus"), document.inside("tcb")
    if status not in STATUSES:
        raise malformed(f"{status} is no TCB status")
    said = status, document.moment("tcbDate"), document.texts("advisoryIDs")
    if kind == "ISV":
        return Level(*said, isv_svn=tcb.number("isvsvn", 0xFFFF))
    tdx = components(tcb, "tdxtcbcomponents") if kind == "TDX" else ()
    return Level(*said, components(tcb, "sgxtcbcomponents"), tcb.number("pcesvn", 0xFFFF), tdx)


def components(tcb: Document, name: str) -> tuple[int, ...]:
    found = tuple(component.number("svn", 0xFF) for component in tcb.each(name))
    if len(found) != COMPONENTS:
        raise malformed(f"{name} has {len(found)} components")
    return found


def read_modules(document: Document) -> tuple[Module, ...]:
    """The module of version 0, then those with an identity of their own."""
    named = document.each("tdxModuleIdentities") if "tdxModuleIdentities" in document else []
    levels = [read_levels(module, "ISV") for module in named]
    modules = [
        read_module(module, module.text("id").upper(), n) for module, n in zip(named, levels, strict=True)
    ]
    return (read_module(document.inside("tdxModule"), "TDX_00", ()), *modules)


def read_module(document: Document, name: str, levels: tuple[Level, ...]) -> Module:
    return Module(name, document.bytes("mrsigner", 48), document.bytes("attributes", 8), levels)


# ------------------------------------------------------------------ matching


def platform_level(levels: Iterable[Level], platform: Platform, tee_svn: bytes | None) -> Level:
    """The highest level that the platform reaches in every component; `tee_svn` is a TD's TEE_TCB_SVN."""
    for level in levels:
        reached = reaches(platform.svn, level.sgx) and platform.pce_svn >= level.pce_svn
        # A module with an identity of its own (version above 0) is judged by it: bytes 0 and 1 are its own.
        skip = 2 if tee_svn and tee_svn[1] else 0
        if reached and (tee_svn is None or reaches(tuple(tee_svn)[skip:], level.tdx[skip:])):
            return level
    raise Rejected("tcb_level_not_found", "the platform is below every TCB level")


def reaches(svn: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(have >= want for have, want in zip(svn, wanted, strict=True))


def module_of(modules: Iterable[Module], version: int) -> Module:
    name = f"TDX_{version:02X}"
    module = next((module for module in modules if module.name == name), None)
    if module is None:
        raise Rejected("tdx_module_rejected", f"the TCB info has no TDX module {name}")
    return module


def isv_level(levels: Iterable[Level], isv_svn: int) -> Level | None:
    return next((level for level in levels if isv_svn >= level.isv_svn), None)


def worse(platform: str, other: str) -> str:
    """A platform's status together with that of its TDX module or quoting enclave."""
    if "Revoked" in (platform, other):
        return "Revoked"
    if other in OUT_OF_DATE:
        return "OutOfDateConfigurationNeeded" if platform in CONFIGURATION else "OutOfDate"
    return max(platform, other, key=STATUSES.index)
