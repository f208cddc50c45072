"""A folder that other YOLO tools load: images beside the labels of `write_dataset`, and a `data.yaml`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from yolov6core.data.label_names import LabelNames
from yolov6core.datasets.annotated import AnnotatedImage, DatasetError


def add_yolo_folder(
    folder: Path,
    splits: Mapping[str, Iterable[AnnotatedImage]],
    names: Sequence[str],
    *,
    shown_as: str,
    copy: bool,
    named: LabelNames = LabelNames(),  # noqa: B008 - it is frozen
) -> None:
    """Add `images/<split>/x.jpg`, `labels/<split>/x.txt` and `data.yaml` to a folder that has `labels/x.txt`.

    Args:
        splits: split name, `train` or `val`, -> images.
        names: class names in the order of their indices.
        shown_as: path of the folder for `data.yaml`, as seen from the folder where the tools run.
        named: how the label files are named.
        copy: copy files; False makes hard links, which take no space but need one file system for all.

    Raises:
        DatasetError: a file cannot be linked or copied.
    """
    put: Callable[[str, str], object] = shutil.copyfile if copy else os.link
    for split, images in splits.items():
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for image in images:
            name = named.of(image.path)
            suffix = os.path.splitext(image.path)[1]
            places = {
                os.path.realpath(image.path): f"{folder}/images/{split}/{name}{suffix}",
                f"{folder}/labels/{name}.txt": f"{folder}/labels/{split}/{name}.txt",
            }
            try:
                if "/" in name:
                    for place in places.values():
                        os.makedirs(os.path.dirname(place), exist_ok=True)
                for source, place in places.items():
                    put(source, place)
            except OSError as error:
                way = "copied; is there room?" if copy else "linked; set prepare.images to copy"
                raise DatasetError(f"{image.path} cannot be {way} ({error.strerror})") from error
    lines = [
        "# For other YOLO tools. Run them from the folder that `path` starts in, or make it absolute.",
        f"path: {json.dumps(shown_as, ensure_ascii=False)}",
        *(f"{split}: images/{split}" for split in splits),
        f"nc: {len(names)}",
        f"names: {json.dumps(list(names), ensure_ascii=False)}",
    ]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
