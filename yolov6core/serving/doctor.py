"""The installation here: versions, devices, runtimes and what they do, and what is missing."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

from yolov6core.engines.cpu import cpu_facts, integer_arithmetic
from yolov6core.engines.registry import pick_runtime, survey

PACKAGES = ("torch", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "openvino", "dvc")
USES = {
    "tensorrt": "builds and runs on an NVIDIA GPU; reads dialect 'trt', TensorRT 8 to 10 also 'cache'",
    "tensorrt_rtx": "builds without a GPU, runs on an RTX GPU; reads dialect 'trt'",
    "openvino": "builds and runs on the CPU; reads dialect 'openvino'",
    "onnxruntime": "builds and runs on the CPU; reads dialect 'ort'",
}


def installation() -> list[str]:
    """One line for each thing found or missing."""
    lines = ["Python", f"  {platform.python_version()} on {platform.platform()}", "Packages"]
    lines += [f"  {name:24} {_version(name)}" for name in PACKAGES]
    lines += ["Devices", *_cpu(), *_gpu(), "Runtimes"]
    for found in survey():
        state = found.problem or ("ready" if found.runs else "builds only: no GPU to run on")
        lines.append(f"  {found.name:13} {found.version or '-':12} {state}")
        lines.append(f"  {'':26} {USES[found.name]}")
    try:
        name, reason = pick_runtime("auto")
        lines.append(f"engine.runtime: auto takes {name} ({reason})")
    except ValueError as error:
        lines.append(f"engine.runtime: auto fails: {error}")
    return lines


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "MISSING: pip install -e ."


def _cpu() -> list[str]:
    name = cpu_facts().get("model name") or platform.processor() or platform.machine()
    return [f"  CPU  {name}, {os.cpu_count()} cores", f"       INT8: {integer_arithmetic().describe()}"]


def _gpu() -> list[str]:
    if not torch.cuda.is_available():
        return ["  GPU  none visible to torch"]
    count = torch.cuda.device_count()
    return [f"  GPU  {torch.cuda.get_device_name(i)}, CUDA {torch.version.cuda}" for i in range(count)]
