"""What the groups of routes share: the served model, its names, and what it can do."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, cast

from starlette.requests import Request

from ...asked import Route
from ...model import Tokenizer
from ..base.errors import ApiError
from ..base.guard import Caller
from ..engines import Capability
from ..host.encoders import EncoderService
from ..host.engine_process import EngineLost
from ..host.generation import Served
from ..host.settings import ServeSettings
from .defaults import SamplingDefaults

PATTERN = re.compile(r"[*?\[]")
BASE = "base"  # NAME:base is the model itself, where prompts are routed


def alias_of(name: str, aliases: Iterable[str]) -> bool:
    """Whether one of the aliases means this name."""
    return any(fnmatchcase(name, alias) for alias in aliases)


class Api:
    """One served model as its routes see it."""

    def __init__(
        self, served: Served, settings: ServeSettings, version: str, defaults: SamplingDefaults
    ) -> None:
        self.served, self.settings, self.version = served, settings, version
        self.defaults = defaults
        self.tokenizer = cast(Tokenizer, served.tokenizer)  # of joined servers: what stands in for one
        self.created = int(time.time())
        self.fingerprint = settings.fingerprint
        self.receipts: Any = None  # those given: set by api/receipts.py
        self._serial = itertools.count(1)
        self._run = uuid.uuid4().hex[:12]

    @property
    def capability(self) -> Capability:
        return self.served.capability

    def caller(
        self, request: Request, tier: str | None = None, priority: int | None = None,
        timeout_s: float | None = None,
    ) -> Caller:  # fmt: skip
        """Who asks, as the guard found, and how urgently, as the body says."""
        known_caller = request.scope.get("state", {}).get("caller") or Caller()
        return known_caller.asking(tier=tier, priority=priority, timeout_s=timeout_s)

    # ------------------------------------------------------------------ names

    def cards(self, caller: Caller) -> list[dict[str, Any]]:
        """The model, then each adapter that the caller may use as `NAME:ADAPTER`."""
        own = self.settings.name
        if self.served.joined is not None:
            return [self._card(own), *(self._card(name) for name in self.served.adapters if name != own)]
        usable = [name for name in self.served.adapters if self.served.may_use(name, caller)]
        usable += [BASE] if self.served.router is not None and BASE not in usable else []
        listed = [self._card(own), *(self._card(f"{own}:{name}", own) for name in usable)]
        listed += [self._card(alias, own) for alias in self.settings.aliases if not PATTERN.search(alias)]
        encoder = self._beside()
        return listed + ([self._encoder_card(encoder)] if encoder else [])

    def card(self, name: str, caller: Caller) -> dict[str, Any]:
        """Raises ApiError 404."""
        if (encoder := self._beside()) and name == encoder.name:
            return self._encoder_card(encoder)
        self.check_model(name, caller)
        adapter = self.adapter_of(name)
        own = self.settings.name
        if adapter is None:
            return self._card(name, own) if self.is_alias(name) else self._card(own)
        if self.served.joined is not None:
            return self._card(adapter)
        return self._card(f"{own}:{adapter}", own)

    def _card(self, name: str, parent: str | None = None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "steelyard",
            "root": self.settings.name,
            "parent": parent,
            "max_model_len": self._context(name),
            "default_temperature": self.defaults.temperature,
        }

    def _context(self, name: str) -> int:
        if self.served.joined is not None:
            return self.served.joined.context_of(name)
        return self.served.max_model_len

    def _beside(self) -> EncoderService | None:
        """The encoder that stands beside the model under a name of its own."""
        encoder = self.served.encoder
        return encoder if encoder is not None and encoder.name != self.settings.name else None

    def _encoder_card(self, encoder: EncoderService) -> dict[str, Any]:
        own = {"id": encoder.name, "root": encoder.name, "max_model_len": encoder.about.max_tokens}
        return self._card(encoder.name) | own

    def adapter_of(self, name: str) -> str | None:
        """The adapter that a model's name asks for. Raises ApiError 404 for a name unknown here."""
        own = self.settings.name
        if name in ("default", own):
            return None
        base, _, adapter = name.rpartition(":")
        if (base in ("default", own) or self.is_alias(base)) and adapter in self.served.adapters:
            return adapter
        if name in self.served.adapters:
            return name
        if self.is_alias(name) or (self.served.router is not None and self._is_base(name)):
            return None
        raise self._no_model(name, Caller(scopes=frozenset()))

    def adapter_for(self, name: str, asked: str) -> tuple[str | None, Route | None]:
        """The adapter of a name, or where the name leaves it open and prompts are routed, the prompt's."""
        adapter = self.adapter_of(name)
        if adapter is not None or self.served.router is None or self._is_base(name):
            return adapter, None
        began = time.perf_counter()
        route = self.served.router.route(asked)
        adapter = route.ability if route.ability in self.served.adapters else None
        self.served.measures.routed(adapter or BASE, time.perf_counter() - began)
        return adapter, route

    def _is_base(self, name: str) -> bool:
        """Whether the name asks for the model itself, and no prompt chooses."""
        base, _, adapter = name.rpartition(":")
        own = base in ("default", self.settings.name) or self.is_alias(base)
        return own and adapter == BASE and adapter not in self.served.adapters

    def check_model(self, name: str, caller: Caller) -> None:
        """Raises ApiError 404, for another key's adapter too."""
        adapter = self.adapter_of(name)
        if adapter is not None and not self.served.may_use(adapter, caller):
            raise self._no_model(name, caller)

    def _no_model(self, name: str, caller: Caller) -> ApiError:
        names = ", ".join(repr(card["id"]) for card in self.cards(caller))
        return ApiError(404, f"there is no model {name!r}; here is {names}", "model", "model_not_found")

    def is_alias(self, name: str) -> bool:
        return alias_of(name, self.settings.aliases)

    # ------------------------------------------------------------------ checks

    def check_ids(self, ids: list[int], param: str = "prompt") -> None:
        if ids and not (min(ids) >= 0 and max(ids) < self.tokenizer.vocab_size):
            raise ApiError(400, f"token ids run from 0 to {self.tokenizer.vocab_size - 1}", param=param)

    def check_counted_here(self) -> None:
        """Raises ApiError 400 where the model's tokenizer is not here."""
        if self.served.joined is not None:
            raise ApiError(
                400, "tokens are counted by the joined servers alone; an answer's usage tells them",
                code="unsupported_parameter",
            )  # fmt: skip

    def check_ready(self) -> None:
        """Raises EngineLost where no engine will come back; while one starts again, answers wait for it."""
        if self.served.engine.state == "closed":
            raise EngineLost(f"the engine is {self.served.engine.state}")

    # ------------------------------------------------------------------ answers

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{self._run}{next(self._serial):x}"

    def envelope(self, kind: str, prefix: str) -> dict[str, Any]:
        return {
            "id": self.new_id(prefix),
            "object": kind,
            "created": int(time.time()),
            "model": self.settings.name,
            "system_fingerprint": self.fingerprint,
        }
