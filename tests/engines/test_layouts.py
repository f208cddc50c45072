"""Outputs of other projects' detectors are told apart, or refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support import patch_detector
from tests.support.foreign import LAYOUTS, write_foreign
from yolov6core.engines.class_names import names_in_order
from yolov6core.engines.layouts import Layout, UnknownLayout, layout_of, read_rows
from yolov6core.engines.record import class_names
from yolov6core.engines.registry import open_file
from yolov6core.engines.runtime import BuildSettings, infer_any

SQUARE = (640, 640)
OBJECTNESS, SCORES, LISTED = Layout("objectness", False), Layout("scores", True), Layout("detections", False)


@pytest.mark.parametrize(
    ("shape", "size", "classes", "wanted"),
    [
        ((1, 8400, 85), SQUARE, 0, OBJECTNESS),
        ((1, 25200, 85), SQUARE, 80, OBJECTNESS),  # three anchors a cell
        ((1, 8500, 85), SQUARE, 80, OBJECTNESS),  # four levels
        ((1, 84, 8400), SQUARE, 0, SCORES),
        ((8, 84, 8400), SQUARE, 80, SCORES),
        ((1, 5, 8400), SQUARE, 1, SCORES),
        ((1, 6, 8400), SQUARE, 2, SCORES),
        ((1, 84, 6300), (480, 640), 80, SCORES),
        ((1, 8400, 84), SQUARE, 80, Layout("scores", False)),
        ((1, 85, 8400), SQUARE, 80, Layout("objectness", True)),
        ((1, 300, 6), SQUARE, 0, LISTED),
        ((1, 300, 6), (480, 640), 80, LISTED),  # 15 x 20 cells of stride 32
        ((1, 300, 6), (480, 640), 0, LISTED),
        ((1, 6, 300), SQUARE, 80, Layout("detections", True)),
        ((1, 8400, 6), SQUARE, 0, OBJECTNESS),
        ((1, 8400, 6), SQUARE, 1, OBJECTNESS),
    ],
)
def test_layouts_are_told_apart_by_anchors_and_names(shape, size, classes, wanted) -> None:
    assert layout_of(shape, size, classes) == wanted


@pytest.mark.parametrize(
    ("shape", "size", "classes", "message"),
    [
        ((1, 116, 8400), SQUARE, 80, "116, 8400"),  # masks
        ((1, 56, 8400), SQUARE, 1, "56, 8400"),  # key points
        ((1, 84, 84), (64, 64), 0, "can be read as objectness or scores swapped"),
        ((1, 300, 85), SQUARE, 0, "300, 85"),
        ((1, 8400, 4), SQUARE, 0, "8400, 4"),
        ((1, 4, 8400), SQUARE, 0, "4, 8400"),
        ((100, 7), SQUARE, 0, "100, 7"),
        ((1, 3, 80, 80, 85), SQUARE, 80, "80, 80, 85"),
        ((1, 1000), SQUARE, 0, "1, 1000"),
    ],
)
def test_other_outputs_are_refused_by_name(shape, size, classes, message) -> None:
    with pytest.raises(UnknownLayout, match=message):
        layout_of(shape, size, classes)


def test_values_that_are_none_of_the_layout_are_refused() -> None:
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = (1, 2, 3, 4, 1.8, 0)
    with pytest.raises(UnknownLayout, match=r"scores from 0 to 1\.8"):
        read_rows(rows, LISTED, 0)
    rows[0, 0] = (1, 2, 3, 4, 0.8, 0.5)
    with pytest.raises(UnknownLayout, match="no whole number"):
        read_rows(rows, LISTED, 0)
    rows[0, 0] = (1, 2, 3, 4, 0.8, 7)
    with pytest.raises(UnknownLayout, match="finds class 7, and names 3"):
        read_rows(rows, LISTED, 3)
    with pytest.raises(UnknownLayout, match="scores from -3"):
        read_rows(np.full((1, 7, 84), -3, np.float32), SCORES, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "opencv"])
def test_every_layout_gives_the_same_boxes(tmp_path, layout, runtime) -> None:
    names = "{0: 'red', 1: 'green', 2: 'blue'}"  # as Ultralytics writes them
    if runtime == "opencv" and layout.startswith("detections"):
        pytest.skip("OpenCV 5 folds the padding away")
    engine, _ = open_file(write_foreign(tmp_path / "m.onnx", layout, names=names), runtime, BuildSettings(threads=1))
    assert engine.info.names == ("red", "green", "blue")
    picture = patch_detector.picture((0, 255, 0), 1, 2)[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    boxes, scores = infer_any(engine, picture)
    assert scores.shape[2] == 3 and boxes.shape[:2] == scores.shape[:2]
    (place,) = np.argwhere(scores[0] > 0.5)
    assert place[1] == 1
    np.testing.assert_allclose(boxes[0, place[0]], [16, 32, 32, 48], atol=1e-4)


def changed(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """A detector that other tools write in a form that is not read here."""
    graph = model.graph
    kind, shape = TensorProto.FLOAT, [1, 3, 64, 64]
    if what == "half":
        kind = TensorProto.FLOAT16
    elif what == "bytes":
        kind = TensorProto.UINT8
    elif what == "last":
        shape = [1, 64, 64, 3]
    elif what == "open":
        shape = [1, 3, "height", "width"]
    if what in ("half", "bytes", "last", "open"):
        graph.node[0].input[0] = "real"
        node = helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT)
        graph.node.insert(0, node)
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info("images", kind, shape))
    elif what == "two":
        graph.input.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2]))
    elif what == "named":
        renamed = {"boxes": "det_boxes", "scores": "det_scores"}
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for output in graph.output:
            output.name = renamed[output.name]
    elif what == "segment":
        model.metadata_props.add(key="task", value="segment")
    elif what == "unknown operator":
        graph.node.append(helper.make_node("Frobnicate", ["boxes"], ["x"], domain="com.acme"))
        graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 4]))
        model.opset_import.append(helper.make_opsetid("com.acme", 1))
    elif what == "note":
        model.metadata_props.add(key="strides", value="eight")
    elif what == "external":
        entry = graph.initializer[0].external_data.add()
        entry.key, entry.value = "location", "../weights.bin"
    return model


@pytest.mark.parametrize("runtime", ["auto", "openvino", "onnxruntime", "opencv"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("half", "takes float16 images"),
        ("bytes", "takes uint8 images"),
        ("last", r"takes float images of shape \(1, 64, 64, 3\)"),
        ("open", "with fixed height and width"),
        ("two", "has 2 inputs"),
        ("named", r"det_boxes \[1, 16, 4\]"),
        ("segment", "task 'segment'"),
        ("unknown operator", "Frobnicate"),
        ("note", "describes inputs or outputs that are unknown"),
        ("external", "no file there"),
    ],
)
def test_what_no_runtime_reads_is_one_message(tmp_path, runtime, what, message) -> None:
    path = patch_detector.write_patch_detector(tmp_path / "m.onnx")
    path.write_bytes(changed(onnx.load(path), what).SerializeToString())
    with pytest.raises(ValueError, match=message) as caught:
        open_file(path, runtime, BuildSettings(threads=1))
    assert str(caught.value).count("is needed") <= 1


def test_names_keep_their_numbers() -> None:
    assert names_in_order({0: "a", 2: "c"}) == ("a", "1", "c")
    assert names_in_order({"1": "b", "0": "a"}) == ("a", "b")
    assert names_in_order(["a", 5]) == ("a", "5")
    for wrong in ({-1: "a"}, {"x": "a"}, {0: None}, [None], [""], {10**9: "a"}, "abc", 3, {True: "a"}, [["a"]]):
        with pytest.raises(ValueError, match="."):
            names_in_order(wrong)
    model = helper.make_model(helper.make_graph([], "g", [], []))
    for text, wanted in (
        ('["a", "b"]', ("a", "b")),
        ('{"1": "b", "0": "a"}', ("a", "b")),
        ("{0: 'a', 2: 'c'}", ("a", "1", "c")),
        ("[" * 5000, ()),
        ("os.system('x')", ()),
        ("[null]", ()),
    ):
        del model.metadata_props[:]
        model.metadata_props.add(key="names", value=text)
        assert class_names(model) == wanted
