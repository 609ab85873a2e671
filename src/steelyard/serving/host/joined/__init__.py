"""OpenAI servers that already run, in the place of engines of our own: asked in text, not in ids."""

from .fleet import Fleet
from .keys import check_urls, read_server_keys
from .replies import CONTEXT, usage_of
from .texts import BYTES, FRAME_END, FRAME_START, FRAMED, Texts

__all__ = [
    "BYTES",
    "CONTEXT",
    "FRAMED",
    "FRAME_END",
    "FRAME_START",
    "Fleet",
    "Texts",
    "check_urls",
    "read_server_keys",
    "usage_of",
]
