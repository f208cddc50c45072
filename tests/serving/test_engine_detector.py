"""Pictures in, detections in their pixels out, on a detector whose answers are known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.patch_detector import CELL, NAMES, SIZE, picture, write_patch_detector
from yolov6core.data.transforms import chw_rgb, network_input
from yolov6core.engines.registry import open_file
from yolov6core.engines.runtime import BuildSettings, Engine
from yolov6core.serving.engine_detector import EngineDetector

RED, GREEN = (0, 0, 255), (0, 255, 0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path: Path = write_patch_detector(tmp_path_factory.mktemp("serving") / "patches.onnx")
    return open_file(path, "onnxruntime", BuildSettings(threads=1))[0]


def cell(column: int, row: int, factor: int = 1) -> list[float]:
    """Corners of a cell of the grid, in a picture of `factor` times the input's size."""
    return [factor * CELL * value for value in (column, row, column + 1, row + 1)]


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_boxes_are_in_the_pixels_of_the_picture(engine, factor):
    found, _ = EngineDetector(engine)(picture(GREEN, 1, 2, size=factor * SIZE))
    assert found.shape == (1, 6) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], [*cell(1, 2, factor), 1.0, 1.0], atol=1e-3)


def test_a_picture_becomes_what_a_batch_of_a_split_becomes(engine):
    """To the last bit: engines are judged on splits, and used on pictures."""
    levels = np.arange(SIZE * SIZE * 3, dtype=np.uint64).reshape(SIZE, SIZE, 3).astype(np.uint8)
    found, _ = EngineDetector(engine).network_input([levels])
    expected = network_input(torch.from_numpy(chw_rgb(levels))[None], memory_format=torch.contiguous_format)
    np.testing.assert_array_equal(found, expected.numpy(), strict=True)


def test_wide_pictures_are_framed_and_boxes_come_out_of_the_frame(engine):
    """A picture of twice the input's width lies in the middle, at half its size."""
    wide = np.zeros((SIZE, 2 * SIZE, 3), np.uint8)
    wide[: 2 * CELL, : 2 * CELL] = RED
    detector = EngineDetector(engine, score_threshold=0.6)  # the frame is grey: 114 of 255 in every colour
    batch, (geometry,) = detector.network_input([wide])
    assert batch.shape == (1, 3, SIZE, SIZE) and batch.dtype == np.float32 and batch.max() <= 1
    np.testing.assert_allclose(batch[0, :, : CELL - 1], 114 / 255, atol=1e-6)
    np.testing.assert_allclose(batch[0, :, CELL, 0], [1, 0, 0], atol=1e-6, err_msg="red, green, blue")
    found, _ = detector(wide)
    np.testing.assert_allclose(found, [[0, 0, 2 * CELL, 2 * CELL, 1, 0]], atol=1e-3)
    boxes, scores = np.array([cell(0, 1)], np.float32), np.array([[0.9, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(detector.detections(boxes, scores, geometry), [[0, 0, 32, 32, 0.9, 0]], atol=1e-4)


def test_thresholds_decide_what_is_found(engine):
    image = picture((0, 100, 200), 0, 0)  # blue, green, red
    image[CELL : 2 * CELL, :CELL] = (0, 0, 150)

    def labels(**options) -> list[int]:
        return EngineDetector(engine, **options)(image)[0][:, 5].astype(int).tolist()

    assert labels(score_threshold=0.5) == [0, 0]
    assert labels(score_threshold=0.7) == [0]
    assert labels(score_threshold=0.3, multi_label=True) == [0, 0, 1]
    assert labels(score_threshold=0.3, multi_label=True, max_detections=2) == [0, 0]


def test_an_overlap_above_the_threshold_is_suppressed(engine):
    _, (geometry,) = EngineDetector(engine).network_input([picture(RED, 0, 0)])
    boxes = np.array([[0, 0, 20, 20], [0, 0, 20, 10]], np.float32)  # intersection over union: a half
    scores = np.array([[0.9, 0, 0], [0.8, 0, 0]], np.float32)
    counts = [len(EngineDetector(engine, iou_threshold=t).detections(boxes, scores, geometry)) for t in (0.45, 0.55)]
    assert counts == [1, 2]


def test_nothing_in_the_picture_is_no_detection(engine):
    found, times = EngineDetector(engine)(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert found.shape == (0, 6)
    assert times.pre > 0 and times.inference > 0 and times.post > 0


def test_classes_without_a_name_are_called_by_their_number(engine):
    detector = EngineDetector(engine, NAMES[:2])
    assert [detector.name(label) for label in range(3)] == ["red", "green", "2"]


def test_a_runtime_that_takes_pixels_finds_the_same(engine, tmp_path):
    """Of pictures of other sizes in turn, whose places in the memory that is used again differ."""
    path = write_patch_detector(tmp_path / "patches.onnx")
    pixels = EngineDetector(open_file(path, "openvino", BuildSettings(threads=1))[0])
    floats = EngineDetector(engine)
    assert pixels.network_input([picture(RED, 0, 0)])[0].dtype == np.uint8
    assert floats.network_input([picture(RED, 0, 0)])[0].dtype == np.float32
    wide = np.zeros((SIZE, 2 * SIZE, 3), np.uint8)
    wide[: 2 * CELL, : 2 * CELL] = RED
    for image in (picture(GREEN, 1, 2), wide, picture(RED, 3, 0, size=2 * SIZE), wide[:, :SIZE]):
        found, wanted = pixels(image)[0], floats(image)[0]
        assert len(wanted) and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_threads_share_a_detector_without_mixing_their_pictures(tmp_path):
    path = write_patch_detector(tmp_path / "patches.onnx")
    detector = EngineDetector(open_file(path, "openvino", BuildSettings(threads=1))[0])
    pictures = [picture(GREEN, column, row, size=(1 + row % 2) * SIZE) for column in range(4) for row in range(4)]
    wanted = [detector(image)[0] for image in pictures]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [detector(image)[0] for image in pictures], range(8)):
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
