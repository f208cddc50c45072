"""Non-maximum suppression inside the graph, in the three forms that runtimes support.

All forms suppress per class, as `evaluation.nms` does. A box takes part in all its classes, or in its best one alone
(`Interface.nms_classes`). Shapes: B images, A anchors, C classes, M candidates, N selected boxes of all images, K
detections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from yolov6core.exchange.interface import DETECTIONS, Interface
from yolov6core.export.graph_builder import GraphBuilder
from yolov6core.export.onnx_export import OUTPUTS
from yolov6core.export.onnx_graph import rename_tensor

if TYPE_CHECKING:
    import onnx

PLUGIN, PLUGIN_DOMAIN = "EfficientNMS_TRT", "TRT"
INNER = ("all_boxes", "all_scores")
"""Names of boxes [B, A, 4] and scores [B, A, C] before the suppression."""
ROUNDS = 20
"""Rounds of the unrolled suppression. n rounds are exact for sequences of up to n boxes that would each suppress the
next. Images of the sample dataset have sequences of up to 14 among their best 1000 scores."""


def add_nms(model: onnx.ModelProto, interface: Interface) -> Interface:
    """Append the suppression to a decoded network, in place; returns the interface with the number of classes.

    Raises:
        ValueError: the outputs of the graph are not boxes and scores.
    """
    outputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.output}
    if set(outputs) != set(OUTPUTS):
        raise ValueError(f"suppression needs the outputs {', '.join(OUTPUTS)}; the graph has {', '.join(outputs)}")
    interface = replace(interface, classes=outputs["scores"][2].dim_value)
    batch = outputs["scores"][0].dim_param or outputs["scores"][0].dim_value
    for old, new in zip(OUTPUTS, INNER, strict=True):
        rename_tensor(model, old, new)
    build = GraphBuilder(model, "nms")
    if interface.nms == "topk":
        _topk_suppression(build, interface, anchors=outputs["scores"][1].dim_value)
    elif interface.nms == "onnx":
        _operator_suppression(build, interface, batch)
    else:
        _plugin_suppression(model, build, interface)
    build.finish()
    _declare(model, batch, interface.max_detections)
    return interface


def with_inner(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the inputs of the suppression (INNER) as further outputs, so that one run checks both.

    The copy has no TensorRT plugin, because no other runtime can run it.
    """
    from onnx import TensorProto, helper

    model = type(model).FromString(model.SerializeToString())
    if any(node.op_type == PLUGIN for node in model.graph.node):
        rest = [node for node in model.graph.node if node.op_type != PLUGIN]
        del model.graph.node[:], model.graph.output[:]
        model.graph.node.extend(rest)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in INNER)
    return model


def _declare(model: onnx.ModelProto, batch: int | str, count: int) -> None:
    from onnx import TensorProto, helper

    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    shapes = ([batch, 1], [batch, count, 4], [batch, count], [batch, count])
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(*value) for value in zip(DETECTIONS, kinds, shapes, strict=True)
    )


def _plugin_suppression(model: onnx.ModelProto, build: GraphBuilder, interface: Interface) -> None:
    """TensorRT's EfficientNMS plugin, version 1, with the attributes of its documentation."""
    from onnx import helper

    boxes, scores = INNER
    node = helper.make_node(
        PLUGIN,
        [boxes, _competing(build, scores, interface)],
        list(DETECTIONS),
        f"/{build.prefix}/{PLUGIN}",
        domain=PLUGIN_DOMAIN,
        plugin_version="1",
        score_threshold=float(interface.score_threshold),
        iou_threshold=float(interface.iou_threshold),
        max_output_boxes=interface.max_detections,
        background_class=-1,
        score_activation=0,
        class_agnostic=0,
        box_coding=0,  # corners
    )
    build.nodes.append(node)
    model.opset_import.append(helper.make_opsetid(PLUGIN_DOMAIN, 1))


def _topk_suppression(build: GraphBuilder, interface: Interface, *, anchors: int) -> None:
    """Top-k and a matrix of overlaps, with operators that every runtime has.

    Exact among the best M scores of an image; lower scores are dropped before.
    """
    boxes, scores, classes = _candidates(build, interface, anchors)
    count = min(interface.candidates, anchors * interface.classes)
    overlap = _suppressions(build, boxes, classes, count, interface.iou_threshold)  # [B, M, M]
    threshold = build.constant(np.float32(interface.score_threshold))
    above = build("Unsqueeze", build("Cast", build("Greater", scores, threshold), to=1), build.constant([1]))
    half = build.constant(np.float32(0.5))
    stays = above  # [B, 1, M]
    for _ in range(ROUNDS):
        free = build("Cast", build("Less", build("MatMul", stays, overlap), half), to=1)
        stays = build("Mul", above, free)
    kept = build("Mul", scores, build("Squeeze", stays, build.constant([1])))
    missing = max(interface.max_detections - count, 0)
    if missing:
        kept = _pad(build, kept, [0, 0, 0, missing])
        boxes = _pad(build, boxes, [0, 0, 0, 0, missing, 0])
        classes = _pad(build, classes, [0, 0, 0, missing])
    top, ranks = build("TopK", kept, build.constant([interface.max_detections]), outputs=2, axis=1)
    index = build("Unsqueeze", ranks, build.constant([2]))
    _output(
        build,
        top,
        build("GatherND", boxes, index, batch_dims=1),
        build("GatherND", classes, index, batch_dims=1),
    )


def _candidates(build: GraphBuilder, interface: Interface, anchors: int) -> tuple[str, str, str]:
    """Boxes [B, M, 4], scores [B, M] and classes float32 [B, M] of the best scores, in descending order.

    Selects M anchors first and M scores of these second: sorting A * C scores would take longer than the network.
    """
    boxes, scores = INNER
    rows = min(interface.candidates, anchors)
    best = _row_max(build, scores)
    _, index = build("TopK", best, build.constant([rows]), outputs=2, axis=1)
    index = build("Unsqueeze", index, build.constant([2]))
    boxes = build("GatherND", boxes, index, batch_dims=1)
    # Behind the selection, where there are fewer scores.
    scores = _competing(build, build("GatherND", scores, index, batch_dims=1), interface)
    flat = build("Reshape", scores, build.constant([0, rows * interface.classes]))
    count = min(interface.candidates, rows * interface.classes)
    values, pairs = build("TopK", flat, build.constant([count]), outputs=2, axis=1)
    width = build.constant(interface.classes)
    row = build("Div", pairs, width)
    label = build("Cast", build("Sub", pairs, build("Mul", row, width)), to=1)
    boxes = build("GatherND", boxes, build("Unsqueeze", row, build.constant([2])), batch_dims=1)
    return boxes, values, label


def _suppressions(build: GraphBuilder, boxes: str, classes: str, count: int, threshold: float) -> str:
    """[B, M, M] of 0 and 1: whether the row's box suppresses the column's box if it is kept itself."""
    one, two = build.constant([1]), build.constant([2])
    sides = build("Split", boxes, build.constant([1, 1, 1, 1]), outputs=4, axis=2)
    left, top, right, bottom = sides
    across = [build("Transpose", side, perm=[0, 2, 1]) for side in sides]
    zero = build.constant(np.float32(0))

    def extent(low: str, high: str, low_across: str, high_across: str) -> str:
        overlap = build("Sub", build("Min", high, high_across), build("Max", low, low_across))
        return build("Max", overlap, zero)

    common = build("Mul", extent(left, right, across[0], across[2]), extent(top, bottom, across[1], across[3]))
    area = build("Mul", build("Sub", right, left), build("Sub", bottom, top))
    union = build("Sub", build("Add", area, build("Transpose", area, perm=[0, 2, 1])), common)
    # Of two empty boxes the IoU would be 0 / 0, which OpenVINO finds to be above any threshold.
    iou = build("Div", common, build("Max", union, build.constant(np.float32(1e-12))))
    order = np.arange(count, dtype=np.float32)
    earlier = build("Less", build.constant(order[:, None]), build.constant(order[None]))
    same = build("Equal", build("Unsqueeze", classes, two), build("Unsqueeze", classes, one))
    close = build("Greater", iou, build.constant(np.float32(threshold)))
    return build("Cast", build("And", build("And", close, same), earlier), to=1)


def _operator_suppression(build: GraphBuilder, interface: Interface, batch: int | str) -> None:
    """ONNX's NonMaxSuppression, whose list of boxes of all images is then sorted and split by image."""
    boxes, scores = INNER[0], _competing(build, INNER[1], interface)
    limit = build.constant([interface.max_detections])
    thresholds = [
        build.constant(np.array([value], np.float32)) for value in (interface.iou_threshold, interface.score_threshold)
    ]
    by_class = build("Transpose", scores, perm=[0, 2, 1])
    chosen = build("NonMaxSuppression", boxes, by_class, limit, *thresholds)  # [N, 3]: image, class, anchor
    image, label, anchor = build("Split", chosen, build.constant([1, 1, 1]), outputs=3, axis=1)
    value = build("GatherND", scores, build("Concat", image, anchor, label, axis=1))  # [N]
    box = build("GatherND", boxes, build("Concat", image, anchor, axis=1))  # [N, 4]
    if isinstance(batch, int):
        images = build.constant(np.arange(batch)[:, None])
    else:
        shape = build("Shape", scores, start=0, end=1)
        size = build("Squeeze", shape, build.constant([0]))
        images = build("Unsqueeze", build("Range", build.constant(0), size, build.constant(1)), build.constant([1]))
    same_image = build("Equal", images, build("Transpose", image, perm=[1, 0]))  # [B, N]
    by_image = build("Where", same_image, value, build.constant(np.float32(0)))
    # Empty rows, so that TopK has at least K candidates.
    spare = interface.max_detections
    top, ranks = build("TopK", _pad(build, by_image, [0, 0, 0, spare]), limit, outputs=2, axis=1)
    label = build("Squeeze", build("Cast", label, to=1), build.constant([1]))
    padded_box, padded_label = _pad(build, box, [0, 0, spare, 0]), _pad(build, label, [0, spare])
    _output(
        build,
        top,
        build("Gather", padded_box, ranks, axis=0),
        build("Gather", padded_label, ranks, axis=0),
    )


def _output(build: GraphBuilder, scores: str, boxes: str, classes: str) -> None:
    """Name the outputs and set boxes and classes to 0 where the score is 0.

    Scores are [B, K], boxes [B, K, 4], classes float32 [B, K].
    """
    zero = build.constant(np.float32(0))
    counts = build("Cast", build("Greater", scores, zero), to=1)
    build("Cast", build("ReduceSum", counts, build.constant([1]), keepdims=1), out=DETECTIONS[0], to=6)
    build("Mul", boxes, build("Unsqueeze", counts, build.constant([2])), out=DETECTIONS[1])
    build("Identity", scores, out=DETECTIONS[2])
    build("Cast", build("Mul", classes, counts), out=DETECTIONS[3], to=6)


def _competing(build: GraphBuilder, scores: str, interface: Interface) -> str:
    """Scores [B, N, C] of the classes in which a box takes part in the suppression, zeros elsewhere.

    Of equal scores the first class counts, in every runtime. ArgMax says the same, but takes OpenVINO twice the time:
    2.9 ms instead of 1.3 ms an image, with 8400 anchors and 80 classes on one core.
    """
    if interface.nms_classes == "all":
        return scores
    best = build("Cast", build("Equal", scores, _row_max(build, scores, keepdims=1)), to=1)
    order = build.constant(np.arange(interface.classes, 0, -1, dtype=np.float32))
    rank = build("Mul", best, order)
    first = build("Cast", build("Equal", rank, _row_max(build, rank, keepdims=1)), to=1)
    return build("Mul", scores, first)


def _row_max(build: GraphBuilder, values: str, *, keepdims: int = 0) -> str:
    """[B, A, C] to [B, A] or [B, A, 1]; the axes are an attribute before opset 18 and an input from then on."""
    if build.opset < 18:
        return build("ReduceMax", values, axes=[2], keepdims=keepdims)
    return build("ReduceMax", values, build.constant([2]), keepdims=keepdims)


def _pad(build: GraphBuilder, value: str, pads: list[int]) -> str:
    """`value` padded with zeros."""
    return build("Pad", value, build.constant(pads))
