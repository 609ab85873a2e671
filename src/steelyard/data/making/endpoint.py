"""A server of the OpenAI API that is asked for rows: one chat a passage, again where it is busy."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...errors import Lacking, Where, WrongUse

TIMEOUT_S = 600.0  # an answer behind a full queue of a small machine
TRIES = 4
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
WAIT_MAX_S = 60.0
VERSIONED = re.compile(r"/v\d+$")


@dataclass(frozen=True, slots=True)
class Reply:
    """`text` None: the server refused this one, `why` says with which words."""

    text: str | None
    why: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Endpoint:
    """`url` with or without `/v1`. Safe for threads; `close` it."""

    url: str
    model: str | None = None
    key: str | None = None
    with_format: bool = True  # turned off once the server has refused a form of the answer
    client: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        self.client = httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=not local)
        self.model = self.model or self.first_model()

    @property
    def base(self) -> str:
        url = self.url.rstrip("/").removesuffix("/chat/completions")
        return url if VERSIONED.search(url) else f"{url}/v1"

    def close(self) -> None:
        self.client.close()

    def first_model(self) -> str:
        """The first that the server lists. Raises Lacking."""
        reply = self.sent("GET", "/models", None)
        try:
            return str(reply.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            return "default"

    def ask(self, messages: Sequence[Mapping[str, str]], format: Mapping[str, Any], max_tokens: int) -> Reply:
        """Greedy, with a seed: the same again where the server is exact. Raises Lacking, WrongUse."""
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": 0,
        }
        formed = self.with_format
        reply = self.sent("POST", "/chat/completions", body | ({"response_format": format} if formed else {}))
        if formed and reply.status_code in (400, 404, 422, 501):
            plain = self.sent("POST", "/chat/completions", body)
            self.with_format = self.with_format and plain.status_code != 200
            reply = plain if plain.status_code == 200 else reply
        return self.read(reply)

    def sent(self, method: str, path: str, body: Any) -> Any:
        """The server's reply, after waits where it is busy. Raises Lacking, WrongUse."""
        import httpx

        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                reply = self.client.request(method, self.base + path, json=body)
            except httpx.HTTPError as e:
                if last or isinstance(e, httpx.UnsupportedProtocol | httpx.ReadTimeout):
                    raise no_endpoint(self.base, e) from e
                time.sleep(0.2 * 2**attempt)
                continue
            if reply.status_code not in AGAIN or last:
                break
            time.sleep(waited(reply.headers.get("retry-after"), attempt))
        if reply.status_code in (401, 403):
            raise key_refused(self.base, reply.status_code)
        return reply

    def read(self, reply: Any) -> Reply:
        try:
            body = reply.json()
        except ValueError:
            body = {}
        if reply.status_code != 200:
            return self.refused(reply.status_code, body)
        try:
            text = body["choices"][0]["message"]["content"] or ""
        except (LookupError, TypeError):
            return Reply(None, "the reply has no message")
        usage = body.get("usage") or {}
        return Reply(text, "", usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)

    def refused(self, status: int, body: Any) -> Reply:
        """Raises WrongUse where the address or the model is not there: no other passage fares better."""
        error = body.get("error") if isinstance(body, dict) else None
        said = error.get("message") if isinstance(error, dict) else None
        why = f"HTTP {status}" + (f": {str(said)[:200]}" if said else "")
        if status in (404, 405):
            raise WrongUse(
                "data.no_model", f"{self.base} has no model {self.model!r} that chats",
                where=Where(field="--model"), why=why, hint=f"see {self.base}/models, then give --model NAME",
            )  # fmt: skip
        return Reply(None, why)


def waited(after: str | None, attempt: int) -> float:
    """What the server asks for, within reason."""
    try:
        return min(float(after or ""), WAIT_MAX_S)
    except ValueError:
        return 0.5 * 2**attempt


def no_endpoint(url: str, cause: Exception) -> Lacking:
    return Lacking(
        "data.no_endpoint", f"nothing answers at {url}", where=Where(field="--ask"),
        why=str(cause) or type(cause).__name__,
        hint="start the server or mend the address, then run the same command again: answers are kept",
    )  # fmt: skip


def key_refused(url: str, status: int) -> Lacking:
    return Lacking(
        "data.key_refused", f"{url} refuses the key", where=Where(field="--key-env"), why=f"HTTP {status}",
        hint="set OPENAI_API_KEY, or name the variable that holds the key: --key-env NAME",
    )  # fmt: skip
