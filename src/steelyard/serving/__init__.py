"""Serve a model: engines, the OpenAI API, its processes and their supervision.

Importing this door loads nothing heavy: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .client import chat
    from .engines import CAPABILITIES, ENGINES, Engine, EngineSettings, GenRequest
    from .folders import prepare
    from .foreground import serve
    from .keys import new_key
    from .probes import probe
    from .service import Service, check_port, find, promote, start
    from .settings import ServeSettings, check_draft, check_host, engine_settings
    from .state import services
    from .tuned import tune

FILES = {
    "CAPABILITIES": "engines",
    "ENGINES": "engines",
    "Engine": "engines",
    "EngineSettings": "engines",
    "ServeSettings": "settings",
    "Service": "service",
    "GenRequest": "engines",
    "chat": "client",
    "check_draft": "settings",
    "check_host": "settings",
    "check_port": "service",
    "engine_settings": "settings",
    "find": "service",
    "new_key": "keys",
    "prepare": "folders",
    "probe": "probes",
    "services": "state",
    "promote": "service",
    "serve": "foreground",
    "start": "service",
    "tune": "tuned",
}

__all__ = [
    "CAPABILITIES",
    "ENGINES",
    "Engine",
    "EngineSettings",
    "GenRequest",
    "ServeSettings",
    "Service",
    "chat",
    "check_draft",
    "check_host",
    "check_port",
    "engine_settings",
    "find",
    "new_key",
    "prepare",
    "probe",
    "promote",
    "serve",
    "services",
    "start",
    "tune",
]

__getattr__ = fetching(__name__, FILES)
