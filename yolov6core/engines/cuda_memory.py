"""Buffers, copies, times and graphs on a GPU, by torch: the part of an engine that needs CUDA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class CudaMemory:
    """One stream of a GPU with its buffers. Everything is queued on the stream; `synchronize` waits for it."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    @property
    def handle(self) -> int:
        """Address of the stream, as libraries of NVIDIA take it."""
        return self._stream.cuda_stream

    def queue(self) -> AbstractContextManager[Any]:
        """Within it, torch's copies go to the stream."""
        return torch.cuda.stream(self._stream)

    def device(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A new buffer on the GPU."""
        return torch.empty(tuple(shape), dtype=dtype, device="cuda")

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A buffer of the host that the GPU copies to and from directly; torch reuses the pages of freed ones."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def mark(self) -> Any:
        """A point in the stream, for `elapsed_ms`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two points, by the GPU's clock; after `synchronize`."""
        return start.elapsed_time(end)

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        self._stream.synchronize()

    def captured(self, call: Callable[[], None]) -> Callable[[], None]:
        """A function that repeats what `call` queues as one CUDA graph; `call` itself where that cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                call()
        except RuntimeError as error:  # of torch and of TensorRT's refusal to queue
            logger.info("runs without a CUDA graph: %s", " ".join(str(error).split())[:200])
            torch.cuda.synchronize()
            return call
        return graph.replay
