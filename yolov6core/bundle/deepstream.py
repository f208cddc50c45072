"""Configuration of DeepStream's Gst-nvinfer, and the parser of outputs that it loads.

Keys: NVIDIA, DeepStream plugin guide, "Gst-nvinfer File Configuration Specifications".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolov6core.exchange.interface import Interface

CONFIG = "config_infer_primary.txt"
PARSER = Path(__file__).with_name("deepstream_parser.cpp")
_SCORE = 0.25


def deepstream_reason_against(interface: Interface, *, tensorrt: str = "") -> str:
    """Why nvinfer cannot run a file of this interface; empty where it can.

    Args:
        tensorrt: major version that the files are for; empty for all.
    """
    if tensorrt == "11":
        return "nvinfer builds by a calibration cache or in half precision, and TensorRT 11 has neither option"
    if interface.input == "uint8":
        return "nvinfer feeds float planes, this file takes uint8 pixels: export with export.input float"
    if interface.form == "raw":
        return "the parser needs boxes and scores, this file gives prediction maps: export with export.form decoded"
    return ""


def deepstream_config(
    interface: Interface, names: Sequence[str], *, model: str, cache: str | None = None, batch: int = 1
) -> str:
    """Text of `config_infer_primary.txt`.

    Args:
        model: ONNX file without Q/DQ: nvinfer reads INT8 scales from a cache only.
        cache: file of INT8 scales; None for a float network, which runs in FP16.
        batch: frames of one run.
    """
    precision = "int8" if cache else "fp16"
    calibration = [f"int8-calib-file={cache}"] if cache else []
    # a suppression in the graph leaves nothing to cluster
    clustering = ["cluster-mode=2"] if interface.nms == "none" else ["cluster-mode=4"]
    lines = [
        "# Paths are relative to this file. Build libdeepstream_parser.so first, see deepstream_parser.cpp.",
        *(["# The calibration cache belongs to one version of TensorRT, see README.md."] if cache else []),
        "[property]",
        "gpu-id=0",
        "process-mode=1",
        "network-type=0",
        "gie-unique-id=1",
        "interval=0",
        f"onnx-file={model}",
        f"model-engine-file={model}_b{batch}_gpu0_{precision}.engine",
        f"network-mode={1 if cache else 2}",
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
