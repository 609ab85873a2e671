"""How long a row is for a model, by its own tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefact import Artefact, Inputs
from ..row import Row

# All that counting reads of a model's folder.
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")


def token_counter(inputs: Inputs) -> Callable[[Row], int] | None:
    """By the base model, if it is among the inputs."""
    base = inputs.artefacts.get("base")
    return inputs.calls.get("tokens_of") if base is None else TokensOf(base)


def counter(tokenizer: Any) -> Callable[[Row], int]:
    """Tokens of a row, special tokens included."""

    def count(row: Row) -> int:
        if row.messages is None:
            return len(tokenizer.encode(row.text or ""))
        tools = {"tools": list(row.tools)} if row.tools else {}
        return len(tokenizer.chat_ids(list(row.messages), False, **tools))

    return count


@dataclass(slots=True)
class TokensOf:
    """Loads its tokenizer at the first row: most data has none so long. Pickled, it takes the files along."""

    base: Artefact | Sent
    count: Callable[[Row], int] | None = None

    def __call__(self, row: Row) -> int:
        if self.count is None:
            self.count = counter(
                self.base.tokenizer() if isinstance(self.base, Sent) else read(self.base.path())
            )
        return self.count(row)

    def __reduce__(self) -> tuple[Any, ...]:
        sent = self.base if isinstance(self.base, Sent) else Sent.of(self.base.path())
        return TokensOf, (sent,)


@dataclass(frozen=True, slots=True)
class Sent:
    """The files of a tokenizer on their way to another host."""

    files: Mapping[str, bytes]

    @staticmethod
    def of(folder: Path) -> Sent:
        return Sent({name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()})

    def tokenizer(self) -> Any:
        """Raises WrongUse as where it came from."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return read(Path(folder))


def read(folder: Path) -> Any:
    from ...model import Tokenizer

    return Tokenizer(folder)
