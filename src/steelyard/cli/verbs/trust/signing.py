"""keys, sign, verify, receipt: signatures of models and of runs' receipts, made and checked offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Where, WrongUse
from ....units import show_bytes
from ...telling.acts import written
from ...telling.messages import say
from ...telling.output import note, result, table
from ..recipes import no_settings

SigningKey = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help=say("Your signing key; else the usual one.")),
]


def keys(
    action: Annotated[str, typer.Argument(metavar="new|show|lock|unlock", show_default=False)],
    file: Annotated[Path | None, typer.Argument(metavar="KEYFILE", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help=say("The private keys; FILE.pub has the public ones.")),
    ] = None,
    key: SigningKey = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="LABEL", help=say("lock: with this PKCS#11 token, not a passphrase.")
        ),
    ] = None,
    token_key: Annotated[
        str, typer.Option("--token-key", metavar="LABEL", help=say("lock: the token's key; made if missing."))
    ] = "steelyard",
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help=say("lock: a file with the new passphrase, or the PIN.")
        ),
    ] = None,
) -> None:
    no_settings("keys")
    if action in ("lock", "unlock") and not (output or key):
        return _lock(action, file, token, token_key, passphrase_file)
    from ....trust import load_signer, make_signing_keys

    known = not key if action == "new" else action == "show" and not output
    if not known or file or token or passphrase_file:
        raise WrongUse(
            "cli.usage",
            say("keys takes new, show, lock or unlock"),
            where=Where(field="keys"),
            hint="steelyard keys new; steelyard keys lock KEYFILE",
        )
    _tell_signer(make_signing_keys(output) if action == "new" else load_signer(key), action == "new")


def _tell_signer(signer: Any, new: bool) -> None:
    from ....trust import public_path

    place = public_path(signer.path)
    document = {"key": str(signer.path), "public": str(place), "fingerprint": signer.public.name}
    if new:
        written("key.made", kind="signing", key=signer.public.name)
        note(say("keep a copy of {path} where nobody else reads it", path=signer.path))
    kinds = say("with Ed25519 and ML-DSA-65") if signer.hybrid else say("without a hybrid part")
    result(
        document | {"hybrid": bool(signer.hybrid)},
        say("key {name}, {kinds}", name=signer.public.name, kinds=kinds),
        say("give others {path}: with it they verify what you sign", path=place),
    )


def _lock(action: str, file: Path | None, token: str | None, label: str, passphrase: Path | None) -> None:
    """The key file that seals: to open with a passphrase or a token, or plain again."""
    from ....trust import default_key_file, lock_key_file, unlock_key_file

    path = file or default_key_file()
    keys = lock_key_file(path, token, label, passphrase) if action == "lock" else unlock_key_file(path)
    by = None if action == "unlock" else "pkcs11" if token else "passphrase"
    written("key.locked" if by else "key.unlocked", kind="sealing", key=keys.id)
    document = {"key": str(path), "id": keys.id, "locked_by": by}
    if by is None:
        return result(document, say("{path} opens by itself again", path=path))
    result(
        document,
        say("{path} is locked: without its passphrase or token nothing sealed here opens again", path=path),
        say("copies from before, and what a disk still keeps of it, open by themselves"),
    )


def sign(
    model: Annotated[Path, typer.Argument(metavar="FOLDER|FILE", show_default=False)],
    key: SigningKey = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate", metavar="FILE", help=say("PEM: the key's certificate, then its issuers.")
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help=say("The signature; model.sig in the folder.")),
    ] = None,
) -> None:
    no_settings("sign")
    from ....trust import check_key, load_signer, read_certificates, sign_model

    signer = load_signer(key)
    chain = read_certificates(certificate) if certificate else []
    if certificate:
        check_key(chain, signer.curve, certificate)
    signed = sign_model(model, signer, output, chain)
    document = {
        "schema": "steelyard.sign/1",
        "signature": str(signed.signature),
        "hybrid": str(signed.hybrid) if signed.hybrid else None,
        "sha256": signed.sha256,
        "key": signed.key,
        "files": signed.files,
        "bytes": signed.bytes,
        "left_out": list(signed.left_out),
    }
    written = [str(path) for path in (signed.signature, signed.hybrid) if path]
    size = show_bytes(signed.bytes)
    result(
        document,
        say("signed {files} files, {size}, by {key}", files=signed.files, size=size, key=signed.key[:16]),
        *(say("wrote {path}", path=path) for path in written),
        *_left_out(signed.left_out),
        f"{say('next:')} steelyard verify {model}",
    )


def verify(
    path: Annotated[Path, typer.Argument(metavar="FOLDER|FILE", show_default=False)],
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key", metavar="FILE", help=say("A public key that you trust; again for more. Else your own.")
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="FILE", help=say("Root certificates that you trust, PEM.")),
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option("--signature", metavar="FILE", help=say("The signature; model.sig in the folder.")),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--in", metavar="FOLDER", help=say("Of a receipt: compare its hashes with what lies there.")
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="RFC3339", help=say("The time at which certificates must hold; now.")),
    ] = None,
) -> None:
    no_settings("verify")
    from ....trust import is_sealed, is_statement, verify_model, verify_sealed

    trust = _trust(key, root, at)
    if path.is_file() and signature is None and is_sealed(path):
        return _sealed(path, verify_sealed(path, trust.keys))
    if path.is_file() and signature is None and is_statement(path):
        from ....run import verify_receipt

        return _receipt(verify_receipt(path, trust, folder))
    if folder is not None:
        raise WrongUse(
            "cli.usage", say("--in is for receipts"), where=Where(field="--in"), hint="steelyard verify MODEL"
        )
    return _model(path, verify_model(path, trust, signature))


def _model(path: Path, verified: Any) -> None:
    document = {
        "schema": "steelyard.verify/1",
        "verdict": "verified",
        "kind": "model",
        "name": verified.name,
        "sha256": verified.sha256,
        "key": verified.key,
        "certificate": verified.certificate,
        "hybrid": verified.hybrid,
        "files": verified.files,
        "bytes": verified.bytes,
        "left_out": list(verified.left_out),
    }
    who = verified.certificate or verified.key[:16]
    result(
        document,
        say(
            "verified: {files} files, {size}, signed by {who}",
            files=verified.files,
            size=show_bytes(verified.bytes),
            who=who,
        ),
        _hybrid(verified.hybrid),
        *_left_out(verified.left_out),
    )


def _sealed(path: Path, signer: Any) -> None:
    document = {
        "schema": "steelyard.verify/1",
        "verdict": "verified",
        "kind": "sealed",
        "key": signer.name,
        "hybrid": True,
        "bytes": path.stat().st_size,
    }
    text = say("verified: sealed and signed by {who}; it was not opened", who=signer.name[:16])
    result(document, text, _hybrid(True))


def _receipt(verified: Any) -> None:
    facts = verified.predicate
    gate = (facts["gate"] or {}).get("verdict")
    document = {
        "schema": "steelyard.verify/1",
        "verdict": "verified",
        "kind": "receipt",
        "sha256": verified.subject,
        "key": verified.key,
        "hybrid": verified.hybrid,
        "compared": list(verified.compared),
        "not_there": list(verified.not_there),
        "receipt": facts,
    }
    rows = [(name, say("compared")) for name in verified.compared]
    rows += [(name, say("not there")) for name in verified.not_there if verified.compared]
    result(
        document,
        say("verified: the receipt of {run}, signed by {who}", run=facts["run"], who=verified.key[:16]),
        _hybrid(verified.hybrid),
        say(
            "  model {hash}, gate: {gate}",
            hash=verified.subject[:16],
            gate=say(gate) if gate else say("none"),
        ),
        *(table(("", ""), rows) if rows else [say("  compared with no folder: --in FOLDER does")]),
    )


def receipt(
    run: Annotated[str, typer.Argument(metavar="RUN|FOLDER", show_default=False)],
    key: SigningKey = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help=say("receipt.json in the run's folder.")),
    ] = None,
) -> None:
    no_settings("receipt")
    from ....run import write_receipt
    from ....trust import load_signer

    written = write_receipt(run, load_signer(key), output)
    document = {"receipt": str(written.path), "sha256": written.subject, "run": written.predicate["run"]}
    result(
        {"schema": "steelyard.receipt/1"} | document,
        say("wrote {path}", path=written.path),
        f"{say('next:')} steelyard verify {written.path} --in {written.path.parent}",
    )


def approve(
    run: Annotated[str, typer.Argument(metavar="RUN|FOLDER", show_default=False)],
    key: SigningKey = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help=say("approval.json in the run's folder.")),
    ] = None,
) -> None:
    no_settings("approve")
    from ....run import approve as approve_run
    from ....trust import load_signer

    signer = load_signer(key)
    signed = approve_run(run, signer, output)
    written("model.approved", artefact=signed.subject, key=signer.public.name)
    document = {"approval": str(signed.path), "sha256": signed.subject, "key": signer.public.name}
    checks = signed.predicate["checks"]
    result(
        {"schema": "steelyard.approval/1"} | document | signed.predicate,
        say("approved: model {hash}, {checks} checks passed", hash=signed.subject[:16], checks=len(checks)),
        say("wrote {path}", path=signed.path),
        f"{say('next:')} steelyard up",
    )


def _hybrid(hybrid: bool | None) -> str:
    if hybrid:
        return "  " + say("Ed25519 and ML-DSA-65 hold too")
    return "  " + say("no hybrid signature was looked at: the key that you trust has none")


def _left_out(names: Any) -> list[str]:
    return [say("  not covered: {names}", names=", ".join(names))] if names else []


def _trust(key: list[Path] | None, root: Path | None, at: str | None) -> Any:
    """Who is believed: the keys named; without any, and without a root, one's own."""
    from ....trust import Trust, load_trusted, read_certificates

    named = [load_trusted(path) for path in key] if key else [] if root else [load_trusted()]
    return Trust(named, read_certificates(root) if root else (), _time(at) if at else None)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "--at 2026-09-01T12:00:00Z"
        raise WrongUse("cli.usage", f"{text!r} is no time", where=Where(field="--at"), hint=hint) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
