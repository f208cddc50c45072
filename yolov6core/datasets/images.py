"""Annotated images by the hundred thousand, in columns of numbers: a fifth of the memory that objects take."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import overload

import numpy as np
from numpy.typing import NDArray

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject, Problem

_CROWD = 2  # flag of a crowd
_FLAGS = ((False, False), (True, False), (False, True), (True, True))  # difficult, crowd


class _Columns:
    """Image k has bytes `path_ends[k]..path_ends[k + 1]` of `paths`, and objects `object_ends[k]..[k + 1]`."""

    def __init__(self) -> None:
        self.paths, self.path_ends = bytearray(), array("Q", [0])
        self.sizes: list[tuple[int, int] | None] = []
        self.object_ends = array("Q", [0])
        self.names: list[str] = []
        self.codes: dict[str, int] = {}  # name -> its place in `names`
        self.classes, self.flags = array("I"), bytearray()
        self.boxes = array("d")  # four an object
        self.shared: dict[object, tuple[int, int]] = {}  # one pair for all images of a size

    def add(self, image: AnnotatedImage) -> None:
        self.paths += image.path.encode("utf-8", "surrogatepass")
        self.path_ends.append(len(self.paths))
        self.sizes.append(image.size and self.shared.setdefault(image.size, image.size))
        for name, box, difficult, crowd in image.objects:
            code = self.codes.setdefault(name, len(self.names))
            if code == len(self.names):
                self.names.append(name)
            self.classes.append(code)
            self.flags.append(difficult + 2 * crowd)
            self.boxes.extend(box)
        self.object_ends.append(len(self.classes))


class Images(Sequence[AnnotatedImage]):
    """A sequence of annotated images; `images[k]` and iteration make new objects, `images[a:b]` is a part.

    Corners of boxes become floats. A part shares the columns of the whole, so only whole sequences grow.
    """

    def __init__(self, images: Iterable[AnnotatedImage] = ()) -> None:
        self._columns = _Columns()
        self._rows: Sequence[int] | None = None  # of the columns; None: all
        for image in images:
            self.append(image)

    def append(self, image: AnnotatedImage) -> None:
        """Add an image at the end; raises ValueError for a part of other images."""
        if self._rows is not None:
            raise ValueError("a part of other images cannot grow; make Images(part) first")
        self._columns.add(image)

    def __len__(self) -> int:
        return len(self._columns.sizes if self._rows is None else self._rows)

    @overload
    def __getitem__(self, place: int) -> AnnotatedImage: ...

    @overload
    def __getitem__(self, place: slice) -> Images: ...

    def __getitem__(self, place: int | slice) -> AnnotatedImage | Images:
        rows = self._all_rows()[place]
        return self._image(rows) if isinstance(rows, int) else self._sharing(rows)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return map(self._image, self._all_rows())

    def part(self, places: Iterable[int]) -> Images:
        """The images at these places, in this order."""
        rows = self._all_rows()
        return self._sharing(array("I", [rows[place] for place in places]))

    def divide(self, places: Iterable[int]) -> tuple[Images, Images]:
        """The images at these places and the others, both in the order they have here."""
        inside = bytearray(len(self))
        for place in places:
            inside[place] = 1
        everything = range(len(self))
        return self.part(compress(everything, inside)), self.part(k for k in everything if not inside[k])

    def revised(self, revise: Callable[[AnnotatedImage], AnnotatedImage | None]) -> Images:
        """The results of `revise` on all images, without the images it returns None for.

        An image that is returned as it is takes no more memory; other results are added to the columns of this one.
        """
        columns, rows = self._columns, array("I")
        self._rows = self._all_rows()
        for row in self._rows:
            image = self._image(row)
            now = revise(image)
            if now is not None:
                rows.append(row if now is image else len(columns.sizes))
                if now is not image:
                    columns.add(now)
        return self._sharing(rows)

    def paths(self) -> Iterator[str]:
        """The path of every image."""
        return map(self._path, self._all_rows())

    def sizes(self) -> list[tuple[int, int] | None]:
        """The size of every image."""
        return [self._columns.sizes[row] for row in self._all_rows()]

    def class_names(self) -> Iterator[list[str]]:
        """The class of every object, a list for each image."""
        names = self._columns.names
        return ([names[code] for code in codes] for codes in self._codes())

    def box_names(self) -> Iterator[list[str]]:
        """The class of every object that is no crowd, a list for each image."""
        if not self._has_crowds():
            return self.class_names()
        return ([item.name for item in image.objects if not item.crowd] for image in self)

    def crowd_counts(self) -> Counter[str]:
        """Number of crowds of every class."""
        columns, counts = self._columns, Counter[str]()
        if self._has_crowds():
            for row in self._all_rows():
                for number in range(columns.object_ends[row], columns.object_ends[row + 1]):
                    counts[columns.names[columns.classes[number]]] += columns.flags[number] >= _CROWD
        return +counts

    def box_counts(self) -> Counter[str]:
        """Number of boxes of every class, crowds not counted."""
        counts = self.class_counts()
        counts.subtract(self.crowd_counts())
        return +counts

    def class_counts(self) -> Counter[str]:
        """Number of objects of every class, crowds too."""
        codes = array("I")
        for own in self._codes():
            codes += own
        return Counter({self._columns.names[code]: count for code, count in Counter(codes).items()})

    def arrays(
        self, *, crowds: bool = True
    ) -> tuple[list[str], NDArray[np.uint32], NDArray[np.int32], NDArray[np.float32]]:
        """All objects at once, perhaps without crowds.

        Returns: class names, class index [n], place of the image [n], box xyxy in pixels [n, 4].
        """
        columns = self._columns
        ends = np.frombuffer(columns.object_ends, dtype=np.uint64).astype(np.int64)
        rows = np.array(self._all_rows(), dtype=np.int64)
        counts = ends[rows + 1] - ends[rows]
        objects = np.repeat(ends[rows] - np.cumsum(counts) + counts, counts)
        objects += np.arange(len(objects))
        owners = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
        if not crowds and self._has_crowds():
            boxes_only = np.frombuffer(columns.flags, dtype=np.uint8)[objects] < _CROWD
            objects, owners = objects[boxes_only], owners[boxes_only]
        classes = np.frombuffer(columns.classes, dtype=np.uint32)[objects]
        boxes = np.empty((len(objects), 4), dtype=np.float32)
        for side in range(4):
            boxes[:, side] = np.frombuffer(columns.boxes)[side::4][objects]
        return columns.names, classes, owners, boxes

    def _has_crowds(self) -> bool:
        return max(self._columns.flags, default=0) >= _CROWD

    def _sharing(self, rows: Sequence[int]) -> Images:
        images = Images()
        images._columns, images._rows = self._columns, rows
        return images

    def _all_rows(self) -> Sequence[int]:
        return range(len(self._columns.sizes)) if self._rows is None else self._rows

    def _codes(self) -> Iterator[array[int]]:
        ends, classes = self._columns.object_ends, self._columns.classes
        return (classes[ends[row] : ends[row + 1]] for row in self._all_rows())

    def _path(self, row: int) -> str:
        columns = self._columns
        return columns.paths[columns.path_ends[row] : columns.path_ends[row + 1]].decode("utf-8", "surrogatepass")

    def _image(self, row: int) -> AnnotatedImage:
        columns = self._columns
        names, classes, flags = columns.names, columns.classes, columns.flags
        first, end = columns.object_ends[row], columns.object_ends[row + 1]
        corners = iter(columns.boxes[4 * first : 4 * end])
        objects = [
            AnnotatedObject(names[classes[number]], box, *_FLAGS[flags[number]])
            for number, box in zip(range(first, end), zip(*repeat(corners, 4), strict=True), strict=True)
        ]
        return AnnotatedImage(self._path(row), columns.sizes[row], tuple(objects))


@dataclass(frozen=True)
class ReadDataset:
    """The result of a reader.

    Attributes:
        splits: images by split, `train` and `val`, or `all` where the data has no splits.
        problems: found while reading.
        names: class names in the order that the dataset declares, None where it declares none.
    """

    splits: dict[str, Images]
    problems: list[Problem]
    names: tuple[str, ...] | None = None
