"""Suppression and the way back to source pixels against recorded official results: 1e-4 px, in the same order."""

from __future__ import annotations

import numpy as np

from yolov6core.data.transforms import Letterbox
from yolov6core.evaluation.evaluator import in_source_pixels
from yolov6core.evaluation.nms import nms


def detections_of(prediction: np.ndarray, options: dict) -> np.ndarray:
    """Suppress one image's [N, 5 + C] rows of cxcywh, objectness, class scores."""
    half = prediction[:, 2:4] / 2
    boxes = np.concatenate((prediction[:, :2] - half, prediction[:, :2] + half), axis=1)
    wanted = options.get("classes")
    found = nms(
        boxes,
        prediction[:, 5:] * prediction[:, 4:5],
        score_threshold=options["conf_thres"],
        iou_threshold=options["iou_thres"],
        # classes do not touch each other, so choosing some of them may as well come after suppression
        max_detections=len(boxes) * 80 if wanted else options["max_det"],
        multi_label=options["multi_label"],
        agnostic=options["agnostic"],
    )
    return found[np.isin(found[:, 5], wanted)][: options["max_det"]] if wanted else found


def test_every_recorded_run(golden) -> None:
    """Equal although the official class offset of 4096 px per class costs precision: no recorded box is near the edge.

    The offset, and the official time limit after which images stay empty, are defects and not reproduced.
    """
    arrays, meta = golden("nms.npz")
    assert meta["runs"]
    for name, options in meta["runs"].items():
        found = [detections_of(image, options) for image in arrays[f"prediction/{options['prediction']}"]]
        assert [len(image) for image in found] == arrays[f"{name}/count_per_image"].tolist(), name
        np.testing.assert_allclose(np.concatenate(found), arrays[f"{name}/detections"], atol=1e-4, err_msg=name)


def recorded_geometry(case: dict) -> Letterbox:
    (ratio_y, ratio_x), (left, top) = case["scale_coords_ratio_pad"]
    return Letterbox(ratio_x, ratio_y, left, top, tuple(case["source_hw"]))


def test_boxes_back_to_source_pixels(golden) -> None:
    """The recorded whole-pixel padding is undone, as the official evaluator does.

    The official inference tool (`rescale/*`) subtracts the padding before it was rounded to whole pixels, which moves
    boxes by up to half a network pixel against the picture; that is a defect and not reproduced.
    """
    arrays, meta = golden("nms.npz")
    assert meta["rescale"]
    for number, case in meta["rescale"].items():
        boxes = arrays[f"rescale/{number}/boxes_in_network_pixels"]
        found = recorded_geometry(case).to_source(boxes)
        expected = arrays[f"scale_coords/{number}/boxes_in_source_pixels"]
        # float32 of 1000 px resolves 6e-5, and the division by the ratio is done once in float64 here
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=number)


def test_rows_for_coco(golden) -> None:
    arrays, meta = golden("nms.npz")
    case = meta["coco_rows"]
    ratio_y, ratio_x = case["ratio"]
    geometry = Letterbox(ratio_x, ratio_y, *case["pad"], tuple(case["source_hw"]))
    found = in_source_pixels(arrays["coco_rows/detections_network_pixels"], geometry)
    assert len(found)
    for row, expected in zip(found, case["rows"], strict=True):
        box = [row[0], row[1], row[2] - row[0], row[3] - row[1]]
        np.testing.assert_allclose(box, expected["bbox"], atol=6e-4)  # recorded with 3 decimals
        np.testing.assert_allclose(row[4], expected["score"], atol=6e-6)  # recorded with 5 decimals
