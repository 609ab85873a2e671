"""What is checked before any step: port, key, and the files that the service will read."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...artefact import check_private, model_hash, sha256_of
from ...errors import CheckFailed, Lacking, Refused, Where, WrongUse
from ...launch import LAUNCHED
from ...model import encoder_folder, resolve
from ...planner import Local
from ...recipe import Recipe
from ...shape import Shape
from ...trust import REHEARSED, load_trusted, named_recipient, scan, verify_model
from ...trust import Trust as SignedBy
from ..record.approval import approvers
from ..record.workdir import Workdir
from .launching import python_of

if TYPE_CHECKING:
    from ...serving import Service


def check_serving(recipe: Recipe, place: Workdir) -> None:
    """Port and key, before anything long starts; our own older service may hold the port."""
    from ...serving import ServeSettings, accounts_of, check_engine, find

    serve = recipe.serve
    if serve.engine in LAUNCHED:
        check_engine(serve.engine, python_of(recipe))
    ServeSettings(allowed_host=serve.allowed_host, cors_origin=serve.cors_origin).access(serve.host)
    check_tls(recipe)
    approvers(recipe)
    if serve.host not in ("127.0.0.1", "localhost", "::1") and not (serve.api_key or serve.keys):
        raise Refused(
            "serve.no_key",
            f"{serve.host} can be reached from other machines, and no key is set",
            where=Where(str(recipe.path), field="serve.api_key"),
            why="a service without a key belongs on loopback",
            hint="set serve.api_key or serve.keys, or serve on 127.0.0.1",
        )
    check_serve_files(recipe)
    accounts_of(ServeSettings(**accounts_settings(recipe)))
    old = find(place.service)
    if on_port(old, serve.port) is None:
        check_port(serve.host, serve.port)


def on_port(service: Service | None, port: int) -> Service | None:
    """The service, if it listens on that port: another then comes after it, and both listen for a moment."""
    return service if service is not None and urlsplit(service.url).port == port else None


def check_tls(recipe: Recipe) -> None:
    """Raises WrongUse for a certificate that cannot be used, Refused where trust asks for one."""
    from ...serving import ServeSettings, check_attest, tls_context

    serve = recipe.serve
    settings = ServeSettings(host=serve.host, **tls_settings(recipe), **sealing_settings(recipe))
    if recipe.trust.level != "open" and settings.readable_on_the_way:
        raise Refused(
            "serve.no_tls",
            f"{serve.host} can be reached from other machines, and answers without TLS",
            where=Where(str(recipe.path), field="serve.tls"),
            why=f"at trust: {recipe.trust.level} the network is not trusted",
            hint="set serve.tls: auto, or serve.tls: {cert: FILE, key: FILE}, or serve on 127.0.0.1",
        )
    tls_context(settings)
    check_attest(settings)


def check_sealed_room(recipe: Recipe, local: Local | None, shape: Shape) -> None:
    """See that a sealed run finds memory for what it opens. Raises Refused, Lacking.

    All that steps write, and a child's copy, stand there opened at once; without a prediction (`local` None)
    only the place itself is looked at.
    """
    if recipe.trust.level != "open":
        check_private(local.disk_bytes + 2.0 * shape.params if local else 0.0)


def check_recipients(recipe: Recipe) -> None:
    """Raises WrongUse for a recipient that is not there, or is no public key."""
    for word in recipe.trust.recipients:
        named_recipient(word, recipe.root, "trust.recipients")


def check_all_known(recipe: Recipe, base: Path) -> None:
    """Where trust is sealed, a base with a file that no rule of the scan knows: raises CheckFailed."""
    if recipe.trust.level != REHEARSED:
        return
    if unknown := next((one for one in scan(base) if one.verdict == "unknown"), None):
        raise CheckFailed(
            "scan.unknown",
            f"{unknown.path} is of no format that the scan knows, and trust is sealed",
            where=Where(str(base / unknown.path)),
            why=", ".join(unknown.reasons) or None,
            hint="take that file out of the model's folder, or use `trust: guarded`",
        )


def check_vouched(recipe: Recipe, base: Path) -> None:
    """The base is one that the recipe pins, or is signed by a key that it names; sealed asks for either.

    `base`: the folder or file that was named, not what was made of it; every byte of it is read. Raises
    Refused, CheckFailed, WrongUse.
    """
    trust = recipe.trust
    if trust.base_signers:
        verify_model(base, SignedBy([load_trusted(recipe.root / name) for name in trust.base_signers]))
    asked = trust.level in ("sealed", REHEARSED)
    if not trust.base_sha256 and (trust.base_signers or not asked):
        return
    found = sha256_of(base) if base.is_file() else model_hash(base)
    if not trust.base_sha256:
        raise Refused(
            "trust.base_unvouched", "nobody vouches for the base model, and trust is sealed",
            where=Where(str(recipe.path), field="trust"), why=f"{base} is neither signed nor pinned",
            hint=f"base_signers: [publisher.pub]; or, if you know where it came from, base_sha256: [{found}]",
        )  # fmt: skip
    if found not in trust.base_sha256:
        raise CheckFailed(
            "trust.base_changed", f"{base} is not the base model that the recipe pins",
            where=Where(str(recipe.path), field="trust.base_sha256"), why=f"its hash is {found}",
            hint="fetch it again; where it was changed on purpose, pin the new hash",
        )  # fmt: skip


def accounts_settings(recipe: Recipe) -> dict[str, Any]:
    """Where what keys use is counted, beside their file."""
    serve = recipe.serve
    file = str(recipe.root / serve.accounts_password) if serve.accounts_password else None
    return {
        "keys": str(recipe.root / serve.keys) if serve.keys else None,
        "accounts": serve.accounts,
        "accounts_password": file,
    }


def check_serve_files(recipe: Recipe) -> None:
    """Adapters, draft and keys that the service will read are there. Raises WrongUse."""
    serve = recipe.serve
    named = {f"serve.adapters.{name}": folder for name, folder in serve.adapters.items()}
    named |= {"serve.keys": serve.keys} if serve.keys else {}
    for field, name in named.items():
        wanted = recipe.root / name / ("adapter_config.json" if "adapters" in field else "")
        if not wanted.exists():
            raise WrongUse(
                "serve.file_missing",
                f"there is no {wanted}",
                where=Where(str(recipe.path), field=field),
                hint="paths are from the recipe's folder; an adapter is a PEFT folder",
            )
    check_routing(recipe)
    if serve.draft and not _is_served(recipe, serve.draft):
        resolve(serve.draft, recipe.root)
    if serve.embed_model and encoder_folder(serve.embed_model, recipe.root) is None:
        raise WrongUse(
            "serve.no_encoder",
            f"{serve.embed_model} is no sentence encoder",
            where=Where(str(recipe.path), field="serve.embed_model"),
            hint="name a folder of a BERT or RoBERTa model, or minilm",
        )


def check_routing(recipe: Recipe) -> None:
    """Adapters of one base, and a router of their abilities. Raises WrongUse."""
    from ...serving import check_alike, router_of

    adapters = {name: str(recipe.root / folder) for name, folder in recipe.serve.adapters.items()}
    check_alike(adapters)
    router_of(str(recipe.root / recipe.serve.route) if recipe.serve.route else None, adapters)


def check_guesses(recipe: Recipe, base: Path) -> None:
    """Before training, does the draft have the tokens of the model? A GGUF's are seen when it is served."""
    from ...serving import check_draft

    if not recipe.serve.draft:
        return
    folder = draft_folder(recipe, recipe.serve.draft)
    if folder.is_dir():
        check_draft(base, folder)


def draft_folder(recipe: Recipe, name: str) -> Path:
    """Where a draft model's files are, or its one file. Raises WrongUse where there are none."""
    return recipe.root / name if _is_served(recipe, name) else resolve(name, recipe.root).path


def trust_settings(recipe: Recipe) -> dict[str, Any]:
    """How every service of the run keeps what it is sent, as settings; what the gate alone asks too."""
    trust = recipe.trust
    if trust.level == "open":
        return {}
    named = recipe.root / Path(trust.key_file).expanduser() if trust.key_file else None
    own = {"trust": trust.level, "key_file": str(named) if named else None, "cipher": trust.cipher}
    return own | (tls_settings(recipe) if trust.level == REHEARSED else {})  # not even loopback is plain


def tls_settings(recipe: Recipe) -> dict[str, Any]:
    """Files of the published service's certificate, as settings of a service."""
    tls = recipe.serve.tls
    if tls is None:
        return {"tls_cert": "auto" if recipe.trust.level == REHEARSED else None, "tls_key": None}
    if tls.cert == "auto":
        return {"tls_cert": "auto", "tls_key": None}
    files = {"tls_cert": tls.cert, "tls_key": tls.key}
    return {name: str(recipe.root / file) if file else None for name, file in files.items()}


def sealing_settings(recipe: Recipe) -> dict[str, Any]:
    """Whether prompts come sealed to the published service, and who vouches for its key."""
    serve = recipe.serve
    collateral = str(recipe.root / serve.collateral) if serve.collateral else None
    return {"sealed_prompts": serve.sealed_prompts, "attest": serve.attest, "collateral": collateral}


def _is_served(recipe: Recipe, name: str) -> bool:
    """Is it a folder as an engine loads it? `demo` is the packaged model, whatever folder has that name."""
    return name != "demo" and (recipe.root / name / "openvino_model.xml").exists()


def check_port(host: str, port: int) -> None:
    """See that the port can be had, before any step. Raises Lacking."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probed:
        probed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probed.bind((host, port))
        except OSError as error:
            raise Lacking(
                "serve.port_taken",
                f"{host}:{port} cannot be had: {error.strerror}",
                where=Where(field="serve.port"),
                why="another program listens there",
                hint=f"choose another with --set serve.port={port + 1}, or stop the other program",
            ) from error
