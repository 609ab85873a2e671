"""The labels of generated content, where a recipe asks for them: `serve: {label: {producer: NAME}}`.

Each answer of a generating route says in a header for programs (`x-aigc`) who made it and which answer it
is, in the fields that China's standard GB 45438-2025 has for the metadata of files, and in `x-ai-generated:
yes` that it was generated. The visible words stand at the end of the text (turn/guarded.py). Not here:
watermarks in the choice of words, which others can neither read nor check.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
GENERATED, METADATA = b"x-ai-generated", b"x-aigc"


class Labels:
    """Around the routes."""

    def __init__(self, inner: ASGIApp, producer: str) -> None:
        self.inner, self.producer = inner, producer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generating = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING

        async def labelled(message: Message) -> None:
            if generating and message["type"] == "http.response.start" and message["status"] < 400:
                headers = [(GENERATED, b"yes"), (METADATA, metadata(self.producer).encode())]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.inner(scope, receive, labelled)


def metadata(producer: str) -> str:
    """One line of JSON in ASCII: generated for certain ("1"), by whom, under which number."""
    fields = {"Label": "1", "ContentProducer": producer, "ProduceID": secrets.token_hex(16)}
    return json.dumps({"AIGC": fields})


def around(inner: ASGIApp, api: Any) -> ASGIApp:
    """With labels, where the service is told to give them and is somebody's."""
    return Labels(inner, api.settings.label["producer"]) if api.settings.label else inner
