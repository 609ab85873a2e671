"""Keys, sealing at rest, signatures, bills of material, the scan of foreign models, the appraisal of quotes.

`cryptography` and `jinja2` load inside functions: at `trust: open` nobody pays for them.
"""

from .attest import Case, Verdict, judge, read_batch, read_case, report_data_of
from .bill import Advisories, Hit, Part, affected, bill_of_model, bill_of_parts, parts, read_advisories
from .cluster_keys import address_of, keys_folder, make_keys, ray_environment
from .disk import atomic, disk_problem, sync_folder
from .keys import LEVELS, Keys, load_keys, read_public
from .log import SealedLog, append_log, read_log
from .scanning import Finding, check_scanned, scan
from .signing import (
    Signed,
    Signer,
    Statement,
    Trust,
    Trusted,
    Verified,
    check_key,
    is_statement,
    load_signer,
    load_trusted,
    make_signing_keys,
    public_path,
    read_certificates,
    read_signed,
    sign_model,
    sign_statement,
    signature_of,
    verify_model,
)
from .simulated import SimulatedTee
from .tsm import quote_of_this_domain

__all__ = [
    "LEVELS", "Advisories", "Case", "Finding", "Hit", "Keys", "Part", "SealedLog", "Signed", "Signer",
    "SimulatedTee", "Statement", "Trust", "Trusted", "Verdict", "Verified", "address_of", "affected",
    "append_log", "atomic", "bill_of_model", "bill_of_parts", "check_key", "check_scanned", "disk_problem",
    "is_statement", "judge", "keys_folder", "load_keys", "load_signer", "load_trusted", "make_keys",
    "make_signing_keys", "parts", "public_path", "quote_of_this_domain", "ray_environment",
    "read_advisories", "read_batch", "read_case", "read_certificates", "read_log", "read_public",
    "read_signed", "report_data_of", "scan", "sign_model", "sign_statement", "signature_of", "sync_folder",
    "verify_model",
]  # fmt: skip
