"""Suppression in the graph against `evaluation.nms`, run by ONNX Runtime and OpenVINO."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from yolov6core.engines.compatibility import check_combination
from yolov6core.engines.runtime import BuildSettings, RuntimeMissing
from yolov6core.engines.tensorrt_engine import TensorRtRuntime
from yolov6core.evaluation.nms import nms
from yolov6core.exchange.compare import detection_rows, differing_rows
from yolov6core.exchange.interface import DETECTIONS, Interface, best_scores
from yolov6core.export.dialects import NMS_DIALECTS, write_traced
from yolov6core.export.graph_nms import INNER, add_nms, with_inner
from yolov6core.export.onnx_export import to_onnx
from yolov6core.export.onnx_run import open_outputs

BATCH, ANCHORS, CLASSES = 2, 300, 3


def passing(batch, anchors=ANCHORS, classes=CLASSES, opset=17):
    """A graph whose one input [B, A, 4 + C] holds the boxes and scores that it gives."""
    parts = helper.make_node("Split", ["images", "sizes"], ["boxes", "scores"], axis=2)
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [4, classes])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [parts],
        "passing",
        [value("images", TensorProto.FLOAT, [batch, anchors, 4 + classes])],
        [
            value("boxes", TensorProto.FLOAT, [batch, anchors, 4]),
            value("scores", TensorProto.FLOAT, [batch, anchors, classes]),
        ],
        [sizes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def crowd(seed=0, batch=BATCH, anchors=ANCHORS, classes=CLASSES):
    """Boxes [B, A, 4] in forty heaps, some of them empty, and scores [B, A, C]."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(40, 280, (40, 2))[rng.integers(0, 40, (batch, anchors))]
    centre += rng.normal(0, 6, (batch, anchors, 2))
    half = rng.uniform(15, 30, (batch, anchors, 2))
    half[:, ::50] = 0
    boxes = np.concatenate((centre - half, centre + half), axis=2).astype(np.float32)
    return boxes, (rng.random((batch, anchors, classes)) ** 4).astype(np.float32)


def check(model, interface, runtime, boxes, scores):
    """Run a graph and compare every image with our own suppression; returns the detections of each."""
    onnx.checker.check_model(model, full_check=True)
    run = open_outputs(model.SerializeToString(), "openvino" if runtime == "openvino" else "ort")
    outputs = run(np.concatenate((boxes, scores), axis=2))
    shapes = {name: (outputs[name].shape, outputs[name].dtype.name) for name in DETECTIONS}
    count = interface.max_detections
    assert shapes == {
        "num_dets": ((len(boxes), 1), "int32"),
        "boxes": ((len(boxes), count, 4), "float32"),
        "scores": ((len(boxes), count), "float32"),
        "classes": ((len(boxes), count), "int32"),
    }
    counts = []
    for image in range(len(boxes)):
        wanted = nms(
            boxes[image],
            interface.considered(scores[image]),
            score_threshold=interface.score_threshold,
            iou_threshold=interface.iou_threshold,
            max_detections=count,
        )
        found = detection_rows(outputs, image)
        assert len(found) == len(wanted)
        assert differing_rows(found, wanted) == 0
        assert (np.diff(found[:, 4]) <= 0).all()
        for name in DETECTIONS[1:]:
            assert not outputs[name][image, len(found) :].any(), "rows behind the detections are zero"
        counts.append(len(found))
    return counts


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["topk", "onnx"])
@pytest.mark.parametrize("opset, batch", [(17, BATCH), (20, "batch")])
def test_graph_suppresses_as_we_do(kind, runtime, opset, batch):
    model = passing(batch, opset=opset)
    interface = add_nms(model, Interface(nms=kind, max_detections=100))
    assert interface.classes == CLASSES
    assert min(check(model, interface, runtime, *crowd())) == 100


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["topk", "onnx"])
@pytest.mark.parametrize(
    "options",
    [
        {"score_threshold": 0.9999},  # next to nothing
        {"score_threshold": 0.4, "iou_threshold": 0.3},
        {"score_threshold": 0.0, "max_detections": 1000},  # more than there are boxes
        {"iou_threshold": 0.95, "max_detections": 7},
    ],
)
def test_thresholds_and_limits(kind, runtime, options):
    model = passing(BATCH)
    interface = add_nms(model, Interface(nms=kind, **options))
    check(model, interface, runtime, *crowd(seed=1))


@pytest.mark.parametrize("kind", ["topk", "onnx"])
def test_one_class_and_few_boxes(kind):
    model = passing("batch", anchors=20, classes=1)
    interface = add_nms(model, Interface(nms=kind, max_detections=50))
    check(model, interface, "onnxruntime", *crowd(anchors=20, classes=1, batch=3))


def test_topk_is_exact_among_its_candidates_only():
    model = passing(BATCH)
    interface = add_nms(model, Interface(nms="topk", max_detections=60, candidates=60))
    counts = check(model, interface, "onnxruntime", *crowd(seed=2))
    everything = passing(BATCH)
    whole = add_nms(everything, Interface(nms="topk", max_detections=60, candidates=900))
    assert max(counts) < min(check(everything, whole, "onnxruntime", *crowd(seed=2)))


def tied(seed):
    """A crowd in which every third anchor has its best score twice, in the second and the last class."""
    boxes, scores = crowd(seed)
    scores[:, ::3, 1] = scores[:, ::3, 2] = scores[:, ::3].max(axis=2)
    return boxes, scores


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["topk", "onnx"])
@pytest.mark.parametrize("opset, batch", [(17, BATCH), (20, "batch")])
@pytest.mark.parametrize("options", [{}, {"score_threshold": 0.3, "iou_threshold": 0.45}, {"score_threshold": 0.0}])
def test_boxes_compete_in_their_best_class_alone(kind, runtime, opset, batch, options):
    """As `infer` reads files without suppression, to the last bit. Of equal scores the first class counts."""
    model = passing(batch, opset=opset)
    interface = add_nms(model, Interface(nms=kind, nms_classes="best", **options))
    boxes, scores = tied(seed=4)
    run = open_outputs(model.SerializeToString(), "openvino" if runtime == "openvino" else "ort")
    outputs = run(np.concatenate((boxes, scores), axis=2))
    limits = {"iou_threshold": interface.iou_threshold, "score_threshold": interface.score_threshold}
    for image in range(BATCH):
        wanted = nms(boxes[image], scores[image], max_detections=300, multi_label=False, **limits)
        several = nms(boxes[image], scores[image], max_detections=300, **limits)
        found = detection_rows(outputs, image)
        assert len(found) > 20 and differing_rows(found, wanted) == 0
        assert differing_rows(found, several) > 0, "otherwise nothing is tested here"
    check(model, interface, runtime, boxes, scores)


def test_topk_looks_at_one_score_of_each_anchor():
    model = passing(BATCH)
    interface = add_nms(model, Interface(nms="topk", nms_classes="best", max_detections=60, candidates=60))
    check(model, interface, "onnxruntime", *crowd(seed=2))


def test_the_plugin_gets_one_score_of_each_anchor():
    model = passing("batch")
    interface = add_nms(model, Interface(nms="efficient_nms", nms_classes="best"))
    boxes, scores = tied(seed=5)
    (plugin,) = (node for node in model.graph.node if node.op_type == "EfficientNMS_TRT")
    assert plugin.input[0] == INNER[0]
    inner = with_inner(model)
    inner.graph.output.append(helper.make_tensor_value_info(plugin.input[1], TensorProto.FLOAT, None))
    found = open_outputs(inner.SerializeToString(), "ort")(np.concatenate((boxes, scores), axis=2))[plugin.input[1]]
    assert (np.count_nonzero(found, axis=2) == 1).all() and found[0, 0, 1] == scores[0, 0].max()
    np.testing.assert_array_equal(found, best_scores(scores))
    np.testing.assert_array_equal(interface.considered(scores[0]), found[0])


def test_long_sequences_of_suppressions_are_exact():
    """Each box would suppress the next one: every second one stays, as far as the rounds go."""
    offsets = np.arange(20, dtype=np.float32)[:, None] * np.array([2.0, 0, 2, 0], np.float32)
    boxes = (np.array([0, 0, 10, 10], np.float32) + offsets)[None]
    scores = np.linspace(0.9, 0.5, 20, dtype=np.float32)[None, :, None]
    model = passing(1, anchors=20, classes=1)
    interface = add_nms(model, Interface(nms="topk", max_detections=20, iou_threshold=0.5))
    assert check(model, interface, "onnxruntime", boxes, scores) == [10]


@pytest.mark.parametrize("kind", ["topk", "onnx"])
def test_detections_survive_another_suppression(kind):
    """The result of `finish` passes the evaluator's suppression unchanged."""
    boxes, scores = crowd(seed=3)
    model = passing(BATCH)
    interface = add_nms(model, Interface(nms=kind, max_detections=50))
    outputs = open_outputs(model.SerializeToString(), "ort")(np.concatenate((boxes, scores), axis=2))
    spread = interface.finish(outputs, (320, 320))
    assert spread[1].shape == (BATCH, 50, CLASSES)
    for image in range(BATCH):
        again = nms(spread[0][image], spread[1][image], score_threshold=0.03, iou_threshold=0.65, max_detections=50)
        assert differing_rows(again, detection_rows(outputs, image)) == 0


def test_the_plugin_node_is_what_tensorrt_documents():
    model = passing("batch")
    options = {"score_threshold": 0.25, "iou_threshold": 0.5, "max_detections": 77}
    add_nms(model, Interface(nms="efficient_nms", **options))
    onnx.checker.check_model(model)
    node = model.graph.node[-1]
    assert (node.op_type, list(node.input), list(node.output)) == ("EfficientNMS_TRT", list(INNER), list(DETECTIONS))
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    assert attributes == {
        "plugin_version": b"1",
        "score_threshold": 0.25,
        "iou_threshold": 0.5,
        "max_output_boxes": 77,
        "background_class": -1,
        "score_activation": 0,
        "class_agnostic": 0,
        "box_coding": 0,
    }
    kinds = {entry.name: (entry.type, helper.get_attribute_value(entry)) for entry in node.attribute}
    assert kinds["score_threshold"][0] == kinds["iou_threshold"][0] == onnx.AttributeProto.FLOAT
    outputs = {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in model.graph.output
    }
    assert outputs == {
        "num_dets": (TensorProto.INT32, ["batch", 1]),
        "boxes": (TensorProto.FLOAT, ["batch", 77, 4]),
        "scores": (TensorProto.FLOAT, ["batch", 77]),
        "classes": (TensorProto.INT32, ["batch", 77]),
    }
    inner = with_inner(model)
    boxes, scores = crowd()
    found = open_outputs(inner.SerializeToString(), "ort")(np.concatenate((boxes, scores), axis=2))
    assert set(found) == set(INNER)
    np.testing.assert_array_equal(found["all_scores"], scores)


class Boxes(nn.Module):
    """Images [B, 3, 32, 32] to 64 boxes and scores of two classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, images):
        values = self.conv(images).flatten(2).transpose(1, 2)
        low, high = values[..., :2] * 16, values[..., 2:4].abs() * 32
        return torch.cat((low, low + high), -1), values[..., 4:].sigmoid()


def trace(**options):
    return to_onnx(Boxes(), input_shape=(1, 3, 32, 32), opset=19, **options)


@pytest.mark.parametrize("kind", ["topk", "onnx", "efficient_nms"])
def test_writing_twice_gives_the_same_bytes(tmp_path, kind):
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in paths:
        dialect = "trt" if "trt" in NMS_DIALECTS[kind] else "ort"
        write_traced(trace(), path, dialect=dialect, interface=Interface(nms=kind, max_detections=20))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    interface = Interface.of(onnx.load(paths[0]))
    assert (interface.nms, interface.classes, interface.max_detections) == (kind, 2, 20)


@pytest.mark.parametrize("dialect", ["openvino", "ort"])
def test_the_plugin_is_refused_where_nothing_runs_it(tmp_path, dialect):
    with pytest.raises(ValueError, match="for the dialects trt, cache"):
        write_traced(trace(), tmp_path / "a.onnx", dialect=dialect, interface=Interface(nms="efficient_nms"))


@pytest.mark.parametrize(
    "kind, runtime, hint",
    [
        ("efficient_nms", "tensorrt_rtx", "no plugins"),
        ("efficient_nms", "openvino", "plugin of TensorRT"),
        ("efficient_nms", "onnxruntime", "plugin of TensorRT"),
        ("onnx", "tensorrt_rtx", "export nms 'topk'"),
        ("onnx", "tensorrt", "export nms 'topk' or 'efficient_nms'"),
    ],
)
def test_runtimes_refuse_what_they_cannot_run(tmp_path, kind, runtime, hint):
    path = tmp_path / "a.onnx"
    write_traced(trace(), path, dialect=NMS_DIALECTS[kind][0], interface=Interface(nms=kind))
    with pytest.raises(ValueError, match=hint):
        check_combination(onnx.load(path), runtime)
    check_combination(onnx.load(path), "tensorrt" if kind == "efficient_nms" else "openvino")


@pytest.mark.parametrize("dynamic, source", [(False, "float"), (True, "float"), (True, "uint8")])
def test_rtx_builds_plain_operators(tmp_path, dynamic, source):
    runtime = TensorRtRuntime("tensorrt_rtx")
    try:
        runtime.version()
    except RuntimeMissing as reason:
        pytest.skip(str(reason))
    interface = Interface(nms="topk", max_detections=20, candidates=100, input=source)
    path = tmp_path / "a.onnx"
    write_traced(trace(dynamic_batch=dynamic), path, dialect="trt", fp16=True, interface=interface)
    info = runtime.build(path, tmp_path / "engine", BuildSettings(max_batch=4))
    assert (tmp_path / "engine" / info.file).stat().st_size > 10_000
