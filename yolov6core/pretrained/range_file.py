"""Files of calibrated ranges of other toolkits: `_amax` tensors by layer, under our names or the official ones."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from yolov6core.pretrained.official_file import read_official_checkpoint
from yolov6core.pretrained.official_names import from_official
from yolov6core.pretrained.weights import WRAPPERS


def read_range_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file, or of a `.pt` file of named tensors, in our layer names; nothing of it is run.

    Raises:
        ValueError: no such file, or one that holds no `_amax`.
    """
    if not path.is_file():
        raise ValueError("the file does not exist; give a .safetensors or .pt file with _amax tensors")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as handle:
                state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"it is no readable safetensors file ({error}); download it again") from error
    else:
        state = read_official_checkpoint(path).weights
    state = {_unwrapped(name): tensor for name, tensor in state.items() if name.endswith("_amax")}
    if not state:
        raise ValueError("it holds no _amax tensor; save the state_dict() of a calibrated network there")
    return from_official(state) if any(name.startswith("detect.") for name in state) else state


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
