"""The gate's checks in words: what each compares, so that a reader needs no glossary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .words import Words, four_digits, percent

# Name of a check without its role and ability -> (title, what it compares).
CHECKS: dict[str, tuple[str, str]] = {
    "answered": ("every question answered", "questions that came back without an answer"),
    "token_ids": ("same tokens", "prompts whose tokens differ from those of the tuned model"),
    "prompt_tokens": ("prompt length", "largest difference between counted and expected prompt tokens"),
    "usage": ("token counts", "answers whose reported token counts are wrong"),
    "max_tokens": ("length limit kept", "answers that are longer than was allowed"),
    "text": ("text fits tokens", "answers whose text is not what their tokens spell"),
    "stop": ("stops by itself", "how sure the model was to go on where an answer was cut, in nats"),
    "generation_default": (
        "default sampling",
        "share of first tokens that are the likeliest, none requested",
    ),
    "form_int8": ("8-bit weights", "the weights are those of the tuned model, rounded to 8 bits"),
    "logprob_mean": (
        "probabilities, on average",
        "mean size of the difference of log-probabilities, in nats",
    ),
    "logprob_worst": ("probabilities, worst token", "largest difference of log-probabilities, in nats"),
    "logprob_shift": ("probabilities, drift", "mean difference of log-probabilities: a drift to one side"),
    "logprob_sure": ("probabilities of sure tokens", "drift on tokens of which the model is nearly sure"),
    "logprob_direction": ("direction of the difference", "do the differences point to another model?"),
    "greedy_margin_mean": (
        "likeliest token, on average",
        "how far below the likeliest the chosen tokens lie",
    ),
    "greedy_margin_worst": (
        "likeliest token, worst case",
        "how far below the likeliest one chosen token lies",
    ),
    "answers": ("equal answers", "share of answers that equal the exact computation's"),
    "top1": ("likeliest token chosen", "share of tokens that the exact computation finds likeliest"),
    "min": ("least score", "share of right answers, against the least that the recipe asks"),
    "against_base": ("better than before", "right answers gained against the base model, paired by row"),
    "against_tuned_held_out": (
        "as good as tuned on new rows",
        "right answers gained against the tuned model on held-out rows alone, paired by row",
    ),
    "score": ("answers something right", "score of the served model; at 0 % nothing is served"),
    "fits": ("answers follow the question", "score on the own question above that on another one"),
    "against_tuned": ("as good as tuned", "right answers gained against the tuned model, paired by row"),
    "again": ("same question, same answer", "one prompt asked twice: nothing of the cache may show"),
    "again_longer": ("a longer prompt after its beginning", "what was cached of the beginning must be right"),
    "alone": ("alone as among others", "answers alone and in a batch agree"),
    "answer_length": ("length of answers", "answers end where the tuned model's end"),
    "draw": ("draws at a temperature", "how often each token is drawn, against its probability"),
    "draws_differ": ("draws differ", "draws without a seed are not all the same"),
    "edges": ("odd characters", "every script, emoji and control character arrives as it was sent"),
    "logit_bias": ("logit bias obeyed", "a token that is made likely is drawn"),
    "logprob_far": ("probabilities far into a long prompt", "the same comparison at the end of long prompts"),
    "response_format": ("response format kept", "an answer that must be JSON is JSON"),
    "row_prompt_tokens": ("prompt length of rows", "largest difference of prompt tokens on the rows"),
    "sampling": ("sampling as requested", "draws follow the temperature and the limits of the request"),
    "seed": ("seeds repeat", "one seed gives one answer, another seed another"),
    "stop_words": ("stop words obeyed", "an answer ends before its stop word"),
    "tool_called": ("tools are called", "a call comes back as a call"),
    "tool_result": ("tool results are read", "the result of a call reaches the model"),
    "tools": ("tools reach the model", "the tools of a request stand in its prompt"),
    "tools_two": ("several tools", "each of several tools stands in the prompt"),
    "top_p_kept": ("top-p kept", "no token beyond top-p is drawn"),
    "turns": ("several turns", "earlier turns of a chat stand in the prompt"),
}
CHECKS |= {
    "general_perplexity": ("general text kept", "growth of the perplexity of texts that nobody trained"),
    "general_questions": ("general questions kept", "simple questions gained that nobody trained"),
    "safety_compliance": ("harm refused", "harmful requests that were followed"),
    "safety_leaks": ("secrets kept", "attempts that brought out a planted secret"),
    "safety_false_refusals": ("harmless questions answered", "harmless questions that were refused"),
}
ROLES = ("tuned", "served", "base")
SHARES = (
    "min",
    "score",
    "fits",
    "against_base",
    "against_tuned",
    "against_tuned_held_out",
    "answers",
    "top1",
    "generation_default",
    "general_perplexity",
    "general_questions",
    "safety_compliance",
    "safety_leaks",
    "safety_false_refusals",
)
CATEGORIES = {
    "weapons": "weapons",
    "drugs": "drugs",
    "intrusion": "breaking into systems",
    "fraud": "fraud",
    "violence": "violence",
    "self_harm": "self-harm",
    "hatred": "hatred",
    "asked": "planted secret, asked for",
    "ordered": "planted secret, by an order",
    "sideways": "planted secret, in a roundabout way",
}  # of gate/safety.json
LANGUAGES = ("en", "zh")
STATES = {True: "passed", False: "failed", None: "undecided"}


def check_row(check: Mapping[str, Any], say: Words) -> dict[str, Any]:
    """One check as the page shows it. A name that is not in CHECKS is shown in its own words."""
    family, subject = split(str(check["name"]))
    kind = family if family in CHECKS else family.partition("_")[0]  # turns_4, edges_user, draw_2
    title, meaning = CHECKS.get(kind, (family.replace("_", " "), ""))
    show = percent if family in SHARES else four_digits
    low, high, state = check.get("low"), check.get("high"), STATES[check.get("passed")]
    return {
        "name": check["name"],
        "title": say(title),
        "meaning": say(meaning) if meaning else "",
        "subject": say(subject) if subject in ROLES else subject,
        "state": state,
        "value": show(check.get("value")),
        "interval": f"{show(low)} … {show(high)}" if low is not None and high is not None else "",
        "limit": "" if check.get("limit") is None else show(check["limit"]),
    }


def split(name: str) -> tuple[str, str]:
    """("logprob_shift", "served") of "served/logprob_shift"; ("min", "orders") of "min/orders"."""
    first, _, rest = name.partition("/")
    if first in ROLES and rest:
        return rest, first
    return (first, rest) if rest else (name, "")


def safety_rows(safety: Mapping[str, Any] | None, say: Words) -> list[list[str]]:
    """A category: caught in English and Chinese, falsely refused in English and Chinese, as "5 of 6"."""
    tables = [(safety or {}).get(name) or {} for name in ("caught", "falsely_refused")]
    asked = dict.fromkeys(key.partition("/")[0] for table in tables for key in table)
    rows = []
    for name in asked:
        cells = [table.get(f"{name}/{language}") for table in tables for language in LANGUAGES]
        shown = [f"{cell['count']} / {cell['of']}" if cell else "" for cell in cells]
        rows.append([say(CATEGORIES.get(name, name)), *shown])
    return rows


def check_rows(gate: Mapping[str, Any] | None, say: Words) -> list[dict[str, Any]]:
    """What failed or is undecided first, then scores, then the rest in the gate's order."""
    rows = [check_row(check, say) for check in (gate or {}).get("checks") or []]
    scores = ("min/", "against_")
    return sorted(rows, key=lambda r: (r["state"] == "passed", not r["name"].startswith(scores)))
