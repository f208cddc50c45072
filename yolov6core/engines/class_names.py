"""Class names as files write them: lists, and tables of number to name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_CLASSES = 2**16


def names_in_order(document: Any) -> tuple[str, ...]:
    """Names by class number. A table keeps its numbers: a number that it leaves out is called by itself.

    Args:
        document: list of names, or table of number (also as text) to name.

    Raises:
        ValueError: something else, a name that is no text or number, or a number that is none of a class.
    """
    if isinstance(document, Mapping):
        named = {_number(key): _name(value, key) for key, value in document.items()}
        if len(named) != len(document):
            raise ValueError("two names have one number")
        return tuple(named.get(number, str(number)) for number in range(max(named, default=-1) + 1))
    if not isinstance(document, list | tuple) or len(document) > MAX_CLASSES:
        raise ValueError("a list of names, or a table of number to name, is needed")
    return tuple(_name(value, number) for number, value in enumerate(document))


def _number(key: Any) -> int:
    if isinstance(key, str) and key.strip().isdecimal() and len(key) <= 9:
        key = int(key)
    if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < MAX_CLASSES:
        raise ValueError(f"{str(key)[:40]!r} is no number of a class")
    return key


def _name(value: Any, key: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"class {str(key)[:40]} has no name, but {str(value)[:40]}")
    text = str(value).strip()
    if not text:
        raise ValueError(f"class {str(key)[:40]} has an empty name")
    return text
