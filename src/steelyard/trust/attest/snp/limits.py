"""What a policy asks of a SEV-SNP guest and its platform."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

TCB_PARTS = ("fmc", "boot_loader", "tee", "snp", "microcode")


@dataclass(frozen=True, kw_only=True)
class SnpLimits:
    """`arks`: the trusted roots. `min_tcb`: {part of TCB_PARTS: lowest security version}. None = no limit."""

    arks: tuple[Certificate, ...] = ()
    min_tcb: dict[str, int] = field(default_factory=dict)
    min_guest_svn: int = 0
    max_vmpl: int = 0
    allow_migration: bool = False
    allow_smt: bool = True
    require_crl: bool = True
    max_list_age_days: int | None = None
