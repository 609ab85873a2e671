"""A document on the disk that another version wrote, read by what it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read_as(kind: type[T], document: Any) -> T:
    """`document` as this dataclass: what a later version added is left out, what came later has its default.

    Raises ValueError where it is no such document, or lacks a field that has no default.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"this is no {kind.__name__}")
    known = fields(kind)
    if lacking := [field.name for field in known if field.name not in document and not has_default(field)]:
        raise ValueError(f"a {kind.__name__} without {', '.join(lacking)}")
    return kind(**{field.name: document[field.name] for field in known if field.name in document})


def has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING
