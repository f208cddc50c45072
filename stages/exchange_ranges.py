"""`import-ranges` and `export-ranges`: calibrated ranges from and for other toolkits (not stages)."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from safetensors.torch import save

from stages.shared import paths
from stages.shared.shell import required
from yolov6core.base.atomic import replace_folder
from yolov6core.base.auto_record import read_meaning
from yolov6core.base.errors import UserError
from yolov6core.base.own_files import refuse_foreign_files, refuse_taken, write_new
from yolov6core.base.saturation import CpuSums
from yolov6core.export.onnx_export import to_onnx
from yolov6core.export.plain_ranges import plain_ranges
from yolov6core.export.range_documents import DOCUMENTS, RangeDocument
from yolov6core.int8.quantized_networks import load_quantized, save_quantized
from yolov6core.models.card import NetworkCard
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.pretrained.amax_ranges import Style, from_amax_, taken_in_words, to_amax
from yolov6core.pretrained.range_file import read_range_file
from yolov6core.quant.insert import (
    QuantizedModel,
    insert_quantizers,
    ready_for_export_,
    set_dialect_,
    state_of,
    uncalibrated,
)
from yolov6core.tasks.networks import load_float

PTQ_FILES = (paths.WEIGHTS["ptq"].name, "ranges.csv", "histograms.npz", "methods.json")
"""Files that stand in the folder of a calibrated network: the only ones that an import replaces."""
SUFFIXES = dict.fromkeys(get_args(Style), ".safetensors") | {name: item.suffix for name, item in DOCUMENTS.items()}
"""Style -> suffix of its file."""


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
    sums = get_args(CpuSums)
    cpu = read_meaning(paths.CPU, parameter="ptq.cpu", allowed=sums) if paths.CPU.is_file() else "exact"
    model = insert_quantizers(network, dialect_name="trt", cpu=cpu)
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


def export_ranges(kind: str, *, out: Path | None, style: str) -> str:
    """Write the ranges of a quantized network for another toolkit.

    Args:
        kind: `ptq`, `partial` or `qat`.
        out: the file; None for `ranges` with the style's suffix. Styles that name tensors of an ONNX file write that
            file beside it.
        style: `pytorch-quantization` or `modelopt`, whose `_amax` tensors are named by layer, or a key of `DOCUMENTS`.

    Returns: what was written, in words.

    Raises:
        UserError: there is no such kind, style or network, or a file to be written is there already.
    """
    if style not in SUFFIXES:
        raise UserError(f"--style {style!r} is unknown; choose one of {', '.join(SUFFIXES)}")
    out = Path("ranges").with_suffix(SUFFIXES[style]) if out is None else out
    refuse_taken(out)
    if kind not in paths.WEIGHTS or kind == "float":
        raise UserError(f"kind {kind!r} has no ranges; give ptq, partial or qat")
    model, card = load_quantized(required(paths.WEIGHTS[kind], made_by=paths.MADE_BY[kind]))
    try:
        if style in DOCUMENTS:
            return f"{kind}: {_write_document(model, card, out, DOCUMENTS[style])}"
        state = to_amax(set_dialect_(model, "trt"), style=cast(Style, style))
    except ValueError as error:
        raise UserError(f"{kind}: {error}") from None
    write_new(out, save({name: tensor.contiguous() for name, tensor in state.items()}))
    return f"{len(state)} tensors of {kind} in the names of {style} -> {out}"


def _write_document(model: QuantizedModel, card: NetworkCard, out: Path, document: RangeDocument) -> str:
    """Write ranges by the tensors of an ONNX file, and that file; returns what was written, in words."""
    network = out.with_suffix(".onnx")
    if network == out:
        raise UserError(f"--out {out}: the ONNX file gets this name; give another suffix, such as {document.suffix}")
    refuse_taken(network)
    ready_for_export_(model)
    for dialect in document.dialects:
        if not uncalibrated(set_dialect_(model, dialect)):
            break
    decoded = DecodedNetwork(model, strides=card.strides, image_size=card.image_size).eval()
    ranges = plain_ranges(to_onnx(decoded, input_shape=(1, 3, *card.image_size)))
    text = document.write(ranges)
    write_new(network, ranges.model.SerializeToString(deterministic=True))
    write_new(out, text.encode())
    return (
        f"ranges of {len(ranges.activations)} tensors and {len(ranges.weights)} weights on the grid of dialect "
        f"{state_of(model).dialect.name} -> {out}; they are named as in {network}"
    )
