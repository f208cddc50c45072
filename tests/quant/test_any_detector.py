"""Quantization needs convolutions and a trace, nothing of YOLOv6: another family's detector, with its batch norm."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tests.support.speed import slow_except
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.fake_quant import QuantConv2d
from yolov6core.quant.graph_ops import Kind, kind_of
from yolov6core.quant.insert import (
    QuantizedModel,
    convolution_names,
    get_ranges,
    insert_quantizers,
    quantizable_names,
    quantizers_off,
    ready_for_export_,
    set_dialect_,
    set_ranges_,
    state_of,
)
from yolov6core.quant.observers import Method
from yolov6core.quant.sensitivity import fast_sensitivity
from yolov6core.quant.spec import DIALECTS

CLASSES, ANCHORS = 4, 3


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 - (kernel + 1) % 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(inplace=True),
        )


class Residual(nn.Module):
    """A narrow and a wide convolution, beside a shortcut or not."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.path, self.shortcut = nn.Sequential(Conv(channels, channels), Conv(channels, channels, 3)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x) if self.shortcut else self.path(x)


class C3(nn.Module):
    """Three plain convolutions around residual units: two halves, one of which is worked on."""

    def __init__(self, inputs: int, outputs: int, units: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.worked = nn.Sequential(Conv(inputs, half), *(Residual(half, shortcut) for _ in range(units)))
        self.passed, self.join = Conv(inputs, half), Conv(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([self.worked(x), self.passed(x)], 1))


class PyramidPool(nn.Module):
    """Three max-pools in a row, all of them kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.join = Conv(channels, channels // 2), Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.join(torch.cat(maps, 1))


class AnchorDetector(nn.Module):
    """CSP backbone, top-down and bottom-up fusion by concats, one prediction convolution a level."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (width * factor for factor in (1, 2, 4, 8, 16))
        self.early = nn.Sequential(Conv(3, c1, 6, 2), Conv(c1, c2, 3, 2), C3(c2, c2), Conv(c2, c3, 3, 2), C3(c3, c3, 2))
        self.middle = nn.Sequential(Conv(c3, c4, 3, 2), C3(c4, c4, 3))
        self.late = nn.Sequential(Conv(c4, c5, 3, 2), C3(c5, c5), PyramidPool(c5), Conv(c5, c4))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.down_to_4 = nn.Sequential(C3(2 * c4, c4, shortcut=False), Conv(c4, c3))
        self.fine = C3(2 * c3, c3, shortcut=False)
        self.halve_3, self.halve_4 = Conv(c3, c3, 3, 2), Conv(c4, c4, 3, 2)
        self.mid, self.coarse = C3(2 * c3, c4, shortcut=False), C3(2 * c4, c5, shortcut=False)
        self.predict = nn.ModuleList(nn.Conv2d(c, ANCHORS * (5 + CLASSES), 1) for c in (c3, c4, c5))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        p3 = self.early(images)
        p4 = self.middle(p3)
        lateral_5 = self.late(p4)
        lateral_4 = self.down_to_4(torch.cat([self.up(lateral_5), p4], 1))
        fine = self.fine(torch.cat([self.up(lateral_4), p3], 1))
        mid = self.mid(torch.cat([self.halve_3(fine), lateral_4], 1))
        coarse = self.coarse(torch.cat([self.halve_4(mid), lateral_5], 1))
        maps = [layer(x) for layer, x in zip(self.predict, (fine, mid, coarse), strict=True)]
        return tuple(x.unflatten(1, (ANCHORS, -1)).permute(0, 1, 3, 4, 2) for x in maps)


def scenes(count: int, seed: int) -> Tensor:
    """Images [count, 3, 96, 96] in 0..1: large blurred patches and some noise."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(count, 3, 5, 5, generator=generator)
    noise = torch.rand(count, 3, 96, 96, generator=generator)
    return 0.8 * nn.functional.interpolate(patches, size=(96, 96), mode="bilinear") + 0.2 * noise


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """Batch norm with the statistics of random images, folded by torch.

    Batch norm is set to where SiLU bends little. An untrained network of random features is otherwise so chaotic that
    two ways of summing a convolution in float32 change its fake-quantized outputs by half.
    """
    torch.manual_seed(1)
    network = AnchorDetector()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.constant_(module.weight, 0.25)
            nn.init.constant_(module.bias, 1.0)
    with torch.no_grad():
        network.train()(scenes(8, seed=0))
    return fuse(network.eval()).requires_grad_(True)


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return scenes(4, seed=1)


@pytest.fixture(scope="module")
def quantized(detector, batch) -> QuantizedModel:
    gm = insert_quantizers(detector, cpu="saturating")
    set_ranges_(gm, ranges(collect(gm, [batch]), Method("max")))
    return gm


def relative_error(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))


def test_predictions_are_the_only_float_layers(quantized):
    assert state_of(quantized).predictions == {"predict.0", "predict.1", "predict.2"}
    assert len(quantizable_names(quantized)) == len(convolution_names(quantized)) - 3 == 57


def test_operands_of_concats_and_adds_share_a_range(quantized):
    groups = state_of(quantized).groups.group_of
    found = {Kind.CAT: 0, Kind.ADD: 0, Kind.MAX_POOL: 0}
    for node in quantized.graph.nodes:
        kind = kind_of(node, quantized)
        if kind in found:
            values = node.all_input_nodes if kind is Kind.ADD else [node, *node.all_input_nodes]
            values = [v.all_input_nodes[0] if kind_of(v, quantized) is Kind.ACTIVATION_QUANTIZER else v for v in values]
            assert len({groups[value.name] for value in values}) == 1, node
            found[kind] += 1
    assert found == {Kind.CAT: 13, Kind.ADD: 7, Kind.MAX_POOL: 3}
    assert len(set(groups.values())) == len(get_ranges(quantized)) < len(groups)


@pytest.mark.slow
@pytest.mark.parametrize("dialect_name", DIALECTS)
def test_every_dialect_stays_close_to_float(detector, quantized, batch, dialect_name):
    gm = set_dialect_(copy.deepcopy(quantized), dialect_name)
    with torch.no_grad():
        assert 0 < relative_error(gm(batch), detector(batch)) < 0.12
    assert sum(module.active for module in gm.modules() if isinstance(module, QuantConv2d)) == 57


@pytest.mark.parametrize("dialect_name", slow_except(DIALECTS, "trt"))
def test_it_exports_with_one_pair_per_quantizer_and_kernel(quantized, batch, tmp_path, dialect_name):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    gm = ready_for_export_(set_dialect_(copy.deepcopy(quantized), dialect_name))
    path = tmp_path / "detector.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own retirement
        torch.onnx.export(gm, (batch[:1],), path, opset_version=19, dynamo=False)
    pairs = sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
    assert pairs == len(state_of(gm).placements) + 57
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: batch[:1].numpy()})
    with torch.no_grad():
        assert relative_error(tuple(map(torch.from_numpy, outputs)), gm(batch[:1])) < 0.1


def test_sensitivity_ranks_every_layer(quantized, batch):
    sensitivity = fast_sensitivity(quantized, [batch])
    assert list(sensitivity) == quantizable_names(quantized)
    assert all(value > 0 for value in sensitivity.values()) and len(set(sensitivity.values())) > 50


def test_gradients_reach_every_weight(quantized, batch):
    gm = copy.deepcopy(quantized).train()
    sum(output.square().mean() for output in gm(batch)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in gm.parameters())


class Decoding(nn.Module):
    """Boxes and scores only, as many detectors return them: nothing of the maps leaves the network."""

    def __init__(self, network: nn.Module, how: str) -> None:
        super().__init__()
        self.network, self.how = network, how
        self.bins = nn.Conv2d(1, 1, 1, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.cat([x.flatten(1, 3) for x in self.network(images)], 1)
        boxes, scores = rows[..., :4], rows[..., 4:].sigmoid()
        if self.how == "bins":
            boxes = self.bins(boxes.softmax(2).unsqueeze(1)).squeeze(1)
        elif self.how == "relu":
            boxes = boxes.relu()
        centre, half = boxes[..., :2] * 8 + 4, boxes[..., 2:].exp() / 2
        return torch.cat((centre - half, centre + half), 2), scores[..., :1] * scores[..., 1:]


@pytest.mark.parametrize("how", ["plain", "relu", "bins"])
def test_predictions_are_found_behind_decoding(detector, how):
    gm = insert_quantizers(Decoding(detector, how).eval())
    predictions = {"network.predict.0", "network.predict.1", "network.predict.2"}
    assert state_of(gm).predictions == predictions | ({"bins"} if how == "bins" else set())
    assert len(quantizable_names(gm)) == 57


def test_batch_norm_is_folded_here(batch):
    network = nn.Sequential(Conv(3, 8, 3, 2), Conv(8, 8), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        network.train()(batch)
    network.eval()
    gm = insert_quantizers(network)
    assert convolution_names(gm) == ["0.0", "1.0", "2"] and len(network[0]) == 3
    with quantizers_off(gm), torch.no_grad():
        torch.testing.assert_close(gm(batch), network(batch), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="batch norm '0.1' is in training form"):
        insert_quantizers(network.train())
    with pytest.raises(ValueError, match="batch norm '0' is left"):
        insert_quantizers(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).eval())
