"""Pixel shuffles and SiLU in forms for integer kernels: other nodes, the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from yolov6core.exchange.graph_view import GraphView
from yolov6core.export import qdq, shuffles
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, ready_for_export_, set_float_layers_, set_ranges_
from yolov6core.quant.observers import Method

SHAPE = (1, 3, 16, 24)


class Upsampled(nn.Module):
    """Images to (boxes, scores), through an upsampling of two thirds of the channels that a convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.neck = nn.ConvTranspose2d(16, 16, 2, stride=2), nn.Conv2d(24, 8, 1)
        self.last, self.act = nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU()
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images).relu()
        x = self.neck(torch.cat((self.up(self.deep(x).relu()), x), 1))
        x = self.act(self.last(self.act(x)))
        return self.boxes(x), self.scores(x)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quantized(images):
    def make(dialect: str) -> nn.Module:
        torch.manual_seed(0)
        gm = insert_quantizers(Upsampled().eval(), dialect_name=dialect)
        set_ranges_(gm, ranges(collect(gm, [images], bins=256), Method("max")))
        return ready_for_export_(gm)

    return make


def run(model: onnx.ModelProto, images: Tensor, *, level: str = "ORT_DISABLE_ALL") -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


def modes(model: onnx.ModelProto) -> list[bytes]:
    return [
        item.s
        for node in model.graph.node
        if node.op_type == "DepthToSpace"
        for item in node.attribute
        if item.name == "mode"
    ]


@pytest.mark.parametrize("dialect", ["trt", "openvino", "ort"])
def test_channels_change_places_and_numbers_do_not(quantized, images, dialect):
    model = to_onnx(quantized(dialect), input_shape=SHAPE, dynamic_batch=True)
    before = run(model, images)
    assert modes(model) == [b"CRD"]
    assert shuffles.blocks_first(model) == 1 and modes(model) == [b"DCR"]
    for found, wanted in zip(run(model, images), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert shuffles.blocks_first(model) == 0


class Shared(nn.Module):
    """One convolution, with one shuffled and one plain result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(3, 3 * 4, 1), nn.PixelShuffle(2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shuffled = self.shuffle(self.conv(images))
        return shuffled, self.conv(shuffled)


class Forked(Shared):
    """The result of a convolution, shuffled and plain."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(images)
        return self.shuffle(x), x.sigmoid()


class Alone(Shared):
    """A shuffle with no convolution before it."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat((images, images, images, images), 1)
        return self.shuffle(x), x


@pytest.mark.parametrize("kind", [Shared, Forked, Alone])
def test_channels_that_others_read_stay(images, kind):
    torch.manual_seed(0)
    model = to_onnx(kind().eval(), input_shape=SHAPE, dynamic_batch=True)
    before = run(model, images)
    assert shuffles.blocks_first(model) == 0
    for found, wanted in zip(run(model, images), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_integers_are_moved_in_rows_and_gates_are_one_pass(quantized, images, tmp_path):
    gm = quantized("ort")
    model = to_onnx(gm, input_shape=SHAPE, dynamic_batch=True)
    shuffles.blocks_first(model)
    qdq.merge_pairs(model)
    qdq.fold_weights(model)
    qdq.quantize_biases(model)
    before = run(model, images)
    assert shuffles.shuffle_integers(model) == 1 and shuffles.fuse_silu(model) == 2
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not {"DepthToSpace", "ConvTranspose", "Sigmoid", "Mul"} & kinds.keys() and kinds["QuickGelu"] == 2
    for found, wanted in zip(run(model, images), before, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)  # the gate is a float function

    path = tmp_path / "model.onnx"
    write_traced(to_onnx(gm, input_shape=SHAPE, dynamic_batch=True), path, dialect="ort")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QLinearConv"] == 5 and kinds["QuickGelu"] == 2
    upsampled = next(node for node in graph.node if node.op_type == "Transpose" and len(node.attribute[0].ints) == 6)
    view = GraphView(onnx.load(tmp_path / "optimized.onnx"))
    neighbours = [view.producer[upsampled.input[0]], *view.readers[upsampled.output[0]]]
    assert [node.op_type for node in neighbours] == ["Reshape", "Reshape"]
    outer = [view.producer[neighbours[0].input[0]], *view.readers[neighbours[1].output[0]]]
    assert [node.op_type for node in outer] == ["QLinearConv", "QLinearConcat"], "no transpose is left in between"


def test_a_shuffle_of_floats_is_left_alone(quantized, images, tmp_path):
    gm = quantized("ort")
    set_float_layers_(gm, ["up.conv", "neck", "boxes", "scores"])
    path = tmp_path / "model.onnx"
    export = write_traced(to_onnx(gm, input_shape=SHAPE), path, dialect="ort")
    assert export.quantized_convs == 3
    model = onnx.load(path)
    assert modes(model) == [b"DCR"]
    with torch.no_grad():
        for found, wanted in zip(run(model, images[:1]), gm(images[:1]), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)
