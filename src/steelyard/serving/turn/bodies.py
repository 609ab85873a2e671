"""Bodies of OpenAI's requests: checked once by pydantic, then a plain `Job`.

A known field that the engine cannot honour is a 400 that says so; an unknown one is named in a header.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.requests import Request

from ..base.errors import ApiError
from ..base.guard import TIERS
from ..base.limits import MESSAGES, STOP_IDS, check_json, check_json_text, check_stops
from ..base.transport import body_of
from ..base.work import off_loop
from ..host.job import Constraint, Job
from .api import BASE, Api
from .defaults import NEUTRAL

# Foreign JSON is taken as it is: "1" is no number, and there is no infinity.
OPEN = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


SMALL_BYTES = 64 * 1024  # a body that is parsed on the spot: 1 ms
IGNORED = "x-steelyard-ignored"  # header with the names of what was asked and has no effect
ROUTED, SURELY = "x-steelyard-adapter", "x-steelyard-route-probability"  # headers of a routed answer


class FirstFault(FailFast):
    """The first wrong item of a list decides: 300,000 faults of one list would take a second to tell."""

    __hash__ = object.__hash__  # a union wants it


FIRST_FAULT = FirstFault()
Ids = Annotated[list[int], FIRST_FAULT]
Texts = Annotated[list[str], FIRST_FAULT]


class Part(BaseModel):
    """One part of a message's content; only text is understood, that of a refusal too."""

    model_config = OPEN
    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(BaseModel):
    model_config = OPEN
    name: str
    arguments: str | None = Field(None, description="JSON of an object")


class ToolCall(BaseModel):
    model_config = OPEN
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message of a chat. Further fields go to the template as they are."""

    model_config = OPEN
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], FIRST_FAULT] | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MESSAGES)
    tool_call_id: str | None = None
    refusal: str | None = None


class StreamOptions(BaseModel):
    model_config = OPEN
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class JsonSchema(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = OPEN
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's: exactly one of these."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Sampling(BaseModel):
    """What both generating routes take. OpenAI's ranges; the fields OpenAI does not have are vLLM's."""

    model_config = OPEN
    model: str = "default"
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=-1, description="-1: as many as there is room for")
    min_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    logit_bias: dict[str, float] | None = Field(
        None, description="Token id to -100..100", max_length=STOP_IDS
    )
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=16)
    stop: str | Texts | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=STOP_IDS)
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    service_tier: str | None = Field(
        None, max_length=64, description="auto, default, flex or priority; another is auto and named"
    )
    priority: int | None = Field(None, description="Lower is sooner, 0 is usual")
    cache_salt: str | None = Field(
        None, min_length=1, max_length=256, description="Whose prefix cache, within the key's own"
    )
    timeout: float | None = Field(None, gt=0, description="Seconds until the answer is of no use")


class ChatBody(Sampling):
    messages: list[Message] = Field(min_length=1, max_length=MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=-1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Switches of the template")


class CompletionBody(Sampling):
    prompt: str | Texts | Ids | Annotated[list[Ids], FIRST_FAULT]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)


def _differs_from(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value not in (None, False, "", [], {}, *neutral)


# Known fields that ask for what no engine here can do, each with the values that ask for nothing.
UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "functions": _differs_from(),  # the form before `tools`
    "function_call": _differs_from("none", "auto"),
    "modalities": _differs_from(["text"]),
    "audio": _differs_from(),
    "web_search_options": _differs_from(),
    "moderation": _differs_from(),
    "suffix": _differs_from(),
    "best_of": _differs_from(1),
    "use_beam_search": _differs_from(),
    "prompt_logprobs": _differs_from(),
    "guided_whitespace_pattern": _differs_from(),
    "chat_template": _differs_from(),
    "documents": _differs_from(),
    "echo": _differs_from(),
    "add_generation_prompt": _differs_from(True),
    "continue_final_message": _differs_from(),
    "bad_words": _differs_from(),
    "allowed_token_ids": _differs_from(),
    "logits_processors": _differs_from(),
    "truncate_prompt_tokens": _differs_from(),
}
# These are hints: without effect here, and named where they ask for anything.
HINTS: dict[str, Callable[[Any], bool]] = {
    "prediction": _differs_from(),
    "store": _differs_from(),
    "prompt_cache_retention": _differs_from("in_memory", "in-memory"),
    "context_management": _differs_from(),
}
# These ask nothing of an engine.
HARMLESS = {
    "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "parallel_tool_calls", "request_id", "skip_special_tokens", "spaces_between_special_tokens",
}  # fmt: skip


async def body_as(kind: type[BaseModel], request: Request) -> Any:
    """The request's body. Raises ApiError 413, 400 as `parse` does; a large one is parsed beside the loop."""
    data = await body_of(request)
    return parse(kind, data) if len(data) <= SMALL_BYTES else await off_loop(parse, kind, data)


def parse(kind: type[BaseModel], data: bytes) -> Any:
    """Raises ApiError 400 for what is too deep or too much, else naming the first wrong field."""
    check_json(data)
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        faults = e.errors(include_input=False, include_url=False, include_context=False)
        fields = {fault["loc"][0] for fault in faults if fault["type"] in NO_NUMBER and fault["loc"]}
        return _parse(kind, _in_numbers(data, fields) if fields else data)


NO_NUMBER = ("int_type", "float_type", "int_from_float", "int_parsing", "float_parsing")
EXACT = 2.0**53  # below it each whole float is one integer
NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?")


def _in_numbers(data: bytes, fields: set[int | str]) -> bytes:
    """The body with 16 for 16.0 and 0.5 for "0.5" in these fields: workflow tools write numbers so."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
    for field in fields:
        value = body.get(field)
        if isinstance(value, str) and NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, float) and abs(value) < EXACT:
            body[field] = int(value) if value.is_integer() else value
    return orjson.dumps(body)


def _parse(kind: type[BaseModel], data: bytes) -> Any:
    """Raises ApiError 400 naming the first wrong field."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise ApiError(400, f"{field or 'body'}: {first['msg']}", param=field) from None


def refuse(body: BaseModel, fields: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raises ApiError 400 for a field that asks for what cannot be done."""
    extra = body.model_extra or {}
    for field, asks in fields.items():
        if field in extra and asks(extra[field]):
            raise ApiError(400, f"{field} is not supported here", param=field, code="unsupported_parameter")


def ignored(
    body: BaseModel,
    unsupported: Mapping[str, Callable[[Any], bool]] = UNSUPPORTED,
    harmless: set[str] | frozenset[str] = frozenset(HARMLESS),
) -> dict[str, str]:
    """The header that names unknown fields. Raises ApiError 400 for a known one that cannot be honoured."""
    refuse(body, unsupported)
    extra = body.model_extra or {}
    empty = {name for name, asks in HINTS.items() if name in extra and not asks(extra[name])}
    unknown = [name for name in _unknown(body) if name not in unsupported and name not in harmless | empty]
    if getattr(body, "service_tier", None) not in (None, *TIERS):
        unknown.append("service_tier")
    fit = sorted(name for name in unknown if name.isascii() and name.replace(".", "").isidentifier())
    return naming({}, fit)


def naming(headers: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """The headers with further names of what was asked and has no effect."""
    listed = [headers[IGNORED]] if IGNORED in headers else []
    every = ", ".join([*listed, *names])[:1000]
    return {**headers, IGNORED: every} if every else headers


def _unknown(body: BaseModel, within: str = "") -> Iterator[str]:
    """Fields that nobody reads, those of nested objects too: "text.verbosity"."""
    yield from (within + name for name in body.model_extra or {})
    for name in body.model_fields_set:
        if isinstance(value := getattr(body, name, None), BaseModel):
            yield from _unknown(value, f"{within}{name}.")


def job(
    api: Api, body: Sampling, top: int | None, constraint: Constraint | None = None, asked: str = ""
) -> Job:
    """Raises ApiError for what this engine cannot do, and for combinations that have no answer."""
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    check_stops(stops)
    options = body.stream_options
    if options and options.continuous_usage_stats:
        raise cannot("continuous_usage_stats")
    second_pass = bool(top) and not api.capability.top_logprobs
    if second_pass and (body.stream or not api.capability.prompt_logprobs):
        raise ApiError(400, "this engine has no likeliest tokens in a stream; leave `stream` out",
                       param="top_logprobs", code="unsupported_parameter")  # fmt: skip
    if top is not None and not api.capability.gen_logprobs:
        raise cannot("logprobs")
    joined = api.served.joined is not None
    if joined and body.return_token_ids:
        raise cannot("return_token_ids")
    adapter, routed = api.adapter_for(body.model, asked)
    if second_pass and adapter:
        raise cannot("top_logprobs", "the likeliest tokens of an adapter's answer are not scored")
    if constraint and body.min_tokens:
        raise cannot("min_tokens", "the answer ends where its format does")
    return Job(
        sampling={
            **_sampling(api, body),
            "logprobs": top is not None,
            "top": 0 if second_pass else top or 0,
            "grammar": constraint,
            "adapter": adapter,
            "salt": body.cache_salt or "",
            **({"given": _given_to_others(body, api.settings.default_temperature)} if joined else {}),
        },
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed % 2**31,
        n=body.n or 1,
        stops=() if joined else tuple(s for s in stops if s),
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
        top=top,
        token_ids=bool(body.return_token_ids),
        second_pass=second_pass,
        routed=routed,
    )


# Fields that a joined server gets as the client wrote them, and only where the client did.
HANDED_ON = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logit_bias", "stop", "stop_token_ids", "ignore_eos", "min_tokens", "seed",
)  # fmt: skip


def _given_to_others(body: Sampling, temperature: float | None) -> dict[str, Any]:
    given = {name: getattr(body, name) for name in HANDED_ON}
    given["temperature"] = temperature if body.temperature is None else body.temperature
    return {name: value for name, value in given.items() if value not in (None, [], "", {})}


def route_headers(headers: dict[str, str], job: Job) -> dict[str, str]:
    """Which adapter the prompt has chosen, and how surely."""
    if job.routed is None:
        return headers
    chosen = job.sampling["adapter"] or BASE
    return {**headers, ROUTED: chosen, SURELY: f"{job.routed.probability:.3f}"}


def cannot(field: str, why: str = "") -> ApiError:
    words = f"this engine does not support {field}" + (f": {why}" if why else "")
    return ApiError(400, words, param=field, code="unsupported_parameter")


def _sampling(api: Api, body: Sampling) -> dict[str, Any]:
    default = api.defaults if body.temperature is None else NEUTRAL
    temperature = default.temperature if body.temperature is None else body.temperature
    api.check_ids(body.stop_token_ids or [], "stop_token_ids")
    if body.min_tokens and not api.capability.min_tokens:
        raise cannot("min_tokens")
    eos = () if body.ignore_eos else api.tokenizer.eos_ids
    return {
        # Below this the engine's soft-max overflows; the likeliest token is what was meant.
        "temperature": temperature if temperature >= 1e-3 else 0.0,
        "top_p": max(_given(body.top_p, default.top_p), 1e-6),  # float32 knows no smaller ones
        "top_k": min(max(_given(body.top_k, default.top_k), 0), api.tokenizer.vocab_size),
        "min_p": _given(body.min_p, default.min_p),
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "repetition_penalty": _given(body.repetition_penalty, default.repetition_penalty),
        "min_tokens": min(body.min_tokens or 0, api.served.max_model_len),
        "stop_ids": tuple(sorted({*eos, *(body.stop_token_ids or ())})),
        "logit_bias": _logit_bias(api, body.logit_bias or {}),
    }


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _logit_bias(api: Api, biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    if biases and not api.capability.logit_bias:
        raise cannot("logit_bias")
    wrong = next((key for key in biases if not (key.isascii() and key.isdigit() and len(key) < 10)), None)
    if wrong is not None or any(abs(value) > 100 for value in biases.values()):
        raise ApiError(400, "logit_bias maps token ids to values from -100 to 100", param="logit_bias")
    bias = {int(key): value for key, value in biases.items()}
    api.check_ids(list(bias), "logit_bias")
    return tuple(sorted(bias.items()))


def plain_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as the template takes them: text parts joined by a line end, developer as system."""
    return [_plain(message) for message in messages]


def _plain(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = message.refusal if message.content is None else message.content
    if isinstance(content, list):
        if other := next((part.type for part in content if part.type not in ("text", "refusal")), None):
            raise ApiError(400, f"content parts of type {other} are not supported", param="messages")
        content = "\n".join(part.text or part.refusal or "" for part in content)
    if content is None and role != "assistant":
        raise ApiError(400, f"a {role} message needs content", param="messages")
    plain = {"role": role, "content": content or "", **(message.model_extra or {})}
    if message.tool_calls:
        for call in message.tool_calls:
            check_json_text(call.function.arguments or "", "messages")
        plain["tool_calls"] = [call.model_dump(exclude_none=True) for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain
