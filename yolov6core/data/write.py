"""Writes a checked dataset as text: labels, split lists, COCO JSON. Same images, same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolov6core.data.annotated import AnnotatedImage, Box, DatasetError


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
    assert image.size is not None
    return "".join(label_row(class_index[o.name], o.box, image.size) for o in image.objects if not o.crowd)


def coco_document(images: Sequence[AnnotatedImage], names: Sequence[str]) -> dict[str, Any]:
    """Images and objects in COCO's form: image ids 1..n in order, category ids 1..C, boxes x, y, width, height."""
    category = {name: index for index, name in enumerate(names, start=1)}
    entries, annotations = [], []
    for image_id, image in enumerate(images, start=1):
        assert image.size is not None
        height, width = image.size
        entries.append({"id": image_id, "file_name": image.path, "height": height, "width": width})
        for item in image.objects:
            left, top, right, bottom = item.box
            box = [round(value, 6) for value in (left, top, right - left, bottom - top)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category[item.name],
                    "bbox": box,
                    "area": round(box[2] * box[3], 6),
                    "iscrowd": int(item.crowd),
                }
            )
    categories = [{"id": index, "name": name} for name, index in category.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def write_dataset(
    folder: Path,
    splits: Mapping[str, Sequence[AnnotatedImage]],
    names: Sequence[str],
    *,
    calib: Sequence[AnnotatedImage],
) -> None:
    """Write `labels/`, a list and a COCO file per split, and `calib.txt` into an empty folder.

    Args:
        folder: an existing, empty folder.
        splits: split name -> checked images, in the order to write.
        names: class names in the order of their indices.
        calib: the images to calibrate on, part of a split.

    Raises:
        DatasetError: two images have the same name, so that their label files would collide.
    """
    class_index = {name: index for index, name in enumerate(names)}
    labels, annotations = folder / "labels", folder / "annotations"
    labels.mkdir()
    annotations.mkdir()
    owner: dict[str, str] = {}
    for split, images in splits.items():
        for image in images:
            stem = image.stem
            if stem in owner:
                raise DatasetError(f"{owner[stem]} and {image.path} have the same name; rename one, labels go by name")
            owner[stem] = image.path
            with open(f"{labels}/{stem}.txt", "w", encoding="utf-8", newline="\n") as file:
                file.write(label_text(image, class_index))
        document = json.dumps(coco_document(images, names), separators=(",", ":"), ensure_ascii=False)
        (annotations / f"instances_{split}.json").write_text(document + "\n", encoding="utf-8")
        _write_list(folder / f"{split}.txt", images)
    _write_list(folder / "calib.txt", calib)


def _write_list(path: Path, images: Sequence[AnnotatedImage]) -> None:
    path.write_text("".join(f"{image.path}\n" for image in images), encoding="utf-8")
