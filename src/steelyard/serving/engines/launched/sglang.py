"""What SGLang's server is asked and says, in token ids: /generate. Pure. Untested against a real one."""

from __future__ import annotations

from typing import Any

from ..protocol import Event, GenRequest, Scores

GENERATE = "/generate"
HEALTH = "/health"
LOAD_ADAPTER, DROP_ADAPTER = "/load_lora_adapter", "/unload_lora_adapter"
CACHE_USAGE = "sglang:token_usage"
FINISH = {"stop": "stop", "length": "length"}
GRAMMARS = {"json_schema": "json_schema", "regex": "regex", "ebnf": "ebnf"}
EVERY_TOKEN = 1 << 30  # its word for no top_k


def body(request: GenRequest) -> dict[str, Any]:
    """An answer as a stream of ids. Every word is given: nothing is left to the server's defaults."""
    sampling: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "min_new_tokens": request.min_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or EVERY_TOKEN,
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "sampling_seed": request.seed,
        "stop_token_ids": list(request.stop_ids),
        "ignore_eos": request.grammar is None,
        "skip_special_tokens": False,
        "no_stop_trim": True,
    }
    if request.logit_bias:
        sampling["logit_bias"] = {str(token): bias for token, bias in request.logit_bias}
    if request.grammar:
        kind, text = request.grammar
        sampling[GRAMMARS[kind]] = text
    more: dict[str, Any] = {"extra_key": request.salt_hash} if request.salt else {}
    if request.logprobs:
        more |= {"return_logprob": True, "top_logprobs_num": request.top}
    if request.adapter:
        more["lora_path"] = request.adapter
    return {"input_ids": request.ids, "sampling_params": sampling, "stream": True, **more}


def event_of(request: GenRequest, chunk: dict[str, Any]) -> Event | None:
    """One chunk of the stream: what is new since the last."""
    about = chunk.get("meta_info") or {}
    event = Event(request.request_id, chunk.get("output_ids") or [])
    if finish := about.get("finish_reason"):
        event.finish = FINISH.get(finish["type"], "error")
        if event.finish == "error" and finish.get("status_code") == 400:
            event.why = finish.get("message")
    if request.logprobs and event.ids:
        event.logprobs = [place[0] for place in about.get("output_token_logprobs", ())]
        if request.top:
            tops = about.get("output_top_logprobs", ())
            event.tops = [[(place[1], place[0]) for place in places or ()] for places in tops]
    event.cached = about.get("cached_tokens")
    return event if event.ids or event.finish else None


def score_body(ids: list[int], top: int) -> dict[str, Any]:
    """A prefill with the prompt's log-probabilities, and the least answer that there is."""
    return {
        "input_ids": ids,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": top,
    }


def scores_of(answer: dict[str, Any], ids: list[int], top: int) -> Scores:
    about = answer["meta_info"]
    scores = Scores([place[0] for place in about["input_token_logprobs"][1:]], [], [])
    for places in about["input_top_logprobs"][1:] if top else ():
        scores.top_ids.append([place[1] for place in places])
        scores.top_logprobs.append([place[0] for place in places])
    return scores


def adapter_body(name: str, folder: str | None) -> dict[str, Any]:
    """Load it; without a folder drop it."""
    return {"lora_name": name} | ({"lora_path": folder} if folder else {})
