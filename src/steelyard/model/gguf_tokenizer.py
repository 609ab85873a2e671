"""tokenizer.json of a GGUF file, made of its header's tokens, and merges or scores.

Byte-level BPE by the name of its pre-tokenizer, and SentencePiece BPE ("llama": Llama 2, Mistral 7B), whose
merges follow from the scores. What cannot be rebuilt with certainty is refused: nearly right ids are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import Lacking, Where, WrongUse
from ..shape import Gguf

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # tokenizer.ggml.token_type

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Mistral's tekken: words begin anew at a capital (llama.cpp's own pattern for it is an approximation).
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _smollm(lib: Any) -> dict[str, Any]:
    pre = lib.pre_tokenizers
    parts = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)]
    return {"pre_tokenizer": pre.Sequence(parts)}


def _gpt2(lib: Any) -> dict[str, Any]:
    return {"pre_tokenizer": lib.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)}


def _qwen2(lib: Any) -> dict[str, Any]:
    return {"pre_tokenizer": _split(lib, QWEN_SPLIT), "normalizer": lib.normalizers.NFC()}


def _tekken(lib: Any) -> dict[str, Any]:
    return {"pre_tokenizer": _split(lib, TEKKEN_SPLIT)}


def _llama_bpe(lib: Any) -> dict[str, Any]:
    return {"pre_tokenizer": _split(lib, LLAMA_SPLIT)}


def _split(lib: Any, pattern: str) -> Any:
    pre = lib.pre_tokenizers
    split = pre.Split(lib.Regex(pattern), behavior="isolated", invert=False)
    return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "smollm": _smollm, "gpt-2": _gpt2, "qwen2": _qwen2, "deepseek-r1-qwen": _qwen2, "llama-bpe": _llama_bpe,
    "llama3": _llama_bpe, "llama-v3": _llama_bpe, "tekken": _tekken,
}  # fmt: skip
IGNORE_MERGES = (
    "llama-bpe",
    "llama3",
    "llama-v3",
    "tekken",
)  # a whole word in the vocabulary wins over its merges


def tokenizer_json(header: Gguf, file: Path) -> str:
    """The text of tokenizer.json. Raises WrongUse for a tokenizer that cannot be rebuilt."""
    meta, lib = header.meta, library("tokenizers")
    kind = meta.get("tokenizer.ggml.model")
    if kind not in KINDS:
        raise refused(
            file, "tokenizer.ggml.model", kind, "gpt2 (byte-level BPE) and llama (SentencePiece BPE)"
        )
    tokens = meta["tokenizer.ggml.tokens"]
    types = meta.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    pairs = list(zip(tokens, types, strict=True))
    tokenizer = KINDS[kind](lib, meta, pairs, file)
    _add_specials(lib, tokenizer, pairs)
    if meta.get("tokenizer.ggml.add_bos_token", kind == "llama"):  # llama.cpp's own defaults
        tokenizer.post_processor = _with_bos(lib, tokens, meta["tokenizer.ggml.bos_token_id"])
    return tokenizer.to_str(pretty=False)


def _vocab(pairs: list[tuple[str, int]]) -> dict[str, int]:
    return {token: n for n, (token, kind) in enumerate(pairs) if kind != UNUSED}


def _byte_level(lib: Any, meta: dict[str, Any], pairs: list[tuple[str, int]], file: Path) -> Any:
    pre = meta.get("tokenizer.ggml.pre", "default")
    if pre not in PRE:
        raise refused(file, "tokenizer.ggml.pre", pre, ", ".join(PRE))
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = lib.Tokenizer(lib.models.BPE(_vocab(pairs), merges, ignore_merges=pre in IGNORE_MERGES))
    for part, value in PRE[pre](lib).items():
        setattr(tokenizer, part, value)
    tokenizer.decoder = lib.decoders.ByteLevel()
    return tokenizer


# ------------------------------------------------------------------ SentencePiece BPE

BLANK = "\u2581"
OWN_CONTROLS = {"<unk>", "<s>", "</s>", "<pad>", "[PAD]"}


def _sentencepiece(lib: Any, meta: dict[str, Any], pairs: list[tuple[str, int]], file: Path) -> Any:
    """As transformers' LlamaConverter makes it: BPE whose unknown characters fall back to bytes."""
    prefix = meta.get("tokenizer.ggml.add_space_prefix", True)
    vocab = _vocab(pairs)
    merges = merges_of(vocab, dict(zip((t for t, _ in pairs), meta["tokenizer.ggml.scores"], strict=True)))
    unknown = next((token for token, kind in pairs if kind == UNKNOWN), None)
    model = lib.models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer, made = lib.Tokenizer(model), lib.decoders
    if _blank_after_specials(pairs, file):
        steps = [lib.normalizers.Prepend(BLANK)] if prefix else []
        tokenizer.normalizer = lib.normalizers.Sequence([*steps, lib.normalizers.Replace(" ", BLANK)])
    else:
        scheme = "first" if prefix else "never"
        tokenizer.pre_tokenizer = lib.pre_tokenizers.Metaspace(BLANK, prepend_scheme=scheme, split=False)
    strip = [made.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = made.Sequence([made.Replace(BLANK, " "), made.ByteFallback(), made.Fuse(), *strip])
    return tokenizer


def _blank_after_specials(pairs: list[tuple[str, int]], file: Path) -> bool:
    """Does the text behind a special token begin with a blank of its own, as at the start?

    It does in Llama 2 and Mistral 7B v0.1 and v0.2, whose turns are marked in plain text, and not in v0.3. A
    GGUF does not say which, and a tuned model with other special tokens may be either: it is refused.
    """
    own = {token for token, kind in pairs if kind == CONTROL} - OWN_CONTROLS
    if own and "[INST]" not in own:
        raise refused(
            file, "tokenizer.ggml.tokens", f"special tokens such as {min(own)}",
            "those of Llama 2 and Mistral 7B: a GGUF does not say how text behind others begins",
        )  # fmt: skip
    return not own


def merges_of(vocab: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose token has the best score; BPE takes its merges in order."""
    found = []
    for token in vocab:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [(left, right) for left, right in cuts if left in vocab and right in vocab]
        found += [(scores[token], pair) for pair in sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    found.sort(key=lambda each: (each[0], len(each[1][0]), len(each[1][1])), reverse=True)
    return [pair for _, pair in found]


KINDS: dict[str, Callable[..., Any]] = {"gpt2": _byte_level, "llama": _sentencepiece}


# ------------------------------------------------------------------ special tokens


def _add_specials(lib: Any, tokenizer: Any, tokens: list[tuple[str, int]]) -> None:
    def added(token: str, special: bool) -> Any:
        return lib.AddedToken(token, special=special, normalized=False)

    tokenizer.add_special_tokens([added(token, True) for token, kind in tokens if kind in (UNKNOWN, CONTROL)])
    tokenizer.add_tokens([added(token, False) for token, kind in tokens if kind == USER_DEFINED])


def _with_bos(lib: Any, tokens: list[str], bos: int) -> Any:
    name = tokens[bos]
    return lib.processors.TemplateProcessing(f"{name} $A", f"{name} $A {name}:1 $B:1", [(name, bos)])


def tokenizer_config(header: Gguf) -> dict[str, Any]:
    tokens = header.meta["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: header.meta.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {
        # The plain class takes tokenizer.json as it is; the model's own class builds another pre-tokenizer.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(header.of_arch("context_length")),
        **{name: tokens[n] for name, n in ids.items() if n is not None},
    }


# ------------------------------------------------------------------ shared with gguf.py


def refused(file: Path, field: str, value: object, known: str) -> WrongUse:
    return WrongUse(
        "model.gguf_unknown", f"{field} {value!r} cannot be converted", where=Where(str(file), field=field),
        why=f"known are {known}", hint="use the model's Hugging Face folder instead of its GGUF file",
    )  # fmt: skip


def library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as e:
        raise Lacking(
            "model.no_library",
            f"the package {name} is not installed",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[cpu]'",
        ) from e
