"""A thin client for `steelyard chat`: text of an answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from ...errors import Lacking, WrongUse
from ...lines import each_line
from ...trust import trusting


def chat(
    url: str,
    messages: Sequence[dict[str, Any]],
    *,
    api_key: str | None = None,
    model: str = "default",
    timeout_s: float = 120.0,
    **sampling: Any,
) -> Iterator[str]:
    """Pieces of the answer. `sampling`: temperature, max_tokens, ... as in the API.

    Raises Lacking where nothing answers at `url`, WrongUse where the service refuses the request.
    """
    import httpx

    body = {"model": model, "messages": list(messages), "stream": True, **sampling}
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    address = url.rstrip("/") + "/v1/chat/completions"
    try:
        trusted = trusting(url)
        with httpx.stream(
            "POST", address, json=body, headers=headers, timeout=timeout_s, verify=trusted
        ) as response:
            if response.status_code != 200:
                raise _refusal(response.status_code, response.read())
            yield from _pieces(each_line(response.iter_bytes()))
    except httpx.HTTPError as e:
        raise Lacking(
            "chat.no_answer",
            f"nothing answers at {url}",
            why=str(e) or type(e).__name__,
            hint="steelyard status tells which services run; SSL_CERT_FILE=cert.pem trusts a certificate",
        ) from e


def _pieces(lines: Iterator[bytes]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        event = orjson.loads(line[5:])
        if "error" in event:
            raise Lacking("chat.broken_off", event["error"]["message"], hint="ask again")
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield text


def _refusal(status: int, data: bytes) -> Exception:
    try:
        message = orjson.loads(data)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = f"HTTP {status}"
    if status in (429, 503):
        return Lacking("chat.unavailable", message, hint="wait a moment, then ask again")
    hint = "give --api-key KEY, or set STEELYARD_API_KEY" if status == 401 else "see the message"
    return WrongUse("chat.refused", message, hint=hint)
