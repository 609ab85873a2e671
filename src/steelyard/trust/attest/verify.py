"""The appraisal: every check in its order, the first failure is the reason.

Bytes in, a verdict out. The one clock is the case's `at`; nothing is fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ...errors import Where, WrongUse
from ..bill.release import Release, read_runtime_data, release_of
from .cases import Case
from .certificates import (
    PCK,
    PCK_CA,
    ROOT,
    check_chain,
    check_crl,
    check_ended,
    check_revoked,
    is_signed,
    key_of,
    name_of,
    parsing,
    read_chain,
    span_of,
)
from .collateral import Collateral, QeIdentity, check_collateral, read_collateral
from .nonces import remember
from .pck import Platform, platform_of
from .policy import NEEDED, SIMULATED, Policy, read_policy
from .quote import EnclaveReport, Quote, TdReport, parse_quote
from .snp import Report, begins_report, check_platform, endorsed, is_report, measurements, read_report
from .tcb import OUT_OF_DATE, Level, isv_level, module_of, platform_level, worse
from .verdict import Rejected, Verdict

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

NONCE_BYTES = range(16, 65)
TD_DEBUG = 0xFF  # TUD: whoever sets one of these bits can look into the TD
TD_RESERVED = 0x7FFFFFFF_2FFFFF00  # all but SEPT_VE_DISABLE 28, PKS 30, KL 31, PERFMON 63
SEPT_VE_DISABLE = 1 << 28
TEXT_BYTES = frozenset(range(0x20, 0x7F)) | {0x0A, 0x0D}
TEXT = (
    "this is text, not the bytes of a quote or report; GPU evidence (JSON) is of a kind that is not verified"
)


def judge(case: Case) -> Verdict:
    """Never raises for what the bytes are; WrongUse for a nonce store that is no such file."""
    appraisal = Appraisal(case)
    try:
        appraisal.run()
    except Rejected as e:
        return appraisal.verdict(e.reason, e.detail)
    return appraisal.verdict("ok", appraisal.praise)


class Appraisal:
    """One case; it keeps what is established so far, so that a rejection can say it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.quote: Quote | Report | None = None
        self.levels: list[Level] = []
        self.status: str | None = None
        self.measured: dict[str, Any] = {}  # once the signature over them holds
        self.release: Release | None = None
        self.praise = "every check of the policy holds"

    def verdict(self, reason: str, detail: str) -> Verdict:
        quote = self.quote
        return Verdict(
            accepted=reason == "ok",
            reason=reason,
            detail=detail,
            tee=quote.tee if quote else None,
            quote_version=quote.version if quote else None,
            tcb_status=self.status,
            advisories=advisories_of(self.levels),
            measurements=self.measured,
            release=self.release,
        )

    def run(self) -> None:
        case = self.case
        policy = read_policy(case.policy, case.policy_folder)
        if SIMULATED in name_of(policy.root):
            self.praise = f"{SIMULATED}: no hardware vouches for this; {self.praise}"
        nonce = read_nonce(case, policy)
        if is_text(case.quote):
            raise Rejected("quote_malformed", TEXT)
        cut = "snp" in policy.tee and begins_report(case.quote)
        if policy.tee == ("snp",) or is_report(case.quote) or cut:
            measured = self.run_snp(policy)
        else:
            measured = self.run_intel(policy)
        assert self.quote
        check_measurements(self.quote.tee, measured, policy)
        check_report_data(self.quote.report_data, case, policy, nonce)
        self.release = bound_release(case)
        check_release(self.release, policy)
        if case.nonce_store and nonce is not None and not remember(case.nonce_store, nonce, case.at):
            raise Rejected("nonce_replayed", "this nonce was accepted before")

    def run_snp(self, policy: Policy) -> dict[str, Any]:
        """All but measurements and report data; what was measured."""
        case = self.case
        self.quote = report = read_report(case.quote)
        if report.tee not in policy.tee:
            raise Rejected("tee_not_allowed", f"the policy is not for {report.tee}")
        found = endorsed(report, case.collateral, policy.snp, case.at)
        self.measured = measurements(report, found.product)
        check_platform(report, found, policy.snp, case.at)
        return self.measured

    def run_intel(self, policy: Policy) -> dict[str, Any]:
        case = self.case
        self.quote = quote = parse_quote(case.quote)
        with parsing("quote_malformed", "the PCK chain"):
            chain = read_chain(quote.pck_chain, 3, "quote_malformed", "the PCK chain")
            platform, issuer = platform_of(chain[0]), chain[0].issuer
        if quote.tee not in policy.tee:
            raise Rejected("tee_not_allowed", f"the policy is not for {quote.tee}")
        collateral = read_collateral(case.collateral)
        check_collateral(collateral, quote.tee, platform, issuer, policy.root, case.at)
        check_pck_chain(chain, collateral, policy, case)
        check_signatures(quote, chain[0])
        self.measured = quote.measurements
        self.levels = match_levels(quote, collateral, platform)
        self.status = merged(self.levels)
        check_levels(self.levels, self.status, policy, case)
        check_limits(self.levels, collateral, platform, policy, case)
        check_attributes(quote.body)
        return self.measured


def is_text(data: bytes) -> bool:
    """JSON, PEM, hex or base64: no quote begins with four characters, its second byte is zero."""
    return len(data) > 3 and data[:4].isascii() and all(byte in TEXT_BYTES for byte in data[:4])


def read_nonce(case: Case, policy: Policy) -> bytes | None:
    """The nonce's bytes; that the case gives what the policy binds is settled here too."""
    binding = binding_of(case, policy)
    if case.runtime_data is not None and binding in ("none", "raw"):
        raise Rejected(
            "policy_invalid", f"binding {binding} has no place for runtime data: sha256, sha384, sha512"
        )
    if policy.release and binding in ("none", "raw"):
        raise Rejected("policy_invalid", f"binding {binding} binds no release: sha256, sha384, sha512")
    if case.nonce is None and binding != "none":
        raise Rejected("nonce_missing", f"binding {binding} needs a nonce")
    if case.nonce is None:
        return None
    if not is_nonce(case.nonce):
        raise Rejected("nonce_invalid", "a nonce has 16 to 64 bytes, in hex")
    return bytes.fromhex(case.nonce)


def is_nonce(text: str) -> bool:
    return bool(re.fullmatch(r"([0-9A-Fa-f]{2})*", text)) and len(text) // 2 in NONCE_BYTES


def binding_of(case: Case, policy: Policy) -> str:
    return policy.binding or ("none" if case.nonce is None else "raw")


# ------------------------------------------------------------------ chain and signatures


def check_pck_chain(chain: Sequence[Certificate], collateral: Collateral, policy: Policy, case: Case) -> None:
    check_chain(chain, (PCK, PCK_CA, ROOT), policy.root, "chain_untrusted")
    check_crl(collateral.pck_crl, chain[1], "chain_untrusted")
    spans = [span_of(certificate) for certificate in chain]
    check_ended(spans, case.at, "chain_expired")
    if early := [name for name, start, _ in spans if case.at < start]:
        raise Rejected("chain_expired", f"{early[0]} is not valid yet")
    heads = [chain[1], chain[2], *(links[0] for links in collateral.chains.values())]
    check_revoked([(chain[0], collateral.pck_crl), *((head, collateral.root_crl) for head in heads)])


def check_signatures(quote: Quote, pck: Certificate) -> None:
    """PCK certificate -> QE report -> attestation key -> header and body."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

    wrong = "signature_invalid"
    if not is_signed(key_of(pck, wrong), quote.qe_signature, quote.qe_report.raw):
        raise Rejected(wrong, "the QE report is not signed by the PCK certificate")
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest()
    if quote.qe_report.report_data != bound.ljust(64, b"\0"):
        raise Rejected(wrong, "the QE report is of another attestation key")
    with parsing(wrong, "the attestation key"):
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), b"\x04" + quote.attestation_key)
    if not is_signed(key, quote.signature, quote.signed):
        raise Rejected(wrong, "the quote is not signed by its attestation key")


# ------------------------------------------------------------------ TCB


def match_levels(quote: Quote, collateral: Collateral, platform: Platform) -> list[Level]:
    """The level of the platform, then of its TDX module if that has one, then of the quoting enclave."""
    enclave = check_qe(quote.qe_report, collateral.qe_identity)
    if not isinstance(quote.body, TdReport):
        return [platform_level(collateral.tcb_info.levels, platform, None), enclave]
    module = check_module(quote.body, collateral)
    tee_svn = quote.body["tee_tcb_svn"]
    return [platform_level(collateral.tcb_info.levels, platform, tee_svn), *module, enclave]


def check_qe(report: EnclaveReport, identity: QeIdentity) -> Level:
    for what, holds in (
        ("MISCSELECT", is_masked(report.misc_select, *identity.misc_select)),
        ("attributes", is_masked(report.attributes, *identity.attributes)),
        ("MRSIGNER", report.mr_signer == identity.mr_signer),
        ("ISVPRODID", report.isv_prod_id == identity.isv_prod_id),
    ):
        if not holds:
            raise Rejected("qe_identity_rejected", f"{what} of the quoting enclave is not Intel's")
    level = isv_level(identity.levels, report.isv_svn)
    if level is None:
        raise Rejected(
            "qe_identity_rejected", f"the quoting enclave's SVN {report.isv_svn} is below every level"
        )
    return level


def is_masked(have: bytes, want: bytes, mask: bytes) -> bool:
    return bytes(byte & bits for byte, bits in zip(have, mask, strict=True)) == want


def check_module(body: TdReport, collateral: Collateral) -> list[Level]:
    """The TDX module is Intel's; its level, where it has an identity of its own."""
    svn, version = body["tee_tcb_svn"][0], body["tee_tcb_svn"][1]
    module = module_of(collateral.tcb_info.modules, version)
    if body["mr_signer_seam"] != module.mr_signer:
        raise Rejected("tdx_module_rejected", "MRSIGNERSEAM is not the TDX module's signer")
    if any(body["seam_attributes"]) or body["seam_attributes"] != module.attributes:
        raise Rejected("tdx_module_rejected", "SEAMATTRIBUTES are not those of a production TDX module")
    level = isv_level(module.levels, svn)
    if version and level is None:
        raise Rejected("tcb_level_not_found", f"the TDX module's SVN {svn} is below every level")
    return [level] if level else []


def merged(levels: list[Level]) -> str:
    status = levels[0].status
    for level in levels[1:]:
        status = worse(status, level.status)
    return status


def advisories_of(levels: list[Level]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for level in levels for name in level.advisories))


def check_levels(levels: list[Level], status: str, policy: Policy, case: Case) -> None:
    if status not in policy.tcb_status:
        raise Rejected("tcb_status_rejected", f"the TCB is {status}")
    grace = policy.out_of_date_grace_days
    if grace is None:
        return
    for level in levels:
        if level.status in OUT_OF_DATE and case.at - level.date > timedelta(days=grace):
            raise Rejected("tcb_status_rejected", f"{status} since {level.date:%Y-%m-%d}, over {grace} days")


def check_limits(
    levels: list[Level], collateral: Collateral, platform: Platform, policy: Policy, case: Case
) -> None:
    refused = {name.upper() for name in policy.reject_advisories}
    if hit := [name for name in advisories_of(levels) if name.upper() in refused]:
        raise Rejected("advisory_rejected", ", ".join(hit))
    info = collateral.tcb_info
    evaluation = min(info.evaluation, collateral.qe_identity.evaluation)
    if evaluation < policy.min_tcb_eval_data_number:
        raise Rejected("eval_number_too_low", f"TCB evaluation data {evaluation}")
    days = policy.max_collateral_age_days
    if days is not None and case.at - info.issued > timedelta(days=days):
        raise Rejected("collateral_too_old", f"the TCB info was issued at {info.issued.isoformat()}")
    if on := sorted(platform.flags & policy.refused_flags):
        raise Rejected("platform_config_rejected", f"the platform has {', '.join(on)}")


# ------------------------------------------------------------------ what runs inside


def check_attributes(body: EnclaveReport | TdReport) -> None:
    if isinstance(body, EnclaveReport):
        if body.debug:
            raise Rejected("debug_enabled", "the enclave runs in debug mode")
        return
    attributes = int.from_bytes(body["td_attributes"], "little")
    if attributes & TD_DEBUG:
        raise Rejected("debug_enabled", "the TD can be debugged by its host")
    if attributes & TD_RESERVED or not attributes & SEPT_VE_DISABLE:
        raise Rejected("td_attributes_rejected", f"TD attributes {attributes:#018x}")
    if any(body["mr_service_td"]):
        raise Rejected("service_td_rejected", "a service TD is bound, which may migrate or change it")


def check_measurements(tee: str, measured: dict[str, Any], policy: Policy) -> None:
    wanted = policy.measurements[tee]
    if policy.require_measurement and not NEEDED[tee] & set(wanted):
        raise Rejected("measurement_required", f"the policy lists no {' or '.join(sorted(NEEDED[tee]))}")
    for name, values in wanted.items():
        if measured[name] not in values:
            raise Rejected("measurement_mismatch", f"{name} is {measured[name]}")
    if tee == "sgx" and policy.isv_prod_id not in (None, measured["isv_prod_id"]):
        raise Rejected("measurement_mismatch", f"isv_prod_id is {measured['isv_prod_id']}")
    if tee == "sgx" and measured["isv_svn"] < policy.min_isv_svn:
        raise Rejected("isv_svn_too_low", f"isv_svn is {measured['isv_svn']}")
    if tee == "snp" and measured["guest_svn"] < policy.snp.min_guest_svn:
        raise Rejected("isv_svn_too_low", f"guest_svn is {measured['guest_svn']}")


def report_data_of(nonce: str, runtime_data: bytes | None) -> bytes:
    """What a quote is asked with: the nonce, or SHA-512 over it and the runtime data. Raises WrongUse."""
    if not is_nonce(nonce):
        raise WrongUse(
            "attest.nonce", "this is no nonce", where=Where(field="--nonce"), hint="16 to 64 bytes, in hex"
        )
    plain = bytes.fromhex(nonce)
    return plain if runtime_data is None else hashlib.sha512(plain + runtime_data).digest()


def check_report_data(report_data: bytes, case: Case, policy: Policy, nonce: bytes | None) -> None:
    binding = binding_of(case, policy)
    if binding == "none" or nonce is None:
        return
    bound = nonce
    if binding != "raw":
        bound = hashlib.new(binding, nonce + (case.runtime_data or b"")).digest()
    if report_data != bound.ljust(64, b"\0"):
        raise Rejected("report_data_mismatch", f"the report data is not the {binding} of what was asked")


def bound_release(case: Case) -> Release | None:
    """What the runtime data say, which the report data were found to bind; None where they are others'."""
    try:
        return None if case.runtime_data is None else release_of(read_runtime_data(case.runtime_data))
    except (ValueError, RecursionError):
        return None


def check_release(release: Release | None, policy: Policy) -> None:
    if not policy.release:
        return
    if release is None:
        raise Rejected("release_mismatch", "the runtime data are no statement of a release")
    for name, values in policy.release.items():
        if (said := getattr(release, name)) not in values:
            raise Rejected("release_mismatch", f"{name} is {said or 'not known'}")
