"""What all readers share: exceptions of parsers become problems with a file's name, split names are looked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from yolov6core.base.inputs import read_text
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.datasets.annotated import DatasetError, Problem

T = TypeVar("T")
_SPLIT = re.compile(
    r"(train(ing|val)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|minival)([-_ ]?(\d+|set|data|dev))?", re.IGNORECASE
)


def attempt(read: Callable[[], T], where: str, problems: list[Problem], kind: str = "broken_annotation") -> T | None:
    """The result of `read`; None and a problem with the file's name for any exception, of whatever parser."""
    try:
        return read()
    except DatasetError:
        raise
    except Exception as error:
        problems.append(Problem(kind, where, in_words(error)))
        return None


def needed(read: Callable[[], T], where: str) -> T:
    """The result of `read` for a file that the dataset cannot do without.

    Raises:
        DatasetError: names the file, for any exception.
    """
    try:
        return read()
    except DatasetError:
        raise
    except Exception as error:
        words = in_words(error)
        raise DatasetError(words if where in words else f"{where} cannot be read: {words}") from error


def in_words(error: Exception) -> str:
    """An exception as one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()) or type(error).__name__


def text_of(path: str, problems: list[Problem]) -> str:
    """The text of a file that is needed; a guessed encoding is a problem to report. Raises DatasetError."""
    text, guess = needed(lambda: read_text(path), path)
    if guess is not None:
        problems.append(Problem("guessed_encoding", path, guess))
    return text


def yaml_of(path: str, problems: list[Problem]) -> dict[str, object]:
    """The mapping in a YAML file, empty if it is something else. Raises DatasetError."""
    text = text_of(path, problems)
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise DatasetError(f"{path} is {in_words(error)}") from error
    return document if isinstance(document, dict) else {}


def checked_names(entries: Sequence[object], where: str, problems: list[Problem]) -> list[str]:
    """Class names by index; a name that is given twice is one class, and reported.

    Raises:
        DatasetError: a name is null, empty, or no plain value.
    """
    names = []
    for index, entry in enumerate(entries):
        if entry is None or isinstance(entry, list | dict) or not str(entry).strip():
            raise DatasetError(f"{where}: class {index} has no name ({entry!r}); give every class a name")
        name = str(entry).strip()
        if name in names:
            problems.append(Problem("repeated_class", where, f"{name}: classes {names.index(name)} and {index}"))
        names.append(name)
    return names


def looks_like_split(name: str) -> bool:
    """Whether a folder or list is named like a part of a dataset: train, valid, test2017."""
    return _SPLIT.fullmatch(name) is not None


def is_whole(names: Sequence[str]) -> bool:
    """Whether a dataset has one list or file, which is not named as one of test images: it is split by chance."""
    return len(names) == 1 and not names[0].lower().startswith("test")


def missing_split(asked: Iterable[str], there: Iterable[str], root: str) -> DatasetError:
    """The error for split names that the dataset does not have, while it has others."""
    known = sorted(set(there))
    names = ", ".join(dict.fromkeys(asked))
    return DatasetError(
        f"no split {names} in {root}; there are: {', '.join(known)}. "
        f"Set prepare.train_split and prepare.val_split to names among these"
    )


def same_names(train: Sequence[str], val: Sequence[str]) -> bool:
    """Whether both splits are asked from the same places: then they are split by chance."""
    return bool(train) and set(train) == set(val)
