"""`engine.json` read strictly: whatever is in the file, it becomes the fields of an engine or one message."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yolov6core.engines.class_names import MAX_CLASSES

MAX_BYTES = 2**24
MAX_SIDE = 2**14
"""Pixels of an input's side."""
MAX_THREADS = 1024
AGAIN = "the file is damaged or was changed: build the engine again"


class WrongSidecar(ValueError):
    """A sidecar that no build of this version writes."""


def checked_values(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """The fields of an engine, each of its type and within its bounds; `settings` and `interface` are tables.

    Args:
        known: names of the fields.

    Raises:
        WrongSidecar: the message names file and field.
    """
    document = _document(path)
    if odd := set(document) ^ set(known):
        shown = ", ".join(sorted(key[:40] for key in odd)[:8])
        raise WrongSidecar(f"{path} has fields too many or too few ({shown}): build it again")
    values = {}
    for name, value in document.items():
        try:
            values[name] = _CHECKS[name](value)
        except ValueError as error:
            raise WrongSidecar(f"{path}: {name} is {str(value)[:60]}, {error}; {AGAIN}") from None
    return values


def _document(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # of JSON and of text encodings, too
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise WrongSidecar(f"{path} cannot be read ({str(reason)[:200]}); {AGAIN}") from None
    if not isinstance(document, dict):
        raise WrongSidecar(f"{path} holds no object with the fields of an engine; {AGAIN}")
    return document


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("a text is needed")
    return value


def _file(value: Any) -> str:
    if not _text(value) or Path(value).name != value or value in (".", "..") or "\0" in value or "\\" in value:
        raise ValueError("the name of a file in the folder is needed")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high} is needed")
        return value

    return check


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g} is needed")
        return value

    return check


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_CLASSES:
        raise ValueError("a list of texts is needed")
    return tuple(_text(item) for item in value)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8:
        raise ValueError("a list of up to eight whole numbers is needed")
    return tuple(_whole(-1, 2**31)(item) for item in value)


def _input_shape(value: Any) -> tuple[int, ...]:
    shape = _shape(value)
    if len(shape) != 4 or shape[1] != 3 or shape[0] == 0 or not all(1 <= side <= MAX_SIDE for side in shape[2:]):
        raise ValueError(f"[B, 3, H, W] with sides from 1 to {MAX_SIDE} is needed")
    if shape[0] > MAX_THREADS:
        raise ValueError(f"at most {MAX_THREADS} images at a time are possible")
    return shape


def _shapes(value: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, dict):
        raise ValueError("a table of name to shape is needed")
    return {name: _shape(shape) for name, shape in value.items()}


def _part(checks: dict[str, Callable[[Any], Any]], *, later: Iterable[str] = ()) -> Callable[[Any], dict[str, Any]]:
    """Reader of a table; it may lack the fields `later`, which engines of earlier versions do not have."""
    needed = set(checks) - set(later)

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not needed <= set(value) <= set(checks):
            raise ValueError(f"the fields {', '.join(checks)} are needed")
        found = {}
        for name, entry in value.items():
            try:
                found[name] = checks[name](entry)
            except ValueError as error:
                raise ValueError(f"{name} is {str(entry)[:60]}: {error}") from None
        return found

    return check


def _strides(value: Any) -> tuple[int, ...]:
    return tuple(_whole(1, 1024)(stride) for stride in _shape(value))


_COUNT = _whole(0, 2**31)
_SETTINGS = _part(
    {
        "threads": _whole(0, MAX_THREADS),
        "hint": _text,
        "precision": _text,
        "max_batch": _whole(1, 2**16),
        "workspace_mib": _COUNT,
        "optimization_level": _whole(0, 5),
        "dla_core": _or_none(_whole(0, 64)),
        "hardware_compatibility": _text,
        "version_compatible": _yes_or_no,
    },
    later=("dla_core", "hardware_compatibility", "version_compatible"),
)
_INTERFACE = _part(
    {
        "form": _text,
        "nms": _text,
        "nms_classes": _text,
        "input": _text,
        "strides": _strides,
        "classes": _whole(0, MAX_CLASSES),
        "score_threshold": _number(0, 1),
        "iou_threshold": _number(0, 1),
        "max_detections": _whole(1, 2**16),
        "candidates": _whole(1, 2**31),
        "shrink": _whole(0, MAX_SIDE),
    },
    later=("nms_classes",),
)
_CHECKS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("runtime", "version", "device", "dialect", "precision", "cpu_sums"), _text),
    "file": _file,
    "input_shape": _input_shape,
    "settings": _SETTINGS,
    **dict.fromkeys(("convs", "wanted_int8", "overflowing_convs"), _COUNT),
    "int8_convs": _whole(-1, 2**31),
    **dict.fromkeys(("float_layers", "names"), _texts),
    "int8_share": _number(0, 1),
    **dict.fromkeys(("inputs", "outputs"), _shapes),
    "interface": _INTERFACE,
    "deviation": _number(-1, 1e30),
}
"""Field -> reader of its value; raises ValueError for anything that no build writes."""
