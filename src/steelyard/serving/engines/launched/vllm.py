"""What vLLM's server is asked and says, in token ids: /v1/completions. Pure."""

from __future__ import annotations

from typing import Any

from ....launch import SERVED_NAME
from ..protocol import Event, GenRequest, Scores

GENERATE = "/v1/completions"
HEALTH = "/health"
LOAD_ADAPTER, DROP_ADAPTER = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
CACHE_USAGE = "vllm:kv_cache_usage_perc"
FINISH = {"stop": "stop", "length": "length"}
GRAMMARS = {"json_schema": "json", "regex": "regex", "ebnf": "grammar"}
ID = "token_id:"  # in front of a token that goes by its number


def body(request: GenRequest) -> dict[str, Any]:
    """An answer as a stream of ids. Every word is given: nothing is left to the server's defaults."""
    more: dict[str, Any] = {"cache_salt": request.salt_hash} if request.salt else {}
    if request.logprobs:
        more |= {"logprobs": request.top, "return_tokens_as_token_ids": True}
    if request.logit_bias:
        more["logit_bias"] = {str(token): bias for token, bias in request.logit_bias}
    if request.grammar:
        kind, text = request.grammar
        more["structured_outputs"] = {GRAMMARS[kind]: text}
    return {
        "model": request.adapter or SERVED_NAME,
        "prompt": request.ids,
        "max_tokens": request.max_tokens,
        "min_tokens": request.min_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
        "stop_token_ids": list(request.stop_ids),
        # The model's own end tokens count where the request names them, or a grammar has come to its end.
        "ignore_eos": request.grammar is None,
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **more,
    }


def event_of(request: GenRequest, chunk: dict[str, Any]) -> Event | None:
    """One chunk of the stream; the last one, without a choice, says what was found in the prefix cache."""
    event = Event(request.request_id, [])
    for choice in chunk.get("choices", ())[:1]:
        event.ids = choice.get("token_ids") or []
        if finish := choice.get("finish_reason"):
            event.finish = FINISH.get(finish, "error")
        if request.logprobs and (told := choice.get("logprobs")):
            event.logprobs = told["token_logprobs"]
            if request.top:
                event.tops = [likeliest(place, request.top) for place in told["top_logprobs"]]
    details = (chunk.get("usage") or {}).get("prompt_tokens_details") or {}
    event.cached = details.get("cached_tokens")
    return event if event.ids or event.finish or event.cached is not None else None


def likeliest(place: dict[str, float], top: int) -> list[tuple[int, float]]:
    """The `top` of one place; the chosen token stands among them only where it is one."""
    ranked = sorted(place.items(), key=lambda item: -item[1])[:top]
    return [(int(name.removeprefix(ID)), logprob) for name, logprob in ranked]


def score_body(ids: list[int], top: int) -> dict[str, Any]:
    """A prefill with the prompt's log-probabilities, and the least answer that there is."""
    return {
        "model": SERVED_NAME,
        "prompt": ids,
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": top,
        "add_special_tokens": False,
        "return_token_ids": True,
    }


def scores_of(answer: dict[str, Any], ids: list[int], top: int) -> Scores:
    scores = Scores([], [], [])
    for token, place in zip(ids[1:], answer["choices"][0]["prompt_logprobs"][1:], strict=True):
        scores.logprobs.append(place[str(token)]["logprob"])
        if top:
            ranked = sorted(place.items(), key=lambda item: item[1]["rank"])[:top]
            scores.top_ids.append([int(name) for name, _ in ranked])
            scores.top_logprobs.append([entry["logprob"] for _, entry in ranked])
    return scores


def adapter_body(name: str, folder: str | None) -> dict[str, Any]:
    """Load it, in place of an older one of the name; without a folder drop it."""
    return {"lora_name": name} | ({"lora_path": folder, "load_inplace": True} if folder else {})
