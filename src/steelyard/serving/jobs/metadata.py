"""OpenAI's `metadata`: at most 16 short pairs of text that a client hangs on an object."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Key, Value], Field(max_length=16)]
