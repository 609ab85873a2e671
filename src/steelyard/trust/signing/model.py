"""A model folder or file, signed and verified in the form of OpenSSF Model Signing (OMS) 1.0.

    model.sig          a Sigstore bundle: every file by path and SHA-256, signed on an elliptic curve
    model.hybrid.sig   ours, beside it: the same payload signed by Ed25519 and ML-DSA-65

A reader who trusts a signer with hybrid keys wants both files; other programs read the first.
Specification: https://github.com/ossf/model-signing-spec, spec/v1.0.md.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import CheckFailed, Where, WrongUse
from .bundle import bundled, read_bundle
from .check import Trust, check_bundle, check_hybrid, misstated, of_another_method, read_file
from .envelope import Malformed, envelope_of, enveloped, read_json, write_document, written
from .identity import Signer
from .listing import GIT, HASHES, Digest, Tree, digests, tree_of
from .statement import Statement, read_statement

PREDICATE = "https://model_signing/signature/v1.0"
SIGNATURE, HYBRID = "model.sig", ".hybrid.sig"
NAMED = 8  # files that an error names of each kind


@dataclass(frozen=True, slots=True)
class Signed:
    """What was written."""

    signature: Path
    hybrid: Path | None
    sha256: str  # of the whole: OMS's root digest
    key: str
    files: int
    bytes: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What holds. `hybrid`: None where the signer has no such keys; `left_out`: there, not covered."""

    name: str
    sha256: str
    key: str
    certificate: str | None
    hybrid: bool | None
    files: int
    bytes: int
    left_out: tuple[str, ...]


def signature_of(model: Path) -> Path:
    """Where a model's signature lies unless said otherwise: in its folder, or beside its file."""
    return model / SIGNATURE if model.is_dir() else model.with_name(f"{model.name}.sig")


def hybrid_of(signature: Path) -> Path:
    return signature.with_name(signature.name.removesuffix(".sig") + HYBRID)


# ------------------------------------------------------------------ signing


def sign_model(
    model: Path, signer: Signer, output: Path | None = None, certificates: Sequence[Any] = ()
) -> Signed:
    """Sign every file below `model`. Raises WrongUse where there is none, or one that no signature covers."""
    signature = output or signature_of(model)
    hybrid = hybrid_of(signature) if signer.hybrid else None
    root = _there(model)
    ignored = [*GIT, *_inside(root, [signature, *([hybrid] if hybrid else [])])]
    tree = tree_of(root, ignored)
    if tree.strange:
        raise strange(root, tree.strange)
    if not tree.files:
        raise WrongUse(
            "sign.empty",
            f"there is no file to sign in {model}",
            where=Where(str(model)),
            hint="name a folder with a model in it",
        )
    statement = stated(root, tree, ignored)
    payload = written(statement.as_json())
    if hybrid:
        write_document(hybrid, enveloped(payload, signer.hybrid))
    write_document(signature, bundled(payload, signer, certificates))
    size = sum((tree.root / name).stat().st_size for name in tree.files)
    left_out = _present(root, GIT)
    return Signed(signature, hybrid, statement.sha256, signer.public.name, len(tree.files), size, left_out)


def stated(root: Path, tree: Tree, ignored: Sequence[str]) -> Statement:
    """OMS's list of a tree's files."""
    rows = digests(tree)
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": list(ignored),
    }
    resources = [{"name": row.name, "digest": row.hex, "algorithm": "sha256"} for row in rows]
    name = root.resolve().name or "model"
    return Statement(
        name, root_digest(rows), PREDICATE, {"resources": resources, "serialization": serialization}
    )


def root_digest(rows: Iterable[Digest]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(row.hex) for row in rows)).hexdigest()


def _there(model: Path) -> Path:
    if not (model.is_dir() or model.is_file()):
        raise WrongUse(
            "sign.no_model",
            f"there is no model {model}",
            where=Where(str(model)),
            hint="name a model's folder or file",
        )
    return model


def _inside(root: Path, paths: Iterable[Path]) -> list[str]:
    """Of these the ones that lie below the folder, as it names them."""
    if not root.is_dir():
        return []
    above = root.resolve()
    places = (path.parent.resolve() / path.name for path in paths)
    return [place.relative_to(above).as_posix() for place in places if above in place.parents]


def _present(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(n for n in names if root.is_dir() and os.path.lexists(root / n))


def strange(root: Path, names: Sequence[str]) -> WrongUse:
    return WrongUse(
        "sign.strange",
        f"{names[0]} is no regular file, and no signature covers it",
        where=Where(str(root / names[0])),
        why=f"links, devices and names that are no UTF-8: {', '.join(names[:NAMED])}",
        hint="copy the files themselves into the folder: cp -rL FOLDER COPY",
    )


# ------------------------------------------------------------------ verifying


@dataclass(frozen=True, slots=True)
class Listed:
    """What a signature lists: rows, and how they were made."""

    rows: tuple[Digest, ...]
    algorithm: str
    shard_bytes: int | None
    ignored: tuple[str, ...]


def verify_model(model: Path, trust: Trust, signature: Path | None = None) -> Verified:
    """Every file of `model` against its signature. Raises CheckFailed with the reason, WrongUse."""
    root, file = _there(model), signature or signature_of(model)
    bundle = read_file(file, read_bundle)
    by = check_bundle(file, bundle, trust)
    if by.hybrid:
        check_beside(hybrid_of(file), bundle.envelope.payload, by.hybrid)
    try:
        statement = read_statement(bundle.envelope.payload)
        listed = listed_in(statement)
    except Unsupported as e:
        raise of_another_method(file, str(e)) from e
    except Malformed as e:
        raise misstated(file, str(e)) from e
    own = _inside(root, [file, *([hybrid_of(file)] if by.hybrid else [])])
    ignored = dict.fromkeys((*GIT, *listed.ignored, *own))
    tree = tree_of(root, ignored)
    check_files(root, tree, listed)
    size = sum((tree.root / name).stat().st_size for name in tree.files)
    left_out = _present(root, [name for name in ignored if name not in own])
    return Verified(
        statement.name,
        statement.sha256,
        by.key,
        by.certificate,
        True if by.hybrid else None,
        len(tree.files),
        size,
        left_out,
    )


def check_beside(path: Path, payload: bytes, hybrid: Sequence[Any]) -> None:
    """The hybrid file: of the same payload, by all of these keys. Raises CheckFailed."""
    envelope = read_file(path, lambda data: envelope_of(read_json(data)))
    if envelope.payload != payload:
        raise misstated(path, "it is of another list of files than the signature beside it")
    check_hybrid(path, envelope, hybrid)


class Unsupported(Malformed):
    """A way to list or hash files that is not read here."""


def listed_in(statement: Statement) -> Listed:
    """Raises Malformed, of which Unsupported."""
    if statement.kind != PREDICATE:
        raise Unsupported(f"it states {statement.kind!r}, not the files of a model")
    how = statement.predicate.get("serialization")
    rows = statement.predicate.get("resources")
    if not isinstance(how, dict) or not isinstance(rows, list) or not rows:
        raise Malformed("it lists no files")
    algorithm, shard_bytes = _how(how)
    ignored = how.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(map(is_path, ignored)):
        raise Malformed("what it leaves out is no list of paths")
    listed = tuple(_row(row, algorithm, shard_bytes) for row in rows)
    if len({row.name for row in listed}) != len(listed):
        raise Malformed("it lists a file twice")
    if root_digest(listed) != statement.sha256:
        raise Malformed("its subject is not the hash of its list")
    return Listed(listed, algorithm, shard_bytes, tuple(ignored))


def _how(how: dict[str, Any]) -> tuple[str, int | None]:
    method, algorithm, size = how.get("method"), how.get("hash_type"), how.get("shard_size")
    if how.get("allow_symlinks") is not False:
        raise Unsupported("its signer followed links")
    if algorithm not in HASHES:
        raise Unsupported(f"its hashes are {algorithm!r}; read here: {', '.join(HASHES)}")
    if method == "files" and size is None:
        return algorithm, None
    if method == "shards" and isinstance(size, int | float) and size >= 1 and size == int(size):
        return algorithm, int(size)  # model-signing writes 1000000000.0
    raise Unsupported(f"its files are listed by {method!r}")


def _row(row: Any, algorithm: str, shard_bytes: int | None) -> Digest:
    name, value = (row.get("name"), row.get("digest")) if isinstance(row, dict) else (None, None)
    size = HASHES[algorithm]().digest_size
    if not isinstance(value, str) or len(value) != 2 * size or value.strip("0123456789abcdef"):
        raise Malformed(f"the hash of {name!r} is none")
    names = (algorithm, f"{algorithm}-sharded-{shard_bytes}")  # the second is model-signing's, beside OMS
    if row.get("algorithm") not in names or not is_path(file_of(name, shard_bytes)):
        raise Malformed(f"{name!r} is no path below the model, or of another hash")
    return Digest(str(name), value)


def is_path(name: Any) -> bool:
    """A path below the folder in its one form: no `..`, no `.`, no empty part."""
    return isinstance(name, str) and all(part not in ("", ".", "..") for part in name.split("/"))


def file_of(name: Any, shard_bytes: int | None) -> Any:
    return name.rsplit(":", 2)[0] if shard_bytes and isinstance(name, str) else name


def check_files(root: Path, tree: Tree, listed: Listed) -> None:
    """Raises CheckFailed with the first kind of difference, all of them in words."""
    if tree.strange:
        raise linked(root, tree.strange)
    try:
        rows = digests(tree, listed.algorithm, listed.shard_bytes)
    except OSError as e:
        raise CheckFailed(
            "signature.unreadable",
            "a file cannot be read",
            where=Where(str(e.filename)),
            why=e.strerror,
            hint="mend its permissions, or fetch the model again",
        ) from e
    now, then = by_file(rows, listed.shard_bytes), by_file(listed.rows, listed.shard_bytes)
    gone, new = sorted(then.keys() - now.keys()), sorted(now.keys() - then.keys())
    changed = sorted(name for name in now.keys() & then.keys() if now[name] != then[name])
    if changed:
        raise changed_files(root, changed, gone, new)
    moved = [(old, name) for old in gone for name in new if then[old] == now[name]]
    if moved:
        raise renamed(root, moved)
    if gone:
        raise missing_files(root, gone, new)
    if new and not (listed.shard_bytes and all((tree.root / name).stat().st_size == 0 for name in new)):
        raise added(root, new)


def by_file(rows: Iterable[Digest], shard_bytes: int | None) -> dict[str, list[str]]:
    """Hashes of each file; of a file in shards with their places."""
    files: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        name = file_of(row.name, shard_bytes)
        files[name].append(row.name[len(name) :] + "=" + row.hex)
    return {name: sorted(hashes) for name, hashes in files.items()}


def _listing(**kinds: Sequence[str]) -> str:
    parts = []
    for kind, names in kinds.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts += [f"{kind}: {', '.join(names[:NAMED])}{more}"] if names else []
    return "; ".join(parts)


def changed_files(root: Path, names: Sequence[str], gone: Sequence[str], new: Sequence[str]) -> CheckFailed:
    return CheckFailed(
        "signature.changed",
        f"{names[0]} is not the file that was signed",
        where=Where(str(root / PurePosixPath(names[0]))),
        why=_listing(changed=names, missing=gone, added=new),
        hint="do not use it: fetch the model again",
    )


def renamed(root: Path, pairs: Sequence[tuple[str, str]]) -> CheckFailed:
    old, name = pairs[0]
    return CheckFailed(
        "signature.renamed",
        f"{old} was signed, and is now called {name}",
        where=Where(str(root / PurePosixPath(name))),
        why=_listing(renamed=[f"{a} -> {b}" for a, b in pairs]),
        hint="give it its name again, or fetch the model again",
    )


def missing_files(root: Path, gone: Sequence[str], new: Sequence[str]) -> CheckFailed:
    return CheckFailed(
        "signature.file_missing",
        f"{gone[0]} was signed and is not there",
        where=Where(str(root / PurePosixPath(gone[0]))),
        why=_listing(missing=gone, added=new),
        hint="fetch the model again",
    )


def added(root: Path, new: Sequence[str]) -> CheckFailed:
    return CheckFailed(
        "signature.file_added",
        f"{new[0]} is there and was not signed",
        where=Where(str(root / PurePosixPath(new[0]))),
        why=_listing(added=new),
        hint="take it out, or ask the signer why it is there",
    )


def linked(root: Path, names: Sequence[str]) -> CheckFailed:
    return CheckFailed(
        "signature.link",
        f"{names[0]} is a link or another thing that is no file",
        where=Where(str(root / names[0])),
        why=_listing(strange=names),
        hint="take it out: no signature covers it",
    )
