"""Configuration of DeepStream's Gst-nvinfer, and the parser of outputs that it loads.

Keys: NVIDIA, DeepStream plugin guide, "Gst-nvinfer File Configuration Specifications".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolov6core.bundle.trtexec import cache_name
from yolov6core.exchange.interface import Interface

CONFIG = "config_infer_primary.txt"
PARSER = Path(__file__).with_name("deepstream_parser.cpp")
JETPACK_6 = "10.3.0"
_SCORE = 0.25


def deepstream_reason_against(interface: Interface) -> str:
    """Why nvinfer cannot run a file of this interface; empty where it can."""
    if interface.input == "uint8":
        return "nvinfer feeds float planes, this file takes uint8 pixels: export with export.input float"
    if interface.form == "raw":
        return "the parser needs boxes and scores, this file gives prediction maps: export with export.form decoded"
    return ""


def deepstream_config(interface: Interface, names: Sequence[str], *, quantized: bool, batch: int) -> str:
    """Text of `config_infer_primary.txt`.

    nvinfer reads INT8 scales from a cache only, so that it takes the file without Q/DQ.

    Args:
        quantized: whether there is a calibration cache; a float network runs in FP16.
        batch: frames of one run.
    """
    model = "model.plain.onnx" if quantized else "model.opset17.onnx"
    precision = "int8" if quantized else "fp16"
    calibration = [f"int8-calib-file={cache_name(JETPACK_6)}"] if quantized else []
    # a suppression in the graph leaves nothing to cluster
    clustering = ["cluster-mode=2"] if interface.nms == "none" else ["cluster-mode=4"]
    lines = [
        f"# DeepStream 7 (TensorRT {JETPACK_6}). Paths are relative to this file. Build libdeepstream_parser.so first.",
        *(["# Another TensorRT needs another calibration cache: see README.md."] if quantized else []),
        "[property]",
        "gpu-id=0",
        "process-mode=1",
        "network-type=0",
        "gie-unique-id=1",
        "interval=0",
        f"onnx-file={model}",
        f"model-engine-file={model}_b{batch}_gpu0_{precision}.engine",
        f"network-mode={1 if quantized else 2}",
        *calibration,
        f"batch-size={batch}",
        f"net-scale-factor={1 / 255:.12f}",
        "model-color-format=0",
        "maintain-aspect-ratio=1",
        "symmetric-padding=1",
        "labelfile-path=labels.txt",
        f"num-detected-classes={len(names)}",
        "parse-bbox-func-name=NvDsInferParseYolov6",
        "custom-lib-path=libdeepstream_parser.so",
        *clustering,
        "",
        "[class-attrs-all]",
        f"pre-cluster-threshold={max(_SCORE, interface.score_threshold if interface.nms != 'none' else 0)}",
        *([f"nms-iou-threshold={interface.iou_threshold}"] if interface.nms == "none" else []),
        f"topk={interface.max_detections}",
    ]
    return "\n".join(lines) + "\n"
