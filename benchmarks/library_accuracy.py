"""What INT8 costs in accuracy: this pipeline's PTQ, and NNCF's of the same float file on the same calibration images.

    python benchmarks/library_accuracy.py ../seeds/bccd/seed0 ../seeds/bccd/seed1     # pip install nncf

Each folder is one in which the pipeline has run, as `benchmarks/seeds.py` leaves them. mAP50:95 on the validation
images in points to the float engine, all through OpenVINO and one evaluator; NNCF by its defaults, with the prediction
layers left float, as they are here, and with zero points for what can be negative (preset MIXED); on a CPU whose sums
saturate, with NNCF's `overflow_fix`. At last the means.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from engine_speed import nncf_model
from seeds import summary
from torch import Tensor

from stages.params import EvalParams
from stages.shared import paths
from stages.shared.limits import limits_of
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import DatasetView, image_batches
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.models.card import NetworkCard
from yolov6core.param_sections import ParameterFile
from yolov6core.tasks.networks import read_network

FLOAT, OURS = paths.ONNX / "float.openvino.onnx", paths.ONNX / "ptq.openvino.onnx"
Predict = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    logging.disable()
    losses: dict[str, list[float]] = {}
    for folder in options.folders:
        with contextlib.chdir(folder):
            _, card = read_network(paths.WEIGHTS["float"])
            scores = {name: 100 * score(predict, card) for name, predict in networks(card).items()}
        apart = {name: value - scores["float"] for name, value in scores.items() if name != "float"}
        shown = "  ".join(f"{name} {value:+.2f}" for name, value in apart.items())
        print(f"{folder}: float {scores['float']:.2f}  {shown}", flush=True)
        for name, value in apart.items():
            losses.setdefault(name, []).append(value)
    for name, values in losses.items():
        print(f"{name:38s} {summary(values)}")


def networks(card: NetworkCard) -> dict[str, Predict]:
    """Networks of the present folder, compiled, by name."""
    import nncf
    import openvino as ov

    calib = DetectionDataset(paths.DATASET, "calib")
    batches = image_batches(calib, image_size=card.image_size, shrink=card.shrink, batch_size=1)
    images = [batch.numpy() for batch in batches]
    mixed = nncf.QuantizationPreset.MIXED
    models = {
        "float": ov.convert_model(FLOAT),
        "ours": ov.convert_model(OURS),
        "NNCF": nncf_model(FLOAT, images),
        "NNCF, float predictions": nncf_model(FLOAT, images, float_predictions=True),
        "NNCF, float predictions, zero points": nncf_model(FLOAT, images, float_predictions=True, preset=mixed),
    }
    return {name: compiled(model) for name, model in models.items()}


def compiled(model: Any) -> Predict:
    """A call of an OpenVINO model: images [B, 3, H, W] in 0..1 to boxes [B, A, 4] and scores [B, A, C]."""
    import openvino as ov

    network = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def predict(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        results = [network(image[None]) for image in images.numpy()]
        boxes, scores = (np.concatenate([result[name] for result in results]) for name in ("boxes", "scores"))
        return boxes, scores

    return predict


def score(predict: Predict, card: NetworkCard) -> float:
    """mAP50:95 on the validation images of the present folder."""
    (evaluation,) = ParameterFile(Path("params.yaml")).read(EvalParams)
    result = evaluate(
        predict,
        DatasetView(DetectionDataset(paths.DATASET, "val"), shrink=card.shrink),
        image_size=card.image_size,
        batch_size=evaluation.batch_size,
        **asdict(limits_of(evaluation)),
    )
    return result.stats["map50_95"]


if __name__ == "__main__":
    main()
