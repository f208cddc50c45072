"""Quantizer placement gives exported graphs with constant scales that become integer kernels."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

from yolov6core.quant.fake_quant import QuantConv2d
from yolov6core.quant.insert import ready_for_export_, state_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def exported(gm: torch.nn.Module, x: torch.Tensor, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own retirement
        torch.onnx.export(gm, (x,), path, opset_version=17, dynamo=False)
    return path


def optimized(path: Path, level: str) -> tuple[onnxruntime.InferenceSession, Counter]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_every_quantized_convolution_runs_on_integers_in_onnx_runtime(net, calibrated, images, tmp_path):
    net.depthwise.padding_mode = "zeros"  # others become a node between quantizer and convolution
    gm = ready_for_export_(calibrated(net, dialect_name="ort"))
    session, kinds = optimized(exported(gm, images(1), tmp_path / "ort.onnx"), "ORT_ENABLE_EXTENDED")
    layers = sum(isinstance(module, QuantConv2d) for module in gm.modules())
    assert kinds["QLinearConv"] == layers - len(state_of(gm).float_layers) == 7
    with torch.no_grad():
        expected = gm(images(1))
    for ours, theirs in zip(
        session.run(None, {session.get_inputs()[0].name: images(1).numpy()}), expected, strict=True
    ):
        assert abs(ours - theirs.numpy()).max() < 0.05 * theirs.std()


@pytest.mark.parametrize("dialect_name", ["trt", "ort"])
def test_scales_are_constants_of_the_exported_graph(net, calibrated, images, tmp_path, dialect_name):
    gm = ready_for_export_(calibrated(net, dialect_name=dialect_name))
    graph = onnx.load(exported(gm, images(1), tmp_path / "qdq.onnx")).graph
    constant = {initializer.name for initializer in graph.initializer}
    constant |= {node.output[0] for node in graph.node if node.op_type in ("Constant", "Identity")}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == len(state_of(gm).placements) + 7
    assert all(set(node.input[1:]) <= constant for node in pairs)


def test_exporting_without_constant_scales_is_refused(net, calibrated, images, tmp_path):
    with pytest.raises(ValueError, match="ready_for_export_"):
        exported(calibrated(net), images(1), tmp_path / "early.onnx")
