"""Rankings of layers that were made elsewhere: files of names, the most sensitive first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from yolov6core.base.errors import UserError, logger
from yolov6core.base.inputs import InputError, printable, read_text
from yolov6core.models.variants import ModelSpec
from yolov6core.pretrained.official_names import COMMON, FOUR_LEVELS, LITE, THREE_LEVELS, rename_official

MAX_BYTES = 2**24
_TOP = re.compile(r"Top\d+:\s*(?:using\s+)?(?:float|fp16|fp32)\s+([^\s,]+)", re.IGNORECASE)
"""A line of a log as several tools print it, such as `Top0: float model.24, mAP 0.2655`."""
_HEADINGS = ("layer", "name", "block", "op", "float")
_INSIDE = ("", "upsample_transpose.", "0.", "1.")
"""Continuations of official block names, whose tensors alone have names that can be translated."""
_POOLS = tuple(f"2.{pool}.cv{number}." for pool, last in (("sppf", 2), ("cspsppf", 7)) for number in range(1, last + 1))
"""The same for the last stage of the backbone, which holds the pooling pyramid."""


def read_ranking(path: Path) -> list[str]:
    """Names in the order of a file.

    A line is a name, and whatever follows behind a blank, comma, semicolon or colon is passed over: numbers of other
    tools mean one thing here and another there. `#` begins a remark, and a heading such as `layer,sensitivity` is
    skipped. Lines of logs (`Top0: float model.24, mAP 0.2655`) and JSON lists, or objects of names, are read as well.

    Raises:
        UserError: no such file, or no name in it.
    """
    try:
        text, _ = read_text(str(path), limit=MAX_BYTES)
    except (InputError, OSError) as error:
        raise UserError(
            f"sensitivity.from_file: {path} cannot be read ({error}); give a text file of layers, one a line, the most "
            "sensitive first"
        ) from None
    names = _json_names(text) if text.lstrip()[:1] in ("[", "{") else _line_names(text)
    if not names:
        raise UserError(f"sensitivity.from_file: {path} names no layer; write one a line, the most sensitive first")
    return names


def _json_names(text: str) -> list[str]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [item for item in document if isinstance(item, str)]


def _line_names(text: str) -> list[str]:
    names = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        logged = _TOP.match(line)
        name = logged[1] if logged else re.split(r"[\s,;:]", line, maxsplit=1)[0]
        if name and name.lower() not in _HEADINGS:
            names.append(name)
    return names


def ranked_layers(names: Iterable[str], layers: Sequence[str], spec: ModelSpec, *, path: Path) -> list[str]:
    """Layers in the order of a ranking; a block stands for its layers.

    Args:
        names: layers, blocks or shell patterns, by our names or those of the official networks.
        layers: convolutions of the network that are quantized, in order of execution.
        spec: of the network, whose levels decide what official names of the neck mean.
        path: of the file, for messages.

    Raises:
        UserError: no name fits.
    """
    found: dict[str, None] = {}
    unknown = []
    for name in names:
        matches = _matches(name, layers) or _official_matches(name, layers, spec)
        found |= dict.fromkeys(matches)
        if not matches:
            unknown.append(printable(name))
    if not found:
        raise UserError(
            f"sensitivity.from_file: none of the {len(unknown)} names in {path} ({', '.join(unknown[:3])}, ...) fits a "
            f"quantized convolution; the network has {', '.join(layers)}"
        )
    if unknown:
        logger.warning(
            "sensitivity.from_file: %d of the names in %s fit no quantized convolution and are passed over: %s",
            *(len(unknown), path, ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")),
        )
    return list(found)


def _matches(name: str, layers: Sequence[str]) -> list[str]:
    return [layer for layer in layers if layer.startswith(f"{name}.") or fnmatchcase(layer, name)]


def _official_matches(name: str, layers: Sequence[str], spec: ModelSpec) -> list[str]:
    table = LITE if spec.stage == "lite" else FOUR_LEVELS if len(spec.strides) == 4 else THREE_LEVELS
    last_stage = name == f"backbone.ERBlock_{len(spec.backbone_channels)}"
    inside = (*_INSIDE, *_POOLS) if last_stage else _INSIDE
    ours = {rename_official(f"{name}.{child}", (*table, *COMMON)).rstrip(".") for child in inside}
    return [layer for layer in layers if any(layer == own or layer.startswith(f"{own}.") for own in ours)]
