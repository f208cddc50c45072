"""Files of class names: a name a line, or a document with `names`; in the encodings that editors write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yolov6core.base.errors import UserError, logger
from yolov6core.base.inputs import read_text
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.engines.class_names import names_in_order

MAX_BYTES = 2**22
MAX_ANCHORS = 100
"""More anchors and aliases than that are in no file of names; a few lines of them can stand for billions of nodes."""


def names_in_file(path: Path, classes: int = 0) -> tuple[str, ...]:
    """Class names by number, from a dataset.yaml, a JSON file, or a text file with a name a line.

    Tables keep their numbers. An empty line between others stands for a class without a name, which is called by its
    number, unless the lines with names are as many as the classes. Both are told, as is a guessed encoding.

    Args:
        classes: number of classes; 0: not known.

    Raises:
        UserError: the file is missing, too large, no regular file, or holds no names.
    """
    if not path.is_file():
        raise UserError(f"--names {path} does not exist; give a dataset.yaml or a text file with a name a line")
    try:
        text = _text(path)
        if path.suffix.lower() in (".yaml", ".yml", ".json"):
            names = names_in_order(_entry(_parsed(path, text)))
        else:
            names = _lines(path, text, classes)
    except OSError as error:
        raise UserError(f"--names {path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--names {path}: {' '.join(str(error).split())[:300]}") from None
    if not names:
        raise UserError(f"--names {path} holds no names; give a dataset.yaml or a text file with a name a line")
    return names


def _text(path: Path) -> str:
    text, guess = read_text(str(path), limit=MAX_BYTES)
    if guess is not None:
        logger.warning("--names %s is not UTF-8, read as %s: look at the names, or save it as UTF-8", path, guess)
    return text


def _parsed(path: Path, text: str) -> Any:
    if path.suffix.lower() == ".json":
        return json.loads(text)
    if text.count("*") + text.count("&") > MAX_ANCHORS and text.count("*") > 2 and "&" in text:
        raise ValueError(f"it has more than {MAX_ANCHORS} anchors and aliases; write the names out")
    return parse_yaml(text)


def _entry(document: Any) -> Any:
    """The names of a document: its entry `names`, or the document itself."""
    if isinstance(document, dict) and any(isinstance(key, str) and not key.isdecimal() for key in document):
        if "names" not in document:
            raise ValueError(f"it has no entry 'names' among {', '.join(map(str, list(document)[:8]))}")
        return document["names"]
    return document


def _lines(path: Path, text: str, classes: int) -> tuple[str, ...]:
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")]
    empty = [number for number, line in enumerate(lines) if not line]
    if lines == [""]:
        return ()
    if empty and len(lines) - len(empty) == classes:
        logger.warning("--names %s: %d empty lines are left out", path, len(empty))
        return tuple(line for line in lines if line)
    if empty:
        logger.warning(
            "--names %s: line %s is empty, so class %s has no name",
            *(path, ", ".join(str(number + 1) for number in empty[:8]), ", ".join(map(str, empty[:8]))),
        )
    return names_in_order({number: line for number, line in enumerate(lines) if line})
