"""The integer arithmetic of the CPU at hand: sums of 8-bit products are exact, or saturate in 16 bits.

With VNNI or AMX (x86) and on ARM, products are added in 32 bits. Other x86 CPUs add them in pairs in 16 bits first
(`vpmaddubsw`), which saturate: a quantized network whose weights do not allow for it loses accuracy silently.
oneDNN and OpenVINO document it as the saturation issue. The flags of the CPU are a hint. A convolution of large numbers
in each runtime is the proof, because runtimes may be limited to lower instruction sets (ONEDNN_MAX_CPU_ISA).
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from yolov6core.base.saturation import CpuSums
from yolov6core.exchange.openvino_module import load_openvino

EXACT_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Features of x86 CPUs that add products of 8-bit integers in 32 bits."""
ARM = ("aarch64", "arm64")
CHANNELS = 64
"""Channels of the convolution that proves it: 1x1, all weights 127, all activations the largest integer."""


@dataclass(frozen=True)
class IntegerArithmetic:
    """How the CPU at hand adds 8-bit products.

    Attributes:
        sums: `saturating` if the sums of any runtime are; by the CPU's flags where no runtime is installed.
        runtimes: runtime -> the result of its trial.
        flags: features of the CPU that make sums exact.
    """

    sums: CpuSums
    runtimes: dict[str, CpuSums]
    flags: tuple[str, ...]

    def of(self, runtime: str) -> CpuSums:
        """Sums of a runtime on the CPU; if it is not installed, the sums of the CPU."""
        return self.runtimes.get(runtime, self.sums)

    def describe(self) -> str:
        """One line for people."""
        seen = ", ".join(f"{name} {sums}" for name, sums in self.runtimes.items()) or "no runtime to try it with"
        if self.sums == "exact":
            return f"8-bit products are added exactly ({', '.join(self.flags) or 'no flag known'}; tried: {seen})"
        return (
            f"no VNNI: 8-bit products are added in 16 bits, which saturate (tried: {seen}); "
            "INT8 engines need weights made for that: ptq.cpu auto or saturating"
        )


@cache
def integer_arithmetic() -> IntegerArithmetic:
    """Look at the flags and try each runtime, once per process; takes tens of milliseconds and imports the runtimes."""
    flags = tuple(flag for flag in EXACT_FLAGS if flag in cpu_facts().get("flags", "").split())
    if platform.machine() in ARM:
        flags = ("ARM",)
    runtimes: dict[str, CpuSums] = {}
    for name, probe in PROBES.items():
        try:
            runtimes[name] = "exact" if probe() else "saturating"
        except ImportError:
            continue
    seen = set(runtimes.values()) or {"exact" if flags else "saturating"}
    return IntegerArithmetic("saturating" if "saturating" in seen else "exact", runtimes, flags)


def resolved(cpu: CpuSums | Literal["auto"]) -> CpuSums:
    """`auto` replaced by the sums of the CPU at hand; `exact` and `saturating` as they are."""
    return integer_arithmetic().sums if cpu == "auto" else cpu


def cpu_facts() -> dict[str, str]:
    """Entries of /proc/cpuinfo for the last core, by name; empty where the file does not exist (not Linux)."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _openvino_is_exact() -> bool:
    openvino = load_openvino()
    op: Any = openvino.opset13
    pixels = op.parameter([1, CHANNELS, 4, 4], np.float32)
    ends = [op.constant(np.float32(value)) for value in (0, 255, 0, 255)]
    weight = op.convert(op.constant(np.full((32, CHANNELS, 1, 1), 127, np.int8)), "f32")
    weight = op.multiply(weight, op.constant(np.ones((32, 1, 1, 1), np.float32)))
    result = op.convolution(op.fake_quantize(pixels, *ends, 256), weight, [1, 1], [0, 0], [0, 0], [1, 1])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model: Any = openvino.Model  # its stubs expect another class of the same name
    compiled = openvino.Core().compile_model(model([result], [pixels]), "CPU", options)
    # Never closed: signals have crashed processes in which an OpenVINO network was closed (2026.4, Python 3.11).
    _KEPT.append(compiled)
    return _is_exact(compiled([_largest()])[0])


def _onnxruntime_is_exact() -> bool:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "step": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.full((32, CHANNELS, 1, 1), 127, np.int8),
        "weight_step": np.ones(32, np.float32),
        "weight_zero": np.zeros(32, np.int8),
        "result_step": np.float32(CHANNELS * 127),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "step", "zero"], ["images_integer"]),
        helper.make_node("DequantizeLinear", ["images_integer", "step", "zero"], ["images_real"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_step", "weight_zero"], ["weight_real"], axis=0),
        helper.make_node("Conv", ["images_real", "weight_real"], ["sum"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["sum", "result_step", "zero"], ["sum_integer"]),
        helper.make_node("DequantizeLinear", ["sum_integer", "result_step", "zero"], ["result"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 32, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _is_exact(np.asarray(session.run(None, {"images": _largest()})[0]))


def _largest() -> np.ndarray:
    return np.full((1, CHANNELS, 4, 4), 255, np.float32)


def _is_exact(sums: np.ndarray) -> bool:
    """Whether all sums are right; saturating ones are half as large."""
    return bool(np.allclose(sums, CHANNELS * 127 * 255, rtol=0.01))


_KEPT: list[object] = []
"""Networks of trials that stay open."""
PROBES: dict[str, Callable[[], bool]] = {"openvino": _openvino_is_exact, "onnxruntime": _onnxruntime_is_exact}
"""Runtime -> whether its sums are exact here."""
