"""tokenizer.json of a sentence encoder. Unlike a language model's (tokenizer.py) it adds special tokens."""

from __future__ import annotations

from pathlib import Path

from ..errors import Lacking, Where, WrongUse


class SentenceTokenizer:
    """Text, or a pair of texts, to a sentence encoder's ids, with the special tokens it was made with."""

    def __init__(self, folder: Path) -> None:
        """Raises Lacking without the tokenizers package, WrongUse where the file is missing or damaged."""
        try:
            from tokenizers import Tokenizer
        except ImportError as e:
            hint = "in the steelyard checkout: pip install -c constraints.txt '.[serve]'"
            raise Lacking("model.no_tokenizers", "tokenizers is not installed", hint=hint) from e
        path = Path(folder) / "tokenizer.json"
        try:
            self._inner = Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises bare Exception
            where = Where(str(path))
            raise WrongUse(
                "model.tokenizer", "tokenizer.json is missing or damaged", where=where, hint="fetch it again"
            ) from e
        # The file may cut and pad (MiniLM's: to 128); here nothing is cut silently.
        self._inner.no_truncation()
        self._inner.no_padding()

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """Other threads go on meanwhile: a batch, of one too, is read without the interpreter's lock."""
        given = _whole(text) if pair is None else (_whole(text), _whole(pair))
        return self._inner.encode_batch([given])[0].ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self._inner.encode_batch([_whole(t) for t in texts])]

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size(with_added_tokens=True)

    def id_of(self, *names: str) -> int | None:
        """The id of the first of these tokens that there is."""
        found = (self._inner.token_to_id(name) for name in names)
        return next((n for n in found if n is not None), None)


def _whole(text: str) -> str:
    """Half a surrogate pair, which JSON can smuggle in, counts as U+FFFD."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
