"""Training state on disk, so that an interrupted training goes on where it was and ends in the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from yolov6core.base.atomic import write_whole
from yolov6core.training.train_state import TrainState


def save_state(path: Path, state: TrainState, *, extra: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Write weights, average, the optimiser's memory and progress whole or not at all.

    Args:
        path: target file.
        state: of the training.
        extra: further tensors to keep, such as the best weights so far.
        progress: JSON-serialisable; says where to continue.

    Raises:
        OSError: the file could not be written (a full disk, for one); the former one is as it was.
    """
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"ema/{name}": tensor for name, tensor in state.ema.model.state_dict().items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in extra.items()}
    for index, parameter in enumerate(_parameters(state.optimizer)):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"optimizer/{index}/{key}"] = value
    meta = {"step": state.step, "ema_updates": state.ema.updates, "progress": dict(progress)}
    if state.scaler is not None:
        meta["scaler"] = state.scaler.state_dict()
    data = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"meta": json.dumps(meta)}
    )
    write_whole(path, data)


def load_state(path: Path, state: TrainState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore a state in place; returns the extra tensors and the progress that were saved with it.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            meta = json.loads(handle.metadata()["meta"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start again") from error
    state.model.load_state_dict(_under(tensors, "model/"))
    state.ema.model.load_state_dict(_under(tensors, "ema/"))
    for index, parameter in enumerate(_parameters(state.optimizer)):
        for key, value in _under(tensors, f"optimizer/{index}/").items():
            if value.shape == parameter.shape:
                # the parameter's layout keeps channels-last, and with it the order of sums
                value = torch.empty_like(parameter).copy_(value)
            state.optimizer.state[parameter][key] = value
    state.step, state.ema.updates = meta["step"], meta["ema_updates"]
    if state.scaler is not None:
        state.scaler.load_state_dict(meta["scaler"])
    return _under(tensors, "extra/"), meta["progress"]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
