"""Engines on a split of the dataset: detections, latency and throughput, and the work around the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import UserError
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import DatasetView
from yolov6core.engines.latency import Latency, measure
from yolov6core.engines.layouts import UnknownLayout
from yolov6core.engines.runtime import Engine, OnGpu, infer_any, lists_detections
from yolov6core.evaluation.evaluator import DetectionLimits, EvalResult, evaluate
from yolov6core.serving.engine_detector import EngineDetector

STREAM_BATCH = 32
"""Throughput is measured at this batch, where the batch is open and the engine takes as much."""
AROUND_IMAGES = 32
"""Images that tell the time of the work before and after the network."""


@dataclass(frozen=True)
class Times:
    """Measured times.

    Attributes:
        latency: of single calls.
        stream: of calls that run `images` images as fast as the runtime can.
        pre_ms, post_ms: milliseconds an image before (all engines alike) and after the network.
        whole_ms: milliseconds an image from the decoded picture to boxes.
        compute_ms: of a call on the GPU alone, by its own clock, for engines that run on one: `latency` holds the
            copies to and from it and Python as well.
    """

    latency: Mapping[str, Latency]
    stream: Mapping[str, Latency]
    images: Mapping[str, int]
    pre_ms: float
    post_ms: Mapping[str, float]
    whole_ms: Mapping[str, float]
    compute_ms: Mapping[str, float]


def evaluate_engine(
    engine: Engine, dataset: DetectionDataset, *, limits: DetectionLimits, batch_size: int
) -> EvalResult:
    """COCO figures of an engine.

    Args:
        batch_size: for engines with an open batch that take as much.

    Raises:
        UserError: the engine and the dataset have other numbers of classes.
    """
    batch, _, height, width = engine.info.input_shape
    return evaluate(
        lambda images: _predict(engine, images.numpy(), len(dataset.names)),
        DatasetView(dataset, shrink=engine.info.interface.shrink),
        image_size=(height, width),
        batch_size=min(batch_size, engine.info.settings.max_batch) if batch == -1 else batch,
        score_threshold=limits.score_threshold,
        iou_threshold=limits.iou_threshold,
        max_detections=limits.max_detections,
    )


def _predict(engine: Engine, images: NDArray[np.float32], classes: int) -> tuple[Any, Any]:
    """Boxes [B, A, 4] and scores [B, A, C]; C is the dataset's where a list of detections leaves it open."""
    try:
        boxes, scores = infer_any(engine, images)
    except UnknownLayout as error:
        raise UserError(f"the engine cannot be read: {error}") from None
    found = scores.shape[2]
    if found != classes and not engine.info.names and lists_detections(engine.info):
        found = max(classes, 1 + int(np.flatnonzero(scores.any(axis=(0, 1))).max(initial=0)))
        if found == classes:
            missing = max(0, classes - scores.shape[2])
            scores = np.pad(scores, ((0, 0), (0, 0), (0, missing)))[..., :classes]
    if found != classes:
        raise UserError(
            f"the engine has {found} classes, the dataset {classes}: evaluate it on the dataset that it was trained for"
        )
    return boxes, scores


def measure_engines(
    engines: Mapping[str, Engine], dataset: DetectionDataset, *, limits: DetectionLimits, rounds: int, repeats: int
) -> Times:
    """All engines in turns: calls of batch 1 (or the engine's own), streams of calls, and the work around them.

    Args:
        rounds: in which all engines take turns.
        repeats: runs of each engine in a round.
    """
    rng = np.random.default_rng(0)
    single, streams, images, ones = {}, {}, {}, {}
    for name, engine in engines.items():
        batch, *rest = engine.info.input_shape
        most = min(STREAM_BATCH, engine.info.settings.max_batch) if batch == -1 else batch
        # Values do not change the time of a convolution; a seeded picture of noise keeps runs alike.
        one, many = (rng.random((size, *rest), dtype=np.float32) for size in (max(batch, 1), most))
        images[name], ones[name] = repeats * most, one
        single[name] = lambda engine=engine, one=one: engine.infer(one)
        streams[name] = lambda engine=engine, many=many: engine.stream(many, repeats)
        engine.stream(many, 2)  # compiles what streams need
    latency = measure(single, rounds=rounds, repeats=repeats)
    stream = measure(streams, rounds=rounds, repeats=1, warmup=0)
    timed = {name: engine for name, engine in engines.items() if isinstance(engine, OnGpu)}
    compute = {name: median(engine.compute_ms(ones[name], repeats)) for name, engine in timed.items()}
    return Times(latency, stream, images, *_around_network(engines, dataset, limits), compute)


def _around_network(
    engines: Mapping[str, Engine], dataset: DetectionDataset, limits: DetectionLimits
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Median milliseconds an image of letterboxing a decoded image, and of suppression and of all for each engine."""
    how = {**vars(limits), "multi_label": True, "nearest": False}
    detectors = {name: EngineDetector(engine, **how) for name, engine in engines.items()}
    before: list[float] = []
    after: dict[str, list[float]] = {name: [] for name in engines}
    whole: dict[str, list[float]] = {name: [] for name in engines}
    for index in spread(len(dataset), AROUND_IMAGES):
        image, _ = dataset.load(index)
        for name, detector in detectors.items():
            _, times = detector(image)
            before.append(times.pre)
            after[name].append(times.post)
            whole[name].append(times.pre + times.inference + times.post)
    return median(before), _medians(after), _medians(whole)


def _medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in times.items()}


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, evenly spread, first and last included."""
    return sorted({round(i * (length - 1) / max(count - 1, 1)) for i in range(count)})
