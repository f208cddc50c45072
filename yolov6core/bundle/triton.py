"""Configuration of the Triton Inference Server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BACKENDS = {
    "tensorrt": ('platform: "tensorrt_plan"', "model.plan", "KIND_GPU"),
    "onnxruntime": ('platform: "onnxruntime_onnx"', "model.onnx", "KIND_CPU"),
    "openvino": ('backend: "openvino"', "model.onnx", "KIND_CPU"),
}
"""Target -> how Triton names its backend, the name of the model's file, and where it runs."""
QUEUE_MICROSECONDS = 1000
"""How long a request waits for others to share its batch."""


@dataclass(frozen=True)
class TensorType:
    """Element type, as numpy names it, and shape of an input or output; -1: an open batch."""

    dtype: str
    shape: tuple[int, ...]


_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32"}


def triton_config(
    name: str, target: str, inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType], *, max_batch: int
) -> str:
    """Text of `config.pbtxt`.

    Args:
        name: of the model, and of its folder in the repository of models.
        target: key of BACKENDS.
        max_batch: largest batch, where the first dimension of all inputs is open. With a fixed batch, requests have
            exactly that batch and are not put together.
    """
    backend, file, place = BACKENDS[target]
    is_open = all(value.shape[0] == -1 for value in inputs.values())
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}\n" if is_open else ""
    return (
        f'name: "{name}"\n{backend}\ndefault_model_filename: "{file}"\nmax_batch_size: {max_batch if is_open else 0}\n'
        f"{_tensors('input', inputs, is_open)}{_tensors('output', outputs, is_open)}"
        f"instance_group [ {{ kind: {place} }} ]\n{batching}"
    )


def _tensors(field: str, tensors: Mapping[str, TensorType], is_open: bool) -> str:
    lines = (
        f'  {{ name: "{name}" data_type: {_TYPES[value.dtype]} dims: [ {_dims(value.shape[is_open:])} ] }}'
        for name, value in tensors.items()
    )
    return f"{field} [\n" + ",\n".join(lines) + "\n]\n"


def _dims(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
