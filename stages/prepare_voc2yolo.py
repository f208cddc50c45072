"""`prepare-voc2yolo`: check a dataset and write what training and evaluation read; images stay where they are."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.params import PrepareParams
from stages.shared import paths
from stages.shared.start_line import log_start
from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.data.dataset import read_image
from yolov6core.datasets.annotated import DatasetError, Problem
from yolov6core.datasets.check import BoxRules, check_images
from yolov6core.datasets.decode import drop_undecodable
from yolov6core.datasets.enough import need_enough, need_right_case, need_two
from yolov6core.datasets.images import Images, ReadDataset
from yolov6core.datasets.places import broken_links
from yolov6core.datasets.prepared import PreparedDataset, log_problems, problem_report
from yolov6core.datasets.recognise import chosen_by, read_dataset
from yolov6core.datasets.split import fair_part, held_out_part, remove_shared, seeded_part
from yolov6core.evaluation.plots import save_jpeg
from yolov6core.evaluation.sheets import Panel
from yolov6core.evaluation.sheets import sheets as drawn_sheets

METRICS = paths.METRICS / "prepare.json"
SHOWN = 12
"""Images on the sheet of a split."""


def prepare_voc2yolo(prepare: PrepareParams, *, out: Path = paths.DATASET, metrics: Path = METRICS) -> dict[str, int]:
    """Write the dataset folder `out` and four totals to `metrics`; returns counts of splits and problems.

    Sheets of labelled images, `train.jpg` and `val.jpg`, are written into the folder `labelled` beside `out`.

    Raises:
        UserError: nothing usable is left, or `strict` and there are problems. Only a list of them is written then.
    """
    log_start("prepare-voc2yolo", "opencv-python-headless", device=f"cpu, {os.cpu_count()} cores", data=prepare.root)
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
    problems: list[Problem] = []
    try:
        prepared = _prepare(prepare, problems)
        prepared.log_summary()
        if prepare.strict and prepared.problems:
            raise DatasetError(
                f"{len(prepared.problems)} problem(s) in {prepare.root}, named above, and prepare.strict is true; "
                "mend the data, or set strict to false to go on without what cannot be used"
            )
        with replace_folder(out) as folder:
            prepared.write(folder, shown_as=out.as_posix(), images=prepare.images)
    except DatasetError as error:
        raise UserError(f"{error}{_report_aside(problems, out)}") from error
    report_path(out).unlink(missing_ok=True)
    sheets = out.with_name(paths.LABELLED.name)
    _write_sheets(prepared, sheets, seed=prepare.seed)
    write_json(metrics, prepared.totals())
    logger.info("-> %s; look at %s before a training", out, sheets)
    return prepared.figures()


def _write_sheets(prepared: PreparedDataset, out: Path, *, seed: int) -> None:
    with replace_folder(out) as folder:
        for split in ("train", "val"):
            images = prepared.splits[split]
            shown = images.part(sorted(seeded_part(images, SHOWN, seed)))
            for sheet in drawn_sheets(_panels(shown, prepared.names), prepared.names):
                save_jpeg(sheet, folder / f"{split}.jpg")


def _panels(images: Images, names: list[str]) -> Iterator[Panel]:
    """The images that can be decoded, with their boxes."""
    for image in images:
        rows = [(names.index(thing.name), *thing.box) for thing in image.objects if not thing.crowd]
        with contextlib.suppress(ValueError):
            yield Panel(Path(image.path).name, read_image(Path(image.path)), np.array(rows).reshape(-1, 5))


def report_path(out: Path) -> Path:
    """The file of all problems where no dataset is written."""
    return out.with_name(out.name + ".problems.json")


def _report_aside(problems: list[Problem], out: Path) -> str:
    """Write the report of a dataset that cannot be used; returns words about it for the message."""
    if not problems:
        return ""
    path = report_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, problem_report(problems))
    return f"; all problems are listed in {path}"


def _prepare(prepare: PrepareParams, problems: list[Problem]) -> PreparedDataset:
    """Read, check and split; all problems found end in `problems`, sorted."""
    root = os.path.expanduser(prepare.root).replace("\\", "/").rstrip("/") or "/"
    source, why = read_dataset(
        root,
        prepare.format,
        train_split=_as_list(prepare.train_split),
        val_split=_as_list(prepare.val_split),
        origin=prepare.voc_origin,
    )
    logger.info("format %s", why)
    problems += source.problems
    problems += broken_links(root)
    try:
        splits, calib = _split(prepare, source, problems)
    except DatasetError as error:
        log_problems(problems)
        if prepare.format != "auto":
            raise
        raise DatasetError(f"{error} {chosen_by(*why.split(': ', 1))}") from error
    boxes = {split: images.box_counts() for split, images in splits.items()}
    crowds = set().union(*(images.crowd_counts() for images in splits.values())) - set().union(*boxes.values())
    problems += [Problem("crowd_only", prepare.root, name) for name in sorted(crowds)]
    untrained = set().union(*boxes.values()) - set(boxes["train"])
    problems += [Problem("untrained_class", prepare.root, name) for name in sorted(untrained)]
    problems.sort(key=lambda problem: (problem.kind, problem.where, problem.detail))
    names = list(prepare.classes or source.names or sorted(crowds.union(*boxes.values())))
    return PreparedDataset(prepare.root, splits, calib, boxes, names, problems)


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _split(prepare: PrepareParams, source: ReadDataset, problems: list[Problem]) -> tuple[dict[str, Images], Images]:
    """The splits that are trained, chosen and judged on, and the images to calibrate on."""
    checked = _checked_splits(prepare, source, problems)
    need_right_case(prepare.classes, problems)
    need_enough(prepare.root, checked, problems)
    need_two(prepare.root, checked["train"])
    count = min(max(1, round(len(checked["train"]) * prepare.select_fraction)), len(checked["train"]) - 1)
    select, train = checked["train"].divide(fair_part(checked["train"], count, prepare.seed))
    calib, rest = train.divide(seeded_part(train, prepare.calib_images, prepare.seed))
    val = checked["val"]
    if prepare.decode == "judged":
        select, val, decoded = (
            drop_undecodable(images, problems, name=name)
            for name, images in (("select", select), ("val", val), ("calib", calib))
        )
        if len(decoded) < len(calib):
            kept = {*decoded.paths(), *rest.paths()}
            train = train.part(place for place, path in enumerate(train.paths()) if path in kept)
            calib = decoded
    splits = {"train": train, "select": select, "val": val}
    need_enough(prepare.root, splits, problems)
    return splits, calib


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
        if prepare.decode == "all":
            checked[split] = drop_undecodable(checked[split], problems, name=split)
    if "all" in source.splits:
        images = checked["train"]
        logger.info("no splits in %s: %g of the images are held out for val", prepare.root, prepare.val_fraction)
        count = min(len(images), max(1, round(len(images) * prepare.val_fraction)))
        checked["val"], checked["train"] = images.divide(held_out_part(images, count, prepare.seed))
    return checked
