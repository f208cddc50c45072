"""A video through `infer`: frames a second with reading and drawing beside the detector, and one after the other.

    python benchmarks/video_speed.py --variant yolov6n_v2 --size 640 --rounds 7

The INT8 engine of a network with random weights, a video of validation images at 1280x720, and what `infer` does with
each frame: decode, letterbox, network, suppression, draw, encode. Both ways take turns in one process. Printed are
medians of frames a second, and the median of the ratios of all rounds with the smallest and largest.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import torch
from end_to_end import files_of

from stages.shared import paths
from yolov6core.base.errors import logger
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings
from yolov6core.serving import detect_all
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.findings import Findings
from yolov6core.serving.results_folder import ResultsFolder
from yolov6core.serving.sources import open_source

FRAME = (1280, 720)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--runtime", default="openvino", choices=("openvino", "onnxruntime"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logger.setLevel(logging.WARNING)  # a line for each frame
    ways = {"beside": (detect_all.ahead, detect_all.Behind), "in turns": (in_place, at_once)}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = write_video(folder / "pictures.mp4", options.frames)
        detector = built(options, folder)
        for number in range(options.rounds + 1):
            for way, (ahead, behind) in ways.items():
                detect_all.ahead, detect_all.Behind = ahead, behind
                rate = frames_a_second(detector, video, folder / f"{way} {number}")
                if number:  # the first round warms up
                    rates[way].append(rate)
    ratios = sorted(a / b for a, b in zip(rates["beside"], rates["in turns"], strict=True))
    for way, found in rates.items():
        print(f"{way}: {statistics.median(found):.1f} frames a second")
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(f"beside to in turns: {statistics.median(ratios):.2f} ({spread}) times")


def write_video(path: Path, frames: int) -> Path:
    """Validation images of the present folder's dataset, one a frame."""
    dataset = DetectionDataset(paths.DATASET, "val")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, FRAME)
    for number in range(frames):
        writer.write(cv2.resize(dataset.load(number % len(dataset))[0], FRAME))
    writer.release()
    return path


def built(options: argparse.Namespace, folder: Path) -> EngineDetector:
    """A detector with the INT8 engine, with the thresholds of `infer`."""
    path = files_of(options, folder)[f"{options.runtime} int8"]
    RUNTIMES[options.runtime].build(path, folder / "engine", BuildSettings(threads=options.threads))
    return EngineDetector(open_engine(folder / "engine"), score_threshold=0.4, iou_threshold=0.45)


def frames_a_second(detector: EngineDetector, video: Path, out: Path) -> float:
    frames, findings = open_source(str(video)), Findings()
    results = ResultsFolder(out, detect_all.output_names(frames).values())
    started = time.perf_counter()
    detect_all.detect_all(detector, frames, results, findings)
    return len(findings.images) / (time.perf_counter() - started)


def in_place(items: Iterator[object], _depth: int) -> Iterator[object]:
    """In the place of `ahead`: each item is made when it is asked for."""
    yield from items


@contextlib.contextmanager
def at_once(_depth: int) -> Iterator[SimpleNamespace]:
    """In the place of `Behind`: work is done before the caller goes on."""
    yield SimpleNamespace(do=lambda work: work())


if __name__ == "__main__":
    main()
