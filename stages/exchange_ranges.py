"""`import-ranges` and `export-ranges`: calibrated ranges from and for other toolkits (not stages)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast, get_args

from safetensors.torch import save

from stages.shared import paths
from stages.shared.shell import required
from yolov6core.base.atomic import replace_folder
from yolov6core.base.errors import UserError
from yolov6core.base.own_files import refuse_foreign_files, refuse_taken, write_new
from yolov6core.base.saturation import CpuSums
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.pretrained.amax_ranges import Style, from_amax_, taken_in_words, to_amax
from yolov6core.pretrained.range_file import read_range_file
from yolov6core.quant.insert import insert_quantizers, set_dialect_
from yolov6core.tasks.networks import load_float

PTQ_FILES = (paths.WEIGHTS["ptq"].name, "ranges.csv", "histograms.npz", "methods.json")
"""Files that stand in the folder of a calibrated network: the only ones that an import replaces."""


def import_ranges(ranges: Path, *, out: Path) -> str:
    """Quantize the float network with the ranges of another toolkit, and write it as `ptq-calib` would.

    Args:
        ranges: `_amax` tensors by layer, see `pretrained.amax_ranges`.
        out: folder of `weights.safetensors`, replaced as a whole.

    Returns: what was taken, in words.

    Raises:
        UserError: the file holds no ranges, they do not fit the network, or `out` holds files of somebody else.
    """
    refuse_foreign_files(out, own=PTQ_FILES, sources=(ranges,))
    network, card = load_float(required(paths.WEIGHTS["float"], made_by=paths.MADE_BY["float"]))
    model = insert_quantizers(network, dialect_name="trt", cpu=_sums())
    try:
        from_amax_(model, read_range_file(ranges))
    except ValueError as error:
        raise UserError(f"{ranges}: {error}") from None
    with replace_folder(out) as folder:
        save_quantized(folder / paths.WEIGHTS["ptq"].name, model, card, method="imported")
    told = f"{ranges}: {taken_in_words(model)} -> {out}"
    if out != paths.PTQ:
        return told
    return (
        f"{told}\nDVC: the next 'dvc repro' calibrates over this folder unless you run 'dvc commit -f ptq-calib' now; "
        f"{paths.METRICS / 'ptq.json'} is still of the former run"
    )


def _sums() -> CpuSums:
    """The integer sums that INT8 is made for, where `detect-cpu` has written them; else exact ones."""
    if not paths.CPU.is_file():
        return "exact"
    try:
        found = json.loads(paths.CPU.read_text(encoding="utf-8"))["sums"]
    except (ValueError, TypeError, KeyError):
        found = None
    if found not in get_args(CpuSums):
        raise UserError(f"{paths.CPU} does not say exact or saturating sums: run 'dvc repro detect-cpu' again")
    return cast(CpuSums, found)


def export_ranges(kind: str, *, out: Path, style: str) -> str:
    """Write the ranges of a quantized network as `_amax` tensors by layer, in a safetensors file.

    Args:
        kind: `ptq`, `partial` or `qat`.
        style: names of layers, `pytorch-quantization` or `modelopt`.

    Raises:
        UserError: there is no such kind, style or network, or `out` is another file that is there.
    """
    refuse_taken(out)
    if kind not in paths.WEIGHTS or kind == "float":
        raise UserError(f"kind {kind!r} has no ranges; give ptq, partial or qat")
    model, _ = load_quantized(required(paths.WEIGHTS[kind], made_by=paths.MADE_BY[kind]))
    try:
        state = to_amax(set_dialect_(model, "trt"), style=cast(Style, style))
    except ValueError as error:
        raise UserError(f"{kind}: {error}") from None
    write_new(out, save({name: tensor.contiguous() for name, tensor in state.items()}))
    return f"{len(state)} tensors of {kind} in the names of {style} -> {out}"
