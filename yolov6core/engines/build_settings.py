"""How an engine is to be built and run."""

from __future__ import annotations

from dataclasses import dataclass

_CHOICES = {
    "hint": ("latency", "throughput"),
    "precision": ("f32", "bf16", "f16"),
    "hardware_compatibility": ("none", "ampere_plus", "same_compute_capability"),
}


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is to be built and run.

    Attributes:
        threads: CPU threads of inference, 0 for all cores.
        hint: 'latency' (one image at a time) or 'throughput'.
        precision: of OpenVINO's layers that are not INT8: 'f32', 'bf16' or 'f16'. TensorRT takes its precision from
            the file; ONNX Runtime's CPU kernels are f32.
        max_batch: largest batch of an engine with an open batch (TensorRT's optimisation profile).
        workspace_mib: memory in MiB that TensorRT's kernels may use; 0 for all of the GPU.
        optimization_level: of TensorRT from 8.6 on: 0 builds fastest, 5 searches longest.
        dla_core: number of the deep learning accelerator (Jetson, Drive) that TensorRT builds for; None for the GPU.
        hardware_compatibility: GPUs that TensorRT's engine is for: 'none' (the one that builds it), 'ampere_plus'
            (compute capability 8.0 and later) or 'same_compute_capability' (TensorRT 11).
        version_compatible: whether TensorRT's engine also runs on later versions of the same major number.
    """

    threads: int = 0
    hint: str = "latency"
    precision: str = "f32"
    max_batch: int = 8
    workspace_mib: int = 0
    optimization_level: int = 3
    dla_core: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.threads < 0 or self.max_batch < 1 or self.workspace_mib < 0:
            raise ValueError(
                f"threads is {self.threads}, max_batch {self.max_batch}, workspace_mib {self.workspace_mib}; "
                "at least 0, 1 and 0 are needed"
            )
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level is {self.optimization_level}; choose 0 to 5")
