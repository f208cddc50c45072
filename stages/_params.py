"""Strict reading of `params.yaml`: one frozen dataclass a section, all errors at once, before torch is imported.

A section's dataclass lives in the stage that owns it. Field types may be `int`, `float`, `bool`, `str`,
`Literal[...]`, `list[X]` and unions of these with `None`; numeric bounds are given as `Annotated[int, Bounds(1, 64)]`.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from yolov6core.yaml_text import parse_yaml

Section = TypeVar("Section")

ParamsFile = Annotated[
    Path, typer.Option("--params", help="The parameter file; its sections are named like the stages.")
]
DEFAULT_PARAMS = Path("params.yaml")
SECTIONS = (
    "model",
    "augment",
    "prepare",
    "search",
    "train",
    "ptq",
    "sensitivity",
    "qat",
    "export",
    "engine",
    "eval",
    "runtime",
)
"""All top-level keys that `params.yaml` may have."""


@dataclass(frozen=True)
class Bounds:
    """Inclusive bounds of a number; `None` means unbounded on that side."""

    low: float | None = None
    high: float | None = None

    def describe(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {self.low} to {self.high}"
        return f"at least {self.low}" if self.low is not None else f"at most {self.high}"

    def admit(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class ModelParams:
    """Section `model`: what is built, shared by every stage that touches the network."""

    variant: str
    image_size: list[Annotated[int, Bounds(32, 4096)]]
    shrink: Annotated[int, Bounds(0, 4096)]

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or any(side % 32 for side in self.image_size):
            raise ValueError(f"image_size is {self.image_size}; give [height, width], both multiples of 32")
        if 2 * self.shrink > min(self.image_size):
            raise ValueError(
                f"shrink is {self.shrink}; it is the pixels of the grey frame, at most half a side of {self.image_size}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network input."""
        return self.image_size[0], self.image_size[1]


@dataclass(frozen=True)
class AugmentParams:
    """Section `augment`: random changes of training images, shared by every stage that trains."""

    mosaic: Annotated[float, Bounds(0, 1)]
    mixup: Annotated[float, Bounds(0, 1)]
    degrees: Annotated[float, Bounds(0, 180)]
    translate: Annotated[float, Bounds(0, 1)]
    scale: Annotated[float, Bounds(0, 0.95)]
    shear: Annotated[float, Bounds(0, 60)]
    hsv_h: Annotated[float, Bounds(0, 0.5)]
    hsv_s: Annotated[float, Bounds(0, 1)]
    hsv_v: Annotated[float, Bounds(0, 1)]
    flip_lr: Annotated[float, Bounds(0, 1)]
    flip_ud: Annotated[float, Bounds(0, 1)]
    multi_scale: Annotated[float, Bounds(0, 0.9)]


@dataclass(frozen=True)
class PtqParams:
    """Section `ptq`: how activation ranges are chosen, what is done to the network, and what accuracy it must keep."""

    method: Literal["auto", "max", "percentile", "mse", "entropy"]
    percentiles: list[Annotated[float, Bounds(50, 100)]]
    dialect: Literal["openvino", "ort", "trt"]
    cpu: Literal["auto", "exact", "saturating"]
    batch_size: Annotated[int, Bounds(1, 4096)]
    predictions: Literal["float", "int8"]
    float_layers: list[str]
    equalize: Literal["off", "depthwise", "chains", "all"]
    adaround: Annotated[int, Bounds(0, 100_000)]
    bias_correction: Literal["off", "fast"]
    min_retention: Annotated[float, Bounds(0, 1)]
    on_failure: Literal["warn", "fail"]
    wild_ratio: Annotated[float, Bounds(1, None)]

    def __post_init__(self) -> None:
        if self.method == "percentile" and not self.percentiles:
            raise ValueError("percentiles is empty, but method is percentile; give at least one")


@dataclass(frozen=True)
class RuntimeParams:
    """Section `runtime`: how the stages run here. No stage lists it in `dvc.yaml`, so changing it re-runs nothing."""

    threads: Annotated[int, Bounds(0, 256)]
    workers: Annotated[int, Bounds(0, 64)]
    cache_mib: Annotated[int, Bounds(0, None)]
    device: str


class ParamsError(Exception):
    """All problems found in the parameter file, one a line."""


def read_params(path: Path, **sections: type[Any]) -> tuple[Any, ...]:
    """Read and check sections of a YAML 1.2 parameter file.

    Args:
        path: the parameter file.
        sections: section name -> frozen dataclass that it must fill exactly.

    Returns: the filled dataclasses, in the order of `sections`.

    Exits with code 2 after printing every unknown, missing or wrong value with what is allowed.
    """
    try:
        return parse_params(load_params(path), where=str(path), **sections)
    except ParamsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def parse_params(document: Any, *, where: str = "params", **sections: type[Any]) -> tuple[Any, ...]:
    """Fill dataclasses from a parsed document; raises ParamsError naming every problem."""
    if not isinstance(document, dict):
        raise ParamsError(f"{where} must hold a mapping of sections, found {type(document).__name__}")
    problems = [f"{name}: unknown section{_nearest(name, SECTIONS)}" for name in document if name not in SECTIONS]
    filled = [_fill(document, name, section, problems) for name, section in sections.items()]
    if problems:
        raise ParamsError(f"{where}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))
    return tuple(filled)


def load_params(path: Path) -> Any:
    """The document of a parameter file, not checked; raises ParamsError if it is missing or no YAML."""
    if not path.is_file():
        raise ParamsError(f"{path} is missing; run from the project's root or give --params")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParamsError(f"{path} is {error}") from error


def _fill(document: dict[str, Any], name: str, section: type[Section], problems: list[str]) -> Section | None:
    values = document.get(name)
    if not isinstance(values, dict):
        found = "missing" if name not in document else f"{values!r}"
        problems.append(
            f"{name}: a section with the keys {', '.join(f.name for f in fields(section))} is needed, {found}"
        )
        return None
    hints = typing.get_type_hints(section, include_extras=True)
    known = [field.name for field in fields(section)]
    count = len(problems)
    problems += [f"{name}.{key}: unknown parameter{_nearest(key, known)}" for key in values if key not in known]
    filled = {}
    for key in known:
        if key not in values:
            problems.append(f"{name}.{key}: missing; allowed: {describe(hints[key])}")
            continue
        ok, filled[key] = _convert(values[key], hints[key])
        if not ok:
            problems.append(f"{name}.{key}: {values[key]!r} is not allowed; allowed: {describe(hints[key])}")
    if len(problems) > count:
        return None
    try:
        return section(**filled)
    except ValueError as error:  # checks between fields live in __post_init__
        problems.append(f"{name}: {error}")
        return None


def _nearest(name: Any, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def _convert(value: Any, hint: Any) -> tuple[bool, Any]:
    """Check one value against a type; returns (fits, value in that type)."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ok, converted = _convert(value, args[0])
        return ok and (converted is None or all(bound.admit(converted) for bound in args[1:])), converted
    if origin in (typing.Union, types.UnionType):
        for option in args:
            ok, converted = _convert(value, option)
            if ok:
                return True, converted
        return False, value
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args), value
    if origin is list:
        if not isinstance(value, list):
            return False, value
        items = [_convert(item, args[0]) for item in value]
        return all(ok for ok, _ in items), [item for _, item in items]
    if hint is float and type(value) in (int, float):
        return math.isfinite(value), float(value)
    return type(value) is (type(None) if hint is None else hint), value


def describe(hint: Any) -> str:
    """A type hint in words, for error messages."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([describe(args[0]), *(bound.describe() for bound in args[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in args)
    if origin is Literal:
        return " | ".join(repr(choice) for choice in args)
    if origin is list:
        return f"list of ({describe(args[0])})"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, str(hint))
