"""Requests and answers in sealed chunks: Chunked Oblivious HTTP (draft-ietf-ohai-chunked-ohttp-08, RFC 9458).

    request   key id u8, KEM, KDF, AEAD u16 each, enc (1120 B), chunks
    answer    nonce (32 B), chunks
    chunks    (length varint, sealed)*, 0, sealed until the end; AAD empty, of the last one "final"

Order is in the nonce, the end in the AAD of the last chunk: what is moved, left out or cut off does not open.
The answer's key comes from the request's context, so it belongs to that request alone.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from .hpke import (
    AEAD,
    ENC_BYTES,
    KDF,
    KEM,
    KEY_BYTES,
    NONCE_BYTES,
    PUBLIC_BYTES,
    TAG_BYTES,
    Context,
    PrivateKey,
    Sequence,
    plain_expand,
    plain_extract,
    send,
)
from .sealing import NotSealed, Short, read_varint, varint

KEYS_TYPE = "application/ohttp-keys"
REQUEST_TYPE = "message/ohttp-chunked-req"
RESPONSE_TYPE = "message/ohttp-chunked-res"
WELL_KNOWN = "/.well-known/ohttp-gateway"  # RFC 9540
HEADER = struct.Struct(">BHHH")
CONFIG = struct.Struct(f">BH{PUBLIC_BYTES}sHHH")
REQUEST, RESPONSE, FINAL = b"message/bhttp chunked request", b"message/bhttp chunked response", b"final"
CHUNK_BYTES_MAX = 1 << 20  # sealed; what one exchange may make its peer hold
PLAIN_CHUNK_BYTES = 64 << 10  # of what is sealed here


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A service's public sealing key under its one-byte name."""

    key_id: int
    public: bytes

    @property
    def header(self) -> bytes:
        return HEADER.pack(self.key_id, KEM, KDF, AEAD)

    @property
    def document(self) -> bytes:
        """As `application/ohttp-keys` (RFC 9458, section 3): one key, one suite."""
        config = CONFIG.pack(self.key_id, KEM, self.public, 4, KDF, AEAD)
        return struct.pack(">H", len(config)) + config


def read_keys_document(data: bytes) -> KeyConfig:
    """The first key of our suite in an `application/ohttp-keys` document. Raises NotSealed."""
    while len(data) > 2:
        size = int.from_bytes(data[:2], "big")
        config, data = data[2 : 2 + size], data[2 + size :]
        if len(config) != size or size < 3:
            break
        if int.from_bytes(config[1:3], "big") != KEM or size < CONFIG.size:
            continue
        key_id, _, public, suites_bytes = struct.unpack_from(f">BH{PUBLIC_BYTES}sH", config)
        suites = config[5 + PUBLIC_BYTES :]
        if len(suites) != suites_bytes:
            break
        if struct.pack(">HH", KDF, AEAD) in {suites[at : at + 4] for at in range(0, len(suites), 4)}:
            return KeyConfig(key_id, public)
    raise NotSealed("the service names no sealing key of MLKEM768-X25519, HKDF-SHA256, AES-256-GCM")


class SealingKey:
    """A service's own: new with each process, never written."""

    def __init__(self, private: PrivateKey | None = None, key_id: int | None = None) -> None:
        self._private = private or PrivateKey()
        named = os.urandom(1)[0] if key_id is None else key_id
        self.config = KeyConfig(named, self._private.public)

    def receive(self, header: bytes, enc: bytes) -> Context:
        """Raises NotSealed."""
        if header != self.config.header:
            raise NotSealed("the request is sealed for another key or suite")
        return self._private.receive(enc, REQUEST + b"\0" + header)


# ------------------------------------------------------------------ requests


class RequestSealer:
    """The client's side of one exchange."""

    def __init__(self, config: KeyConfig) -> None:
        self._context = send(config.public, REQUEST + b"\0" + config.header)
        self.beginning = config.header + self._context.enc

    def chunk(self, data: bytes, final: bool = False) -> bytes:
        return framed(self._context, data, final)

    def answer(self) -> ResponseOpener:
        return ResponseOpener(self._context)


class RequestOpener:
    """The service's side: bytes as they come, pieces of the message as soon as they are verified."""

    def __init__(self, key: SealingKey) -> None:
        self._key, self._begun = key, bytearray()
        self._context: Context | None = None
        self._chunks = Chunks()

    @property
    def enc(self) -> bytes:
        """What names the exchange. Only once a chunk has been opened is it known to be the sender's."""
        return self._context.enc if self._context else b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises NotSealed."""
        if self._context is None:
            self._begun += data
            if len(self._begun) < HEADER.size + ENC_BYTES:
                return []
            begun, data = bytes(self._begun), b""
            header, enc = begun[: HEADER.size], begun[HEADER.size : HEADER.size + ENC_BYTES]
            self._context, data = self._key.receive(header, enc), begun[HEADER.size + ENC_BYTES :]
        return [self._context.open(chunk) for chunk in self._chunks.feed(data)]

    def close(self) -> bytes:
        """The last piece. Raises NotSealed where the request was cut off."""
        if self._context is None:
            raise NotSealed("the request ends before its key")
        return self._context.open(self._chunks.last(), FINAL)

    def answer(self, nonce: bytes | None = None) -> ResponseSealer:
        """`nonce` is for test vectors alone."""
        assert self._context is not None
        return ResponseSealer(self._context, nonce or os.urandom(KEY_BYTES))


# ------------------------------------------------------------------ answers


def answer_keys(context: Context, nonce: bytes) -> Sequence:
    secret = context.export(RESPONSE, KEY_BYTES)
    drawn = plain_extract(context.enc + nonce, secret)
    return Sequence(plain_expand(drawn, b"key", KEY_BYTES), plain_expand(drawn, b"nonce", NONCE_BYTES))


class ResponseSealer:
    def __init__(self, context: Context, nonce: bytes) -> None:
        self.beginning, self._sequence = nonce, answer_keys(context, nonce)

    def chunk(self, data: bytes, final: bool = False) -> bytes:
        return framed(self._sequence, data, final)


class ResponseOpener:
    """Pieces of the answer as they come, each verified; `close` says whether it is whole."""

    def __init__(self, context: Context) -> None:
        self._context, self._begun = context, bytearray()
        self._sequence: Sequence | None = None
        self._chunks = Chunks()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises NotSealed."""
        if self._sequence is None:
            self._begun += data
            if len(self._begun) < KEY_BYTES:
                return []
            nonce, data = bytes(self._begun[:KEY_BYTES]), bytes(self._begun[KEY_BYTES:])
            self._sequence = answer_keys(self._context, nonce)
        return [self._sequence.open(chunk) for chunk in self._chunks.feed(data)]

    def close(self) -> bytes:
        """The last piece. Raises NotSealed where the answer was cut off."""
        if self._sequence is None:
            raise NotSealed("the answer ends before its nonce")
        return self._sequence.open(self._chunks.last(), FINAL)


# ------------------------------------------------------------------ chunks


def framed(sequence: Sequence, data: bytes, final: bool) -> bytes:
    sealed = sequence.seal(data, FINAL if final else b"")
    return varint(0 if final else len(sealed)) + sealed


class Chunks:
    """Sealed chunks out of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._bytes, self._final = bytearray(), False

    def feed(self, data: bytes) -> list[bytes]:
        """Those that are whole, the last one apart. Raises NotSealed for one that is too long."""
        self._bytes += data
        found: list[bytes] = []
        while not self._final:
            try:
                size, begin = read_varint(self._bytes)
            except Short:
                break
            if size > CHUNK_BYTES_MAX:
                raise NotSealed(f"a chunk has more than {CHUNK_BYTES_MAX} bytes")
            if size == 0:
                del self._bytes[:begin]
                self._final = True
            elif len(self._bytes) < begin + size:
                break
            else:
                found.append(bytes(self._bytes[begin : begin + size]))
                del self._bytes[: begin + size]
        if self._final and len(self._bytes) > CHUNK_BYTES_MAX:
            raise NotSealed(f"the last chunk has more than {CHUNK_BYTES_MAX} bytes")
        return found

    def last(self) -> bytes:
        if not self._final or len(self._bytes) < TAG_BYTES:
            raise NotSealed("the message was cut off")
        return bytes(self._bytes)
