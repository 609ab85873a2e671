"""The services a run starts: for the gate, as the candidate, and the one that is published.

Until it is published a service dies with `up`. Not here: how an engine is started (serving).
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artefact import Artefact, Watch, private_folder
from ...errors import Lacking
from ...serving import ServeSettings, Service, find, promote, start
from ..child.children import Tail, call_order, in_child, log_output
from ..planning.checks import accounts_settings, on_port, sealing_settings, tls_settings, trust_settings
from ..record.acts import written
from ..record.promotions import (
    Promotion,
    promoting,
    promotion,
    publishing,
    pushed,
    read_promotions,
    up_to,
)
from .canary import begin_canary, end_canary
from .references import Model, References

if TYPE_CHECKING:  # what is planned is no part of the code that a verdict depends on
    from ...recipe import Canary, Recipe, Scale
    from ..planning.ready import Ready


@dataclass(slots=True)
class Candidate:
    """A service that is not yet the user's, and how long it took to its first healthy answer."""

    service: Service
    wall_s: float
    hash: str  # of the artefact that it serves
    artefact: Artefact
    settings: ServeSettings


class Candidates:
    """All services of one run."""

    def __init__(self, ready: Ready, watch: Watch) -> None:
        self.ready, self.watch = ready, watch
        self._candidate: Candidate | None = None
        self.references = References(watch)
        self._words: dict[int, tuple[str, Tail]] = {}  # of services that run, by process
        self.cached: set[str] = set()  # engines' copies of models, in the cache
        self._published = False

    @contextmanager
    def serve(self, role: str, inputs: dict[str, Artefact]) -> Iterator[str]:
        """A service for the gate: "base", "tuned" (the exact mode), "whole" (the tuned model before pruning,
        exact too) or "served" (the candidate itself)."""
        if role == "served":
            yield self.candidate(inputs["compressed"], inputs["checkpoint"]).service.url
            return
        artefact = inputs["checkpoint" if role == "tuned" else role]
        folder = self.engine_folder(role, artefact, inputs["compressed"])
        service = self._start(role, folder, self.settings(artefact, "fast" if role == "base" else "exact"))
        try:
            yield service.url
        finally:
            self._stop(service)

    def _start(self, role: str, folder: Path, settings: ServeSettings) -> Service:
        """A service whose own words are kept for the log; at once where it does not come up."""
        output, words = os.pipe()
        tail = Tail(output)
        try:
            service = start(folder, settings, log=words)
        except BaseException:
            os.close(words)
            log_output(self.watch, f"service:{role}", None, tail.text())
            raise
        os.close(words)
        self._words[service.pid] = (role, tail)
        return service

    def _stop(self, service: Service) -> None:
        service.stop()
        role, tail = self._words.pop(service.pid)
        code = service.process.returncode if service.process else None
        log_output(self.watch, f"service:{role}", code, tail.text())

    def engine_folder(self, role: str, artefact: Artefact, compressed: Artefact) -> Path:
        """What the engine loads for a role; under seal it is written to private memory alone."""
        if role == "tuned" and self.ready.fill.settings["compress"]["form"] == "bf16":
            return compressed.path()
        if "engine" in self.ready.fill.settings["serve"]:  # it reads checkpoints as they are
            return artefact.path()
        sealed = artefact.keys is not None
        out = str(private_folder()) if sealed else None
        order = call_order("run.calls:engine_folder", folder=str(artefact.path()), out=out)
        folder = Path(in_child(order, self.watch))
        self.cached.add(folder.name)
        return folder

    def candidate(self, compressed: Artefact, checkpoint: Artefact) -> Candidate:
        """The service that may be published, of the form of this checkpoint; started once."""
        if self._candidate is None:
            begun = time.monotonic()
            # What its fine-tuning jobs begin from; they cannot read what is sealed.
            source = str(checkpoint.path()) if checkpoint.keys is None else None
            # vLLM and SGLang read the checkpoint itself; OpenVINO its own form of it.
            served = checkpoint if self.ready.engine else compressed
            settings = replace(self.settings(served, "fast"), **self.published_settings(), source=source)
            service = self._start("served", served.path(), settings)
            self._candidate = Candidate(service, time.monotonic() - begun, served.hash, served, settings)
        return self._candidate

    def settings(self, artefact: Artefact, mode: str) -> ServeSettings:
        planned = self.ready.fill.settings["serve"]
        return ServeSettings(
            name=self.ready.recipe.serve.served_model_name,
            engine=planned.get("engine", "openvino"),
            mode=mode,
            api_key=api_key(self.ready.recipe),
            threads=planned["threads"],
            max_model_len=planned["max_model_len"],
            max_num_seqs=planned["max_num_seqs"],
            max_num_batched_tokens=planned["max_num_batched_tokens"],
            cache_bytes=planned["cache_bytes"],
            fingerprint=artefact.hash,
            **trust_settings(self.ready.recipe),
        )

    def published_settings(self) -> dict[str, Any]:
        """Settings that the recipe gives to the published service alone; paths start at its folder."""
        recipe = self.ready.recipe
        serve = recipe.serve
        return {
            "aliases": serve.aliases,
            "clamp_max_tokens": serve.clamp_max_tokens,
            "embed_token_ids": serve.embed_token_ids,
            "embed_model": serve.embed_model,
            "embed_folder": str(self.served_folder(serve.embed_model)) if serve.embed_model else None,
            "replicas": serve.replicas,
            "scale": _scale_of(serve.scale),
            "speculative": serve.speculative,
            "draft": str(self.served_folder(serve.draft)) if serve.draft else None,
            "adapters": {name: str(recipe.root / folder) for name, folder in serve.adapters.items()},
            "route": str(recipe.root / serve.route) if serve.route else None,
            **accounts_settings(recipe),
            "allowed_host": serve.allowed_host,
            "cors_origin": serve.cors_origin,
            **tls_settings(recipe),
            **sealing_settings(recipe),
            "max_queue_s": serve.queue,
            "max_requests_at_once": serve.max_requests_at_once,
            "max_body_bytes": serve.max_body_bytes,
            "stored_bytes_per_key": serve.stored_bytes_per_key,
            "files_per_key": serve.files_per_key,
            "batches_per_key": serve.batches_per_key,
            "jobs_per_key": serve.jobs_per_key,
            "adapter_bytes": serve.adapter_bytes,
            "access_log": serve.access_log,
            "guard": serve.guard,
            "label": serve.label,
            "receipts": serve.receipts,
            "feedback_keep_s": recipe.refresh.keep_s if recipe.refresh else None,
            "refresh": self.refreshes(),
            "drain_s": serve.drain,
            "default_temperature": serve.temperature,
            **self.ready.engine,
            # None: as `serve --tune` measured on this machine, else as planned. No artefact depends on them.
            "threads": None,
            "max_num_batched_tokens": None,
        }

    def refreshes(self) -> dict[str, Any]:
        """When the service has itself refreshed, and by which command; {} where by hand alone.

        A key that was given on the command line is written nowhere, so such a service is refreshed by hand.
        """
        recipe = self.ready.recipe
        if recipe.refresh is None or recipe.refresh.every is None or self.ready.workdir.simulated:
            return {}
        if any("api_key" in one and "env:" not in one for one in recipe.settings):
            self.watch.log("refresh.by_hand", why="the service's key was given by --set")
            return {}
        words = [sys.executable, "-m", "steelyard", "refresh", str(recipe.path.absolute()), "--json"]
        words += ["--workdir", str(self.ready.workdir.folder)]
        more = [word for one in recipe.settings for word in ("--set", one)]
        return {"every": recipe.refresh.every, "command": [*words, *more]}

    def served_folder(self, name: str) -> Path:
        """The draft model, or the encoder, as its engine loads it."""
        order = call_order("run.calls:served_folder", name=name, root=str(self.ready.recipe.root))
        folder = Path(in_child(order, self.watch))
        self.cached.add(folder.name)
        return folder

    def reference(
        self, inputs: dict[str, Artefact]
    ) -> Callable[[str, list[tuple[list[int], list[int]]]], Any]:
        """The exact network's answers, computed in one child that keeps what it has loaded."""
        return lambda role, answers: self.references.ask(_model(role, inputs), answers)

    def deviation(self, inputs: dict[str, Artefact]) -> Callable[[str, list[Any]], Any]:
        """Along which directions a service deviates from the exact network, from the same child."""
        return lambda role, texts: self.references.deviation(_model(role, inputs), texts)

    def turn_to(self, ready: Ready) -> None:
        """Another form, or another model: the candidate so far is not the one that will be published."""
        if self._candidate:
            self._stop(self._candidate.service)
            self._candidate = None
        if ready.base.hash != self.ready.base.hash:
            self.references.close()
        self.ready = ready

    @property
    def url(self) -> str | None:
        """Of the candidate, where it has been started."""
        return self._candidate.service.url if self._candidate else None

    def publish(self, keep: bool, verdict: Artefact | None = None) -> dict[str, Any]:
        """Put the candidate in the place of the service that ran before; {"url", "pid"}.

        The older one serves until the new one listens too, on the same port where that is the same: a failure
        leaves it as it was. `verdict`: the gate's, which receipts name. Raises Lacking, Refused.
        """
        assert self._candidate is not None
        workdir = self.ready.workdir
        with publishing(workdir):
            old = find(workdir.service)
            end_canary(workdir, self.watch)
            canary = self.ready.recipe.serve.canary
            if keep and canary and old and old.fingerprint != self._candidate.hash:
                return self._beside(old, canary, verdict)
            with self._remembering(old, verdict) if keep else nullcontext():
                service = self._promote(
                    self._candidate.service, old, workdir.service, verdict.hash if verdict else None
                )
            self._published = keep
        self.watch.log("service.published", url=service.url, pid=service.pid)
        before = old.fingerprint if old else None
        written(self.watch, "service.promoted", artefact=self._candidate.hash, before=before)
        if old:
            old.stop(successor=True)
        return {"url": service.url, "pid": service.pid}

    def _beside(self, old: Service, canary: Canary, verdict: Artefact | None) -> dict[str, Any]:
        """The older service stands, and the candidate answers copies of its requests."""
        assert self._candidate is not None
        one = self._candidate
        new = self._promotion(verdict)
        begun = begin_canary(self.ready.workdir, self.ready.id, canary, one.service, old, new, self.watch)
        self._published = True
        return {"url": old.url, "pid": old.pid, "canary": begun}

    def _remembering(self, old: Service | None, verdict: Artefact | None) -> AbstractContextManager[None]:
        """What `rollback` starts it again by."""
        before = up_to(read_promotions(self.ready.workdir), old.fingerprint if old else None)
        return promoting(self.ready.workdir, before, pushed(before, self._promotion(verdict)))

    def _promotion(self, verdict: Artefact | None) -> Promotion:
        assert self._candidate is not None
        one, serve = self._candidate, self.ready.recipe.serve
        return promotion(
            one.settings.as_json(),
            hash=one.hash,
            folder=one.artefact.folder.name,
            host=serve.host,
            port=serve.port,
            verdict=verdict.hash if verdict else None,
            verdict_folder=verdict.folder.name if verdict else None,
            memory_bytes=int(one.service.load.get("rss_bytes", 0)) + (one.settings.cache_bytes or 0),
        )

    def _promote(self, candidate: Service, old: Service | None, place: Path, verdict: str | None) -> Service:
        serve = self.ready.recipe.serve
        try:
            return promote(candidate, serve.host, serve.port, place, after=old, verdict=verdict)
        except Lacking as problem:  # it was started by a version that shares its port with nobody
            sharing = on_port(old, serve.port)
            if problem.code != "serve.port_taken" or sharing is None or not sharing.alive():
                raise
            sharing.stop()
            return promote(candidate, serve.host, serve.port, place, verdict=verdict)

    def close(self) -> None:
        """End what is not the user's."""
        self.references.close()
        if self._candidate and not self._published:
            self._stop(self._candidate.service)


def _model(role: str, inputs: dict[str, Artefact]) -> Model:
    """Role "served": the tuned model with its matrices as they were rounded; "base_rounded": the base with
    what rounding changed in them. The base of a healed model is the pruned one that it began from."""
    base = inputs.get("pruned", inputs["base"])
    folder = (base if role.startswith("base") else inputs["checkpoint"]).path()
    if role in ("base", "tuned"):
        return Model(folder)
    return Model(
        folder, inputs["compressed"].path(), inputs["checkpoint"].path() if role == "base_rounded" else None
    )


def _scale_of(scale: Scale | None) -> dict[str, Any]:
    """As the settings of a service have it."""
    if scale is None:
        return {}
    return {"least": scale.min, "requests": scale.requests, "down_s": scale.down_after_s}


def api_key(recipe: Recipe) -> str | None:
    """The recipe's key; `env:NAME` names a variable of the environment.

    With a file of keys alone, of which only hashes are known, the run asks by a key of its own.
    """
    key = recipe.serve.api_key
    if key is None and recipe.serve.keys:
        return own_key()
    return os.environ.get(key[4:]) if key and key.startswith("env:") else key


@cache
def own_key() -> str:
    """Known to this process and its services only."""
    return secrets.token_urlsafe(24)
