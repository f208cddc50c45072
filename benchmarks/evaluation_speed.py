"""Images a second of a whole evaluation, from opening data set and engine to COCO's figures.

    python benchmarks/evaluation_speed.py --root ../shared/data/BCCD --size 320

The network has random weights and finds something everywhere: 300 boxes stay in every image, the worst case of
suppression and matching. torch and the engines of float and INT8 take turns; the best run of each counts, because other
load only ever adds.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from engine_speed import networks

from stages.params import PrepareParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from yolov6core.data.dataset import DetectionDataset
from yolov6core.engines.openvino_engine import build
from yolov6core.engines.registry import open_engine
from yolov6core.engines.runtime import BuildSettings, infer_any
from yolov6core.evaluation.evaluator import EvalResult, evaluate
from yolov6core.export.dialects import GRID, write_dialect
from yolov6core.param_sections import ParameterFile
from yolov6core.quant.insert import QuantizedModel, set_dialect_
from yolov6core.tasks.networks import placed

PARAMS = Path(__file__).parents[1] / "params.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/sample_voc")
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (prepare,) = ParameterFile(PARAMS).read(PrepareParams)
        prepare = prepare.model_copy(update={"root": options.root})
        prepare_voc2yolo(prepare, out=folder / "data", metrics=folder / "m.json")
        best: dict[str, tuple[float, EvalResult]] = {}
        calls = candidates(folder, options)
        for _ in range(options.runs):
            for kind, run in calls.items():
                start = time.perf_counter()
                result = run()
                taken = time.perf_counter() - start
                if kind not in best or taken < best[kind][0]:
                    best[kind] = taken, result
    for kind, (taken, result) in best.items():
        count = len(result.detections)
        parts = ", ".join(f"{part} {1000 * value / count:.2f}" for part, value in result.seconds.items())
        boxes = sum(map(len, result.detections.values())) / count
        print(f"{kind}: {count / taken:.1f} images a second ({parts} ms an image; {boxes:.0f} boxes in each)")


def candidates(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], EvalResult]]:
    """Name -> one whole evaluation."""
    classes = len(DetectionDataset(folder / "data", "val").names)
    calls: dict[str, Callable[[], EvalResult]] = {}

    def whole(opened: Callable[[], Callable]) -> EvalResult:
        dataset = DetectionDataset(folder / "data", "val")
        size = (options.size, options.size)
        return evaluate(opened(), dataset, image_size=size, batch_size=options.batch)

    for kind, module in networks(options.variant, options.size, classes=classes, score=0.08):
        if isinstance(module.network, QuantizedModel):
            set_dialect_(module.network, GRID["openvino"])
        else:
            placed(module, "cpu")
            calls["torch"] = lambda module=module: whole(lambda: module)
        source = folder / f"{kind}.onnx"
        shape = (1, 3, options.size, options.size)
        write_dialect(module, source, dialect="openvino", input_shape=shape, dynamic_batch=True)
        settings = BuildSettings(threads=options.threads, max_batch=options.batch)
        build(source, folder / kind, settings)

        def opened(path: Path = folder / kind) -> Callable:
            engine = open_engine(path)
            return lambda images: infer_any(engine, images.numpy())

        calls[f"openvino {kind}"] = lambda opened=opened: whole(opened)
    return calls


if __name__ == "__main__":
    main()
