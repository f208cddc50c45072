"""`import-ranges` and `export-ranges`: calibrated ranges from and for other toolkits (not stages)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from safetensors.torch import save

from stages.shared import paths
from stages.shared.shell import required
from yolov6core.base.atomic import full_disk_explained, replace_folder, write_whole
from yolov6core.base.errors import UserError
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.pretrained.amax_ranges import Style, from_amax_, to_amax
from yolov6core.pretrained.range_file import read_range_file
from yolov6core.quant.insert import insert_quantizers, set_dialect_
from yolov6core.tasks.networks import load_float


def import_ranges(ranges: Path, *, out: Path) -> str:
    """Quantize the float network with the ranges of another toolkit, and write it as `ptq-calib` would.

    Args:
        ranges: `_amax` tensors by layer, see `pretrained.amax_ranges`.
        out: folder of `weights.safetensors`, replaced as a whole.

    Raises:
        UserError: the file holds no ranges, or they do not fit the network.
    """
    network, card = load_float(required(paths.WEIGHTS["float"], made_by=paths.MADE_BY["float"]))
    model = insert_quantizers(network, dialect_name="trt")
    try:
        from_amax_(model, read_range_file(ranges))
    except ValueError as error:
        raise UserError(f"{ranges}: {error}") from None
    with replace_folder(out) as folder:
        save_quantized(folder / paths.WEIGHTS["ptq"].name, model, card, method="imported")
    return f"{ranges}: ranges of all quantized convolutions taken -> {out}"


def export_ranges(kind: str, *, out: Path, style: str) -> str:
    """Write the ranges of a quantized network as `_amax` tensors by layer, in a safetensors file.

    Args:
        kind: `ptq`, `partial` or `qat`.
        style: names of layers, `pytorch-quantization` or `modelopt`.

    Raises:
        UserError: there is no such kind, style or network.
    """
    if kind not in paths.WEIGHTS or kind == "float":
        raise UserError(f"kind {kind!r} has no ranges; give ptq, partial or qat")
    model, _ = load_quantized(required(paths.WEIGHTS[kind], made_by=paths.MADE_BY[kind]))
    try:
        state = to_amax(set_dialect_(model, "trt"), style=cast(Style, style))
    except ValueError as error:
        raise UserError(f"{kind}: {error}") from None
    with full_disk_explained(out):
        write_whole(out, save({name: tensor.contiguous() for name, tensor in state.items()}))
    return f"{len(state)} tensors of {kind} in the names of {style} -> {out}"
