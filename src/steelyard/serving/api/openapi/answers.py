"""Schemas of what the service answers, for /openapi.json. Bodies are described by their own models."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
YES_NO: Schema = {"type": "boolean"}
ANY: Schema = {}
NOTHING: Schema = {"type": "null"}


def may_be_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NOTHING]}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def thing(optional: dict[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """An object; it may have more than is named here."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def page_of(schema: Schema) -> Schema:
    ends = {"first_id": may_be_null(TEXT), "last_id": may_be_null(TEXT)}
    return thing(ends, object=one_of("list"), data=list_of(schema), has_more=YES_NO)


OBJECT: Schema = {"type": "object"}
USAGE = thing(
    {"prompt_tokens_details": thing(cached_tokens=WHOLE)},
    prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE,
)  # fmt: skip
ENVELOPE = {"id": TEXT, "created": WHOLE, "model": TEXT, "system_fingerprint": may_be_null(TEXT)}
CALL = thing(id=TEXT, type=one_of("function"), function=thing(name=TEXT, arguments=TEXT))
FINISH = one_of("stop", "length", "tool_calls")
BLOCK = thing(
    {"text": TEXT, "thinking": TEXT, "id": TEXT, "name": TEXT, "input": OBJECT},
    type=one_of("text", "thinking", "tool_use"),
)
MODEL = thing(
    {"root": TEXT, "parent": may_be_null(TEXT), "max_model_len": may_be_null(WHOLE),
     "default_temperature": NUMBER},
    id=TEXT, object=one_of("model"), created=WHOLE, owned_by=TEXT,
)  # fmt: skip
RESPONSE_STATUS = one_of("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")

ANSWERS: dict[str, Schema] = {
    "Error": thing(error=thing(
        message=TEXT, type=TEXT, param=may_be_null(TEXT), code=may_be_null(TEXT),
    )),
    "AnthropicError": thing(type=one_of("error"), error=thing(type=TEXT, message=TEXT)),
    "Status": thing(status=TEXT),
    "Health": thing(
        {
            "version": TEXT, "model": TEXT, "system_fingerprint": may_be_null(TEXT), "uptime_s": NUMBER,
            "engine": OBJECT, "queue": OBJECT, "memory": OBJECT,
        },
        status=TEXT,
    ),
    "Version": thing(version=TEXT, system_fingerprint=may_be_null(TEXT)),
    "Receipt": thing(
        schema=TEXT, id=TEXT, at=TEXT, request=OBJECT, answer=OBJECT, model=may_be_null(TEXT),
        adapters=OBJECT, gate=may_be_null(OBJECT), key=TEXT, sig=TEXT,
    ),
    "Model": MODEL,
    "ModelList": thing(object=one_of("list"), data=list_of(named("Model"))),
    "Deleted": thing(id=TEXT, deleted=YES_NO, object=TEXT),
    "Tokens": thing(
        count=WHOLE, max_model_len=WHOLE, tokens=list_of(WHOLE),
        token_strs=may_be_null(list_of(may_be_null(TEXT))),
    ),
    "Text": thing(prompt=TEXT),
    "ChatCompletion": thing(
        object=one_of("chat.completion"), usage=USAGE, **ENVELOPE,
        choices=list_of(thing(
            index=WHOLE, finish_reason=FINISH, logprobs=may_be_null(OBJECT),
            message=thing(
                {"tool_calls": list_of(CALL), "reasoning_content": TEXT},
                role=one_of("assistant"), content=may_be_null(TEXT), refusal=NOTHING,
            ),
        )),
    ),
    "Completion": thing(
        object=one_of("text_completion"), usage=USAGE, **ENVELOPE,
        choices=list_of(thing(
            index=WHOLE, text=TEXT, logprobs=may_be_null(OBJECT), finish_reason=one_of("stop", "length"),
        )),
    ),
    "Response": thing(
        {"usage": may_be_null(thing(input_tokens=WHOLE, output_tokens=WHOLE, total_tokens=WHOLE))},
        id=TEXT, object=one_of("response"), created_at=WHOLE, status=RESPONSE_STATUS, model=TEXT,
        output=list_of(thing(id=TEXT, type=one_of("message", "reasoning", "function_call"))),
        error=may_be_null(thing(code=TEXT, message=TEXT)), metadata=OBJECT, tools=list_of(OBJECT),
        parallel_tool_calls=YES_NO, tool_choice=ANY, temperature=NUMBER, top_p=NUMBER,
    ),
    "Compaction": thing(
        id=TEXT, object=one_of("response.compaction"), created_at=WHOLE,
        output=list_of(thing(id=TEXT, type=one_of("compaction"), encrypted_content=TEXT)),
        usage=thing(input_tokens=WHOLE, output_tokens=WHOLE, total_tokens=WHOLE),
    ),
    "ResponseTokens": thing(object=one_of("response.input_tokens"), input_tokens=WHOLE),
    "InputItems": page_of(thing(id=TEXT, type=TEXT)),
    "AnthropicMessage": thing(
        id=TEXT, type=one_of("message"), role=one_of("assistant"), model=TEXT, content=list_of(BLOCK),
        stop_reason=one_of(
            "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded",
        ),
        stop_sequence=may_be_null(TEXT),
        usage=thing(input_tokens=WHOLE, output_tokens=WHOLE, cache_read_input_tokens=WHOLE),
    ),
    "MessageTokens": thing(input_tokens=WHOLE),
    "Embeddings": thing(
        object=one_of("list"), model=TEXT, usage=thing(prompt_tokens=WHOLE, total_tokens=WHOLE),
        data=list_of(thing(
            object=one_of("embedding"), index=WHOLE, embedding={"anyOf": [list_of(NUMBER), TEXT]},
        )),
    ),
    "Ranking": thing(
        id=TEXT, results=list_of(thing({"document": OBJECT}, index=WHOLE, relevance_score=NUMBER)),
    ),
    "File": thing(id=TEXT, object=one_of("file"), bytes=WHOLE, created_at=WHOLE, filename=TEXT, purpose=TEXT),
    "Feedback": thing(
        {"response": TEXT}, id=TEXT, object=one_of("feedback"), created_at=WHOLE, rating=one_of("good", "bad")
    ),
    "FeedbackList": page_of(named("Feedback")),
    "FileList": page_of(named("File")),
    "Batch": thing(id=TEXT, object=one_of("batch"), endpoint=TEXT, status=TEXT, created_at=WHOLE),
    "BatchList": page_of(named("Batch")),
    "TuningJob": thing(id=TEXT, object=one_of("fine_tuning.job"), model=TEXT, status=TEXT, created_at=WHOLE),
    "TuningJobList": page_of(named("TuningJob")),
    "TuningEvents": page_of(thing(id=TEXT, object=one_of("fine_tuning.job.event"), message=TEXT, level=TEXT)),
    "TuningCheckpoints": page_of(thing(id=TEXT, object=one_of("fine_tuning.job.checkpoint"))),
    "OpenApi": thing(openapi=TEXT, info=OBJECT, paths=OBJECT),
}  # fmt: skip
