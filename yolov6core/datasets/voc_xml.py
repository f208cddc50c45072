"""One XML file of Pascal VOC's form to objects in pixels."""

from __future__ import annotations

import functools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import NamedTuple

from yolov6core.base.inputs import InputError, decode_text, text_codec, xml_declared
from yolov6core.datasets.annotated import AnnotatedObject, Box, Problem

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OF_EXPAT = (None, "utf-8", "iso8859-1")  # Python's names of the encodings that the parser reads itself


class AnnotationError(ValueError):
    """An annotation file that cannot be used at all."""


class VocAnnotation(NamedTuple):
    """Contents of one XML file; `size` is (height, width), None where missing or zero."""

    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]
    problems: tuple[Problem, ...]


def voc_box(corners: Sequence[float], *, origin: int = 1) -> Box:
    """Corners (xmin, ymin, xmax, ymax) of an annotation to continuous pixels.

    Args:
        corners: the four numbers of `<bndbox>`.
        origin: 1 for VOC's own inclusive pixels, counted from 1: a box over a whole image of width W reads 1..W;
            0 for corners counted from 0, as labelImg and most exporters write them: the same box reads 0..W.
    """
    xmin, ymin, xmax, ymax = corners
    return (xmin - origin, ymin - origin, xmax, ymax)


def parse_voc(data: bytes, *, where: str = "annotation", origin: int = 1) -> VocAnnotation:
    """Parse one XML file.

    Only `<name>` and `<bndbox>` of an object are needed; coordinates may be decimal; `<difficult>` defaults to 0;
    parts inside an object are not objects. A document type, and with it every entity, is refused.

    Raises:
        AnnotationError: not well-formed, a document type, or another root element than `annotation`.
    """
    root, guess = _parse_xml(data, where)
    if root.tag != "annotation":
        raise AnnotationError(f"the root element is <{root.tag[:40]}>, VOC's is <annotation>")
    objects, zero = [], False
    problems = [] if guess is None else [Problem("guessed_encoding", where, guess)]
    for number, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        corners = _corners(element.find("bndbox"))
        if not name or corners is None:
            problems.append(Problem("broken_object", where, f"object {number} ({name or 'no name'})"))
            continue
        ordered = _in_order(corners)
        if ordered != corners:
            problems.append(Problem("swapped_corners", where, f"object {number} ({name})"))
        corners = ordered
        zero = zero or 0 <= min(corners[:2]) < 1
        difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
        objects.append(AnnotatedObject(name, voc_box(corners, origin=origin), difficult))
    if zero and origin == 1:
        problems.append(Problem("zero_coordinate", where))
    return VocAnnotation(_size(root.find("size")), tuple(objects), tuple(problems))


def _parse_xml(data: bytes, where: str) -> tuple[ElementTree.Element, str | None]:
    """The root element, and the encoding if it was guessed."""
    declared = xml_declared(data)
    codec = None if declared is None else text_codec(declared)
    if declared is not None and codec is None:
        raise AnnotationError(f"not well-formed XML: unknown encoding {declared!r}")
    if codec in _OF_EXPAT and b"\0" not in data[:64]:
        _refuse_document_types(data)
        try:
            return ElementTree.fromstring(data), None
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            if _is_utf8(data):  # another encoding would not mend it
                raise AnnotationError(f"not well-formed XML: {error}") from error
    try:
        # The parser takes few encodings, and a search of the bytes would not see the document type in others.
        text, guess = decode_text(data, where=where, declared=declared)
        data = re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL).encode()  # it names the encoding of before
        _refuse_document_types(data)
        return ElementTree.fromstring(data), guess
    except (ElementTree.ParseError, UnicodeError, InputError) as error:
        raise AnnotationError(f"not well-formed XML: {error}") from error


def _refuse_document_types(data: bytes) -> None:
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise AnnotationError("document types and entities are refused; remove <!DOCTYPE ...>")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeError:
        return False
    return True


def _in_order(corners: tuple[float, ...]) -> tuple[float, ...]:
    left, top, right, bottom = corners
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def _corners(box: ElementTree.Element | None) -> tuple[float, ...] | None:
    """Four finite numbers of a `<bndbox>`, or None."""
    if box is None:
        return None
    read = box.findtext
    try:
        corners = tuple([float(read(tag) or "") for tag in _CORNERS])
    except ValueError:
        return None
    return corners if all(map(math.isfinite, corners)) else None


def _size(element: ElementTree.Element | None) -> tuple[int, int] | None:
    """(height, width), or None where missing, zero (some drawing tools write that) or not numbers."""
    if element is None:
        return None
    try:
        height, width = (round(float(element.findtext(tag) or 0)) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return _shared_size(height, width) if height > 0 and width > 0 else None


@functools.lru_cache(maxsize=1024)
def _shared_size(height: int, width: int) -> tuple[int, int]:
    """The pair itself, the same one for all images of that size."""
    return height, width
