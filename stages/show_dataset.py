"""`show-dataset`: sheets of a split's images with their boxes, before or after augmentation (not a stage)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.params import AugmentParams, ModelParams, TrainParams
from stages.shared import paths
from stages.shared.shell import required
from yolov6core.base.errors import UserError, logger
from yolov6core.base.tables import rows_text
from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.samples import augmented, images_drawn, images_named
from yolov6core.evaluation.plots import jpeg
from yolov6core.evaluation.sheets import Panel, sheets
from yolov6core.serving.results_folder import ResultsFolder


@dataclass(frozen=True)
class ShownImages:
    """Which images are shown, and how.

    Attributes:
        names: of images; none: `count` drawn ones, with a box of class `with_class` where that is given.
        epochs: pictures of each image, as the training gets it in its first epochs; 0: the image as it is.
    """

    split: str
    names: Sequence[str]
    count: int
    seed: int
    with_class: str | None
    epochs: int


def show_dataset(
    choice: ShownImages,
    model: ModelParams,
    augment: AugmentParams,
    train: TrainParams,
    *,
    grid: tuple[int, int],
    out: Path = paths.SHOW,
) -> str:
    """Write `sheet_001.jpg`, ... and `images.csv` into `out`; returns one line for people.

    Args:
        grid: columns and rows of a sheet.

    Raises:
        UserError: no such split or image, no picture that could be read, or a file of `out` that no run of this command
            wrote.
    """
    if choice.split not in paths.SPLITS:
        raise UserError(f"--split is {choice.split}; choose one of {', '.join(paths.SPLITS)}")
    dataset = DetectionDataset(required(paths.DATASET, made_by="prepare-voc2yolo"), choice.split)
    if choice.names:
        indices = images_named(dataset, choice.names)
    else:
        indices = images_drawn(dataset, choice.count, seed=choice.seed, with_class=choice.with_class)
    columns, rows = grid
    sheet_names = [
        f"sheet_{number:03}.jpg" for number in _numbers(len(indices) * max(choice.epochs, 1), columns * rows)
    ]
    results = ResultsFolder(out, sheet_names, document="images.json", table="images.csv", command="show-dataset")
    listed: list[dict[str, Any]] = []
    panels = _panels(dataset, indices, choice, model=model, augment=augment, seed=train.seed)
    pages = sheets(_listed(panels, listed, columns * rows), dataset.names, columns=columns, rows=rows)
    try:
        written = [results.write(name, jpeg(page)) for name, page in zip(sheet_names, pages, strict=False)]
        if not written:
            raise UserError(f"none of the {len(indices)} images could be read")
    except BaseException:
        results.abandon()
        raise
    results.drop_earlier()
    results.finish({"split": choice.split, "sheets": len(written)}, rows_text(listed))
    boxes = sum(row["boxes"] for row in listed)
    return f"{len(listed)} pictures with {boxes} boxes; the split {choice.split} has {len(dataset)} images -> {out}"


def _numbers(pictures: int, on_a_sheet: int) -> range:
    return range(1, math.ceil(pictures / on_a_sheet) + 1)


def _panels(
    dataset: DetectionDataset,
    indices: Sequence[int],
    choice: ShownImages,
    *,
    model: ModelParams,
    augment: AugmentParams,
    seed: int,
) -> Iterator[Panel]:
    strengths = {name: value for name, value in augment.model_dump().items() if name != "multi_scale"}
    transform = TrainTransform(dataset, image_size=model.size, **strengths)
    for index in indices:
        name = dataset.paths[index].name
        try:
            if not choice.epochs:
                yield Panel(name, *dataset.load(index))
            for epoch in range(choice.epochs):
                yield Panel(f"{name}, epoch {epoch + 1}", *augmented(transform, index, seed=seed, epoch=epoch))
        except ValueError as error:
            logger.warning("left out: %s", error)


def _listed(panels: Iterator[Panel], listed: list[dict[str, Any]], on_a_sheet: int) -> Iterator[Panel]:
    """The panels, each of them noted in `listed` with the number of its sheet."""
    for panel in panels:
        sheet = len(listed) // on_a_sheet + 1
        listed.append({"sheet": sheet, "picture": panel.title, "boxes": len(panel.labels)})
        yield panel
