"""How square, rectangular and grey-framed inputs change AP: published YOLOv6Lite-L weights on COCO128.

    python benchmarks/input_sizes.py --shared ../shared

The images are of the weights' own training set: compare rows only.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lite_coco128 import CARD, SIZE, WEIGHTS, published_network, whole_dataset

from yolov6core.data.views import DatasetView
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.models.decoded import predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with weights/ and data/coco128")
    given = parser.parse_args()
    predict = predictor(published_network(given.shared / WEIGHTS, CARD.variant), CARD.strides)
    with tempfile.TemporaryDirectory() as folder:
        dataset = whole_dataset(given.shared / "data" / "coco128", Path(folder))
        views = {
            "square": DatasetView(dataset),
            "rectangular": DatasetView(dataset, stride=max(CARD.strides)),
            "shrink 4": DatasetView(dataset, shrink=4),
            "shrink 8": DatasetView(dataset, shrink=8),
        }
        for name, view in views.items():
            result = evaluate(predict, view, image_size=SIZE, batch_size=16)
            print(f"{name:12} {100 * result.stats['map50_95']:.2f}")


if __name__ == "__main__":
    main()
