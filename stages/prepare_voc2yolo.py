"""`prepare-voc2yolo`: check a dataset and write what training and evaluation read; images stay where they are."""

from __future__ import annotations

import contextlib
import csv
import gc
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from stages import paths
from stages.params import PrepareParams
from yolov6core.atomic import replace_folder, write_json, write_text
from yolov6core.datasets.annotated import PROBLEM_KINDS, DatasetError, Problem, count_problems
from yolov6core.datasets.check import BoxRules, check_images
from yolov6core.datasets.coco import is_coco, read_coco
from yolov6core.datasets.images import Images, ReadDataset
from yolov6core.datasets.split import remove_shared, seeded_part, stratified_part
from yolov6core.datasets.statistics import class_rows, collect_boxes, statistics_picture
from yolov6core.datasets.voc import is_voc, read_voc
from yolov6core.datasets.write import write_dataset
from yolov6core.datasets.yolo import is_yolo, read_yolo
from yolov6core.datasets.yolo_folder import add_yolo_folder
from yolov6core.errors import UserError, logger

METRICS = paths.METRICS / "prepare.json"
NAMED_IN_SUMMARY = 3


@dataclass(frozen=True)
class Prepared:
    """The checked dataset in memory, everything sorted by path; `boxes` counts those of every class by split."""

    splits: dict[str, Images]
    calib: Images
    boxes: dict[str, Counter[str]]
    names: list[str]
    problems: list[Problem]


def prepare_voc2yolo(prepare: PrepareParams, *, out: Path = paths.DATASET, metrics: Path = METRICS) -> dict[str, int]:
    """Write the dataset folder `out` and four totals to `metrics`; returns counts of splits and problems.

    Raises:
        UserError: nothing usable is left, or `strict` and there are problems. Nothing is written then.
    """
    with _no_cycle_search():
        return _prepare_and_write(prepare, out=out, metrics=metrics)


@contextlib.contextmanager
def _no_cycle_search() -> Iterator[None]:
    """A million small objects without cycles: to look for cycles costs a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _prepare_and_write(prepare: PrepareParams, *, out: Path, metrics: Path) -> dict[str, int]:
    try:
        prepared = _prepare(prepare)
        figures = _figures(prepared)
        _summarise(prepared, figures)
        if prepare.strict and prepared.problems:
            raise UserError(
                f"{len(prepared.problems)} problem(s) in {prepare.root}, named above, and prepare.strict is true; "
                "mend the data, or set strict to false to go on without what cannot be used"
            )
        with replace_folder(out) as folder:
            write_dataset(folder, prepared.splits, prepared.names, calib=prepared.calib)
            write_text(folder / "dataset.yaml", _dataset_yaml(prepare, prepared))
            if prepare.images != "reference":
                both = sorted((*prepared.splits["train"], *prepared.splits["select"]), key=lambda image: image.path)
                parts = {"train": both, "val": prepared.splits["val"]}
                shown, copy = out.as_posix(), prepare.images == "copy"
                add_yolo_folder(folder, parts, prepared.names, shown_as=shown, copy=copy)
            write_json(folder / "report.json", _report(prepared.problems))
            _write_statistics(folder, prepared)
    except DatasetError as error:
        raise UserError(str(error)) from error
    write_json(metrics, _totals(prepared))
    logger.info("-> %s", out)
    return figures


def _prepare(prepare: PrepareParams) -> Prepared:
    """Read, check and split."""
    source = _read(prepare)
    problems = list(source.problems)
    checked = _checked_splits(prepare, source, problems)
    problems.sort(key=lambda problem: (problem.kind, problem.where, problem.detail))
    _need_enough(prepare, checked, problems)
    count = min(max(1, round(len(checked["train"]) * prepare.select_fraction)), len(checked["train"]) - 1)
    select, train = checked["train"].divide(seeded_part(checked["train"], count, prepare.seed))
    splits = {"train": train, "select": select, "val": checked["val"]}
    calib, _ = train.divide(seeded_part(train, prepare.calib_images, prepare.seed))
    boxes = {split: images.class_counts() for split, images in splits.items()}
    names = list(prepare.classes or source.names or sorted(set().union(*boxes.values())))
    return Prepared(splits, calib, boxes, names, problems)


def _need_enough(prepare: PrepareParams, checked: dict[str, Images], problems: list[Problem]) -> None:
    """Raise DatasetError where what is left cannot be trained and evaluated on."""
    so_far = ", ".join(f"{kind} {count}" for kind, count in count_problems(problems).items() if count) or "none"
    for split, images in checked.items():
        if not images:
            raise DatasetError(f"no usable image in the split {split!r} of {prepare.root}; problems: {so_far}")
        if not images.class_counts():
            named = sorted({problem.detail.split(" (")[0] for problem in problems if problem.kind == "unknown_class"})
            hint = f"; classes in the data: {', '.join(named[:20])}" if named else ""
            raise DatasetError(f"no usable box in the split {split!r} of {prepare.root}; problems: {so_far}{hint}")
    if len(checked["train"]) < 2:
        raise DatasetError(
            f"one usable training image in {prepare.root}; at least two are needed, one to train and one to select on"
        )


def _checked_splits(prepare: PrepareParams, source: ReadDataset, problems: list[Problem]) -> dict[str, Images]:
    """Checked images of the dataset's own splits, or of seeded ones that keep the classes' shares."""
    rules = BoxRules(
        classes=None if prepare.classes is None else frozenset(prepare.classes),
        keep_difficult=prepare.difficult == "keep",
        min_box=prepare.min_box,
    )
    given = {"train": source.splits.get("all", Images()), "val": Images()} | source.splits
    train, val, shared = remove_shared(given["train"], given["val"])
    problems += shared
    checked = {}
    for split, images in (("train", train), ("val", val)):
        checked[split], found = check_images(images, rules)
        problems += found
    if "all" in source.splits:
        images = checked["train"]
        logger.info("no splits in %s: %g of the images are held out for val", prepare.root, prepare.val_fraction)
        count = min(len(images), max(1, round(len(images) * prepare.val_fraction)))
        checked["val"], checked["train"] = images.divide(stratified_part(images, count, prepare.seed))
    return checked


def _read(prepare: PrepareParams) -> ReadDataset:
    """Let the reader for the dataset's format read it."""
    root = prepare.root.replace("\\", "/").rstrip("/") or "/"
    train_split, val_split = (
        [names] if isinstance(names, str) else names for names in (prepare.train_split, prepare.val_split)
    )
    kind: str | None = prepare.format
    if kind == "auto":
        detectors = {"voc": is_voc, "coco": is_coco, "yolo": is_yolo}
        kind = next((name for name, fits in detectors.items() if fits(root)), None)
    if kind == "coco":
        return read_coco(root, train_split=train_split, val_split=val_split)
    if kind == "yolo":
        return read_yolo(root, train_split=train_split, val_split=val_split)
    if kind == "voc":
        return read_voc(root, train_split=train_split, val_split=val_split, origin=prepare.voc_origin)
    raise DatasetError(
        f"no dataset in prepare.root {prepare.root}: looked for VOC (Annotations/*.xml, or *.xml beside the images), "
        "COCO (annotations/instances_<split>.json) and YOLO (images/ and labels/)"
    )


def _figures(prepared: Prepared) -> dict[str, int]:
    """Counts of every split and of every kind of problem."""
    figures = {f"{split}_images": len(images) for split, images in prepared.splits.items()}
    figures["calib_images"] = len(prepared.calib)
    figures |= {f"{split}_boxes": boxes.total() for split, boxes in prepared.boxes.items()}
    figures["classes"] = len(prepared.names)
    figures["problems"] = len(prepared.problems)
    return figures | {f"problem_{kind}": count for kind, count in count_problems(prepared.problems).items()}


def _totals(prepared: Prepared) -> dict[str, int]:
    """What the metrics file says: few keys, because `dvc metrics show` makes a column of each."""
    return {
        "images": sum(map(len, prepared.splits.values())),
        "boxes": sum(boxes.total() for boxes in prepared.boxes.values()),
        "classes": len(prepared.names),
        "problems": len(prepared.problems),
    }


def _summarise(prepared: Prepared, figures: dict[str, int]) -> None:
    """Log the splits, the classes and every kind of problem with the first files concerned."""
    for split, images in prepared.splits.items():
        logger.info("%-6s %6d images %7d boxes", split, len(images), figures[f"{split}_boxes"])
    logger.info("calib  %6d images of train", len(prepared.calib))
    for name in prepared.names:
        logger.info(
            "class  %s: %s", name, ", ".join(f"{count[name]} {split}" for split, count in prepared.boxes.items())
        )
        if not prepared.boxes["train"][name]:
            logger.warning("class %s has no box in train: it cannot be learnt", name)
    for kind, meaning in PROBLEM_KINDS.items():
        found = [problem for problem in prepared.problems if problem.kind == kind]
        if found:
            logger.warning("%s: %d (%s)", kind, len(found), meaning)
        for problem in found[:NAMED_IN_SUMMARY]:
            logger.warning("  %s %s", problem.where, problem.detail)
        if len(found) > NAMED_IN_SUMMARY:
            logger.warning("  ... all in report.json")


def _report(problems: list[Problem]) -> dict[str, Any]:
    counts = count_problems(problems)
    return {
        "kinds": {kind: {"count": count, "meaning": PROBLEM_KINDS[kind]} for kind, count in counts.items()},
        "problems": [{"kind": p.kind, "where": p.where, "detail": p.detail} for p in problems],
    }


def _write_statistics(folder: Path, prepared: Prepared) -> None:
    """`statistics.csv` of every split and class, `statistics.jpg` of all boxes to train on."""

    rows = []
    for split, images in prepared.splits.items():  # one at a time: in memory, arrays take as much as the images
        boxes = collect_boxes(images, prepared.names)
        rows += class_rows(split, boxes, prepared.names)
        if split == "train":
            encoded = cv2.imencode(".jpg", statistics_picture(boxes, prepared.names))[1]
            (folder / "statistics.jpg").write_bytes(encoded.tobytes())
    with open(folder / "statistics.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _dataset_yaml(prepare: PrepareParams, prepared: Prepared) -> str:
    """Class names, root and counts; JSON's strings and lists are YAML's too."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = [f"root: {text(prepare.root)}", f"nc: {len(prepared.names)}", f"names: {text(prepared.names)}"]
    counts = {split: len(images) for split, images in prepared.splits.items()} | {"calib": len(prepared.calib)}
    lines += ["images:", *(f"  {split}: {count}" for split, count in counts.items())]
    return "\n".join([*lines, ""])
