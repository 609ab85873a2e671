"""A recipe's whole path: plan it, walk its steps, find it again, end it.

Importing this door loads nothing heavy: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .acceptance import accept
    from .erasing.erase import erase
    from .erasing.order import begun_orders, order_of
    from .erasing.processing import processing_record
    from .erasing.tracing import trace
    from .garbage import collect
    from .known import logs, service_sockets, status, stop
    from .leaving.approving import approve
    from .leaving.bundling.bundle import BundleOrder, Sizes, bundle, check_bundle
    from .leaving.compared import verify_receipt
    from .leaving.export import MAY_LOSE, Exported, Order, export_model
    from .leaving.facts import model_facts
    from .leaving.receipt import write_receipt
    from .leaving.source import named_model
    from .path.pictures import decode_pictures
    from .planning.exporting import export_plan
    from .planning.prepare import ledger
    from .planning.ready import Ready
    from .planning.sizing import check_model
    from .planning.sources import check_data, data_settings
    from .planning.weighing import Weighed, settle, weigh, weigh_job
    from .recipients import Rewrapped, rewrap_run
    from .record.approval import unapproved
    from .record.outcome import Outcome, StepRecord
    from .rolling.canary import canary
    from .rolling.refresh import refresh, refreshed
    from .rolling.rollback import rollback
    from .service.protection import Hop, explain, refusal
    from .start import plan, rehearsed, up
    from .usual import usual_systems

FILES = {
    "accept": "acceptance",
    "approve": "leaving.approving",
    "Outcome": "record.outcome",
    "Ready": "planning.ready",
    "StepRecord": "record.outcome",
    **dict.fromkeys(("BundleOrder", "Sizes", "bundle", "check_bundle"), "leaving.bundling.bundle"),
    "canary": "rolling.canary",
    "collect": "garbage",
    "erase": "erasing.erase",
    **dict.fromkeys(("begun_orders", "order_of"), "erasing.order"),
    "processing_record": "erasing.processing",
    "trace": "erasing.tracing",
    "check_data": "planning.sources",
    "data_settings": "planning.sources",
    "check_model": "planning.sizing",
    **dict.fromkeys(("MAY_LOSE", "Exported", "Order", "export_model"), "leaving.export"),
    "model_facts": "leaving.facts",
    "named_model": "leaving.source",
    "verify_receipt": "leaving.compared",
    "write_receipt": "leaving.receipt",
    "export_plan": "planning.exporting",
    "ledger": "planning.prepare",
    "logs": "known",
    "decode_pictures": "path.pictures",
    "plan": "start",
    **dict.fromkeys(("refresh", "refreshed"), "rolling.refresh"),
    "rollback": "rolling.rollback",
    **dict.fromkeys(("Hop", "explain", "refusal"), "service.protection"),
    "rehearsed": "start",
    **dict.fromkeys(("Rewrapped", "rewrap_run"), "recipients"),
    "service_sockets": "known",
    "status": "known",
    "settle": "planning.weighing",
    "stop": "known",
    "unapproved": "record.approval",
    "up": "start",
    "usual_systems": "usual",
    "Weighed": "planning.weighing",
    "weigh": "planning.weighing",
    "weigh_job": "planning.weighing",
}

__all__ = [
    "MAY_LOSE",
    "BundleOrder",
    "Exported",
    "Hop",
    "Order",
    "Outcome",
    "Ready",
    "Rewrapped",
    "Sizes",
    "StepRecord",
    "Weighed",
    "accept",
    "approve",
    "begun_orders",
    "bundle",
    "canary",
    "check_bundle",
    "check_data",
    "check_model",
    "collect",
    "data_settings",
    "decode_pictures",
    "erase",
    "explain",
    "export_model",
    "export_plan",
    "ledger",
    "logs",
    "model_facts",
    "named_model",
    "order_of",
    "plan",
    "processing_record",
    "refresh",
    "refreshed",
    "refusal",
    "rehearsed",
    "rewrap_run",
    "rollback",
    "service_sockets",
    "settle",
    "status",
    "stop",
    "trace",
    "unapproved",
    "up",
    "usual_systems",
    "verify_receipt",
    "weigh",
    "weigh_job",
    "write_receipt",
]

__getattr__ = fetching(__name__, FILES)
