"""From an answer back to the token ids that made it.

An OpenAI answer holds texts, not ids. The text alone re-encodes to the same ids nearly always; where the
server reports raw bytes a token, they name the ids for sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .endpoint import Answer, Token

if TYPE_CHECKING:
    from ...model import Tokenizer

BROKEN = "\ufffd"  # part of a character: a token's text shows it, its bytes need not
LOST = BROKEN.encode()  # where they do, the server has made them of the text


def answer_ids(tokenizer: Tokenizer, answer: Answer) -> tuple[int, ...]:
    """The ids of an answer; () where text and tokens do not agree."""
    if not answer.text:
        return ()
    reported = list(answer.tokens or ())
    if answer.finish == "stop" and reported and _is_end(tokenizer, reported[-1]):
        reported.pop()  # some servers report the end token too
    proven = _by_bytes(tokenizer, reported) if reported else ()
    if proven or BROKEN in answer.text:
        return proven
    ids = tokenizer.encode(answer.text)
    if reported:
        return tuple(ids) if _same_pieces(tokenizer, ids, reported) else ()
    count = answer.completion_tokens
    allowed = (0, 1) if answer.finish == "stop" else (0,)
    return tuple(ids) if count is None or count - len(ids) in allowed else ()


def _is_end(tokenizer: Tokenizer, token: Token) -> bool:
    return not token.text or tokenizer.id_of(token.text) in tokenizer.eos_ids


def _same_pieces(tokenizer: Tokenizer, ids: Sequence[int], reported: Sequence[Token]) -> bool:
    pieces = [tokenizer.decode([i]) for i in ids]
    return len(ids) == len(reported) and all(
        BROKEN in piece + token.text or piece.strip() == token.text.strip()
        for piece, token in zip(pieces, reported, strict=True)
    )


def _by_bytes(tokenizer: Tokenizer, reported: Sequence[Token]) -> tuple[int, ...]:
    """() unless every token's bytes, or its special text, are those of one id of the vocabulary."""
    id_of_bytes = _ids_of_bytes(tokenizer)
    ids = []
    for token in reported:
        special = tokenizer.id_of(token.text)
        if special in tokenizer.special_ids:
            ids.append(special)
        elif token.raw and LOST not in token.raw and token.raw in id_of_bytes:
            ids.append(id_of_bytes[token.raw])
        else:
            return ()
    return tuple(i for i in ids if i is not None)


@lru_cache(maxsize=4)
def _ids_of_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Byte-level vocabularies write each byte as one visible character (GPT-2's table)."""
    from ...model import BYTE_OF

    id_of: dict[bytes, int] = {}
    for i in range(tokenizer.vocab_size):
        piece = tokenizer.token_of(i)
        if piece and i not in tokenizer.special_ids and all(c in BYTE_OF for c in piece):
            id_of.setdefault(bytes(BYTE_OF[c] for c in piece), i)
    return id_of
