"""Signatures of models and statements: made, verified, and refused with a reason."""

from .chain import check_key, read_certificates
from .check import Trust
from .identity import Signer, Trusted, load_signer, load_trusted, make_signing_keys, public_path
from .model import Signed, Verified, sign_model, signature_of, verify_model
from .stated import is_statement, read_signed, sign_statement
from .statement import Statement

__all__ = [
    "Signed", "Signer", "Statement", "Trust", "Trusted", "Verified", "check_key", "is_statement",
    "load_signer", "load_trusted", "make_signing_keys", "public_path", "read_certificates", "read_signed",
    "sign_model", "sign_statement", "signature_of", "verify_model",
]  # fmt: skip
