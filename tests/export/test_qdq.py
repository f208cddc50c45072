import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from yolov6core.exchange.graph_view import GraphView
from yolov6core.export import qdq
from yolov6core.export.dialects import write_dialect
from yolov6core.export.onnx_export import to_onnx

SHAPE = (1, 3, 32, 32)


def run_ort(model, images, *, optimize=True):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("dialect", ["trt", "ort"])
def test_power_of_two_scales_are_bit_equal_to_torch(toy_net, images, run_torch, dialect, optimize):
    net = toy_net(dialect, exact=True)
    # images on the grid of 8 bits, so that the float sums of the first layer are exact as well
    images = np.round(images[:1] * 64) / 64
    model = to_onnx(net, input_shape=SHAPE)
    qdq.merge_pairs(model)
    qdq.fold_weights(model)
    if dialect == "ort":
        qdq.quantize_biases(model)
        qdq.clip_integers(model)
    for found, wanted in zip(run_ort(model, images, optimize=optimize), run_torch(net, images), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert wanted.std() > 0.01


def test_folding_keeps_the_numbers_and_quarters_the_weights(toy_net, images):
    model = to_onnx(toy_net("trt"), input_shape=SHAPE)
    before, size = run_ort(model, images[:1], optimize=False), model.ByteSize()
    assert qdq.fold_weights(model) == toy_net.quantized
    after = run_ort(model, images[:1], optimize=False)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.ByteSize() < 0.6 * size
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert sum(kind == 3 for name, kind in kinds.items() if name.endswith("_quantized")) == toy_net.quantized


def test_folding_rounds_ties_as_torch_does():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            scale = torch.full((8,), 0.3)
            self.weight = nn.Parameter((torch.arange(8.0).view(8, 1, 1, 1) + 0.5) * scale.view(8, 1, 1, 1))
            self.register_buffer("scale", scale)

        def forward(self, x):
            zero = torch.zeros(8, dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(self.weight, self.scale, zero, 0, -128, 127)
            y = nn.functional.conv2d(x[:, :1], weight)
            return y, y * 1.0

    module = Weights()
    model = to_onnx(module, input_shape=(1, 3, 1, 1))
    qdq.fold_weights(model)
    found = run_ort(model, np.ones((1, 3, 1, 1), np.float32))[0]
    with torch.no_grad():
        np.testing.assert_array_equal(found, module(torch.ones(1, 3, 1, 1))[0].numpy())


def test_activation_scales_are_scalars(tmp_path, toy_net):
    """TensorRT takes a vector of length one for a per-channel scale and leaves the convolution in float."""
    for dialect in ("trt", "ort"):
        export = write_dialect(toy_net(dialect), tmp_path / "model.onnx", dialect=dialect, input_shape=SHAPE)
        view = GraphView(onnx.load(export.path))
        pairs = qdq.activation_pairs(view)
        assert len(pairs) >= 5, dialect
        for pair in pairs:
            assert [view.array(name).shape for name in pair.quantize.input[1:]] == [(), ()]


def test_repeated_pairs_are_merged():
    class Twice(nn.Module):
        def forward(self, x):
            def quantize(value):
                return torch.fake_quantize_per_tensor_affine(value, 0.25, 0, -128, 127)

            return quantize(x) + quantize(quantize(x)), quantize(x * 2.0)

    model = to_onnx(Twice(), input_shape=SHAPE)
    assert qdq.merge_pairs(model) >= 1
    assert len(qdq.activation_pairs(GraphView(model))) == 2
    images = np.full(SHAPE, 0.4, np.float32)
    np.testing.assert_array_equal(run_ort(model, images)[0], np.full(SHAPE, 1.0, np.float32))


def test_bias_that_does_not_fit_int32_raises_the_weight_scale(toy_net, images, run_torch, distance):
    net = toy_net("ort")
    with torch.no_grad():
        net.left.conv.weight[3] *= 1e-12
        net.left.scale[3] *= 1e-12
    wanted = run_torch(net, images[:1])
    model = to_onnx(net, input_shape=SHAPE)
    qdq.fold_weights(model)
    assert qdq.quantize_biases(model) == net.quantized
    integers = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_int32")]
    assert all(values.dtype == np.int32 for values in integers)
    assert distance(run_ort(model, images[:1]), wanted) < 0.02


def test_relu_before_a_zero_point_moves_to_the_integers():
    class Shared(nn.Module):
        """A ReLU on a grid that also holds negative values, as beside a transposed convolution in a concat."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            y = torch.fake_quantize_per_tensor_affine(self.conv(x).relu(), 0.01, 100, 0, 255)
            return y, y + 1.0

    model = to_onnx(Shared(), input_shape=SHAPE)
    images = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    before = run_ort(model, images)
    assert qdq.clip_integers(model) == 1
    assert "Relu" not in {node.op_type for node in model.graph.node}
    for a, b in zip(before, run_ort(model, images), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unfolded_weights_round_to_the_same_integers(tmp_path, toy_net):
    path = tmp_path / "a.onnx"
    folded = onnx.load(write_dialect(toy_net("trt"), path, dialect="trt", input_shape=SHAPE, opset=19).path)
    model = onnx.load(path)
    count = qdq.unfold_weights(model)
    again = onnx.ModelProto.FromString(model.SerializeToString())
    assert count == qdq.fold_weights(again) > 0

    def weights(graph):
        found = (numpy_helper.to_array(tensor) for tensor in graph.initializer)
        return [array.tobytes() for array in found if array.dtype == np.int8 and array.ndim > 1]

    assert weights(again.graph) == weights(folded.graph)
    assert not weights(model.graph)
