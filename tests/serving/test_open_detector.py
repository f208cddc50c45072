"""Detection in a Python program, on a detector whose answers are known."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.patch_detector import CELL, NAMES, SIZE, picture, write_patch_detector
from tests.support.pipeline import ROOT
from yolov6core.base.errors import UserError
from yolov6core.engines.registry import open_file
from yolov6core.engines.runtime import BuildSettings
from yolov6core.serving.engine_detector import EngineDetector
from yolov6core.serving.open_detector import PictureDetector, open_detector

COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


@pytest.fixture(scope="module", params=[1, 2])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes one picture at a time, and one that takes two."""
    return write_patch_detector(tmp_path_factory.mktemp("api") / "patches.onnx", batch=request.param)


def scene(number: int) -> tuple[np.ndarray, str, list[float]]:
    """A picture with one cell in a colour, the colour's name, and the corners of the cell."""
    name, column, row = NAMES[number % 3], number % 4, number // 4 % 4
    return picture(COLOURS[name], column, row), name, [CELL * v for v in (column, row, column + 1, row + 1)]


def test_a_picture_gives_arrays(path):
    image, name, box = scene(6)
    before = image.copy()
    found = open_detector(path, runtime="onnxruntime")(image)
    assert len(found) == 1 and found.names == (name,)
    assert [a.dtype for a in (found.boxes, found.scores, found.labels)] == [np.float32, np.float32, np.int64]
    assert [a.shape for a in (found.boxes, found.scores, found.labels)] == [(1, 4), (1,), (1,)]
    np.testing.assert_allclose(found.boxes[0], box, atol=1e-3)
    ((first, score, label),) = found
    assert first.tolist() == found.boxes[0].tolist() and (score, label) == (pytest.approx(1.0), name)
    assert (image == before).all()


def test_nothing_found_has_the_same_form(path):
    found = open_detector(str(path), runtime="onnxruntime")(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert found.boxes.shape == (0, 4) and found.labels.dtype == np.int64 and found.names == () and not list(found)


def test_a_list_gives_a_list_in_its_order(path):
    """Five pictures of several sizes: three batches of a file that takes two."""
    detector = open_detector(path, runtime="onnxruntime")
    images = [scene(n)[0].repeat(1 + n % 2, axis=0).repeat(1 + n % 2, axis=1) for n in range(5)]
    results = detector(images)
    for n, found in enumerate(results):
        _, name, box = scene(n)
        assert found.names == (name,), n
        np.testing.assert_allclose(found.boxes[0], np.array(box) * (1 + n % 2), atol=1e-3)
    assert detector([]) == [] and len(detector(images[:1])) == 1
    np.testing.assert_allclose(detector(images[1]).boxes, results[1].boxes)


def test_views_of_arrays_are_pictures(path):
    image, name, _ = scene(0)
    mirrored = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    assert open_detector(path, runtime="onnxruntime")(mirrored).names == (name,)


def test_names_and_thresholds(path):
    image = picture((0, 100, 200), 0, 0)  # blue, green, red
    how = {"runtime": "onnxruntime"}
    assert open_detector(path, **how, names=["rot"])(image).names == ("rot",)
    assert open_detector(path, **how).names == tuple(NAMES)
    assert open_detector(path, **how, names=[])(image).names == ("0",)
    assert len(open_detector(path, **how, score_threshold=0.8)(image)) == 0
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)  # sixteen cells
    assert len(open_detector(path, **how)(grey)) == 16 and len(open_detector(path, **how, max_detections=3)(grey)) == 3
    with pytest.raises(ValueError, match="iou_threshold is 45; give a number from 0 to 1"):
        open_detector(path, iou_threshold=45)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "the picture is NoneType.*cv2.imread gives None"),
        (np.zeros((8, 8), np.uint8), r"uint8 \[8, 8\].*COLOR_GRAY2BGR"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\].*COLOR_BGRA2BGR"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\]; give uint8"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \[0, 8, 3\]"),
    ],
)
def test_what_is_no_picture_is_named(path, wrong, message):
    detector = open_detector(path, runtime="onnxruntime")
    with pytest.raises(ValueError, match=message):
        detector([wrong])
    with pytest.raises(ValueError, match="picture 1 of the list"):
        detector([scene(0)[0], wrong])
    with pytest.raises(ValueError, match=r"detector\(list\(array\)\)"):
        detector(np.zeros((2, 8, 8, 3), np.uint8))


def test_there_is_no_such_engine(tmp_path):
    with pytest.raises(UserError, match="neither an ONNX file nor a folder"):
        open_detector(tmp_path)


class OneAtATime:
    """An engine that fails if two calls overlap."""

    def __init__(self, engine) -> None:
        self.engine, self.info, self.busy = engine, engine.info, False

    def infer(self, images):
        assert not self.busy, "two calls at once"
        self.busy = True
        time.sleep(0.002)
        result = self.engine.infer(images)
        self.busy = False
        return result


def test_threads_take_turns_at_the_engine(path):
    engine, _ = open_file(path, "onnxruntime", BuildSettings(threads=1))
    detector = PictureDetector(EngineDetector(OneAtATime(engine), NAMES))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: detector(scene(n)[0]), range(48)))
    assert [found.names for found in results] == [(scene(n)[1],) for n in range(48)]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "opencv"])
def test_threads_get_the_detections_of_their_pictures(path, runtime):
    detector = open_detector(path, runtime=runtime)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: detector(scene(n)[0]), range(64)))
    for n, found in enumerate(results):
        assert found.names == (scene(n)[1],)
        np.testing.assert_allclose(found.boxes[0], scene(n)[2], atol=1e-3)


def test_it_imports_nothing_of_the_pipeline():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import yolov6core.serving.open_detector; "
        "print(sorted({'stages', 'pandas', 'matplotlib', 'onnx', 'openvino', 'tensorrt'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
