"""Training images per second of the loader alone: mosaic, affine warp, colour, flip.

    python benchmarks/loader_speed.py data/sample_voc --size 320 --batch 16 --workers 0 2 --cache none ram disk

Prepares the dataset into a temporary folder by the committed parameters, then takes batches, with every number of
workers and every place of `runtime.cache` in turns. Images are kept before the first turn, as after a first epoch.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch

from stages.params import PrepareParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.image_cache import Kind
from yolov6core.data.loader import epoch_plan, planned_batches
from yolov6core.param_sections import ParameterFile

PARAMS = Path(__file__).parents[1] / "params.yaml"


def images_per_second(transform: TrainTransform, *, batch: int, workers: int, epoch: int, batches: int) -> float:
    """Images of `batches` batches by the time from the first batch's arrival to the last's."""
    plans = (epoch_plan(len(transform.dataset), batch_size=batch, seed=0, epoch=epoch + i) for i in itertools.count())
    plan = list(itertools.islice(itertools.chain.from_iterable(plans), batches + 1 + 2 * workers))
    stream = planned_batches(transform, plan, seed=0, epoch=epoch, workers=workers)
    for _ in range(1 + 2 * workers):  # starting workers and filling their queues is not what is measured
        next(stream)
    start = time.perf_counter()
    count = sum(len(images) for images, _ in stream)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="dataset folder in any form that prepare-voc2yolo reads")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--cache", nargs="+", default=["none", "ram"], choices=["none", "ram", "disk"])
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (prepare,) = ParameterFile(PARAMS).read(PrepareParams)
        prepare = prepare.model_copy(update={"root": options.root})
        out = Path(folder) / "dataset"
        prepare_voc2yolo(prepare, out=out, metrics=Path(folder) / "prepare.json")
        transforms = {kind: make_transform(out, kind, options.size) for kind in options.cache}
        cases = list(itertools.product(options.cache, options.workers))
        rates: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
        for turn, (kind, workers) in itertools.product(range(options.rounds), cases):
            setting = {"batch": options.batch, "workers": workers, "batches": options.batches}
            rates[kind, workers].append(images_per_second(transforms[kind], epoch=100 * turn, **setting))
        for (kind, workers), found in rates.items():
            low, middle, high = min(found), statistics.median(found), max(found)
            figures = f"{middle:.0f} images a second ({low:.0f} to {high:.0f})"
            print(f"{options.size}, cache {kind}, workers {workers}: {figures}")


def make_transform(dataset_dir: Path, kind: Kind, size: int) -> TrainTransform:
    """Mosaics of the train split, whose images are all kept as `kind` says."""
    dataset = DetectionDataset(dataset_dir, "train")
    dataset.keep_fitted((size, size), kind=kind, limit_mib=4096, folder=dataset_dir / "cache")
    for index in range(len(dataset) if kind != "none" else 0):
        dataset.load_fitted(index, (size, size))
    return TrainTransform(dataset, image_size=(size, size), mosaic=1.0)


if __name__ == "__main__":
    main()
