"""OpenAI servers that already run, in the place of engines of our own: asked in text, not in ids."""

from .fleet import Fleet, usage_of
from .keys import check_urls, read_server_keys
from .texts import FRAME_END, FRAME_START, FRAMED, Texts

__all__ = [
    "FRAMED",
    "FRAME_END",
    "FRAME_START",
    "Fleet",
    "Texts",
    "check_urls",
    "read_server_keys",
    "usage_of",
]
