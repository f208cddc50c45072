"""Strict reading of the sections of a YAML file: pydantic models, all problems at once, in the order of the file.

Every key is needed and checked. A whole number is fine where a number is wanted; nothing else is converted. Checks
between the keys of a section are its `conflicts`. The text after "allowed:" comes from the type of the field.
"""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from typing_extensions import Self

from yolov6core.base.yaml_text import parse_yaml

SECTIONS: dict[str, type[Section]] = {}
"""Name of a section -> its model, in the order of the file."""


class Section(BaseModel):
    """A section of `params.yaml`; `section` is its name there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
    section: ClassVar[str]
    renamed: ClassVar[Mapping[str, str]] = {}
    """Earlier names of keys and values -> names of today, for messages."""

    def __init_subclass__(cls, section: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if section is not None:
            cls.section, SECTIONS[section] = section, cls

    def conflicts(self) -> Iterator[str]:
        """Problems between values that are fine each on its own, one line each."""
        yield from ()

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        if problems := list(self.conflicts()):
            raise ValueError("\n".join(problems))
        return self


S = TypeVar("S", bound=Section)
A = TypeVar("A", bound=Section)
B = TypeVar("B", bound=Section)
C = TypeVar("C", bound=Section)
D = TypeVar("D", bound=Section)
E = TypeVar("E", bound=Section)


class ParamsError(Exception):
    """All problems of a parameter file, one a line."""


Problems = Callable[[Mapping[str, Any]], Iterator[str]]
"""Section name -> section, of all that are right: problems between sections, one line each."""


class ParameterFile:
    """A parameter file that is checked as a whole when sections are read, and looked at again later."""

    def __init__(
        self,
        path: Path,
        *,
        base: Path | None = None,
        changes: Sequence[str] = (),
        between: Problems = lambda sections: iter(()),
    ) -> None:
        """Args:
        base: file of the values that `path` lacks; it may hold only what differs.
        changes: values that count instead of the files', as `qat.epochs=1`.
        between: finds problems between sections.
        """
        self.path, self._base, self._changes, self._between = path, base, tuple(changes), between
        self._read: dict[str, Section] = {}

    @overload
    def read(self, a: type[A], /) -> tuple[A]: ...
    @overload
    def read(self, a: type[A], b: type[B], /) -> tuple[A, B]: ...
    @overload
    def read(self, a: type[A], b: type[B], c: type[C], /) -> tuple[A, B, C]: ...
    @overload
    def read(self, a: type[A], b: type[B], c: type[C], d: type[D], /) -> tuple[A, B, C, D]: ...
    @overload
    def read(self, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /) -> tuple[A, B, C, D, E]: ...
    @overload
    def read(self, /, *sections: type[Section]) -> tuple[Section, ...]: ...
    def read(self, /, *sections: type[Section]) -> tuple[Section, ...]:
        """The sections, in the order asked for. All others of the file are checked, too.

        Raises:
            ParamsError: names every problem of the file.
        """
        found = self._sections()
        if problems := list(self._between(found)):
            raise ParamsError(_listed(str(self.path), problems))
        self._read |= {model.section: found[model.section] for model in sections}
        return tuple(found[model.section] for model in sections)

    def edited(self, *, ignoring: Collection[str] = ()) -> list[str]:
        """Values of the sections that were read and that are others in the file by now, one line each.

        Args:
            ignoring: sections that may change.
        """
        try:
            now = self._sections()
        except ParamsError as error:
            return [str(error)]
        lines = []
        for name, section in self._read.items():
            if name in ignoring:
                continue
            old, new = section.model_dump(), now[name].model_dump()
            lines += [f"{name}.{key}: {show(old[key])} -> {show(new[key])}" for key in old if old[key] != new[key]]
        return lines

    def _sections(self) -> dict[str, Section]:
        document = load_params(self.path)
        if self._base is not None and self._base.is_file() and self._base.resolve() != self.path.resolve():
            document = _merged(load_params(self._base), document)
        for change in self._changes:
            document = _merged(document, _parsed_change(change))
        sections = parse_params(document, *SECTIONS.values(), where=str(self.path))
        return {section.section: section for section in sections}


def _merged(base: object, over: object) -> object:
    """Mappings joined, down through their levels; of anything else `over`."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: _merged(base[key], value) if key in base else value for key, value in over.items()}


def _parsed_change(text: str) -> dict[str, dict[str, Any]]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not section or not key:
        raise ParamsError(f"--set {show(text)}: give section.key=value, such as qat.epochs=1")
    try:
        return {section: {key: parse_yaml(value)}}
    except ValueError as error:
        raise ParamsError(f"--set {show(text)}: the value is no YAML: {error}") from error


def load_params(path: Path) -> object:
    """The document of a parameter file, not checked; raises ParamsError if it is missing, not UTF-8 or not YAML."""
    if not path.is_file():
        raise ParamsError(f"{path} is missing; run from the project's root or give --params")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ParamsError(f"{path} is nested too deeply") from error
    except (ValueError, OSError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from error


def parse_params(document: object, *sections: type[S], where: str = "params") -> tuple[S, ...]:
    """The sections of a parsed document, in the order asked for; raises ParamsError that names every problem."""
    if not isinstance(document, dict):
        raise ParamsError(f"{where} must hold a mapping of sections, found {type(document).__name__}")
    found: dict[object, list[str]] = {model.section: [] for model in sections}
    filled = [_fill(model, document, found[model.section]) for model in sections]
    for name in document:
        if name not in SECTIONS:
            found[name] = [_unknown("section", "", name, SECTIONS)]
    problems = [line for name in {**document, **found} for line in found.get(name, [])]
    if problems:
        raise ParamsError(_listed(where, problems))
    return tuple(section for section in filled if section is not None)


def _listed(where: str, problems: Collection[str]) -> str:
    return f"{where}: {len(problems)} problem(s)\n  " + "\n  ".join(problems)


def _fill(model: type[S], document: dict[Any, Any], problems: list[str]) -> S | None:
    """One section of a document; `problems` gets a line for everything that is wrong with it."""
    name, fields = model.section, model.model_fields
    values = document.get(name)
    if not isinstance(values, dict):
        seen = f"found {show(values)}" if name in document else "missing"
        problems.append(f"{name}: a section with the keys {', '.join(fields)} is needed, {seen}")
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # by key; conflicts have none
        wrong = {(*e["loc"], "")[0]: e["msg"] for e in error.errors(include_url=False, include_input=False)}
    allowed = {key: describe(hint) for key, hint in typing.get_type_hints(model, include_extras=True).items()}
    for key, value in values.items():
        if key not in fields:
            problems.append(_unknown("parameter", f"{name}.", key, fields, model.renamed))
        elif key in wrong:
            new = model.renamed.get(value) if isinstance(value, str) else None
            renamed = f"{value!r} is renamed to {new!r}" if repr(new) in allowed[key] else ""
            problems.append(f"{name}.{key}: " + (renamed or f"{show(value)} is not allowed; allowed: {allowed[key]}"))
    missing = [key for key in fields if key not in {*values, *(model.renamed.get(key) for key in values)}]
    problems += [f"{name}.{key}: missing; allowed: {allowed[key]}" for key in missing]
    problems += [f"{name}: {line}" for line in wrong.get("", "").removeprefix("Value error, ").splitlines()]
    return None


def _unknown(kind: str, prefix: str, key: object, known: Collection[str], renamed: Mapping[str, str] = {}) -> str:
    if not isinstance(key, str):
        return f"{prefix}{show(key)}: the name of a {kind} is text"
    if renamed.get(key) in known:
        return f"{prefix}{key}: renamed to {renamed[key]}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"{prefix}{key}: unknown {kind}; {hint}"


def show(value: object) -> str:
    """A value for a message, shortened if it is long."""
    short = reprlib.Repr()
    short.maxstring, short.maxlist, short.maxlevel = 100, 20, 2
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of too many digits"


def describe(hint: Any) -> str:
    """A type hint in words, for messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        infos = [info for info in args[1:] if isinstance(info, FieldInfo)]
        words = [info.description for info in infos if info.description]
        return words[0] if words else " ".join([describe(args[0]), *map(_bounds, infos)])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in args)
    if origin is Literal:
        return " | ".join(repr(choice) for choice in args)
    if origin is list:
        return f"list of ({describe(args[0])})"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, str(hint))


def _bounds(info: FieldInfo) -> str:
    names = ("gt", "ge", "le")
    limits = {name: getattr(bound, name) for bound in info.metadata for name in names if hasattr(bound, name)}
    if {"ge", "le"} <= limits.keys():
        return f"from {limits['ge']} to {limits['le']}"
    words = zip(names, ("above", "at least", "at most"), strict=True)
    return " and ".join(f"{word} {limits[name]}" for name, word in words if name in limits)
