"""How times grow with images, classes, layers and cores, with a line fitted to each, and what that makes of COCO.

    python benchmarks/growth.py --update         # into docs/growth.md

Each row is measured at a few sizes on this machine. The least-squares line through them is a fixed part and a slope;
`off` is the largest difference of a measurement to the line; `power` is the slope of the line through the logarithms:
1 is in proportion, 0 is no growth, -1 is half the time on twice the cores. What the last column says of larger sizes is
computed from the line and has not been measured. Times of small networks and images stand for how they grow, not for
how fast they are. `--parts` runs some rows only. The second table, of COCO on several GPUs, is computed from operations
alone; `--gpus` and `--tflops` are its assumptions.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training_step
from nms import OPTIONS, predictions
from prepare_speed import CONVERT, write_tree
from reporting import ROOT, machine, put_into, table

from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.nms import nms
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.quant.calibrate import collect
from yolov6core.quant.insert import insert_quantizers

PAGE = ROOT / "docs" / "growth.md"
REPEATS = 3
TRAIN_IMAGES, VAL_IMAGES = 118_287, 5_000
"""COCO 2017."""
NETWORKS = {"yolov6n": (11.3, 4.65), "yolov6s": (45.0, 18.54), "yolov6m": (85.1, 34.86), "yolov6l": (149.5, 59.61)}
"""GFLOPs of a forward pass at 640 pixels, and millions of parameters: docs/networks.md."""
EPOCHS = 300
TRAINING_COST = 3
"""Forward and backward pass, in forward passes."""
Times = dict[float, float]
"""Size -> seconds."""


@dataclass(frozen=True)
class Row:
    """What is measured at which sizes, and the size that it is computed for (None: all sizes are measured)."""

    what: str
    unit: str
    measure: Callable[[], Times]
    computed_at: float | None = None


def least(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Least seconds of a few calls: other load only ever adds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def conversion() -> Times:
    """`prepare-voc2yolo` of drawn VOC trees, by images."""
    found: Times = {}
    for images in (1000, 4000, 16000):
        with tempfile.TemporaryDirectory() as folder:
            write_tree(Path(folder) / "VOC", images)
            params = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("data/sample_voc", "VOC")
            (Path(folder) / "params.yaml").write_text(params, encoding="utf-8")
            command = [sys.executable, "-c", CONVERT]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
            found[images] = float(done.stdout.split()[1])
    return found


def coco_figures() -> Times:
    """COCO's figures by images: 80 classes, 7 objects and 100 detections in each."""
    rng, found = np.random.default_rng(0), {}
    for images in (250, 500, 1000):
        truth, detections = drawn_detections(images, rng)
        found[images] = least(lambda truth=truth, detections=detections: coco_metrics(truth, detections))
    return found


def drawn_detections(images: int, rng: np.random.Generator) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Ground truth of COCO form, and detections [100, 6] of each image, most of them around the objects."""
    annotations, detections = [], {}
    for image in range(1, images + 1):
        corners, sides = rng.uniform(0, 400, (7, 2)), rng.uniform(20, 200, (7, 2))
        labels = rng.integers(80, size=7)
        for corner, side, label in zip(corners, sides, labels, strict=True):
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "iscrowd": 0}
            annotations.append(row | {"bbox": [*corner.tolist(), *side.tolist()], "area": float(side.prod())})
        of = rng.integers(7, size=100)
        starts = corners[of] + rng.normal(0, 15, (100, 2))
        boxes = np.concatenate((starts, starts + sides[of]), axis=1)
        detections[image] = np.column_stack((boxes, rng.random(100), labels[of]))
    images_of = [{"id": image, "width": 640, "height": 640} for image in range(1, images + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, 81)]
    return {"images": images_of, "annotations": annotations, "categories": categories}, detections


def step_by_classes() -> Times:
    """Training step of N, 160 pixels, batch 8, by classes."""
    found: Times = {}
    before = training_step.CLASSES
    try:
        for classes in (1, 20, 80, 365):
            training_step.CLASSES = classes
            found[classes] = step_seconds("yolov6n_v2", size=160, batch=8)
    finally:
        training_step.CLASSES = before
    return found


def step_seconds(name: str, *, size: int, batch: int, steps: int = 4) -> float:
    """Least seconds of a training step."""
    rows = training_step.steps(name, "repopt", Namespace(size=size, batch=batch, steps=steps))
    return min(sum(row.values()) for row in list(rows)[training_step.WARM_UP :])


def suppression() -> Times:
    """Suppression of one image by classes: 8,400 anchors, 2,000 scores above the threshold."""
    found: Times = {}
    boxes, scores = predictions("scattered", 2000)
    for classes in (1, 20, 80, 365):
        some = np.resize(scores, (len(boxes), classes))
        threshold = max(OPTIONS["score_threshold"], float(np.sort(some, axis=None)[-2000]))
        options = OPTIONS | {"score_threshold": threshold}
        found[classes] = least(lambda some=some, options=options: nms(boxes, some, **options), 20)
    return found


def calibration_by_operations() -> Times:
    """Counting the activations of 4 images of 128 pixels, N to L."""

    def seconds(name: str) -> float:
        torch.manual_seed(0)
        gm = insert_quantizers(deploy_(build_detector(variant(name), num_classes=80).eval()))
        images = [torch.rand(4, 3, 128, 128)]
        return least(lambda: collect(gm, images), 2)

    return {operations: seconds(name) for name, (operations, _) in NETWORKS.items()}


def step_by_operations() -> Times:
    """Training step, 128 pixels, batch 4, N to L."""
    steps = {name: step_seconds(name, size=128, batch=4, steps=2) for name in NETWORKS}
    return {NETWORKS[name][0]: seconds for name, seconds in steps.items()}


def step_by_cores() -> Times:
    """Training step of N, 320 pixels, batch 8, by threads."""
    found: Times = {}
    before = torch.get_num_threads()
    try:
        for threads in range(1, (os.cpu_count() or 1) + 1):
            torch.set_num_threads(threads)
            found[threads] = step_seconds("yolov6n_v2", size=320, batch=8)
    finally:
        torch.set_num_threads(before)
    return found


ROWS: Mapping[str, Row] = {
    "conversion": Row("conversion of VOC", "images", conversion, TRAIN_IMAGES + VAL_IMAGES),
    "figures": Row("COCO's figures, 100 boxes an image", "images", coco_figures, VAL_IMAGES),
    "classes": Row("training step of N, 160 pixels, batch 8", "classes", step_by_classes),
    "suppression": Row("suppression of one image", "classes", suppression),
    "calibration": Row("calibration pass, 4 images of 128 pixels, N to L", "GFLOPs at 640", calibration_by_operations),
    "operations": Row("training step, 128 pixels, batch 4, N to L", "GFLOPs at 640", step_by_operations),
    "cores": Row("training step of N, 320 pixels, batch 8", "cores", step_by_cores),
}


def fitted(times: Times) -> tuple[float, float, float, float]:
    """Fixed part and slope of the line, its largest relative difference to a measurement, and the power."""
    sizes, seconds = np.array(list(times)), np.array(list(times.values()))
    slope, fixed = np.polyfit(sizes, seconds, 1)
    power, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    off = np.abs(fixed + slope * sizes - seconds) / seconds
    return float(fixed), float(slope), float(off.max()), float(power)


def cells(row: Row, times: Times) -> tuple[str, ...]:
    """One line of the table; with one size only, as on one core, there is no line to fit."""
    measured = ", ".join(f"{size:g}: {seconds:.3g} s" for size, seconds in times.items())
    if len(times) < 2:
        return row.what, row.unit, measured, "", "", "", "", ""
    fixed, slope, off, power = fitted(times)
    at = row.computed_at
    computed = f"{at:,.0f}: {fixed + slope * at:.3g} s" if at else ""
    line = (f"{fixed:.3g} s", f"{1000 * slope:.3g} ms", f"{100 * off:.0f} %", f"{power:.2f}")
    return row.what, row.unit, measured, *line, computed


def coco(gpus: int, tflops: float) -> list[str]:
    """Training on COCO, computed: nothing of it has been measured."""
    rows = []
    for name, (gflops, parameters) in NETWORKS.items():
        an_image = TRAINING_COST * gflops / 1000  # TFLOP
        rate = gpus * tflops / an_image
        hours = EPOCHS * TRAIN_IMAGES / rate / 3600
        sent = 2 * (gpus - 1) / gpus * 4 * parameters  # a ring of float32 gradients
        work = f"{EPOCHS * TRAIN_IMAGES * an_image / 1e6:.1f}"
        rows.append((name, f"{1000 * an_image:.0f}", work, f"{rate:,.0f}", f"{hours:.1f}", f"{sent:.0f}"))
    of = f"{EPOCHS} epochs"
    header = ("network", "GFLOP an image", f"EFLOP, {of}", "images/s", f"hours, {of}", "MB sent by a GPU each step")
    return [
        f"Computed, not measured. Assumed: {gpus} GPUs that reach {tflops:g} TFLOPS each.",
        "",
        *table(header, rows),
    ]


def lines(parts: list[str]) -> Iterator[str]:
    yield machine(("torch", "numpy"))
    yield ""
    header = ("what", "by", "measured", "fixed", "slope, each", "off", "power", "computed, not measured")
    rows = []
    for number, part in enumerate(parts, start=1):
        print(f"{number}/{len(parts)} {ROWS[part].what}", file=sys.stderr, flush=True)
        rows.append(cells(ROWS[part], ROWS[part].measure()))
    yield from table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--threads", type=int, default=2, help="but for the row of cores")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=20, help="what a GPU reaches in training, not its data sheet")
    parser.add_argument("--update", action="store_true", help=f"write the tables into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable()
    found = list(lines(options.parts))
    expected = coco(options.gpus, options.tflops)
    print("\n".join([*found, "", *expected]))
    if options.update:
        put_into(PAGE, "growth", found)
        put_into(PAGE, "coco", expected)


if __name__ == "__main__":
    main()
