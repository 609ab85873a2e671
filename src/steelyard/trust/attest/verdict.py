"""What is said of a quote: accepted, or rejected for one reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..bill.release import Release

# In the order in which they are looked at; the first failure is the reason.
REASONS = (
    "policy_invalid",
    "nonce_missing", "nonce_invalid",
    "quote_malformed", "quote_trailing_data", "quote_version_unsupported", "quote_key_type_unsupported",
    "qe_vendor_unknown",
    "tee_not_allowed",
    "collateral_malformed", "collateral_expired", "collateral_not_yet_valid",
    "collateral_signature_invalid", "collateral_mismatch",
    "chain_untrusted", "chain_expired", "chain_revoked",
    "signature_invalid",
    "qe_identity_rejected",
    "tdx_module_rejected", "tcb_level_not_found",
    "tcb_status_rejected",
    "advisory_rejected", "eval_number_too_low", "collateral_too_old", "platform_config_rejected",
    "debug_enabled", "td_attributes_rejected", "service_td_rejected",
    "guest_policy_rejected", "vmpl_rejected",
    "measurement_required", "measurement_mismatch", "isv_svn_too_low",
    "report_data_mismatch", "release_mismatch",
    "nonce_replayed",
    "ok",
)  # fmt: skip


class Rejected(Exception):
    """A check failed; `reason` is one of REASONS, the text says which value and why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Verdict:
    """`measurements` holds only what the quote's signature covers, once that signature was verified.

    `release`: what the service says that it is, once the quote was found to bind it.
    """

    accepted: bool
    reason: str
    detail: str
    tee: str | None = None
    quote_version: int | None = None
    tcb_status: str | None = None
    advisories: tuple[str, ...] = ()
    measurements: dict[str, Any] = field(default_factory=dict)
    release: Release | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": "accepted" if self.accepted else "rejected",
            "reason": self.reason,
            "detail": self.detail,
            "tee": self.tee,
            "quote_version": self.quote_version,
            "tcb_status": self.tcb_status,
            "advisories": list(self.advisories),
            "measurements": self.measurements,
        } | ({"release": self.release.as_json()} if self.release else {})
