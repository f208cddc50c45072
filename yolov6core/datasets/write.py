"""Writes a checked dataset as text: labels, split lists, COCO JSON. The same images give the same bytes."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from yolov6core.base.progress import tracked
from yolov6core.data.label_names import LabelNames, plain_path
from yolov6core.datasets.annotated import AnnotatedImage, Box, DatasetError
from yolov6core.datasets.images import Images


def label_row(class_index: int, box: Box, size: tuple[int, int]) -> str:
    """`class cx cy w h` normalised by the image's (height, width); ten decimals keep 1e-6 pixels up to 10,000."""
    height, width = size
    left, top, right, bottom = box
    return "%d %.10f %.10f %.10f %.10f\n" % (  # noqa: UP031 - twice as fast as an f-string with formats
        class_index,
        (left + right) / (2 * width),
        (top + bottom) / (2 * height),
        (right - left) / width,
        (bottom - top) / height,
    )


def label_text(image: AnnotatedImage, class_index: Mapping[str, int]) -> str:
    """The label file of an image; empty for an image without objects. Crowds are no training targets."""
    assert image.size is not None, "checked images have a size"
    return "".join(label_row(class_index[o.name], o.box, image.size) for o in image.objects if not o.crowd)


def coco_text(images: Images, names: Sequence[str]) -> Iterator[str]:
    """Images and objects as COCO's JSON, piece by piece: a large dataset is never in memory as one document.

    Image ids are 1..n in order, category ids 1..C, boxes x, y, width, height.
    """
    category = {name: index for index, name in enumerate(names, start=1)}
    yield '{"images":['
    for image_id, (path, size) in enumerate(zip(images.paths(), images.sizes(), strict=True), start=1):
        assert size is not None, "checked images have a size"
        height, width = size
        comma = "," if image_id > 1 else ""
        yield f'{comma}{{"id":{image_id},"file_name":{_json(path)},"height":{height},"width":{width}}}'
    yield '],"annotations":['
    number = 0
    for image_id, image in enumerate(images, start=1):
        for item in image.objects:
            left, top, right, bottom = item.box
            width, height = round(right - left, 6), round(bottom - top, 6)
            number += 1
            yield (
                f'{"," if number > 1 else ""}{{"id":{number},"image_id":{image_id},"category_id":{category[item.name]},'
                f'"bbox":[{_number(left)},{_number(top)},{_number(width)},{_number(height)}],'
                f'"area":{_number(width * height)},"iscrowd":{int(item.crowd)}}}'
            )
    yield f'],"categories":{_json([{"id": index, "name": name} for name, index in category.items()])}}}\n'


_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@functools.lru_cache(maxsize=4096)
def _number(value: float) -> str:
    """A number with at most six decimals; cached, because most numbers of a dataset are whole pixels."""
    return repr(round(value, 6) + 0.0)  # no -0.0: for the cache it is the same number as 0.0


def write_dataset(
    folder: Path,
    splits: Mapping[str, Images],
    names: Sequence[str],
    *,
    calib: Images | None = None,
) -> LabelNames:
    """Write `labels/`, a list and a COCO file per split, and `calib.txt` into an empty folder.

    Label files have the names of the images. Where two images have one name, all label files lie in the folders that
    the images have below their common one.

    Args:
        folder: an existing, empty folder.
        splits: split name -> checked images, in the order to write.
        names: class names in the order of their indices.
        calib: the images to calibrate on, part of a split; None writes an empty list.

    Returns: how the label files are named.

    Raises:
        DatasetError: two images have the same path but for the case of letters, which this file system ignores.
    """
    class_index = {name: index for index, name in enumerate(names)}
    annotations = folder / "annotations"
    annotations.mkdir()
    for split, images in splits.items():
        with open(annotations / f"instances_{split}.json", "w", encoding="utf-8", newline="\n") as file:
            file.writelines(coco_text(images, names))
        _write_list(folder / f"{split}.txt", images)
    _write_list(folder / "calib.txt", calib or Images())
    image = None
    for named in _namings(splits):
        image = _write_labels(folder / "labels", splits, class_index, named)
        if image is None:
            return named
        shutil.rmtree(folder / "labels")
    assert image is not None
    raise _same_name(image, splits)


def _namings(splits: Mapping[str, Images]) -> Iterator[LabelNames]:
    """Ways to name label files, the plainest first."""
    yield LabelNames()
    folders = {os.path.dirname(plain_path(path)) for images in splits.values() for path in images.paths()}
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # some absolute, some not
        common = ""
    yield LabelNames(common)
    yield LabelNames(common, suffixes=True)


def _write_labels(
    labels: Path, splits: Mapping[str, Images], class_index: Mapping[str, int], named: LabelNames
) -> AnnotatedImage | None:
    """Write one file an image; the first image whose file is there already ends it and is returned."""
    labels.mkdir()
    made: set[str] = set()
    for images in splits.values():
        for image in tracked(images, "writing labels"):
            name = named.of(image.path)
            inside = name.rpartition("/")[0]
            if inside and inside not in made:
                os.makedirs(f"{labels}/{inside}", exist_ok=True)
                made.add(inside)
            try:
                _write_new(f"{labels}/{name}.txt", label_text(image, class_index).encode())
            except FileExistsError:
                return image
    return None


def _same_name(image: AnnotatedImage, splits: Mapping[str, Images]) -> DatasetError:
    """The error for an image whose label file exists already; file systems may ignore the case of names."""
    paths = (path for images in splits.values() for path in images.paths())
    alike = (path for path in paths if path.lower() == image.path.lower() and path != image.path)
    first = next(alike, image.path)
    return DatasetError(
        f"{first} and {image.path} have the same name; rename one: this file system ignores the case of letters"
    )


def _write_new(path: str, content: bytes) -> None:
    # Label files are many and small: Python's file objects would take as long as the operating system.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        while content:  # a disk that is nearly full takes a part without an error
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def _write_list(path: Path, images: Images) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{image}\n" for image in images.paths())
