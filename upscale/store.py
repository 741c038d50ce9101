"""Records of what was measured of a network, which may come from a file that anyone may have damaged.

A record is a frozen dataclass. Its class method `read` takes the fields as they were found, and returns None for what
cannot be right.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

import torch

Fields: TypeAlias = dict[str, Any]
Store: TypeAlias = MutableMapping[str, Any]  # the fields of records, by what was measured


class Record(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[Fields]


Found = TypeVar("Found", bound=Record)


def cached(
    store: Store, key: str, read: Callable[[Fields], Found | None], measure: Callable[[], Found]
) -> Found:
    """Return the record under `key`; where it is missing or cannot be right, it is measured again and stored."""
    stored = store.get(key)
    found = read(cast(Fields, stored)) if isinstance(stored, dict) else None
    if found is None or _fields(found) != stored:
        found = measure()
        store[key] = _fields(found)
    return found


def _fields(record: Record) -> Fields:
    return {name: _plain(value) for name, value in asdict(record).items()}


def _plain(value: Any) -> Any:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
