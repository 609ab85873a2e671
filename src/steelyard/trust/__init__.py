"""Keys, sealing at rest, signatures, bills of material, the scan of foreign models, the appraisal of quotes.

`cryptography` and `jinja2` load inside functions: at `trust: open` nobody pays for them.
"""

from .attest import (
    Case,
    Rejected,
    Verdict,
    judge,
    read_batch,
    read_bytes,
    read_case,
    read_policy,
    report_data_of,
)
from .audit import ACTS, audit, check_log, log_here, read_acts
from .bill import (
    Advisories,
    Hit,
    Part,
    affected,
    bill_of_model,
    bill_of_parts,
    code_sha256,
    package_files,
    parts,
    read_advisories,
    release_here,
    revision_of,
)
from .bill.release import Release, runtime_data_of
from .cluster_keys import address_of, keys_folder, make_keys, ray_environment
from .disk import atomic, disk_problem, sync_folder, write_all
from .installation import signing_key, verifying_key
from .keys import (
    LEVELS,
    REHEARSED,
    SIMULATED,
    Keys,
    check_rehearsal,
    default_key_file,
    keys_of,
    load_keys,
    lock_key_file,
    named_recipient,
    no_tee,
    read_public,
    scheme_of,
    unlock_key_file,
)
from .log import SealedLog, append_log, read_log
from .quoting import SimulatedSnp, SimulatedTee, quote_here, quote_of_this_domain
from .receipts import HEADER as RECEIPT_HEADER
from .receipts import ID_HEADER as RECEIPT_ID_HEADER
from .receipts import (
    REASONS,
    Counted,
    Facts,
    as_comment,
    as_header,
    check_answer,
    read_receipt,
    receipt,
    taken_apart,
)
from .scanning import Finding, check_scanned, scan
from .sealing.ciphers import AES, CIPHERS, aead_of
from .sealing.header import cipher_of, is_sealed, sealed_id
from .sealing.sealer import verify_sealed
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
from .wire import (
    KEYS_TYPE,
    PLAIN_CHUNK_BYTES,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    WELL_KNOWN,
    Appraised,
    Head,
    Identity,
    KeyConfig,
    MessageReader,
    NotSealed,
    Replayed,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    ResponseSealer,
    SealingKey,
    ServiceStatement,
    Window,
    WrongClock,
    appraise_statement,
    certificate_file,
    data_of,
    end_of,
    evidence_source,
    head_of,
    trusting,
)

__all__ = [
    "ACTS", "AES", "CIPHERS", "KEYS_TYPE", "LEVELS", "PLAIN_CHUNK_BYTES", "REASONS", "RECEIPT_HEADER",
    "RECEIPT_ID_HEADER", "REHEARSED", "REQUEST_TYPE", "RESPONSE_TYPE", "SIMULATED", "WELL_KNOWN",
    "Advisories", "Appraised", "Case", "Counted", "Facts", "Finding", "Head", "Hit", "Identity",
    "KeyConfig", "Keys", "MessageReader", "NotSealed", "Part", "Rejected", "Release", "Replayed",
    "RequestOpener", "RequestSealer", "ResponseOpener", "ResponseSealer", "SealedLog", "SealingKey",
    "ServiceStatement", "Signed", "Signer", "SimulatedSnp", "SimulatedTee", "Statement", "Trust", "Trusted",
    "Verdict", "Verified", "Window", "WrongClock", "address_of", "aead_of", "affected", "append_log",
    "appraise_statement", "as_comment", "as_header", "atomic", "audit", "bill_of_model", "bill_of_parts",
    "certificate_file", "check_answer", "check_key", "check_log", "check_rehearsal", "check_scanned",
    "cipher_of", "code_sha256", "data_of", "default_key_file", "disk_problem", "end_of", "evidence_source",
    "head_of", "is_sealed", "is_statement", "judge", "keys_folder", "keys_of", "load_keys", "load_signer",
    "load_trusted", "lock_key_file", "log_here", "make_keys", "make_signing_keys", "named_recipient",
    "no_tee", "package_files", "parts", "public_path", "quote_here", "quote_of_this_domain",
    "ray_environment", "read_acts", "read_advisories", "read_batch", "read_bytes", "read_case",
    "read_certificates", "read_log", "read_policy", "read_public", "read_receipt", "read_signed", "receipt",
    "release_here", "report_data_of", "revision_of", "runtime_data_of", "scan", "scheme_of", "sealed_id",
    "sign_model", "sign_statement", "signature_of", "signing_key", "sync_folder", "taken_apart", "trusting",
    "unlock_key_file", "verify_model", "verify_sealed", "verifying_key", "write_all",
]  # fmt: skip
