"""A key broker for attested software alone, and its client: the protocol of Trustee's KBS, version 0.4.0.

It is kbs/docs/kbs_attestation_protocol.md of confidential-containers/trustee. Which parts of it are here, and
where this broker is stricter: docs/why/key-broker.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .client import Quoting, get_key
    from .keys import ALGORITHMS, TeeKey
    from .kmac import kmac256
    from .release import Broker, Settings
    from .server import broker_app, run_broker

FILES = {
    "ALGORITHMS": "keys",
    "Broker": "release",
    "Quoting": "client",
    "Settings": "release",
    "TeeKey": "keys",
    "broker_app": "server",
    "get_key": "client",
    "kmac256": "kmac",
    "run_broker": "server",
}

__all__ = [
    "ALGORITHMS", "Broker", "Quoting", "Settings", "TeeKey", "broker_app", "get_key", "kmac256", "run_broker",
]  # fmt: skip

__getattr__ = fetching(__name__, FILES)
