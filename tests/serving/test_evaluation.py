"""Engines of other projects' files on a dataset."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import patch_detector
from tests.support.foreign import LAYOUTS, write_foreign
from yolov6core.base.errors import UserError
from yolov6core.engines.registry import open_file
from yolov6core.engines.runtime import BuildSettings
from yolov6core.serving.engine_evaluation import _predict


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_have_the_classes_of_the_dataset(tmp_path, layout) -> None:
    names = None if layout.startswith("detections") else '["red", "green", "blue"]'
    engine, _ = open_file(
        write_foreign(tmp_path / "m.onnx", layout, names=names), "onnxruntime", BuildSettings(threads=1)
    )
    colours = ((0, 255, 0), (255, 0, 0))
    pictures = [patch_detector.picture(colour, 1, 2)[..., ::-1].transpose(2, 0, 1) for colour in colours]
    boxes, scores = _predict(engine, np.stack(pictures).astype(np.float32) / 255, 3)
    assert scores.shape == (2, boxes.shape[1], 3)
    assert [int(np.argwhere(one > 0.5)[0, 1]) for one in scores] == [1, 2]
    with pytest.raises(UserError, match="the engine has 3 classes, the dataset 2"):
        _predict(engine, np.stack(pictures).astype(np.float32) / 255, 2)
