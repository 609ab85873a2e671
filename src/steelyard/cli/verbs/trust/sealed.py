"""attest, seal, open, rotate: quotes judged by a policy; files for those whose keys are named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Refused, Where, WrongUse
from ...telling.acts import written
from ...telling.messages import say
from ...telling.options import OPTIONS
from ...telling.output import note, result, table
from ..recipes import load, no_settings

Output = Annotated[Path, typer.Option("--output", metavar="FILE", help=say("Where to write it."))]
KeyFile = Annotated[
    str | None, typer.Option("--key-file", metavar="FILE", help=say("Your key; else the usual one."))
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="KEY",
        help=say("A public key that may open it too, or a file with one; again for more."),
    ),
]
HINT = "steelyard attest verify QUOTE --collateral FILE --policy POLICY.yaml --at 2026-09-01T12:00:00Z"


def attest(
    action: Annotated[str, typer.Argument(metavar="verify|quote|release", show_default=False)],
    quote: Annotated[Path | None, typer.Argument(metavar="QUOTE", show_default=False)] = None,
    collateral: Annotated[
        Path | None,
        typer.Option("--collateral", metavar="FILE", help=say("The maker's data on the platform, JSON.")),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help=say("What is accepted, YAML."))
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="RFC3339", help=say("The time of the appraisal; no other clock.")),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help=say("What the quote was asked with."))
    ] = None,
    runtime_data: Annotated[
        Path | None,
        typer.Option("--runtime-data", metavar="FILE", help=say("Hashed with the nonce, such as a TLS key.")),
    ] = None,
    nonce_store: Annotated[
        Path | None,
        typer.Option("--nonce-store", metavar="FILE", help=say("Nonces accepted before; none twice.")),
    ] = None,
    batch: Annotated[
        Path | None, typer.Option("--batch", metavar="FILE.jsonl", help=say("Cases, one a line, instead."))
    ] = None,
) -> None:
    no_settings("attest")
    one = (quote, collateral, policy, at)
    if action == "verify" and batch and not any((*one, nonce, runtime_data, nonce_store)):
        return _batch(batch)
    if action == "verify" and batch is None and quote and collateral and policy and at:
        return _verify(quote, collateral, policy, at, nonce, runtime_data, nonce_store)
    if action == "release" and not any((batch, collateral, policy, at, nonce, nonce_store, runtime_data)):
        return _release(quote)
    if action == "quote" and quote and nonce and not any((batch, collateral, policy, at, nonce_store)):
        return _quote(quote, nonce, runtime_data)
    raise WrongUse(
        "cli.usage",
        say("attest verify takes a quote, its collateral, a policy and a time; or --batch alone"),
        where=Where(field="attest"),
        hint=HINT,
    )


def _verify(quote: Path, *case: Any) -> None:
    """One quote; the rest of its case in the order of `read_case`."""
    from ....trust import judge, read_case

    _show(judge(read_case(quote, *case)).as_json())


def _quote(path: Path, nonce: str, runtime_data: Path | None) -> None:
    """Of the trust domain that this machine is; binding raw, or sha512 with runtime data."""
    from ....trust import atomic, quote_here, report_data_of

    data = report_data_of(nonce, None if runtime_data is None else runtime_data.read_bytes())
    made = quote_here(data)
    with atomic(path) as file:
        file.write(made)
    result({"quote": str(path), "bytes": len(made)}, say("wrote {path}", path=path))


def _release(source: Path | None) -> None:
    """Which code this is, or that of a checkout or wheel: what a policy's `release` lists."""
    from ....trust import code_sha256, release_here, revision_of

    if source is None:
        said = release_here().as_json()
        said.pop("artefact")
    else:
        said = {"code_sha256": code_sha256(source), "revision": revision_of(source / "src" / "steelyard")}
    rows = [(name, value or say("not known")) for name, value in said.items()]
    result({"schema": "steelyard.release/1"} | said, *table(("", ""), rows))


def _batch(path: Path) -> None:
    """Exit code 0 once every line has its verdict."""
    from ....trust import judge, read_batch

    for name, case in read_batch(path):
        document = {"id": name} | judge(case).as_json()
        result(document, f"{name}  {_line(document)}")


# ------------------------------------------------------------------ sealed files


def seal(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help=say("Where to write it."))
    ] = None,
    to: To = None,
    key_file: KeyFile = None,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="FILE", help=say("Sign it with these keys (steelyard keys new).")),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help=say("Print your public key instead."))] = False,
    cipher: Annotated[
        str,
        typer.Option("--cipher", metavar="NAME", help=say("aes-256-gcm, or sm4-gcm where rules ask for it.")),
    ] = "aes-256-gcm",
) -> None:
    no_settings("seal")
    keys = _keys(key_file, cipher)
    if public:
        return result({"public": keys.public, "id": keys.id}, keys.public)
    if file is None or output is None:
        raise WrongUse(
            "cli.usage",
            say("seal takes a file and --output"),
            hint="steelyard seal FILE --output FILE.sealed",
        )
    from ....trust import load_signer

    signer = load_signer(sign) if sign else None
    keys.seal(_there(file), _place(output), _recipients(to), signer)
    _note("file.sealed", output, keys=1 + len(to or ()))
    by = signer.public.name if signer else None
    result({"sealed": str(output), "signed_by": by}, say("wrote {path}", path=output))


def open_(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    output: Output,
    key_file: KeyFile = None,
    signer: Annotated[
        list[Path] | None,
        typer.Option(
            "--signer",
            metavar="FILE",
            help=say("Open it only if this public key signed it; again for more."),
        ),
    ] = None,
) -> None:
    no_settings("open")
    from ....trust import load_trusted

    trusted = [load_trusted(path) for path in signer or []]
    _keys(key_file).open(_there(file), _place(output), trusted)
    _note("file.opened", file)
    result({"opened": str(output)}, say("wrote {path}", path=output))


def rotate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...|RECIPE", show_default=False)],
    to: To = None,
    key_file: KeyFile = None,
    drop: Annotated[bool, typer.Option("--drop", help=say("Your own key no longer opens them."))] = False,
) -> None:
    if len(files) == 1 and files[0].suffix in (".yaml", ".yml"):
        return _rotate_run(files[0], plain=not (to or key_file or drop))
    no_settings("rotate")
    keys = _keys(key_file)
    recipients = [*([] if drop else [keys.recipient]), *_recipients(to)]
    files = list({file.resolve(): file for file in files}.values())
    for file in files:
        keys.check_rotation(_there(file), recipients)
    for file in files:
        keys.rotate(file, recipients)
        _note("file.rotated", file, keys=len(recipients))
    named = [recipient.key_id.hex() for recipient in recipients]
    result(
        {"files": [str(file) for file in files], "keys": named},
        *(say("{path}: keys that open it: {count}", path=file, count=len(named)) for file in files),
        say(LEFT),
    )


LEFT = "whoever copied the old header or the content opens it still: after a leak, seal it again"


def _rotate_run(path: Path, plain: bool) -> None:
    """Every sealed file of a recipe's run, for the key and the recipients that the recipe names."""
    if not plain:
        raise WrongUse(
            "cli.usage", say("a recipe names its keys itself"), where=Where(field="--to"),
            hint="trust: {level: guarded, recipients: [bob.pub]}, then steelyard rotate RECIPE.yaml",
        )  # fmt: skip
    from ....run import rewrap_run

    done = rewrap_run(load(path))
    written("file.rotated", kind="run", files=len(done.files), keys=len(done.keys))
    closed = [say("{path}: not for your key, left as it was", path=file) for file in done.closed]
    result(
        {"files": [str(f) for f in done.files], "closed": [str(f) for f in done.closed], "keys": done.keys},
        say("files: {files}; keys that open them: {count}", files=len(done.files), count=len(done.keys)),
        *closed,
        say(LEFT),
    )


def _keys(key_file: str | None, *cipher: str) -> Any:
    from ....trust import load_keys

    keys = load_keys("guarded", key_file, Path("."), (), *cipher)
    if keys and keys.notice:
        note(keys.notice)
        written("key.made", kind="sealing", key=keys.id)
    return keys


def _note(act: str, file: Path, **details: Any) -> None:
    from ....trust import sealed_id

    written(act, artefact=sealed_id(file), **details)


def _there(file: Path) -> Path:
    if not file.is_file():
        hint = say("name a file that is there")
        raise WrongUse("trust.no_file", f"there is no file {file}", where=Where(str(file)), hint=hint)
    return file


def _place(output: Path) -> Path:
    if output.is_dir() or not output.parent.is_dir():
        hint = say("name a file in a folder that is there")
        raise WrongUse("trust.output", f"{output} cannot be a file", where=Where(field="--output"), hint=hint)
    return output


def _recipients(to: list[str] | None) -> list[Any]:
    """Of each word: the key itself, or a file with it."""
    from ....trust import named_recipient

    return [named_recipient(word, Path(".")) for word in to or []]


# ------------------------------------------------------------------ verdicts


def _show(document: dict[str, Any]) -> None:
    rows = list(document["measurements"].items()) if OPTIONS.verbose else []
    result(document, _line(document), *_facts(document), *(table(("", ""), rows) if rows else []))
    if document["verdict"] != "accepted":
        raise typer.Exit(Refused.exit_code)


def _line(document: dict[str, Any]) -> str:
    reason = document["reason"]
    if document["verdict"] == "accepted":
        return f"{say('accepted')}: {document['detail']}"
    return f"{say('rejected')}: {say(reason)}   [{reason}]  {document['detail']}"


def _facts(document: dict[str, Any]) -> list[str]:
    measured = document["measurements"]
    if "product" in measured:  # AMD gives a platform no status
        tcb = ", ".join(f"{name} {value}" for name, value in measured["reported_tcb"].items())
        return [
            f"  SEV-SNP v{document['quote_version']}   {measured['product']}   TCB {tcb}",
            *_code(document),
        ]
    if document["tcb_status"] is None:
        return []
    named = ", ".join(document["advisories"]) or say("none")
    version = f"{document['tee'].upper()} v{document['quote_version']}"
    return [f"  {version}   TCB {document['tcb_status']}   {say('advisories')}: {named}", *_code(document)]


def _code(document: dict[str, Any]) -> list[str]:
    """The release that the quote binds, where it does."""
    release = document.get("release")
    return [f"  {name:<12} {value or say('not known')}" for name, value in release.items()] if release else []
