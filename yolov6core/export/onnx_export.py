"""Export of a torch module to ONNX by torch's TorchScript-based exporter, with the same bytes for the same module."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from yolov6core.base.atomic import write_whole
from yolov6core.exchange.onnx_notes import INPUT
from yolov6core.export.onnx_graph import (
    fix_reshapes,
    fold_constants,
    fold_shapes,
    hoist_constants,
    maps_known,
    open_batch,
)

if TYPE_CHECKING:
    import onnx

OUTPUTS = ("boxes", "scores")
RAW_OUTPUTS = ("logits", "distances")
"""Outputs of a trace without decoding: class logits [B, A, C], distances [B, A, 4 * bins]."""
OPSETS = (17, 18, 19, 20)
"""17 has all operators of our networks; 19 is the first whose Q/DQ take float16 scales. 21 and later are outside the
documented range of the exporter, and ONNX Runtime 1.31 rejects their int8 Q/DQ around MaxPool."""


def to_onnx(
    module: nn.Module,
    *,
    input_shape: tuple[int, int, int, int],
    dynamic_batch: bool = False,
    opset: int = 17,
    outputs: tuple[str, str] = OUTPUTS,
) -> onnx.ModelProto:
    """Trace a module that maps images [B, 3, H, W] float32 to (boxes [B, A, 4], scores [B, A, C]).

    Args:
        module: fake quantizers in it must call `torch.fake_quantize_per_*_affine`, which become Q/DQ pairs.
        input_shape: (B, 3, H, W) of the trace.
        dynamic_batch: leave B open in the graph (named `batch`); H and W are always fixed.
        opset: one of OPSETS.
        outputs: names of the two outputs; RAW_OUTPUTS for a network without decoding.

    Returns: a checked model, with the same bytes for the same module.

    Raises:
        ValueError: opset out of range.
    """
    import onnx

    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; choose one of {', '.join(map(str, OPSETS))}")
    buffer = io.BytesIO()
    module = module.eval()
    parameter = next(module.parameters(), None)
    batch = 1 if dynamic_batch else input_shape[0]
    images = torch.zeros((batch, *input_shape[1:]), device=None if parameter is None else parameter.device)
    with warnings.catch_warnings(), torch.no_grad(), _own_symbolics(opset):
        # `dynamo=True` needs onnxscript, takes five times as long and writes external data.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=cast("Any", torch.jit).TracerWarning)
        torch.onnx.export(
            module,
            (images,),
            cast("Any", buffer),  # the old exporter takes streams, the annotation names paths only
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(outputs),
            do_constant_folding=True,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    return _tidy(model, module, dynamic_batch=dynamic_batch)


@contextmanager
def _own_symbolics(opset: int) -> Iterator[None]:
    """Add operators that the exporter does not know, inside this context."""

    exporter: Any = torch.onnx  # its annotations lack the functions for symbolics

    @exporter.symbolic_helper.parse_args("v", "i")
    def channel_shuffle(graph: Any, x: Any, groups: int) -> Any:
        batch, channels, height, width = x.type().sizes()

        def reshape(value: Any, shape: list[int]) -> Any:
            return graph.op("Reshape", value, graph.op("Constant", value_t=torch.tensor(shape)))

        grouped = reshape(x, [batch, groups, channels // groups, height, width])
        return reshape(graph.op("Transpose", grouped, perm_i=[0, 2, 1, 3, 4]), [batch, channels, height, width])

    names = ("aten::channel_shuffle", "aten::native_channel_shuffle")
    for name in names:
        exporter.register_custom_op_symbolic(name, channel_shuffle, opset)
    try:
        yield
    finally:
        for name in names:
            exporter.unregister_custom_op_symbolic(name, opset)


def _tidy(model: onnx.ModelProto, module: nn.Module, *, dynamic_batch: bool) -> onnx.ModelProto:
    """Open the batch if wanted, infer all shapes, drop data that differ between machines, and check the model."""
    import onnx

    for node in model.graph.node:
        node.doc_string = ""
    model.producer_name, model.producer_version, model.doc_string = "yolov6-quant", "", ""
    model.graph.name = type(module).__name__
    hoist_constants(model)
    fold_constants(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    while not maps_known(model) and fold_shapes(model):
        fold_constants(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    fix_reshapes(model, dynamic_batch=dynamic_batch)
    if dynamic_batch:
        open_batch(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model atomically."""
    write_whole(path, model.SerializeToString(deterministic=True))
