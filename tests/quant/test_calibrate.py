"""Calibration passes, range tables and the health report."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yolov6core.base.saturation import channel_amax
from yolov6core.quant.calibrate import collect, health, range_table, ranges
from yolov6core.quant.insert import get_ranges, insert_quantizers, set_dialect_, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.spec import DIALECTS, MIN_SCALE
from yolov6core.quant.weights import weight_scale

METHODS = [Method("max"), Method("percentile", 99.9), Method("mse"), Method("entropy")]


def test_max_ranges_are_the_true_ones(net, images):
    gm = insert_quantizers(net.requires_grad_(False))
    batch = images(3)
    found = ranges(collect(gm, [batch[:2], batch[2:]]), Method("max"))
    stem = net.stem(batch).relu()
    branch = net.dilated(net.depthwise(stem).relu()).relu()
    assert found["relu"] == (0.0, max(float(stem.max()), float(branch.max())))  # the union of the operands of the add
    assert found["x"] == (float(batch.min()), float(batch.max()))
    assert found["neck"][0] < 0 < found["neck"][1], "a result before SiLU is seen before an in-place SiLU overwrites it"
    assert found["act"][0] > -0.2785


def test_collecting_does_not_depend_on_dialect_or_present_ranges(net, images):
    gm = insert_quantizers(net)
    before = ranges(collect(gm, [images()]), Method("mse"))
    set_ranges_(gm, dict.fromkeys(before, (0.0, 1e-3)))
    assert ranges(collect(set_dialect_(gm, "ort"), [images()]), Method("mse")) == before
    assert get_ranges(gm)["x"] == pytest.approx((0.0, 1e-3))


def test_batching_does_not_change_max_nor_totals(net, images):
    gm, batch = insert_quantizers(net), images(4)
    whole, split = collect(gm, [batch]), collect(gm, batch.split(1))
    assert whole.images == split.images == 4
    for name, histogram in whole.histograms.items():
        assert histogram.total == split.histograms[name].total == histogram.counts.sum()
    for name, bounds in ranges(whole, Method("max")).items():
        assert ranges(split, Method("max"))[name] == pytest.approx(bounds, rel=1e-5)


def test_all_methods_fit_and_are_tabled(net, images):
    gm = insert_quantizers(net)
    statistics = collect(gm, [images()])
    tables = {str(method): ranges(statistics, method) for method in METHODS}
    assert len({table["x"] for table in tables.values()}) == 1, "the input's range is known and never clipped"
    rows = range_table(statistics, tables)
    assert len(rows) == len(METHODS) * len(statistics.histograms)
    for table in tables.values():
        set_ranges_(gm, table)
        assert all(torch.isfinite(output).all() for output in gm(images()))
    by_method = {row.method: row for row in rows if row.group == "relu_1"}
    assert by_method["max"].clipped == 0.0 < by_method["percentile_99.9"].clipped <= 0.0015
    assert by_method["mse"].sqnr_db >= by_method["max"].sqnr_db - 0.01


def test_health_names_dead_and_outlier_channels(net, images):
    with torch.no_grad():
        net.stem.weight[3] = 0
        net.stem.bias[3] = -1
        net.dilated.weight.zero_()
        net.depthwise.weight[5] *= 1000
    gm = insert_quantizers(net)
    statistics = collect(gm, [images()])
    report = health(gm, statistics)
    assert report.dead_channels["relu"] == (3,) and report.dead_filters["stem"] == (3,)
    assert len(report.dead_filters["dilated"]) == 8 and len(report.dead_channels["relu_2"]) == 8
    assert report.outlier_channels["relu_1"] > 100
    assert not report.never_seen and not report.all_zero


def test_a_tensor_of_zeros_gets_a_harmless_range(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Sigmoid()).eval()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1)
    for method in METHODS:
        gm = insert_quantizers(net)
        statistics = collect(gm, [images()])
        set_ranges_(gm, ranges(statistics, method))
        assert health(gm, statistics).all_zero == ("_1",)
        for dialect_name in DIALECTS:
            assert torch.isfinite(set_dialect_(gm, dialect_name)(images())).all()
            assert all(module.scale >= MIN_SCALE for module in gm.ranges.values()), "no scale of 0 in any graph"
        assert bool((weight_scale(channel_amax(gm.get_submodule("0").weight)) == 1).all())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_tensor_without_values_gets_a_harmless_range_too(images, method):
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            first = self.first(x)
            return self.last(first).sigmoid(), self.second(first[2:].sigmoid()).sigmoid()

    gm = insert_quantizers(Sliced().eval())
    statistics = collect(gm, [images()])
    set_ranges_(gm, ranges(statistics, method))
    assert health(gm, statistics).never_seen == ("sigmoid_1", "second")
    assert all(module.scale >= MIN_SCALE for module in gm.ranges.values())
    assert torch.isfinite(gm(images(3))[1]).all()


def test_no_images_and_broken_weights_are_errors(net, images):
    gm = insert_quantizers(net)
    with pytest.raises(ValueError, match="at least one image"):
        collect(gm, [])
    gm.depthwise.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="relu_1: a tensor holds NaN"):
        collect(gm, [images()])


@pytest.mark.parametrize("dialect_name", DIALECTS)
def test_ranges_end_where_an_activation_is_constant(images, dialect_name):
    class Hard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.both = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.swish, self.sigmoid = nn.Hardswish(inplace=True), nn.Hardsigmoid()

        def forward(self, x: Tensor) -> Tensor:
            x = self.swish(self.first(x))
            x = x * self.sigmoid(self.gate(x))
            both = self.both(x)
            return nn.functional.hardswish(both) + both.tanh()

    net = Hard().eval().requires_grad_(False)
    for conv in (net.first, net.gate, net.both):
        conv.weight.mul_(50)
    gm = insert_quantizers(net, dialect_name=dialect_name)
    found = ranges(collect(gm, [images()]), Method("max"))
    first, gate, both = (found[name] for name in ("first", "gate", "both"))
    assert first[0] == -3.0 and first[1] > 10
    assert gate == (-3.0, 3.0)
    assert both[0] < -10, "another reader is not constant there"
    assert found["swish"][0] == pytest.approx(-0.375, abs=1e-3), "the range of the result is not cut"
