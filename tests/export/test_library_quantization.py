"""What ONNX Runtime's tool makes of a network by its defaults."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from yolov6core.exchange.graph_view import GraphView, count_quantized, integer_types
from yolov6core.export.dialects import write_traced
from yolov6core.export.library_quantization import quantized_by_library
from yolov6core.export.onnx_export import to_onnx
from yolov6core.export.onnx_run import open_outputs
from yolov6core.export.qdq import activation_pairs

SHAPE = (1, 3, 32, 32)


class Detector(nn.Module):
    """Two convolutions, prediction layers, and decoding that multiplies boxes by 100."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.body.weight[3] *= 20  # one scale for all channels is set by this one

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(self.stem(images).relu()).relu()
        boxes, scores = (layer(x).flatten(2).transpose(1, 2) for layer in (self.boxes, self.scores))
        return 100 * boxes, scores.sigmoid()


@pytest.fixture(scope="module")
def traced() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Detector(), input_shape=SHAPE)


@pytest.fixture(scope="module")
def calib() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(SHAPE, dtype=np.float32) for _ in range(3)]


def weights_of(model: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray]]:
    """(integers, scale) of each convolution."""
    view = GraphView(model)
    makers = [view.producer[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    return [(view.array(maker.input[0]), view.array(maker.input[1])) for maker in makers]


@pytest.mark.parametrize("symmetric", [False, True])
def test_all_convolutions_get_one_scale_and_the_range_that_was_seen(traced, calib, symmetric):
    before = traced.SerializeToString()
    model = quantized_by_library(traced, calib, symmetric=symmetric)
    assert traced.SerializeToString() == before
    assert count_quantized(model) == (4, 4)
    assert integer_types(model) == {"int8" if symmetric else "uint8"}
    assert all(integers.dtype == np.int8 and scale.size == 1 for integers, scale in weights_of(model))
    (body,) = (array for array in map(numpy_helper.to_array, traced.graph.initializer) if array.shape == (8, 8, 3, 3))
    integers, scale = weights_of(model)[1]
    np.testing.assert_allclose(integers * scale, body, atol=0.51 * float(scale))
    assert np.abs(integers[3]).max() == 127 and np.abs(np.delete(integers, 3, 0)).max() < 20, "channel 3 takes all"
    view = GraphView(model)
    (images,) = (pair for pair in activation_pairs(view) if pair.source == "images")
    peak = max(batch.max() for batch in calib)
    assert view.array(images.quantize.input[1]).item() == pytest.approx(peak / (127 if symmetric else 255), rel=0.01)


def test_decoding_stays_float(traced, calib):
    model = quantized_by_library(traced, calib, symmetric=False)
    view = GraphView(model)
    assert {"boxes", "scores"} == {output.name for output in model.graph.output}
    assert [view.producer[name].op_type for name in ("boxes", "scores")] == ["Mul", "Sigmoid"]
    images = calib[0]
    found, wanted = (open_outputs(m.SerializeToString(), "ort")(images) for m in (model, traced))
    for name in ("boxes", "scores"):
        error = np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name])
        assert 0 < error < 0.1, name


def test_weights_of_seven_bits_for_cpus_whose_sums_saturate(traced, calib):
    model = quantized_by_library(traced, calib, symmetric=False, reduce_range=True)
    assert max(np.abs(integers).max() for integers, _ in weights_of(model)) <= 64


def test_a_bias_beyond_its_integers_gets_another_scale(calib, tmp_path):
    """Weights of nearly zero, as of predictions that have not learned yet: one scale becomes one for each channel."""
    torch.manual_seed(0)
    network = Detector()
    with torch.no_grad():
        network.scores.weight *= 1e-12
        network.scores.bias[:] = torch.tensor([-4.6, 2.0])
    model = quantized_by_library(to_onnx(network, input_shape=SHAPE), calib, symmetric=False)
    path = write_traced(model, tmp_path / "naive.onnx", dialect="ort").path
    found = open_outputs(path, "ort")(calib[0])["scores"]
    np.testing.assert_allclose(found, np.tile(1 / (1 + np.exp([4.6, -2.0])), (1, 64, 1)), atol=0.01)


def test_it_leaves_the_log_as_it_was_and_needs_images(traced, calib, caplog):
    level = logging.getLogger().level
    with caplog.at_level("WARNING"):
        quantized_by_library(traced, calib, symmetric=False)
    assert not caplog.records and logging.getLogger().level == level
    with pytest.raises(ValueError):
        quantized_by_library(traced, [], symmetric=False)
