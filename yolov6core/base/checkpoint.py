"""Checkpoints: safetensors with one metadata key of sorted JSON: equal contents, equal bytes; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from yolov6core.base.atomic import write_whole

FORMAT_VERSION = 1
RENAMED = {"head.branch.": "head.aux_head."}
"""Beginnings of tensor names until version 0.1 -> those of today."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and metadata whole or not at all.

    Args:
        path: target file, `.safetensors`.
        tensors: name -> tensor, any dtype that safetensors holds; stored as given, contiguous, on the CPU.
        meta: JSON values that describe the tensors; of networks `NetworkCard.to_meta`.

    Raises:
        OSError: the file could not be written (a full disk, for one); a former one is as it was.
    """
    # Several metadata keys come out in random order (safetensors#584); one key of sorted JSON does not.
    text = json.dumps({"format_version": FORMAT_VERSION, **meta}, sort_keys=True)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"meta": text})
    write_whole(path, data)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata.

    Raises:
        ValueError: the file is not a checkpoint of this project, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {_present(name): handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); train it again or restore it"
        ) from error
    if "meta" not in metadata:
        raise ValueError(f"{path} has no 'meta' entry, so it was not written by this project")
    meta = _parsed(metadata)
    if meta is None:
        raise ValueError(f"{path} has a 'meta' entry that this project did not write")
    version = meta.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has checkpoint format {str(version)[:100]}; this version reads {FORMAT_VERSION}")
    return tensors, meta


def _present(name: str) -> str:
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def is_own(metadata: Mapping[str, str] | None) -> bool:
    """Whether the metadata of a safetensors file are of this project; other toolkits write a 'meta' of their own."""
    meta = _parsed(metadata or {})
    return meta is not None and "format_version" in meta


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The JSON object of the metadata; None if they hold something else."""
    try:
        meta = json.loads(metadata.get("meta", ""))
    except (ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) else None
