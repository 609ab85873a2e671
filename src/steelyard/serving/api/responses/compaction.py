"""A conversation in short: what /v1/responses/compact asks the model, and the item that it answers with.

Nothing is encrypted: the summary stands in `encrypted_content` in plain words. Whoever holds the item holds
the conversation anyway, and a summary outlives the service and its keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .bodies import CompactBody, ResponsesBody

SUMMARY_TOKENS = 1024  # at most; fewer where the conversation leaves less room
TO_SUMMARISE = {
    "id": "msg_summarise", "type": "message", "role": "user", "content": [{
        "type": "input_text",
        "text": "Summarise our conversation so far for someone who goes on with it and sees nothing else: "
        "what is wanted, what was decided and done, facts and names, what is left to do. Only the summary.",
    }],
}  # fmt: skip


def summary_of(body: CompactBody) -> ResponsesBody:
    """The response that makes the summary: of all of it, or a 400. It is not stored."""
    return ResponsesBody.model_validate({
        "model": body.model, "input": body.input, "instructions": body.instructions,
        "previous_response_id": body.previous_response_id, "store": False, "temperature": 0.0,
        "max_output_tokens": -1,
    })  # fmt: skip


def compacted(response: dict[str, Any], new_id: Callable[[str], str]) -> dict[str, Any]:
    """The answer, of the response with the summary."""
    texts = [
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    ]
    item = {"id": new_id("cmp_"), "type": "compaction", "encrypted_content": "".join(texts)}
    return {
        "id": response["id"], "object": "response.compaction", "created_at": response["created_at"],
        "output": [item], "usage": response["usage"],
    }  # fmt: skip
