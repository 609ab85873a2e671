"""Serve a model: engines, the OpenAI API, its processes and their supervision.

Importing this door loads nothing heavy: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .base.keys import new_key, read_keys
    from .engines import CAPABILITIES, ENGINES, Engine, EngineSettings, GenRequest
    from .engines.lora import check_alike
    from .host.engine_choice import check_engine
    from .host.folders import prepare
    from .host.probes import probe
    from .host.settings import ServeSettings, accounts_of, check_draft, check_host, engine_settings, router_of
    from .host.tuned import tune
    from .jobs.feedback import ratings_stored
    from .jobs.holdings import drop_stored, stored_rows
    from .proxying.foreground import proxy
    from .proxying.upstream import Accepts
    from .rolling.canary import read_tally
    from .service.client import chat
    from .service.foreground import check_door, named, serve
    from .service.sealing import check_attest
    from .service.starter import Service, check_port, end_process, find, promote, shadow, start
    from .service.state import bury, died, services
    from .service.tls import tls_context
    from .service.unit import unit_of
    from .turn.answer_guard import guard_words

FILES = {
    "CAPABILITIES": "engines",
    "ENGINES": "engines",
    "Engine": "engines",
    "EngineSettings": "engines",
    "ServeSettings": "host.settings",
    "Service": "service.starter",
    "GenRequest": "engines",
    "accounts_of": "host.settings",
    "bury": "service.state",
    "chat": "service.client",
    "check_alike": "engines.lora",
    "check_attest": "service.sealing",
    "router_of": "host.settings",
    "check_door": "service.foreground",
    "check_draft": "host.settings",
    "check_engine": "host.engine_choice",
    "engine_version": "engines.launched.interpreter",
    "check_host": "host.settings",
    "check_port": "service.starter",
    "died": "service.state",
    "drop_stored": "jobs.holdings",
    "ratings_stored": "jobs.feedback",
    "stored_rows": "jobs.holdings",
    "end_process": "service.starter",
    "engine_settings": "host.settings",
    "guard_words": "turn.answer_guard",
    "find": "service.starter",
    "named": "service.foreground",
    "new_key": "base.keys",
    "prepare": "host.folders",
    "read_keys": "base.keys",
    "probe": "host.probes",
    "read_tally": "rolling.canary",
    "services": "service.state",
    "shadow": "service.starter",
    "promote": "service.starter",
    "proxy": "proxying.foreground",
    "Accepts": "proxying.upstream",
    "serve": "service.foreground",
    "start": "service.starter",
    "tls_context": "service.tls",
    "tune": "host.tuned",
    "unit_of": "service.unit",
}

__all__ = [
    "CAPABILITIES",
    "ENGINES",
    "Accepts",
    "Engine",
    "EngineSettings",
    "GenRequest",
    "ServeSettings",
    "Service",
    "accounts_of",
    "bury",
    "chat",
    "check_alike",
    "check_attest",
    "check_door",
    "check_draft",
    "check_engine",
    "check_host",
    "check_port",
    "died",
    "drop_stored",
    "end_process",
    "engine_settings",
    "engine_version",
    "find",
    "guard_words",
    "named",
    "new_key",
    "prepare",
    "probe",
    "promote",
    "proxy",
    "ratings_stored",
    "read_keys",
    "read_tally",
    "router_of",
    "serve",
    "services",
    "shadow",
    "start",
    "stored_rows",
    "tls_context",
    "tune",
    "unit_of",
]

__getattr__ = fetching(__name__, FILES)
