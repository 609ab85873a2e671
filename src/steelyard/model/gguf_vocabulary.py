"""The tokenizer's part of a GGUF header, written from tokenizer.json, and read back before it counts.

llama.cpp knows a tokenizer by the name of its pre-tokenizer: the name is taken whose rebuilt tokenizer
(gguf_tokenizer.py) cuts the probes below as the model's own does. One that none fits is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from ..shape import Gguf, read_json
from .gguf_tokenizer import CONTROL, PRE, UNUSED, USER_DEFINED, library, tokenizer_json
from .gguf_tokenizer import UNKNOWN as UNKNOWN_TOKEN
from .tokenizer import Tokenizer

NORMAL, BYTE = 1, 6
PROBES = (
    "The 12,345 €-prices aren't   listed (naïve)…\n\n\tdef f(x): return x**2 # 机器学习 🙂 Ωмега\n",
    "HTTPServer2024 isn't CamelCase's; it'll cost 1234567.89 — don't!!  \r\n  a  b\u00a0c e\u0301 ok",
    " leading, trailing ", "SELECT a FROM t WHERE x >= 10 AND y<>'z'", "这家店的服务很好，下次还来！", "x",
)  # fmt: skip
SPECIALS = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}


def write_vocabulary(writer: Any, folder: Path, rows: int) -> None:
    """Tokens, merges or scores, special ids and the chat template; `rows` of the embedding.

    Raises WrongUse for a tokenizer that a GGUF cannot hold.
    """
    for key, value in vocabulary(folder, rows).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def vocabulary(folder: Path, rows: int) -> dict[str, Any]:
    """The same as keys and values. Raises WrongUse."""
    own, document = Tokenizer(folder), read_json(folder / "tokenizer.json")
    model = document["model"]
    if model.get("type") != "BPE":
        raise _refused(folder, "type", str(model.get("type")), "BPE")
    meta = _tokens(model, document, rows) | _special_ids(folder, own) | _template(own)
    named = [{"tokenizer.ggml.pre": name} for name in PRE]
    forms: list[dict[str, Any]] = [{"tokenizer.ggml.model": "gpt2"} | pre for pre in named]
    if model.get("byte_fallback"):
        prefix = '"▁"' in json.dumps(document.get("normalizer"), ensure_ascii=False) or (
            (document.get("pre_tokenizer") or {}).get("prepend_scheme", "never") != "never"
        )
        scores: dict[str, Any] = {
            "tokenizer.ggml.scores": _scores(meta["tokenizer.ggml.tokens"], _merges(model))
        }
        forms = [{"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": prefix} | scores]
    for form in forms:
        if _same_ids(own, meta | form, folder):
            return form | meta
    raise _refused(folder, "pre_tokenizer", "of tokenizer.json", ", ".join(PRE))


def _refused(folder: Path, field: str, value: str, known: str) -> WrongUse:
    return WrongUse(
        "export.tokenizer", f"{field} {value} has no form in GGUF that cuts texts into the same tokens",
        where=Where(str(folder / "tokenizer.json"), field=field), why=f"known are {known}",
        hint="--to hf, and llama.cpp's own convert_hf_to_gguf.py",
    )  # fmt: skip


def _same_ids(own: Tokenizer, meta: dict[str, Any], folder: Path) -> bool:
    """Does what a reader rebuilds from these keys cut every probe as the model's tokenizer does?"""
    plain = meta | {"tokenizer.ggml.add_bos_token": False}
    try:
        again = library("tokenizers").Tokenizer.from_str(tokenizer_json(Gguf(plain, {}), folder))
    except WrongUse:
        return False
    return all(again.encode(text, add_special_tokens=False).ids == own.encode(text) for text in PROBES)


# ------------------------------------------------------------------ tokens


def _tokens(model: dict[str, Any], document: dict[str, Any], rows: int) -> dict[str, Any]:
    """A token for each row of the embedding, and what kind it is."""
    by_id = {n: (token, NORMAL) for token, n in model["vocab"].items()}
    if model.get("byte_fallback"):
        by_id |= {n: (t, BYTE) for n, (t, _) in by_id.items() if len(t) == 6 and t.startswith("<0x")}
    for added in document.get("added_tokens", ()):
        by_id[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if (unknown := model.get("unk_token")) in model["vocab"]:
        by_id[model["vocab"][unknown]] = (unknown, UNKNOWN_TOKEN)
    listed = [by_id.get(n, (f"[PAD{n}]", UNUSED)) for n in range(max(rows, max(by_id) + 1))]
    return {
        "tokenizer.ggml.tokens": [token for token, _ in listed],
        "tokenizer.ggml.token_type": [kind for _, kind in listed],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(model)],
    }


def _merges(model: dict[str, Any]) -> list[list[str]]:
    """Pairs; older files write each as one text."""
    return [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """SentencePiece joins by score what BPE joins by rank: the earliest merge has the highest."""
    rank: dict[str, int] = {}
    for place, (left, right) in enumerate(merges):
        rank.setdefault(left + right, place)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _special_ids(folder: Path, own: Tokenizer) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    ids: dict[str, Any] = {}
    for key, word in SPECIALS.items():
        named = own.special_tokens.get(word)
        listed = config.get(f"{word}_id")
        number = own.id_of(named) if named else listed[0] if isinstance(listed, list) else listed
        if isinstance(number, int):
            ids[f"tokenizer.ggml.{key}_token_id"] = number
    if own.eos_ids:
        ids["tokenizer.ggml.eos_token_id"] = own.end_id
        others = [n for n in own.eos_ids if n != own.end_id]
        ids |= {"tokenizer.ggml.eot_token_id": others[0]} if others else {}
    return ids


def _template(own: Tokenizer) -> dict[str, Any]:
    """The chat template, and whether a text begins with a token of its own: as a chat of this model does.

    llama.cpp then writes that token itself, and takes it out of what the template writes.
    """
    if own.template_text is None:
        return {"tokenizer.ggml.add_bos_token": False}
    template = {"tokenizer.chat_template": own.template_text}
    return template | {"tokenizer.ggml.add_bos_token": begins_with_bos(own)}


def begins_with_bos(own: Tokenizer) -> bool:
    """Whether a chat begins with a token that stands there alone: ChatML's opens every turn."""
    chat = own.chat_ids([{"role": role, "content": "x"} for role in ("user", "assistant", "user")])
    first = own.id_of(own.bos_token) if own.bos_token else None
    return first is not None and chat[:1] == [first] and chat.count(first) == 1
