"""Requests and answers sealed between a client and a service; what a service says of its keys.

Not here: HTTP servers and clients (`serving`), the appraisal of quotes (`attest`).
"""

from .bhttp import Head, MessageReader, data_of, end_of, head_of
from .certificate import certificate_file, trusting
from .ohttp import (
    KEYS_TYPE,
    PLAIN_CHUNK_BYTES,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    WELL_KNOWN,
    KeyConfig,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    ResponseSealer,
    SealingKey,
    read_keys_document,
)
from .sealing import NotSealed
from .statement import Appraised, Identity, ServiceStatement, appraise_statement, evidence_source
from .window import Replayed, Window, WrongClock

__all__ = [
    "KEYS_TYPE",
    "PLAIN_CHUNK_BYTES",
    "REQUEST_TYPE",
    "RESPONSE_TYPE",
    "WELL_KNOWN",
    "Appraised",
    "Head",
    "Identity",
    "KeyConfig",
    "MessageReader",
    "NotSealed",
    "Replayed",
    "RequestOpener",
    "RequestSealer",
    "ResponseOpener",
    "ResponseSealer",
    "SealingKey",
    "ServiceStatement",
    "Window",
    "WrongClock",
    "appraise_statement",
    "certificate_file",
    "data_of",
    "end_of",
    "evidence_source",
    "head_of",
    "read_keys_document",
    "trusting",
]
