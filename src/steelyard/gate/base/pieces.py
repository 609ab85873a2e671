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
    made = list(answer.tokens or ())
    if answer.finish == "stop" and made and _is_end(tokenizer, made[-1]):
        made.pop()  # some servers report the end token too
    proven = _by_bytes(tokenizer, made) if made else ()
    if proven or BROKEN in answer.text:
        return proven
    ids = tokenizer.encode(answer.text)
    if made:
        return tuple(ids) if _same_pieces(tokenizer, ids, made) else ()
    count = answer.completion_tokens
    allowed = (0, 1) if answer.finish == "stop" else (0,)
    return tuple(ids) if count is None or count - len(ids) in allowed else ()


def _is_end(tokenizer: Tokenizer, token: Token) -> bool:
    return not token.text or tokenizer.id_of(token.text) in tokenizer.eos_ids


def _same_pieces(tokenizer: Tokenizer, ids: Sequence[int], made: Sequence[Token]) -> bool:
    pieces = [tokenizer.decode([i]) for i in ids]
    return len(ids) == len(made) and all(
        BROKEN in piece + token.text or piece.strip() == token.text.strip()
        for piece, token in zip(pieces, made, strict=True)
    )


def _by_bytes(tokenizer: Tokenizer, made: Sequence[Token]) -> tuple[int, ...]:
    """() unless every token's bytes, or its special text, are those of one id of the vocabulary."""
    known = _ids_of_bytes(tokenizer)
    ids = []
    for token in made:
        special = tokenizer.id_of(token.text)
        if special in tokenizer.special_ids:
            ids.append(special)
        elif token.raw and LOST not in token.raw and token.raw in known:
            ids.append(known[token.raw])
        else:
            return ()
    return tuple(i for i in ids if i is not None)


@lru_cache(maxsize=4)
def _ids_of_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Byte-level vocabularies write each byte as one visible character (GPT-2's table)."""
    from ...model import BYTE_OF

    found: dict[bytes, int] = {}
    for i in range(tokenizer.vocab_size):
        piece = tokenizer.token_of(i)
        if piece and i not in tokenizer.special_ids and all(c in BYTE_OF for c in piece):
            found.setdefault(bytes(BYTE_OF[c] for c in piece), i)
    return found
