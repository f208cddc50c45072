"""Execution contexts of TensorRT: addresses of inputs and outputs, copies, and the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov6core.engines.cuda_memory import CudaMemory

DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
"""TensorRT's name of a type -> torch's; versions lack some of them."""
NO_NUMPY = (torch.float16, torch.bfloat16)
"""Types that outputs are not read in: they become float32."""


def input_name(trt: Any, engine: Any) -> str:
    """Name of the only input. Raises ValueError for several."""
    names = [name for name in tensor_names(engine) if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    if len(names) != 1:
        raise ValueError(f"the engine has the inputs {', '.join(names) or 'none'}; one of images is needed")
    return names[0]


def tensor_names(engine: Any) -> list[str]:
    """Names of inputs and outputs."""
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def profile_limits(trt: Any, engine: Any) -> list[tuple[int, int]]:
    """(fewest, most) images of each optimization profile; a fixed batch has one profile."""
    name = input_name(trt, engine)
    profiles = range(engine.num_optimization_profiles)
    shapes = [[tuple(shape) for shape in engine.get_tensor_profile_shape(name, index)] for index in profiles]
    return [(low[0], high[0]) for low, _, high in shapes]


class BoundContext:
    """A context with buffers for the batch that it saw last. Runs of one batch size repeat one CUDA graph."""

    def __init__(self, trt: Any, engine: Any, memory: CudaMemory, profile: int) -> None:
        """Raises RuntimeError: no memory for a context, or no such profile."""
        self._trt, self._engine, self._memory = trt, engine, memory
        self._input, self._shape = input_name(trt, engine), ()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError("TensorRT has no memory for another execution context")
        # The engine is detailed, so that it tells its layers; profilers are not to be told them at each run.
        self._context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
        _check(self._context.set_optimization_profile_async(profile, memory.handle), f"select profile {profile}")
        memory.synchronize()

    def bind(self, shape: tuple[int, ...]) -> None:
        """Make buffers for a shape of the input, and record the run.

        Raises:
            ValueError: the engine does not take the shape, or has an output of a size that is not known before a run.
        """
        if shape == self._shape:
            return
        memory, context = self._memory, self._context
        self._shape = ()
        if not context.set_input_shape(self._input, tuple(shape)):
            raise ValueError(f"the engine does not take an input {self._input} of shape {shape}")
        self._data = memory.device(shape, self._dtype(self._input))
        self._staged = memory.pinned(shape, self._data.dtype)
        self._outputs: dict[str, Tensor] = {}
        for name in tensor_names(self._engine):
            if name != self._input:
                self._outputs[name] = memory.device(self._output_shape(name), self._dtype(name))
        for name, buffer in {self._input: self._data, **self._outputs}.items():
            _check(context.set_tensor_address(name, buffer.data_ptr()), f"take the address of {name}")
        with memory.queue():
            self._enqueue()  # not in the graph: work for a new shape
        memory.synchronize()
        self._run: Callable[[], None] = memory.captured(self._enqueue)
        self._shape = shape

    def upload(self, data: np.ndarray) -> None:
        """Queue the copy of an input [B, ...] to the GPU."""
        self._memory.synchronize()  # the last copy may still be reading the staging buffer
        self._staged.copy_(torch.from_numpy(data))
        with self._memory.queue():
            self._data.copy_(self._staged, non_blocking=True)

    def run(self) -> None:
        """Queue one run."""
        with self._memory.queue():
            self._run()

    def download(self) -> dict[str, np.ndarray]:
        """Wait for the outputs, by name; they stay valid after later runs."""
        found = {}
        with self._memory.queue():
            for name, output in self._outputs.items():
                found[name] = self._memory.pinned(output.shape, output.dtype)
                found[name].copy_(output, non_blocking=True)
        self._memory.synchronize()
        return {name: (value.float() if value.dtype in NO_NUMPY else value).numpy() for name, value in found.items()}

    def _enqueue(self) -> None:
        _check(self._context.execute_async_v3(self._memory.handle), "run the engine")

    def _output_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise ValueError(f"output {name} has the shape {shape}, which depends on the image: export with nms 'topk'")
        return shape

    def _dtype(self, name: str) -> torch.dtype:
        kind = self._engine.get_tensor_dtype(name)
        for known, dtype in DTYPES.items():
            if kind == getattr(self._trt.DataType, known, None):
                return dtype
        raise ValueError(f"tensor {name} of the engine has type {kind}; {', '.join(DTYPES)} can be read")


def _check(done: bool, what: str) -> None:
    if not done:
        raise RuntimeError(f"TensorRT could not {what}; its log says why")
