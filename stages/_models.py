"""Checkpoints as runnable networks, float and quantized: what the stages after the float training share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages._evaluation import DATASET, image_batches
from stages._networks import fresh_network, load_tensors, stored_network
from yolov6core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.quant.insert import QuantizedModel

FLOAT_WEIGHTS = Path("artifacts/train/weights.safetensors")


def load_float_model(path: Path, *, device: str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Read a float checkpoint as a deployed Detector: batch norm folded, single convolutions, evaluation mode.

    Args:
        path: a checkpoint of the float training; a missing file is named with the stage that makes it.

    Returns: the network (`forward`: images [B, 3, H, W] in 0..1 to raw outputs), and the checkpoint's metadata with
    `model` (ModelSpec fields), `variant`, `block`, `branch`, `names` and `image_size` [height, width].

    Raises:
        UserError: the file is missing, not a checkpoint, or does not fit the network that it describes.
    """
    import torch

    from yolov6core.models.blocks import deploy_

    tensors, meta = _read(path)
    with torch.random.fork_rng(devices=[]):  # fresh weights are thrown away; they must not cost random numbers
        return _placed(deploy_(stored_network(tensors, meta, path=path)), device), meta


def load_quantized(
    path: Path, *, dialect: str | None = None, device: str = "cpu"
) -> tuple[QuantizedModel, dict[str, Any]]:
    """Read a quantized checkpoint (PTQ, partial or QAT) as a GraphModule with calibrated ranges, in evaluation mode.

    Args:
        path: written by `save_quantized`.
        dialect: `trt`, `openvino` or `ort`; None for the one that it was calibrated in (`trt` in old files).
            `set_dialect_` switches later.

    Returns: the model, and the metadata: as of the float checkpoint, and `quant` with `method`, `dialect`, `cpu`
    (`exact` in old files), `float_layers` and `weight_ranges` (`follow` the weights or `frozen`).

    Raises:
        UserError: as `load_float_model`, or the checkpoint is a float one.
    """
    import torch

    from yolov6core.models.blocks import deploy_
    from yolov6core.quant.equalize import scaled_inputs, with_input_scales
    from yolov6core.quant.insert import convolution_names, insert_quantizers, set_float_layers_

    tensors, meta = _read(path)
    if "quant" not in meta:
        raise UserError(f"{path} holds a float network; a quantized one is made by 'dvc repro ptq-calib'")
    with torch.random.fork_rng(devices=[]):
        network = with_input_scales(deploy_(fresh_network(meta).eval()), scaled_inputs(tensors))
        chosen = dialect or meta["quant"].get("dialect", "trt")
        gm = insert_quantizers(network, dialect_name=chosen, cpu=meta["quant"].get("cpu", "exact"))
    load_tensors(gm, tensors, path=path)
    set_float_layers_(gm, meta["quant"]["float_layers"])
    for name in convolution_names(gm):
        gm.get_submodule(name).frozen = meta["quant"]["weight_ranges"] == "frozen"
    return _placed(gm.eval(), device), meta


def save_quantized(path: Path, gm: QuantizedModel, meta: dict[str, Any], *, method: str) -> None:
    """Write a quantized model: float32 weights, ranges, and which layers are float.

    Args:
        meta: of the float checkpoint it came from (an older `quant` entry is replaced).
        method: how the activation ranges came about, such as `mse` or `percentile_99.99`.
    """
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.quant.insert import convolution_names, state_of

    frozen = gm.get_submodule(convolution_names(gm)[0]).frozen
    quant = {
        "method": method,
        "dialect": state_of(gm).dialect.name,
        "cpu": state_of(gm).cpu,
        "float_layers": sorted(state_of(gm).float_layers),
        "weight_ranges": "frozen" if frozen else "follow",
    }
    save_checkpoint(path, gm.state_dict(), meta | {"quant": quant})


def calibration_batches(
    meta: dict[str, Any], *, batch_size: int, images: int | None = None, device: str = "cpu"
) -> Iterator[Tensor]:
    """Letterboxed batches float32 [B, 3, H, W] in 0..1 of the calibration list, in its order.

    Args:
        images: so many of the first; default all.
    """
    from yolov6core.data.dataset import DetectionDataset

    return image_batches(DetectionDataset(DATASET, "calib", limit=images), meta, batch_size=batch_size, device=device)


def matching_layers(names: Iterable[str], patterns: Iterable[str], *, where: str) -> list[str]:
    """Names that fit any shell pattern, in their order; UserError naming a pattern that fits none."""
    from fnmatch import fnmatchcase

    names, patterns = list(names), list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{where}: {pattern!r} fits no convolution; the network has {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def retention(score: float, float_score: float) -> float:
    """Share of the float model's score that is left; 1 where there is nothing to lose."""
    return score / float_score if float_score > 0 else 1.0


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from yolov6core.checkpoint import load_checkpoint

    if not path.is_file():
        stages = {"train": "train-repopt", "ptq": "ptq-calib", "sensitivity": "sensitivity", "qat": "qat-distill"}
        raise UserError(f"{path} is missing: run 'dvc repro {stages.get(path.parent.name, 'train-repopt')}' first")
    try:
        return load_checkpoint(path)
    except ValueError as error:
        raise UserError(str(error)) from None


def _placed(network: Any, device: str) -> Any:
    import torch

    return network.to(device=device, memory_format=torch.channels_last)
