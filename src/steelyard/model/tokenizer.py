"""The tokenizer and THE chat template: training, gate and serving all get their ids here.

The template runs in a sandbox with the conventions of Hugging Face's `apply_chat_template`, so that
equal messages give equal text. Not here: which messages to send (data, serving).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import Lacking, Where, WrongUse
from ..shape import broken, read_json
from .chat import (
    PROBE_CALL,
    PROBE_CHAT,
    CallForm,
    call_form,
    definition,
    has_tools,
    in_words,
    plain_message,
    readable,
    thought_key,
)
from .chat_template import Template

Messages = Sequence[Mapping[str, Any]]
LONG_TEXT = 8192  # characters; from here on other threads go on meanwhile
REPLACEMENT = "\ufffd"  # what a byte-level decoder writes for the beginning of a character
MAX_HELD = 64  # tokens; a model that writes only broken bytes must not make the window grow
# Ends of a turn that some models do not list among their end tokens, though their template writes them.
TURN_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eot|>", "<turn|>", "<|return|>", "<|call|>"),
    *("<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>"),
)


def _bytes_by_character() -> dict[str, int]:
    """Byte-level vocabularies write each byte as one visible character: printable Latin-1 as itself, the
    others as the characters from U+0100 on (Radford et al. 2019, the released encoder of GPT-2)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(others)}


BYTE_OF = _bytes_by_character()


class Tokenizer:
    """tokenizer.json and the chat template of one model folder."""

    def __init__(self, folder: Path | str) -> None:
        """Raises WrongUse where a file is missing or damaged, Lacking without the tokenizers package."""
        self.folder = Path(folder)
        self._inner = _load(self.folder / "tokenizer.json")
        self.config = _optional(self.folder / "tokenizer_config.json")
        self.special_tokens = _special_tokens(self.config)  # "bos_token" -> "<s>": templates write them
        added = self._inner.get_added_tokens_decoder().items()
        self.special_ids = frozenset(n for n, token in added if token.special)
        self.template_text = _template_text(self.folder, self.config)

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it are recognised, none is added.

        Half a surrogate pair, which JSON can smuggle in, counts as U+FFFD.
        """
        try:
            return self._ids(text)
        except (TypeError, UnicodeEncodeError):
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self._ids(whole)

    def _ids(self, text: str) -> list[int]:
        """Of a long text as of a batch of one: that the library does without the interpreter's lock."""
        if len(text) < LONG_TEXT:
            return self._inner.encode(text, add_special_tokens=False).ids
        return self._inner.encode_batch([text], add_special_tokens=False)[0].ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def id_of(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    def token_of(self, token_id: int) -> str | None:
        return self._inner.id_to_token(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, half characters too; b"" for an id without a token."""
        piece = self.token_of(token_id)
        if piece is None:
            return b""
        if token_id in self.special_ids:
            return piece.encode()
        if self._byte_level:
            return bytes(BYTE_OF[c] for c in piece) if all(c in BYTE_OF for c in piece) else piece.encode()
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)  # sentencepiece's spelling of a lone byte
        return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in self._inner.decoder.__getstate__().decode() if self._inner.decoder else False

    def first_difference(self, other: Tokenizer) -> tuple[int, str | None, str | None] | None:
        """(id, token here, token there) of the first id that differs; None where none does."""
        mine, theirs = ({n: t for t, n in each._inner.get_vocab(True).items()} for each in (self, other))
        differ = (n for n in sorted(mine.keys() | theirs.keys()) if mine.get(n) != theirs.get(n))
        return next(((n, mine.get(n), theirs.get(n)) for n in differ), None)

    @property
    def vocab_size(self) -> int:
        """Tokens that have a text; a model's embedding may have more rows."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def has_ids_of(self, other: Tokenizer) -> bool:
        """Does each id stand for the same token in both?"""
        mine, theirs = (each._inner.get_vocab(with_added_tokens=True) for each in (self, other))
        return mine == theirs

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: of generation_config, config, tokenizer_config and the template."""
        ids: set[int] = set()
        for file in ("generation_config.json", "config.json"):
            listed = _optional(self.folder / file).get("eos_token_id")
            ids |= set(listed) if isinstance(listed, list) else {listed} if listed is not None else set()
        named = [self.eos_token, *(t for t in TURN_ENDS if t in (self.template_text or ""))]
        ids |= {n for n in (self.id_of(t) for t in named if t) if n is not None}
        return tuple(sorted(ids))

    @property
    def end_id(self) -> int:
        """The id that ends a text: the tokenizer's eos_token, else the first that the model names.

        Raises WrongUse where the model names none.
        """
        own = self.id_of(self.eos_token) if self.eos_token else None
        listed = _optional(self.folder / "generation_config.json").get("eos_token_id")
        first = listed[0] if isinstance(listed, list) and listed else listed
        for candidate in (own, first, *self.eos_ids[:1]):
            if isinstance(candidate, int):
                return candidate
        raise WrongUse(
            "model.no_eos", "the model names no end token", where=Where(str(self.folder)),
            hint="give eos_token_id in generation_config.json",
        )  # fmt: skip

    def stop_after(self, calls: bool) -> int | None:
        """The end token that begins the next turn, where an answer has none of its own (GLM), or None."""
        return self._stops[calls]

    @cached_property
    def reply_opener(self) -> int | None:
        """The token that a template writes after a call to open the tool's reply, where it ends no answer.

        Gemma 4's <|tool_response>, if the model does not list it: it is the reply's, not the model's.
        """
        reply = {"role": "tool", "content": "probe", "tool_call_id": PROBE_CALL["id"]}
        try:
            ids, following = (self.chat_ids(chat, False) for chat in (PROBE_CHAT, [*PROBE_CHAT, reply]))
        except WrongUse:
            return None
        goes_on = following[: len(ids)] == ids and following[len(ids) : len(ids) + 1]
        opens = ids[-1] in self.special_ids and ids[-1] not in self.eos_ids
        return ids[-1] if goes_on and opens and goes_on[0] not in self.special_ids else None

    @cached_property
    def _stops(self) -> tuple[int | None, int | None]:
        answer = {"role": "assistant", "content": "probe"}
        reply = {"role": "tool", "content": "probe", "tool_call_id": PROBE_CALL["id"]}
        return (
            self._next_begins([*PROBE_CHAT[:1], answer], PROBE_CHAT[0]),
            self._next_begins(list(PROBE_CHAT), reply),
        )

    def _next_begins(self, chat: list[Mapping[str, Any]], reply: Mapping[str, Any]) -> int | None:
        try:
            ids, following = self.chat_ids(chat, False), self.chat_ids([*chat, reply], False)
        except WrongUse:
            return None
        token = following[len(ids)] if following[: len(ids)] == ids and len(following) > len(ids) else None
        return token if token in self.eos_ids else None

    @cached_property
    def hash(self) -> str:
        """SHA-256 over tokenizer.json and the template: equal hash, equal ids."""
        digest = hashlib.sha256((self.folder / "tokenizer.json").read_bytes())
        digest.update(b"\0" + (self.template_text or "").encode())
        digest.update(b"\0" + json.dumps(self.special_tokens, sort_keys=True).encode())
        return digest.hexdigest()

    @cached_property
    def template(self) -> Template:
        """Raises WrongUse where the folder has no template."""
        if self.template_text is None:
            raise WrongUse(
                "model.no_template", "the model has no chat template", where=Where(str(self.folder)),
                hint="add chat_template.jinja, or use the instruct variant of this model",
            )  # fmt: skip
        return Template(self.template_text, self.folder, self.special_tokens)

    def chat_text(
        self,
        messages: Messages,
        generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The chat as the model reads it. Raises WrongUse where the template refuses the messages.

        Tools, calls and thoughts are given in the form that the template reads; a template without tools
        gets them in words. `variables` are the template's own switches.
        """
        chat = [plain_message(message, self._thought_key) for message in messages]
        shown = [definition(tool) for tool in tools or ()]
        if has_tools(chat, shown):
            if "tool" in (self.template_text or ""):
                chat = [readable(message, self._call_form, self._thought_key) for message in chat]
            else:
                chat, shown = in_words(chat, shown), []
        return self.template.render(chat, generation_prompt, shown, variables)

    @cached_property
    def _thought_key(self) -> str:
        return thought_key(self.template_text or "")

    @cached_property
    def _call_form(self) -> CallForm:
        return call_form(lambda messages: self.template.render(messages, generation_prompt=False))

    def chat_ids(
        self,
        messages: Messages,
        generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        return self.encode(self.chat_text(messages, generation_prompt, tools, variables))

    def stream(self) -> Stream:
        """A detokeniser for one answer, token by token."""
        return Stream(self)


class Stream:
    """Text of an answer as its ids come; never half a character. Work per token does not grow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the window: ids of the last piece given out, then those held back
        self._given = 0  # ids of the window whose text is out
        self._before = ""  # their text

    def push(self, token_id: int) -> str:
        """The new text that this id completes, "" while a character is unfinished."""
        if token_id in self._tokenizer.special_ids:
            return ""
        self._ids.append(token_id)
        return self._piece(final=False)

    def flush(self) -> str:
        """What is still held back, unfinished bytes as U+FFFD; the stream is empty afterwards."""
        piece = self._piece(final=True)
        self._ids, self._given, self._before = [], 0, ""
        return piece

    def _piece(self, final: bool) -> str:
        text = self._tokenizer.decode(self._ids)
        # A real U+FFFD at the end waits for the next token or for flush, as an unfinished character does.
        unfinished = text.endswith(REPLACEMENT) and self._pending < MAX_HELD and not final
        if unfinished or len(text) <= len(self._before):
            return ""
        piece = text[len(self._before) :]
        self._ids = self._ids[self._given :]  # the last piece stays: decoders look one token back
        self._given = len(self._ids)
        self._before = self._tokenizer.decode(self._ids)
        return piece

    @property
    def _pending(self) -> int:
        return len(self._ids) - self._given


def chat_ids(
    tokenizer: Tokenizer,
    messages: Messages,
    generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Ids of a chat: the one path, used in training, in the gate and in serving."""
    return tokenizer.chat_ids(messages, generation_prompt, tools, variables)


# ------------------------------------------------------------------ files


def _load(file: Path) -> Any:
    try:
        import tokenizers
    except ImportError as e:
        raise Lacking(
            "model.no_library",
            "the package tokenizers is not installed",
            hint="in the steelyard checkout: pip install -c constraints.txt '.[cpu]'",
        ) from e
    if not file.is_file():
        raise WrongUse(
            "model.half_written", f"there is no tokenizer.json in {file.parent}",
            where=Where(str(file.parent)),
            hint="fetch or copy the model again",
        )  # fmt: skip
    try:
        inner = tokenizers.Tokenizer.from_file(str(file))
    except Exception as e:  # the library raises bare Exception
        raise broken(file, str(e)) from e
    inner.no_truncation()
    inner.no_padding()
    return inner


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """A special token is written as text or as an object with its content."""
    named = {key: value for key, value in config.items() if key.endswith("_token") and value}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _template_text(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else the entry of tokenizer_config.json (text, or a list with a default)."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    template = config.get("chat_template")
    if template is None and (folder / "chat_template.json").is_file():
        template = json.loads((folder / "chat_template.json").read_text("utf-8")).get("chat_template")
    if isinstance(template, list):
        by_name = {entry.get("name"): entry.get("template") for entry in template}
        return by_name.get("default")
    return template
