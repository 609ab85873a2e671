"""What one body may hold, looked at before it is parsed: no object is made of what is too much.

Not here: how many bytes (transport.py), what its fields mean (the bodies of the routes).
"""

from __future__ import annotations

import re
from itertools import accumulate

from .errors import ApiError

BODY_BYTES = 4 * 2**20  # a prompt of 8,192 tokens is 40 kB; files travel by their own route
DEPTH = 64  # of objects and lists within each other; orjson writes 254, templates recurse in Python
CONTAINERS = 20_000  # objects and lists: checking one takes 3 us, with the interpreter's lock held
STRINGS = 50_000  # names of fields too
ITEMS = 320_000  # commas: one request to an encoder has 300,000 token ids
STOPS, STOP_CHARACTERS = 16, 1_000  # each is looked for in every piece of an answer
STOP_IDS = 1_024
PROMPTS = 2_048  # OpenAI's limit of one request; answers (`n` for each prompt) count
MESSAGES = 4_096
CHARACTERS_PER_TOKEN = 8  # 4.5 in English, 1 to 2 in Chinese; beyond, a prompt is refused uncounted
CHARACTERS = 65_536  # always counted in tokens: 30 ms

STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # linear: an open one runs to the end
LONG_INTEGER = re.compile(rb"(?<![\d.eE+-])-?\d{19,}(?![\d.eE])")
LONG_DIGITS = re.compile(rb"\d{19}")
STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
OTHERS = bytes(set(range(256)) - set(STEP))


def check_json(data: bytes, param: str | None = None) -> None:
    """Raises ApiError 400 where a JSON text is too deep, has too many values, or an integer over 64 bits."""
    opens = data.count(b"[") + data.count(b"{")
    if data.count(b'"') - data.count(b'\\"') > 2 * STRINGS:
        raise _too_many("strings", STRINGS, param)
    if opens <= DEPTH and data.count(b",") <= ITEMS and not LONG_DIGITS.search(data):
        return
    bare = STRING.sub(b'""', data) if b'"' in data else data
    _check_counts(bare, param)
    if any(map(_is_too_long, LONG_INTEGER.findall(bare))):
        raise ApiError(400, "an integer has more than 64 bits", param=param, code="integer_too_large")


def _is_too_long(digits: bytes) -> bool:
    return len(digits.lstrip(b"-")) > 20 or not -(2**63) <= int(digits) < 2**64


def _check_counts(bare: bytes, param: str | None) -> None:
    """Of a text without its strings."""
    if bare.count(b",") > ITEMS:
        raise _too_many("values", ITEMS, param)
    if bare.count(b"[") + bare.count(b"{") > CONTAINERS:
        raise _too_many("lists and objects", CONTAINERS, param)
    depths = accumulate(STEP[bracket] for bracket in bare.translate(None, OTHERS))
    if max(depths, default=0) > DEPTH:
        raise ApiError(
            400, f"lists and objects stand in each other at most {DEPTH} deep", param=param, code="too_deep"
        )


def check_json_text(text: str, param: str) -> None:
    """The same of JSON that stands in a string, such as the arguments of a call."""
    check_json(text.encode("utf-8", "surrogatepass"), param)


def check_stops(stops: tuple[str, ...], param: str = "stop") -> None:
    """Raises ApiError 400."""
    if len(stops) > STOPS or any(len(stop) > STOP_CHARACTERS for stop in stops):
        message = f"{param} takes at most {STOPS} texts of at most {STOP_CHARACTERS:,} characters"
        raise ApiError(400, message, param=param)


def check_characters(characters: int, context: int, param: str) -> None:
    """Raises ApiError 400 for a text that is too long to be counted in tokens, let alone to be read."""
    most = max(CHARACTERS, CHARACTERS_PER_TOKEN * context)
    if characters > most:
        raise ApiError(
            400,
            f"This model's maximum context length is {context} tokens. However, your {param} has "
            f"{characters:,} characters; more than {most:,} are not counted in tokens.",
            param=param,
            code="context_length_exceeded",
        )


def characters_of(value: object) -> int:
    """Of all texts in plain data, names of fields too."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + characters_of(item) for key, item in value.items())
    return sum(map(characters_of, value)) if isinstance(value, list | tuple) else 0


def _too_many(what: str, most: int, param: str | None) -> ApiError:
    return ApiError(400, f"a body has at most {most:,} {what}", param=param, code="too_many_values")
