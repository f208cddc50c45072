"""YAML 1.2 as DVC reads it: 1e-06 is a number, `yes` and `off` are text."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML, YAMLError

MAX_VALUES = 10**6
"""Values of a document with its anchors written out; nine lines can make a billion of them."""


def parse_yaml(text: str) -> Any:
    """A YAML document as dicts, lists and plain values; tags that would make objects are refused.

    Raises:
        ValueError: the text is not YAML, or its anchors expand without bound; the message says where.
    """
    try:
        document = YAML(typ="safe", pure=True).load(text)
        size = _size(document, {}, set())
    except YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error
    except RecursionError as error:
        raise ValueError("not valid YAML: it is nested too deeply") from error
    except _Unbounded as error:
        raise ValueError(f"not valid YAML: {error}") from error
    except Exception as error:  # values that the parser makes no sense of: dates, numbers of 5,000 digits, tags
        raise ValueError(f"not valid YAML: {error}") from error
    if size > MAX_VALUES:
        raise ValueError(f"not valid YAML: written out, its anchors make {size} values; at most {MAX_VALUES} are taken")
    return document


class _Unbounded(Exception):
    pass


def _size(value: Any, known: dict[int, int], open_: set[int]) -> int:
    """Number of values in a document with every reference written out."""
    if not isinstance(value, dict | list):
        return 1
    key = id(value)
    if key in open_:
        raise _Unbounded("an anchor holds itself")
    if key not in known:
        open_.add(key)
        children = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[key] = 1 + sum(_size(child, known, open_) for child in children)
        open_.discard(key)
    return known[key]
