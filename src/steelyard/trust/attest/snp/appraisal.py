"""The checks of a SEV-SNP report in their order; the first failure is the reason.

AMD publishes no status of a TCB: the policy names the lowest that it accepts. The VCEK holds for one chip at
one TCB, which is what the report has to say of itself.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from ..certificates import check_begun, check_ended, span_of
from ..verdict import Rejected
from .endorsement import Endorsement, check_links, check_list, check_unrevoked, read_endorsement
from .limits import SnpLimits
from .report import DEBUG, MIGRATE, POLICY_RESERVED, RESERVED_ONE, TURIN_FAMILY, Report, tcb_of

CHIP_BYTES_OF_TURIN = 8


def endorsed(report: Report, collateral: bytes, limits: SnpLimits, at: datetime) -> Endorsement:
    """Whose chip signed it: the certificates hold, are of this chip, and the signature is its key's."""
    found = read_endorsement(collateral)
    check_dates_of_list(found, limits, at)
    check_match(report, found)
    check_links(found, limits.arks)
    spans = [span_of(certificate) for certificate in (found.vcek, found.ask, found.ark)]
    check_ended(spans, at, "chain_expired")
    check_begun(spans, at, "chain_expired")
    if found.crl is not None:
        check_unrevoked(found, found.crl)
    check_signature(report, found)
    return found


def check_platform(report: Report, found: Endorsement, limits: SnpLimits, at: datetime) -> None:
    """What the policy asks of firmware, platform and guest; measurements are looked at elsewhere."""
    check_tcb(report, found, limits)
    check_limits(report, found, limits, at)
    check_guest(report, limits)


def check_dates_of_list(found: Endorsement, limits: SnpLimits, at: datetime) -> None:
    """The revocation list is there, in date and signed, unless the policy goes without one."""
    crl = found.crl
    if crl is None:
        if limits.require_crl:
            raise Rejected("collateral_malformed", "the collateral has no ark_crl, which the policy requires")
        return
    assert crl.next_update_utc is not None  # read_crl refused a list without an end
    span = ("ark_crl", crl.last_update_utc, crl.next_update_utc)
    check_ended([span], at, "collateral_expired")
    check_begun([span], at, "collateral_not_yet_valid")
    check_list(crl, found.ark)


def check_match(report: Report, found: Endorsement) -> None:
    """The VCEK is of this chip, at this TCB, of this product line."""
    wrong, chip = "collateral_mismatch", report.fields["chip_id"]
    if report.family is not None and (report.family == TURIN_FAMILY) != (found.product == "Turin"):
        raise Rejected(wrong, f"the VCEK is of {found.product}, the processor's family {report.family:#x}")
    if found.product == "Turin":
        chip = chip[:CHIP_BYTES_OF_TURIN]
    if not any(chip) or found.chip != chip:
        raise Rejected(wrong, f"the VCEK is of chip {found.chip.hex()[:16]}, the report of {chip.hex()[:16]}")
    if found.tcb != (said := tcb_of(report.tcb["reported"], found.product)):
        raise Rejected(wrong, f"the VCEK is for TCB {told(found.tcb)}, the report says {told(said)}")


def check_signature(report: Report, found: Endorsement) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA384

    try:
        signature = encode_dss_signature(*report.signature)
        found.vcek.public_key().verify(signature, report.signed, ECDSA(SHA384()))  # type: ignore[union-attr, call-arg, arg-type]
    except (InvalidSignature, ValueError) as e:
        raise Rejected("signature_invalid", "the report is not signed by the VCEK") from e


def check_tcb(report: Report, found: Endorsement, limits: SnpLimits) -> None:
    """What runs now and what the guest was launched under reach what the policy asks."""
    for name in ("reported", "launch"):
        have = tcb_of(report.tcb[name], found.product)
        if low := [part for part, least in limits.min_tcb.items() if have.get(part, 0) < least]:
            raise Rejected("tcb_status_rejected", f"the {name} TCB is {told(have)}: {low[0]} is too low")


def check_limits(report: Report, found: Endorsement, limits: SnpLimits, at: datetime) -> None:
    days = limits.max_list_age_days
    if days is not None and (found.crl is None or at - found.crl.last_update_utc > timedelta(days=days)):
        raise Rejected("collateral_too_old", f"the revocation list is older than {days} days, or missing")
    if report.smt and not limits.allow_smt:
        raise Rejected("platform_config_rejected", "the platform has smt")


def check_guest(report: Report, limits: SnpLimits) -> None:
    if report.policy & DEBUG:
        raise Rejected("debug_enabled", "the guest's policy lets its host debug it")
    if report.policy & POLICY_RESERVED or not report.policy & RESERVED_ONE:
        raise Rejected("guest_policy_rejected", f"the guest's policy {report.policy:#x} has unknown bits")
    if report.policy & MIGRATE and not limits.allow_migration:
        raise Rejected("guest_policy_rejected", "the guest's policy allows a migration agent")
    if report.vmpl > limits.max_vmpl:
        raise Rejected("vmpl_rejected", f"the report was asked for at VMPL {report.vmpl}")


def told(tcb: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in tcb.items())


def measurements(report: Report, product: str) -> dict[str, Any]:
    """What the signature covers, each TCB by the parts that it has on this product line."""
    tcbs = {f"{name}_tcb": tcb_of(raw, product) for name, raw in report.tcb.items()}
    return report.measurements | tcbs | {"product": product}
