"""What protects each hop of a run, and what does not: asked of the settings and machine that it would use.

A row says `protected`: yes, no, or None where there is nothing to protect. Its words are picked here, the
facts are not: keys, certificates and memory are looked up where the run itself looks. bench/canaries.py takes
what it demands from these rows, so that a row which says more than the code does is found by a search.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...artefact import IN_MEMORY, may_own_memory, memory_kind
from ...errors import Problem
from ...recipe import Recipe
from ...serving import ServeSettings
from ...trust import REHEARSED, no_tee, scheme_of
from ..planning.checks import sealing_settings, tls_settings, trust_settings

SWAPS = Path("/proc/swaps")
HYBRID_SINCE = (3, 5)  # OpenSSL: X25519MLKEM768 is offered and preferred by default


@dataclass(frozen=True, slots=True)
class Hop:
    """`hop`: file, memory, worker, wire, checkpoint, artefact, service, client or log; `what` lies there."""

    hop: str
    what: str
    protected: bool | None
    by: str
    left: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(recipe: Recipe) -> tuple[Hop, ...]:
    """In the order of a run. At `sealed` what a rehearsal does: the rest of it is hardware (`refusal`)."""
    settings = ServeSettings(
        host=recipe.serve.host,
        keys=recipe.serve.keys,
        api_key=recipe.serve.api_key,
        receipts=recipe.serve.receipts,
        **trust_settings(recipe) | tls_settings(recipe) | sealing_settings(recipe),
    )
    level = recipe.trust.level
    scheme = scheme_of(level, recipe.trust.cipher)
    return (
        *_files(recipe),
        *_memory(scheme),
        *_workers(recipe),
        *_wire(settings),
        *_at_rest(scheme, bool(recipe.trust.recipients)),
        *_service(settings, scheme, bool(recipe.trust.recipients)),
        _prompts(recipe.serve.engine),
        *_clients(settings),
        *_logs(scheme),
    )


def refusal(recipe: Recipe) -> str | None:
    """Why this machine cannot honour the recipe's level, None where it can."""
    if recipe.trust.level not in ("sealed", REHEARSED):
        return None
    problem: Problem = no_tee()
    return f"{problem.message}: {problem.why}"


# ------------------------------------------------------------------ before training


def _files(recipe: Recipe) -> Iterator[Hop]:
    paths = [recipe.root / source.path for source in recipe.data]
    open_to_all = [p for p in paths if p.is_file() and p.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)]
    by = "others on this machine may read them" if open_to_all else "only their owner may read them"
    if paths:
        left = "they are the user's and stay as they are"
        yield Hop("file", "data files", False, "" if open_to_all else by, by if open_to_all else left)
    scanned = "scanned before it is loaded"
    if recipe.trust.level == REHEARSED:
        scanned = "scanned before it is loaded; files of unknown formats are refused"
    trust = recipe.trust
    if trust.base_signers or trust.base_sha256:
        vouched = "its signature was verified" if trust.base_signers else "its hash is pinned"
        yield Hop("file", "who made the base model", True, vouched, "it is read again when it is loaded")
    else:
        yield Hop(
            "file", "who made the base model", False, "", "no signature is asked for, no hash is pinned"
        )
    yield Hop("file", "base model", False, scanned, "public: it lies plain in the cache")


def _memory(scheme: str) -> Iterator[Hop]:
    if not scheme:
        yield Hop("memory", "opened files", None, "", "nothing is sealed, so nothing is opened")
        yield Hop("memory", "core dumps", False, "", "as the system is set up: ulimit -c, core_pattern")
    else:
        yield Hop(
            "memory", "opened files", memory_kind() in IN_MEMORY,
            "in memory alone, this user's, gone with the process", "root and the hypervisor can read memory",
        )  # fmt: skip
        own = may_own_memory()
        yield Hop(
            "memory", "shared memory", own,
            "a /dev/shm of the run's own: no other process finds a name there" if own else "",
            "" if own else "opened files have names in /dev/shm: this user and root can open them",
        )  # fmt: skip
        yield Hop(
            "memory", "core dumps", True, "no process that holds keys, and none of its children, writes one"
        )
    on = swap_is_on()
    yield Hop(
        "memory", "swap", not on if scheme else None, "" if on else "no swap is in use",
        "swap is in use: memory may be written to a disk" if on else "",
    )  # fmt: skip


def swap_is_on() -> bool:
    """Whether the kernel has anywhere to swap to; compressed memory (zram) is no disk."""
    try:
        lines = SWAPS.read_text("utf-8").splitlines()[1:]
    except OSError:
        return True  # not known: nothing is promised
    return any("/zram" not in line.split()[0] for line in lines if line.strip())


def _workers(recipe: Recipe) -> Iterator[Hop]:
    yield Hop(
        "worker", "steps' processes", None, "orders and progress go over pipes; they die with `up`",
        "root and processes of this user can read their memory",
    )  # fmt: skip
    if recipe.resources.hosts or recipe.resources.ray:  # refused beside any other level (recipe/pairs.py)
        yield Hop("worker", "gradients between machines", False, "", "they go between hosts as they are")
        yield Hop(
            "worker", "Ray's own calls between machines", True, "TLS 1.3 of both sides and a token",
            "its gRPC offers P-256 alone: a later quantum computer may read what was recorded",
        )  # fmt: skip


def _wire(settings: ServeSettings) -> Iterator[Hop]:
    yield Hop(
        "wire", "loopback: the gate and its services", settings.sealed,
        _tls() if settings.sealed else "it does not leave this machine",
        "" if settings.sealed else "plain HTTP: root can record it",
    )  # fmt: skip
    yield Hop(
        "wire", "front and engine", True, "a Unix socket or a pipe that only this user can reach",
        "root can read it",
    )  # fmt: skip


def _tls(oldest: str = "1.3") -> str:
    import ssl

    hybrid = ssl.OPENSSL_VERSION_INFO[:2] >= HYBRID_SINCE
    group = "X25519MLKEM768 (post-quantum)" if hybrid else "X25519 (this OpenSSL has no hybrid)"
    return f"TLS {oldest}, {group}"


# ------------------------------------------------------------------ on disk, served, asked, told


def _at_rest(scheme: str, shared: bool) -> Iterator[Hop]:
    plain = "" if scheme else "files of this user, plain"
    yield Hop("checkpoint", "resume points", bool(scheme), scheme, plain)
    beside = "in memory alone" if scheme else ""
    yield Hop(
        "artefact", "an engine's own copy", bool(scheme), beside, "" if scheme else "in the cache, plain"
    )
    unsigned = "signed only where you sign it: steelyard sign"
    yield Hop("artefact", "payload and manifest", bool(scheme), scheme, plain or unsigned)
    if scheme:
        by = "your key and trust.recipients" if shared else "your key alone"
        yield Hop("artefact", "who may open it", True, by, "who has a copy of an old header keeps it")


def _service(settings: ServeSettings, scheme: str, shared: bool) -> Iterator[Hop]:
    plain = "" if scheme else "files of this user, plain"
    if scheme and shared:
        plain = "the key of whoever serves alone opens it, not trust.recipients"
    yield Hop("service", "files, batches and their results", bool(scheme), scheme, plain)
    if settings.sealed:
        yield Hop("service", "responses", True, "none is kept: store is refused")
    else:
        yield Hop("service", "responses", bool(scheme), scheme, plain)
    tuning = "fine-tuning jobs are refused" if scheme else ""
    yield Hop(
        "service", "tuning rows", bool(scheme), tuning, "" if scheme else "they lie plain while a job runs"
    )


def _prompts(engine: str) -> Hop:
    """OpenVINO's prefix cache takes no salt (decision 101), the other engines' do."""
    by, left = "one key's prefix is never another's", "root can read it"
    if engine in ("auto", "openvino"):
        by = "no count tells a key of another's prefix"
        left = "on OpenVINO the time to a first token may; root can read it"
    return Hop("service", "prompts in memory", None, by, left)


def _clients(settings: ServeSettings) -> Iterator[Hop]:
    """The address that users ask."""
    if settings.tls_cert:
        by, left = _tls("1.3" if settings.sealed or settings.sealed_prompts else "1.2 or 1.3"), ""
    else:
        by, left = "", "plain HTTP"
    if not settings.readable_on_the_way and not settings.tls_cert:
        by = "it does not leave this machine"
    if settings.tls_cert == "auto":
        left = "a client has to be given the certificate: it is self-signed"
    yield Hop("client", "requests and answers", bool(settings.tls_cert), by, left)
    sealed = settings.sealed_prompts
    yield Hop(
        "client", "prompts, past what ends TLS", sealed, "sealed to the service (HPKE)" if sealed else "",
        _vouched(settings) if sealed else "whoever ends TLS reads them",
    )  # fmt: skip
    key = "asked for" if settings.api_key or settings.keys else ""
    yield Hop("client", "who may ask", bool(key), key, "" if key else "anybody who reaches the address")


def _vouched(settings: ServeSettings) -> str:
    return {"tdx": "", "sgx": "", "simulated": "a SIMULATED platform vouches for the key"}.get(
        settings.attest, "no platform vouches for the key: clients pin it"
    )


def _logs(scheme: str) -> Iterator[Hop]:
    plain = "" if scheme else "plain; what a library says in a fault may quote a row"
    yield Hop("log", "log of the run and of its service", bool(scheme), scheme, plain)
    figures = "no row, prompt or key stands in them" if scheme else "no key stands in them"
    left = "plain: names, figures and hashes" if scheme else "plain; the report quotes rows of the test set"
    yield Hop("log", "plan and report", None, figures, left)
    yield Hop("log", "ledger", None, "figures alone", "plain")
    if os.environ.get("STEELYARD_AUDIT") == "off":
        yield Hop("log", "audit log", None, "", "it is switched off")
    else:
        yield Hop("log", "audit log", True, "chained and signed; hashes and counts alone")
