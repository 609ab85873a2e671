"""Who may open: the trust level, the key file, and what is done with the key.

The key file holds 32 random bytes, mode 0600, or these locked by a passphrase or a token (locking); the
hybrid private key (ML-KEM-768 and X25519) is derived from them. The default lies outside the project, at
$STEELYARD_KEY_FILE or ~/.config/steelyard/key, so that a copy, backup or push of the project never carries
the key of what is sealed in it.

Not here: the bytes of a sealed file (sealing).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final

from ..errors import Refused, Where, WrongUse
from ..places import config_folder
from ..private_files import OthersMay, open_private
from ..processes import no_core_dump
from .disk import atomic, disk_problem, write_all, write_once
from .locking import is_locked, lock, lock_by_token, unlock
from .sealing.ciphers import AES, check_cipher, derive
from .sealing.header import CHUNK_BYTES, FAMILY, Recipient, suite
from .sealing.rewrap import check_recipients, check_rewrap, mend, rewrap
from .sealing.sealed import SealedReader, open_stream, seal_stream

if TYPE_CHECKING:
    from .signing.identity import Signer, Trusted

LEVELS = ("open", "guarded", "sealed")
REHEARSED: Final = "rehearsed"  # `sealed` without what would vouch for it: SIMULATED, never in a recipe
SIMULATED = "SIMULATED"
KEY_BYTES = 32
PUBLIC = "steelyard-public-1:"
PUBLIC_BYTES = 1184 + 32
TEE_DEVICES = ("/dev/tdx_guest", "/dev/tdx-guest", "/dev/sgx_enclave")


class Keys:
    """Opens with one key, whatever the cipher; seals for it and for `others`, with `cipher`.

    `created`: the key file was written just now; `simulated`: of a rehearsal.
    """

    def __init__(
        self,
        secret: bytes,
        path: Path | None = None,
        created: bool = False,
        simulated: bool = False,
        others: Sequence[Recipient] = (),
        cipher: str = AES,
    ) -> None:
        self.path, self.created, self.simulated, self.cipher = path, created, simulated, cipher
        self.recipient = recipient_of(secret)
        self.others = tuple(one for one in others if one.key_id != self.recipient.key_id)
        if self.others:
            check_recipients(self.recipients, "trust.recipients")
        self._names = derive(secret, b"steelyard/key/1/names")

    def __repr__(self) -> str:
        return f"Keys({self.recipient.key_id.hex()[:8]})"

    @property
    def id(self) -> str:
        """A name for the key that gives nothing away."""
        return self.recipient.key_id.hex()

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Who may open what is sealed: this key first."""
        return (self.recipient, *self.others)

    @property
    def scheme(self) -> str:
        """What a manifest says of how its files are sealed."""
        return scheme_of(REHEARSED if self.simulated else "guarded", self.cipher)

    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 under this key: a name that only the key's holder can tie to `data`."""
        return hmac.digest(self._names, data, "sha256")

    def name(self, key: str) -> str:
        """A name for what is made under `key`; with another cipher another one, and it is made again."""
        return self.mac((key if self.cipher == AES else f"{key}\0{self.cipher}").encode()).hex()

    @property
    def notice(self) -> str | None:
        """What the user has to read after the first use, else None."""
        if not self.created:
            return None
        return f"made the key {self.path}: keep a copy elsewhere, without it nothing sealed here opens again"

    @property
    def public(self) -> str:
        """What others need to seal for this key: a line of text."""
        return PUBLIC + base64.b64encode(self.recipient.raw).decode()

    def seal(
        self, src: Path, dst: Path, others: Sequence[Recipient] = (), signer: Signer | None = None
    ) -> None:
        """Seal the file `src` as `dst`, for these keys and `others`, signed by `signer`; atomically.

        Raises Lacking, WrongUse.
        """
        recipients = (*self.recipients, *others)
        check_recipients(recipients)
        with open(src, "rb", buffering=0) as reader, atomic(dst) as writer:
            length = os.fstat(reader.fileno()).st_size
            seal_stream(reader, length, writer, recipients, str(src), self.cipher, signer)

    def rotate(self, path: Path, recipients: Sequence[Recipient]) -> None:
        """Let `recipients` open `path`, nobody else; content stays. Raises Refused, CheckFailed, WrongUse."""
        rewrap(path, self.recipient, recipients)

    def check_rotation(self, path: Path, recipients: Sequence[Recipient]) -> None:
        """Raises what `rotate` would: so that of many files all are rotated or none."""
        check_rewrap(path, self.recipient, recipients)

    def seal_from(self, reader: BinaryIO | IO[bytes], length: int, dst: Path) -> None:
        """Seal the `length` bytes that `reader` gives as `dst`, atomically. Raises Lacking (disk)."""
        with atomic(dst) as writer:
            source: Any = reader
            seal_stream(source, length, writer, self.recipients, dst.name, self.cipher)

    def open(self, src: Path, dst: Path, trusted: Sequence[Trusted] = ()) -> None:
        """Open the sealed `src` as plain `dst` (0600); `dst` appears only once all of it is verified.

        Where `trusted` names signers, one of them must have signed it: CheckFailed otherwise.
        """
        with self.open_stream(src, trusted) as reader, atomic(dst) as writer:
            while piece := reader.read(CHUNK_BYTES):
                write_all(writer, piece)

    def open_stream(self, path: Path, trusted: Sequence[Trusted] = ()) -> io.BufferedReader:
        """A readable, seekable view of the plaintext; each byte is verified before it is given out."""
        mend(path)
        return open_stream(path, self.recipient, trusted)

    def seal_bytes(self, data: bytes) -> bytes:
        sealed = io.BytesIO()
        seal_stream(io.BytesIO(data), len(data), sealed, self.recipients, "bytes", self.cipher)
        return sealed.getvalue()

    def open_bytes(self, blob: bytes, name: str = "bytes") -> bytes:
        return SealedReader(io.BytesIO(blob), self.recipient, name).readall()


def scheme_of(level: str, cipher: str = AES) -> str:
    """How files are sealed at a trust level; empty at `open`."""
    if level == "open":
        return ""
    return (f"{SIMULATED} " if level == REHEARSED else "") + f"SYSEAL1 {cipher.upper()} HPKE-MLKEM768-X25519"


def recipient_of(secret: bytes) -> Recipient:
    """The hybrid key pair that 32 secret bytes stand for. Raises Lacking (old `cryptography`)."""
    suite()
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

    lattice = MLKEM768PrivateKey.from_seed_bytes(derive(secret, b"steelyard/key/1/mlkem768", 64))
    curve = X25519PrivateKey.from_private_bytes(derive(secret, b"steelyard/key/1/x25519"))
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    private = MLKEM768X25519PrivateKey(lattice, curve)
    return Recipient(hashlib.sha256(public).digest()[:16], private.public_key(), private, public)


def read_public(text: str, field: str = "--to", file: Path | None = None) -> Recipient:
    """A recipient from the line that `Keys.public` gives. Raises WrongUse."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.hpke import MLKEM768X25519PublicKey

    try:
        raw = base64.b64decode(text.strip().removeprefix(PUBLIC), validate=True)
        if not text.strip().startswith(PUBLIC) or len(raw) != PUBLIC_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        lattice, curve = raw[:-32], raw[-32:]
        public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(lattice), X25519PublicKey.from_public_bytes(curve)
        )
    except ValueError as e:
        raise WrongUse(
            "trust.public_key",
            "this is no public key of steelyard",
            where=Where(str(file) if file else None, field=field),
            why=str(e),
            hint="give the line that `steelyard seal --public` prints, or a file with it",
        ) from e
    return Recipient(hashlib.sha256(raw).digest()[:16], public, None, raw)


def named_recipient(word: str, root: Path, field: str = "--to") -> Recipient:
    """A public key itself, or a file with one, from `root`. Raises WrongUse where it is neither."""
    if word.strip().startswith(PUBLIC):
        return read_public(word, field)
    path = root / Path(word).expanduser()
    try:
        return read_public(path.read_text("utf-8", "replace"), field, path)
    except OSError as e:
        raise WrongUse(
            "trust.no_recipient",
            f"there is no recipient {word[:200]}",
            where=Where(str(path), field=field),
            why=e.strerror,
            hint="name a file with the line that `steelyard seal --public` prints, or give the line itself",
        ) from e


# ------------------------------------------------------------------ levels and files


def load_keys(
    level: str, key_file: str | None, root: Path, recipients: Sequence[str] = (), cipher: str = AES
) -> Keys | None:
    """The keys of a trust level; None at `open`.

    A missing key file is written on first use: show the user `Keys.notice`. A relative `key_file` is taken
    from `root`, and so is a file of `recipients`, who open what is sealed too; one's own key among them is
    counted once. Whoever holds keys leaves no core dump. Raises Refused (`sealed` without a TEE, a rehearsal
    in production, a key file that others can read), WrongUse, Lacking (no such cipher on this machine).
    """
    if level == "open":
        return None
    if level == "sealed":
        raise no_tee()
    if level == REHEARSED:
        check_rehearsal()
    elif level != "guarded":
        raise WrongUse(
            "trust.level",
            f"there is no trust level {level!r}",
            where=Where(field="trust.level"),
            hint=f"one of {', '.join(LEVELS)}",
        )
    check_cipher(cipher)
    others = [named_recipient(word, root, "trust.recipients") for word in recipients]
    path = root / Path(key_file).expanduser() if key_file else default_key_file()
    created = not path.exists() and make_key_file(path, parents=key_file is None)
    no_core_dump()
    return Keys(read_key_file(path), path, created, level == REHEARSED, others, cipher)


def keys_of(words: Sequence[Any]) -> Keys | None:
    """What a run has noted of its keys: level, key file, root; of newer runs recipients and cipher too.

    Raises as `load_keys`.
    """
    level, key_file, root, *more = words
    return load_keys(level, key_file, Path(root), *more)


def check_rehearsal() -> None:
    """Raises Refused where nothing may be simulated."""
    if os.environ.get("STEELYARD_ENV") == "production":
        raise Refused(
            "trust.simulated",
            f"a rehearsal is {SIMULATED}: it vouches for nothing, and STEELYARD_ENV is production",
            where=Where(field="--rehearse"),
            hint="rehearse on a machine for tests",
        )


def no_tee() -> Refused:
    devices = [d for d in TEE_DEVICES if os.path.exists(d)]
    why = f"found {', '.join(devices)}, but attestation is not in this version" if devices else None
    return Refused(
        "trust.no_tee",
        "trust: sealed needs a trusted execution environment",
        where=Where(field="trust.level"),
        why=why or f"looked for {', '.join(TEE_DEVICES)}: none is here",
        hint="use `trust: guarded` (everything encrypted at rest); `up --rehearse` tries the path, SIMULATED",
    )


def default_key_file() -> Path:
    return Path(os.environ.get("STEELYARD_KEY_FILE") or config_folder() / "key")


def make_key_file(path: Path, parents: bool) -> bool:
    """32 random bytes at `path`, never over an existing file. True if this call wrote it."""
    try:
        if parents:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_once(path, os.urandom(KEY_BYTES), 0o600)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError as e:
        raise WrongUse(
            "trust.key_folder",
            f"the folder of the key file {path} is not there",
            where=Where(str(path), field="trust.key_file"),
            hint="make the folder, mount its disk, or name another trust.key_file",
        ) from e
    except OSError as e:
        raise disk_problem(e, path) from e


def read_key_file(path: Path) -> bytes:
    """The 32 bytes of a key file that only its owner can read."""
    where = Where(str(path), field="trust.key_file")
    try:
        with open_private(path, only_files=True) as file:
            secret = file.read()
    except OthersMay as e:
        raise Refused(
            "trust.key_mode",
            f"others can read the key file {path} (mode {e})",
            where=where,
            hint=f"chmod 600 {path}",
        ) from e
    except OSError as e:
        raise WrongUse(
            "trust.key_unreadable", f"cannot read the key file {path}", where=where, why=e.strerror,
            hint="name a readable file in trust.key_file",
        ) from e  # fmt: skip
    if is_locked(secret):
        return unlock(secret, path)
    if len(secret) != KEY_BYTES:
        raise WrongUse(
            "trust.key_size",
            f"the key file {path} has {len(secret)} bytes, a key has {KEY_BYTES}",
            where=where,
            why=_other_kind(secret),
            hint="name the key file that sealed, or another name: a new key is made on first use",
        )
    return secret


def _other_kind(content: bytes) -> str | None:
    if content.startswith(b"-----BEGIN"):
        return "these are keys in PEM: they sign or speak TLS, they do not seal"
    if content.startswith(PUBLIC.encode()):
        return "this is a public key: others seal with it (--to), it opens nothing"
    return "this is a sealed file" if content.startswith(FAMILY) else None


def lock_key_file(path: Path, token: str | None, label: str, file: Path | None) -> Keys:
    """Have a key file, locked or not, open with a new passphrase (asked for, or from `file`) or a token.

    Its place is taken whole or not at all, where `path` is a link then that of the file behind it; the key
    stays the same. Raises WrongUse, Refused, Lacking.
    """
    place = _behind_links(path)
    secret = read_key_file(place)
    made = lock_by_token(secret, token, label, file) if token else lock(secret, place, file)
    _replace(place, made)
    return Keys(secret, path)


def unlock_key_file(path: Path) -> Keys:
    """Write the key file as 32 plain bytes again. Raises as `lock_key_file`."""
    place = _behind_links(path)
    secret = read_key_file(place)
    _replace(place, secret)
    return Keys(secret, path)


def _behind_links(path: Path) -> Path:
    """Renaming onto a link would leave the old bytes where it pointed."""
    return Path(os.path.realpath(path))


def _replace(path: Path, content: bytes) -> None:
    with atomic(path) as file:
        write_all(file, content)
