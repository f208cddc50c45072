"""Training state on disk, so that an interrupted training goes on where it was and ends in the same weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from yolov6core.training.loop import Learner


def fingerprint(*parts: Any, files: tuple[Path, ...] = ()) -> str:
    """Sixteen hex digits that change with any of the JSON-serialisable parts or file contents."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def save_state(path: Path, learner: Learner, *, extra: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Write weights, average, momentum buffers and progress whole or not at all.

    Args:
        path: target file.
        learner: what is being trained.
        extra: further tensors to keep, such as the best weights so far.
        progress: JSON-serialisable; holds at least the next epoch.
    """
    tensors = {f"model/{name}": tensor for name, tensor in learner.model.state_dict().items()}
    tensors |= {f"ema/{name}": tensor for name, tensor in learner.ema.model.state_dict().items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in extra.items()}
    for index, parameter in enumerate(_parameters(learner.optimizer)):
        buffer = learner.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum/{index}"] = buffer
    meta = {"step": learner.step, "ema_updates": learner.ema.updates, "progress": dict(progress)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file(
        {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()},
        temporary,
        {"meta": json.dumps(meta)},
    )
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())  # a rename must never become durable before its contents
    os.replace(temporary, path)


def load_state(path: Path, learner: Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore a learner in place; returns the extra tensors and the progress that were saved with it."""
    with safe_open(path, framework="pt") as handle:
        meta = json.loads(handle.metadata()["meta"])
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    learner.model.load_state_dict(_under(tensors, "model/"))
    learner.ema.model.load_state_dict(_under(tensors, "ema/"))
    for index, parameter in enumerate(_parameters(learner.optimizer)):
        if f"momentum/{index}" in tensors:
            layout = torch.empty_like(parameter)  # keeps channels-last, and with it the order of sums
            learner.optimizer.state[parameter]["momentum_buffer"] = layout.copy_(tensors[f"momentum/{index}"])
    learner.step, learner.ema.updates = meta["step"], meta["ema_updates"]
    return _under(tensors, "extra/"), meta["progress"]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
