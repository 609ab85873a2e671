"""Bodies of OpenAI's requests: checked once by pydantic, then a plain `Job`.

A known field that no engine here can honour is a 400 that says so; an unknown one is named in a header.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .api_error import ApiError


class Part(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: str
    text: str | None = None


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class Sampling(BaseModel):
    """What both generating routes take. OpenAI's ranges; `ignore_eos` and `top_k` are vLLM's."""

    model_config = ConfigDict(extra="allow")
    model: str = "default"
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=16)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None


class ChatBody(Sampling):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class CompletionBody(Sampling):
    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


def _asked(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value not in (None, False, "", [], {}, *neutral)


# Known fields that ask for what the engine cannot do, each with the values that ask for nothing.
UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "tools": _asked(),
    "tool_choice": _asked("none", "auto"),
    "functions": _asked(),
    "function_call": _asked("none", "auto"),
    "response_format": _asked({"type": "text"}),
    "logit_bias": _asked(),
    "reasoning_effort": _asked("none"),
    "modalities": _asked(["text"]),
    "audio": _asked(),
    "prediction": _asked(),
    "web_search_options": _asked(),
    "store": _asked(),
    "suffix": _asked(),
    "best_of": _asked(1),
    "use_beam_search": _asked(),
    "min_tokens": _asked(0),
    "prompt_logprobs": _asked(),
    "guided_json": _asked(),
    "guided_regex": _asked(),
    "guided_choice": _asked(),
    "guided_grammar": _asked(),
    "structured_outputs": _asked(),
    "service_tier": _asked("auto", "default"),
}
# These ask nothing of an engine.
HARMLESS = {"user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "verbosity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to generate, in the server's own words. `top` None: no log-probabilities wanted."""

    sampling: dict[str, Any]  # GenRequest's fields less ids, max_tokens and seed
    seed: int
    n: int
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    top: int | None
    token_ids: bool


def parse(kind: type[BaseModel], data: bytes) -> Any:
    """Raises ApiError 400 naming the first wrong field."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise ApiError(400, f"{field or 'body'}: {first['msg']}", param=field) from None


def ignored(body: BaseModel) -> list[str]:
    """Names of unknown fields. Raises ApiError 400 for a known one that cannot be honoured."""
    extra = body.model_extra or {}
    for field, asks in UNSUPPORTED.items():
        if field in extra and asks(extra[field]):
            raise ApiError(
                400, f"this engine does not support {field}", param=field, code="unsupported_parameter"
            )
    unknown = (name for name in extra if name not in UNSUPPORTED and name not in HARMLESS)
    return sorted(name for name in unknown if name.isascii() and name.isidentifier())  # fit for a header


def job(body: Sampling, top: int | None, eos_ids: tuple[int, ...]) -> Job:
    """Raises ApiError for combinations that have no answer."""
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if body.stream and top:
        raise ApiError(400, "the likeliest tokens are not available in a stream; leave `stream` out",
                       param="top_logprobs", code="unsupported_parameter")  # fmt: skip
    temperature = 1.0 if body.temperature is None else body.temperature
    return Job(
        sampling={
            # Below this the engine's soft-max overflows; the likeliest token is what was meant.
            "temperature": temperature if temperature >= 1e-3 else 0.0,
            "top_p": body.top_p or 1.0,
            "top_k": max(body.top_k or 0, 0),
            "min_p": body.min_p or 0.0,
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
            "repetition_penalty": body.repetition_penalty or 1.0,
            "stop_ids": tuple(sorted({*(() if body.ignore_eos else eos_ids), *(body.stop_token_ids or ())})),
            "logprobs": top is not None,
        },
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed % 2**31,
        n=body.n or 1,
        stops=tuple(s for s in stops if s),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        top=top,
        token_ids=bool(body.return_token_ids),
    )


def plain_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as the template takes them: text parts joined by a line end, developer as system."""
    return [_plain(message) for message in messages]


def _plain(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, list):
        if other := next((part.type for part in content if part.type != "text"), None):
            raise ApiError(400, f"content parts of type {other} are not supported", param="messages")
        content = "\n".join(part.text or "" for part in content)
    if content is None and role != "assistant":
        raise ApiError(400, f"a {role} message needs content", param="messages")
    return {"role": role, "content": content or "", **(message.model_extra or {})}
