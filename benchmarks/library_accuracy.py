"""What INT8 costs in accuracy: this pipeline's PTQ, and NNCF's of the same float file on the same calibration images.

    python benchmarks/library_accuracy.py ../seeds/bccd/seed0 ../seeds/bccd/seed1     # pip install nncf

Each folder is one in which the pipeline has run, as `benchmarks/seeds.py` leaves them. mAP50:95 on the validation
images in points to the float engine, all through OpenVINO and one evaluator; NNCF by its defaults, with the prediction
layers left float, as they are here, and with zero points for what can be negative (preset MIXED). At last the means.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from stages._evaluation import DATASET
from stages._models import FLOAT_WEIGHTS, calibration_batches, load_float_model
from stages._params import read_params
from stages.eval_trt import EvalParams
from yolov6core.data.dataset import DetectionDataset
from yolov6core.evaluation.evaluator import evaluate

FLOAT, OURS = Path("artifacts/onnx/float.openvino.onnx"), Path("artifacts/onnx/ptq.openvino.onnx")
Predict = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    logging.disable()
    losses: dict[str, list[float]] = {}
    for folder in options.folders:
        with contextlib.chdir(folder):
            scores = {name: 100 * score(predict) for name, predict in networks().items()}
        apart = {name: value - scores["float"] for name, value in scores.items() if name != "float"}
        shown = "  ".join(f"{name} {value:+.2f}" for name, value in apart.items())
        print(f"{folder}: float {scores['float']:.2f}  {shown}", flush=True)
        for name, value in apart.items():
            losses.setdefault(name, []).append(value)
    for name, values in losses.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:38s} {statistics.mean(values):+.2f} (standard deviation {spread:.2f})")


def networks() -> dict[str, Predict]:
    """Networks of the present folder, compiled, by name."""
    import nncf
    import openvino as ov

    _, meta = load_float_model(FLOAT_WEIGHTS)
    images = [batch.numpy() for batch in calibration_batches(meta, batch_size=1)]
    names = [op.get_friendly_name() for op in ov.convert_model(FLOAT).get_ordered_ops()]
    predictions = [name for name in names if re.search(r"(cls|reg)_preds.*WithoutBiases", name)]

    def quantized(ignored: list[str], preset: nncf.QuantizationPreset) -> ov.Model:
        options = {"ignored_scope": nncf.IgnoredScope(names=ignored), "preset": preset}
        return nncf.quantize(ov.convert_model(FLOAT), nncf.Dataset(images), subset_size=len(images), **options)

    preset = nncf.QuantizationPreset
    models = {
        "float": ov.convert_model(FLOAT),
        "ours": ov.convert_model(OURS),
        "NNCF": quantized([], preset.PERFORMANCE),
        "NNCF, float predictions": quantized(predictions, preset.PERFORMANCE),
        "NNCF, float predictions, zero points": quantized(predictions, preset.MIXED),
    }
    return {name: compiled(model) for name, model in models.items()}


def compiled(model: object) -> Predict:
    """A call of an OpenVINO model: images [B, 3, H, W] in 0..1 to boxes [B, A, 4] and scores [B, A, C]."""
    import openvino as ov

    network = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        results = [network(image[None]) for image in images.numpy()]
        boxes, scores = (np.concatenate([result[name] for result in results]) for name in ("boxes", "scores"))
        return boxes, scores

    return predict


def score(predict: Predict) -> float:
    """mAP50:95 on the validation images of the present folder."""
    (params,) = read_params(Path("params.yaml"), eval=EvalParams)
    _, meta = load_float_model(FLOAT_WEIGHTS)
    result = evaluate(
        predict,
        DetectionDataset(DATASET, "val"),
        image_size=tuple(meta["image_size"]),
        batch_size=params.batch_size,
        score_threshold=params.score_threshold,
        iou_threshold=params.iou_threshold,
        max_detections=params.max_detections,
    )
    return result.stats["map50_95"]


if __name__ == "__main__":
    main()
