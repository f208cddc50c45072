"""`prepare-voc2yolo`: check a dataset and write what training and evaluation read; images stay where they are."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

from stages.params import PrepareParams
from stages.shared import paths
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.datasets.annotated import DatasetError, Problem, count_problems
from yolov6core.datasets.check import BoxRules, check_images
from yolov6core.datasets.coco import is_coco, read_coco
from yolov6core.datasets.images import Images, ReadDataset
from yolov6core.datasets.prepared import PreparedDataset
from yolov6core.datasets.split import remove_shared, seeded_part, stratified_part
from yolov6core.datasets.voc import is_voc, read_voc
from yolov6core.datasets.yolo import is_yolo, read_yolo

METRICS = paths.METRICS / "prepare.json"


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
        prepared.log_summary()
        if prepare.strict and prepared.problems:
            raise UserError(
                f"{len(prepared.problems)} problem(s) in {prepare.root}, named above, and prepare.strict is true; "
                "mend the data, or set strict to false to go on without what cannot be used"
            )
        with replace_folder(out) as folder:
            prepared.write(folder, shown_as=out.as_posix(), images=prepare.images)
    except DatasetError as error:
        raise UserError(str(error)) from error
    write_json(metrics, prepared.totals())
    logger.info("-> %s", out)
    return prepared.figures()


def _prepare(prepare: PrepareParams) -> PreparedDataset:
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
    return PreparedDataset(prepare.root, splits, calib, boxes, names, problems)


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
