"""Tuning over the API: jobs as OpenAI's clients send them, each a run of its own."""

from .job import BODIES, remove_folder
from .records import CHECKPOINTS, EVENTS, KIND
from .routes import Tuning

__all__ = ["BODIES", "CHECKPOINTS", "EVENTS", "KIND", "Tuning", "remove_folder"]
