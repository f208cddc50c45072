"""An identity between a convolution and its reader hides nothing."""

from __future__ import annotations

import torch

from tests.support import families
from yolov6core.engines.onnxruntime_engine import audit
from yolov6core.export.dialects import write_dialect
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, ready_for_export_, set_ranges_, state_of
from yolov6core.quant.observers import Method


def test_every_quantized_convolution_of_lite_networks_runs_in_int8(tmp_path) -> None:
    """Depthwise convolutions in front of squeeze-and-excitation have an identity for an activation."""
    network, strides = families.float_network("yolov6_lite_s")
    model = insert_quantizers(network, dialect_name="ort")
    images = torch.from_numpy(families.pixels(2, seed=1))
    set_ranges_(model, ranges(collect(model, [images]), Method("max")))
    floats = len(state_of(model).float_layers)
    module = DecodedNetwork(ready_for_export_(model), strides=strides)
    write_dialect(module, tmp_path / "m.onnx", dialect="ort", input_shape=(1, 3, *families.IMAGE))
    integer, real = audit(tmp_path / "m.onnx")
    assert len(real) == floats == 8 and len(integer) > 100
