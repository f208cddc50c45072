"""Which format a dataset has, by what its files hold."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from yolov6core.base.inputs import open_input
from yolov6core.data.files import Files, list_files
from yolov6core.datasets.annotated import DatasetError
from yolov6core.datasets.coco import coco_files, count_entries, read_coco
from yolov6core.datasets.images import ReadDataset
from yolov6core.datasets.reading import looks_like_split
from yolov6core.datasets.voc import is_voc, read_voc
from yolov6core.datasets.yolo import is_yolo, read_yolo

SAMPLED = 64
"""Files of a kind that are opened; their share of true ones is taken for all."""
_HEAD = 4096
_OWN_FILES = ("report.json", "digests.txt", "dataset.yaml", "calib.txt")
_LABEL_ROW = re.compile(rb"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")


class Evidence(NamedTuple):
    """A format, how many images the data has in it, and that in words."""

    format: str
    images: int
    words: str


def read_dataset(
    root: str, format_: str, *, train_split: Sequence[str], val_split: Sequence[str], origin: int = 1
) -> tuple[ReadDataset, str]:
    """Read a dataset of a given format, or of the one that is recognised.

    Args:
        format_: `voc`, `coco`, `yolo`, or `auto`.
        origin: of VOC's corners, see `voc_box`.

    Returns: the dataset, and which format was taken and why.

    Raises:
        DatasetError: nothing can be read; if the format was recognised, the message says that, too.
    """
    if not os.path.isdir(root):
        there = "it is not a folder" if os.path.lexists(root) else "it does not exist"
        from_here = f"; from here, {os.path.abspath(root)} is meant, and an absolute path holds from everywhere"
        raise DatasetError(f"no dataset in prepare.root {root}: {there}{'' if os.path.isabs(root) else from_here}")
    chosen, why = (format_, "prepare.format says so") if format_ != "auto" else recognise(root)
    try:
        if chosen == "coco":
            return read_coco(root, train_split=train_split, val_split=val_split), f"coco: {why}"
        if chosen == "yolo":
            return read_yolo(root, train_split=train_split, val_split=val_split), f"yolo: {why}"
        return read_voc(root, train_split=train_split, val_split=val_split, origin=origin), f"voc: {why}"
    except DatasetError as error:
        if format_ != "auto":
            raise
        raise DatasetError(f"{error} {chosen_by(chosen, why)}") from error


def chosen_by(format_: str, why: str) -> str:
    """The words that errors end with which a wrong choice of the format may have caused."""
    others = ", ".join(name for name in ("voc", "coco", "yolo") if name != format_)
    return (
        f"(prepare.format is auto and took {format_}: {why}. If that is wrong, set prepare.format to one of {others})"
    )


def recognise(root: str) -> tuple[str, str]:
    """The format in which most images are annotated, and why.

    Where several have about as many, VOC comes before COCO before YOLO: labels are often made from the others. Without
    any sound file, names of files and folders decide, so that the reader can say what is wrong with them.

    Raises:
        DatasetError: nothing looks like a dataset.
    """
    if all(os.path.isfile(f"{root}/{name}") for name in _OWN_FILES):
        if os.path.isdir(f"{root}/images"):
            return "yolo", "it is an output of prepare-voc2yolo, with images"
        raise DatasetError(
            f"no dataset in prepare.root {root}: it is an output of prepare-voc2yolo without images; "
            "name the folder of the dataset that it was made from"
        )
    seen = [found for found in (_voc(root), _coco(root), _yolo(root)) if found.images]
    if seen:
        most = max(found.images for found in seen)
        best = next(found for found in seen if 2 * found.images > most)
        others = [found.words for found in seen if found is not best]
        return best.format, best.words + (f"; also seen: {', '.join(others)}" if others else "")
    by_name: dict[str, Callable[[str], bool]] = {"voc": is_voc, "coco": _has_json, "yolo": is_yolo}
    for name, fits in by_name.items():
        if fits(root):
            return name, "by the names of files, none of which is sound"
    raise DatasetError(
        f"no dataset in prepare.root {root}: looked for VOC (Annotations/*.xml, or *.xml beside the images), "
        "COCO (annotations/instances_<split>.json) and YOLO (images/ and labels/)"
    )


def _has_json(root: str) -> bool:
    return bool(list_files(f"{root}/annotations", (".json",)).suffixes)


def _voc(root: str) -> Evidence:
    files = list_files(root, (".xml",), deep=True)
    count = _estimate(files, lambda head: b"<annotation" in head and b"<annotations" not in head)
    return Evidence("voc", count, f"{count} XML file(s) with <annotation>")


def _coco(root: str) -> Evidence:
    files = coco_files(root)
    count = sum(map(count_entries, files.values()))
    names = ", ".join(os.path.relpath(path, root) for path in list(files.values())[:3])
    return Evidence("coco", count, f"{names} with {count} image(s)")


def _yolo(root: str) -> Evidence:
    files = list_files(root, (".txt",), deep=True, skip=("ImageSets",))
    labels = {
        name: suffixes
        for name, suffixes in files.suffixes.items()
        if not looks_like_split(name.rpartition("/")[2]) and name.rpartition("/")[2] != "classes"
    }
    count = _estimate(Files(files.folder, labels), lambda head: _LABEL_ROW.fullmatch(head.split(b"\n")[0]) is not None)
    return Evidence("yolo", count, f"{count} label file(s)")


def _estimate(files: Files, fits: Callable[[bytes], bool]) -> int:
    """How many of the files fit, by a sample of their first bytes; null bytes of wide encodings are left out."""
    names = sorted(files.suffixes)
    sample = names[:: max(1, len(names) // SAMPLED)]
    good = sum(fits(_head(files.paths(name)[0]).replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe")) for name in sample)
    return -(-good * len(names) // max(len(sample), 1))


def _head(path: str) -> bytes:
    try:
        descriptor = open_input(path)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, _HEAD)
    finally:
        os.close(descriptor)
