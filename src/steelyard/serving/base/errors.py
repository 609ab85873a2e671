"""Errors in OpenAI's shape: {"error": {message, type, param, code}}; under /v1/messages in Anthropic's."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import Response

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable",
}
ANTHROPIC = "/v1/messages"  # these routes speak Anthropic's dialect
ANTHROPIC_KINDS = {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}


class ApiError(Exception):
    """What a client did wrong, or what is not there for it just now.

    `retry_after_s`: when asking again makes sense; `headers`: further ones of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = 2.0 if retry_after is None and status == 503 else retry_after
        self.headers = headers or {}

    def document(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def kind(self) -> str:
        return KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def anthropic(self) -> dict[str, Any]:
        """The same in the shape of Anthropic's API."""
        has_kind = self.status in KINDS or self.status < 500
        kind = ANTHROPIC_KINDS.get(self.status, self.kind if has_kind else "api_error")
        where = f"{self.param}: " if self.param and not self.message.startswith(self.param) else ""
        return {"type": "error", "error": {"type": kind, "message": where + self.message}}

    def response(self, path: str = "") -> Response:
        """`path`: of the request, for the shape that its clients read."""
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        document = self.anthropic() if path.startswith(ANTHROPIC) else self.document()
        return json_response(document, self.status, headers)


def refusal(status: int, message: str, code: str) -> tuple[str, bytes]:
    """What a connection is told before there is a request: kind of body, body (`connections.Words`)."""
    return "application/json", orjson.dumps(ApiError(status, message, code=code).document())


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
