"""YAML 1.2 as DVC reads it: 1e-06 is a number, `yes` and `off` are text."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML, YAMLError


def parse_yaml(text: str) -> Any:
    """A YAML document as dicts, lists and plain values; tags that would make objects are refused.

    Raises:
        ValueError: the text is not YAML; the message says where.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error
