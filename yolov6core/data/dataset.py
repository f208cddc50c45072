"""A split of a dataset folder, for training and evaluation.

The folder holds one list of image paths per split, one label file per image and COCO annotations per split. It is
read only, and images are read where they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6core.base.inputs import InputError, printable, read_bytes
from yolov6core.base.yaml_text import parse_yaml
from yolov6core.data.image_cache import ImageCache, Kind, make_cache
from yolov6core.data.image_header import MAX_BYTES, ImageError, check_claimed_size, read_jpeg_header
from yolov6core.data.label_names import LabelNames
from yolov6core.data.loader import EvalBatch, eval_batches
from yolov6core.data.transforms import Image, Labels, Size, fitted_size

_REDUCED_DECODE = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_MADE_BY = "run the prepare-voc2yolo stage again"


class DetectionDataset:
    """One split of a dataset folder: images in the order of `<split>.txt`, ids 1..n.

    Labels are read and checked at once, images on request.

    Args:
        dataset_dir: folder with `<split>.txt`, `labels/`, `annotations/` and `dataset.yaml`.
        split: `train`, `select`, `val` or `calib`.
        limit: number of images, counted from the first; None means all.

    Raises:
        ValueError: a file of the folder is missing or malformed.
    """

    def __init__(self, dataset_dir: Path | str, split: str, *, limit: int | None = None) -> None:
        self.directory = Path(dataset_dir)
        self.split = split
        lines = _read_text(self.directory / f"{split}.txt").split("\n")
        self.paths = [Path(line) for line in map(_without_ends, lines) if line][:limit]
        if not self.paths:
            raise ValueError(f"{self.directory / f'{split}.txt'} lists no images; {_MADE_BY}")
        self.image_ids = list(range(1, len(self.paths) + 1))
        self.names, self._label_names = _read_description(self.directory / "dataset.yaml")
        self._corners = [self._read_labels(path) for path in self.paths]
        self._kept: ImageCache | None = None
        self._kept_size: Size | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> tuple[Image, Labels]:
        """The whole image, uint8 BGR [h, w, 3], and its labels, float32 [n, 5]: class, xyxy in pixels of that image."""
        image = read_image(self.paths[index])
        return image, self.labels_in(index, image.shape[0], image.shape[1])

    def load_fitted(self, index: int, size: Size) -> tuple[Image, Labels]:
        """The image scaled up or down, with its aspect ratio, to fit `size` (height, width), for training.

        JPEGs of at least twice the size are decoded at 1/2, 1/4 or 1/8, which costs a fraction of the whole decoding
        and low-passes better than bilinear sampling. The remaining scaling is bilinear. The returned array may be the
        kept one, which is read only.

        Returns: image uint8 BGR [h, w, 3] and labels float32 [n, 5], class and xyxy in pixels of the returned image.
        """
        image = self._fitted_image(index, size)
        return image, self.labels_in(index, image.shape[0], image.shape[1])

    def keep_fitted(self, size: Size, *, kind: Kind, limit_mib: int, folder: Path) -> None:
        """Keep what `load_fitted` gives for `size` from now on, for this process and loader processes to come.

        Arguments as of `make_cache`.
        """
        self._kept_size = (size[0], size[1])
        size_in_bytes = size[0] * size[1] * 3
        self._kept = make_cache(kind, count=len(self), image_bytes=size_in_bytes, limit_mib=limit_mib, folder=folder)

    def labels_in(self, index: int, height: int, width: int) -> Labels:
        """Labels of one image, float32 [n, 5]: class and xyxy in pixels of a `height` x `width` picture of it."""
        return (self._corners[index] * np.array([1.0, width, height, width, height])).astype(np.float32)

    def ground_truth(self) -> dict:
        """COCO annotations of the split: `images`, `annotations`, `categories`. Raises ValueError for foreign ids."""
        path = self.directory / "annotations" / f"instances_{self.split}.json"
        truth = json.loads(_read_text(path))
        images = truth["images"][: len(self)]
        if [image["id"] for image in images] != self.image_ids:
            raise ValueError(f"{path}: image ids are not 1, 2, .. as in {self.split}.txt; {_MADE_BY}")
        annotations = [row for row in truth["annotations"] if row["image_id"] <= len(self)]
        return {**truth, "images": images, "annotations": annotations}

    def source_sizes(self) -> list[Size]:
        """(height, width) of every image, from the annotations, without opening the images."""
        return [(image["height"], image["width"]) for image in self.ground_truth()["images"]]

    def eval_batches(self, *, image_size: Size, batch_size: int) -> Iterator[EvalBatch]:
        """All images letterboxed to `image_size`, in order; see `loader.eval_batches`."""
        return eval_batches(self, image_size=image_size, batch_size=batch_size)

    def _fitted_image(self, index: int, size: Size) -> Image:
        cache = self._kept if (size[0], size[1]) == self._kept_size else None
        if cache is not None and (kept := cache.get(index)) is not None:
            return kept
        image = read_image(self.paths[index], at_least=size)
        height, width = fitted_size(image.shape[:2], size)
        if (height, width) != image.shape[:2]:
            image = cast(Image, cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
        if cache is not None:
            cache.put(index, image)
        return image

    def _read_labels(self, image_path: Path) -> NDArray[np.float64]:
        """Labels [n, 5]: class and xyxy as fractions of the picture."""
        path = self.directory / "labels" / f"{self._label_names.of(image_path.as_posix())}.txt"
        text = _read_text(path)
        try:
            rows = np.array([line.split() for line in text.splitlines() if line.strip()], dtype=np.float64)
            rows = rows.reshape(-1, 5)
        except ValueError as error:
            raise ValueError(f"{path}: every line must be `class cx cy w h` ({error}); {_MADE_BY}") from None
        classes = rows[:, 0]
        if ((classes < 0) | (classes >= len(self.names)) | (classes % 1 != 0)).any():
            raise ValueError(f"{path}: class outside 0..{len(self.names) - 1}: {sorted(set(classes))}; {_MADE_BY}")
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        return np.concatenate((rows[:, :1], centre - half, centre + half), axis=1)


def _without_ends(line: str) -> str:
    """A line without spaces around it; wide ones may be part of a name."""
    return line.strip(" \t\r")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {_MADE_BY}") from None


def _read_description(path: Path) -> tuple[tuple[str, ...], LabelNames]:
    """Class names, and how label files are named."""
    content = parse_yaml(_read_text(path))
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: `names` must be a list of class names, found {names!r}; {_MADE_BY}")
    try:
        return tuple(str(name) for name in names), LabelNames.told_by(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {_MADE_BY}") from None


def read_image(path: Path, *, at_least: Size | None = None) -> Image:
    """Decode an image, uint8 BGR [h, w, 3]; a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 that still fills `at_least`.

    Raises:
        ValueError: it is missing or cannot be decoded; the message says what to do.
    """
    try:
        data = read_bytes(str(path), limit=MAX_BYTES)
        check_claimed_size(data)
        flags = _decode_flags(data, at_least) if at_least else cv2.IMREAD_COLOR
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if data else None
    except InputError as error:
        raise ValueError(f"image {error}; put it back or {_MADE_BY}") from None
    except OSError as error:
        raise ValueError(
            f"image {printable(str(path))} cannot be read ({error.strerror}); put it back or {_MADE_BY}"
        ) from None
    except (ImageError, cv2.error) as error:
        raise ValueError(
            f"image {printable(str(path))} cannot be decoded ({error}); mend or remove it and {_MADE_BY}"
        ) from None
    if image is None:
        raise ValueError(f"image {printable(str(path))} cannot be decoded; mend or remove it and {_MADE_BY}")
    return cast(Image, image)


def _decode_flags(data: bytes, at_least: Size) -> int:
    header = read_jpeg_header(data)
    if header is None:
        return cv2.IMREAD_COLOR
    ratio = max(header.height / at_least[0], header.width / at_least[1])
    return next((flag for step, flag in _REDUCED_DECODE.items() if ratio >= step), cv2.IMREAD_COLOR)
