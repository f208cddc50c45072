"""Makes a bundle: everything that a device needs to build, run and check a network, in one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from yolov6core.base.atomic import replace_folder, write_json
from yolov6core.base.errors import UserError, logger
from yolov6core.bundle import check
from yolov6core.bundle.deepstream import CONFIG, PARSER, deepstream_config, deepstream_reason_against
from yolov6core.bundle.folder import DESCRIPTION, MADE_BY, refuse_foreign_folder, write_checksums
from yolov6core.bundle.network import TorchNetwork, open_network, write_file
from yolov6core.bundle.preprocessing import preprocessing
from yolov6core.bundle.readme import Facts, readme
from yolov6core.bundle.request import BundleRequest, PlannedFile, planned_files
from yolov6core.bundle.samples import Expected, Sample, choose_samples, expected_results, listed, score_threshold
from yolov6core.bundle.triton import TensorType, triton_config
from yolov6core.bundle.trtexec import CACHE_VERSIONS, cache_name
from yolov6core.exchange.calibration_cache import read_cache, write_cache
from yolov6core.export.check import FP16_TOLERANCE, Row, describe
from yolov6core.export.dialects import check_export

if TYPE_CHECKING:
    import onnx


def make_bundle(request: BundleRequest, out: Path) -> None:
    """Write the folder of a bundle, whole or not at all.

    Raises:
        UserError: `out` holds what no bundle wrote, checkpoint or dataset are missing, the form does not suit the
            target, or a file differs from torch.
    """
    refuse_foreign_folder(out)
    try:
        files = planned_files(request)
        source = open_network(request, files[0].dialect)
        for planned in files:
            check_export(planned.dialect, source.interface, fp16=planned.fp16)
    except ValueError as error:
        raise UserError(f"a bundle for {request.target}: {error}") from None
    samples = choose_samples(request.dataset, source)
    expected = expected_results(source, samples)
    with replace_folder(out) as folder:
        rows = _write_networks(folder, source, files, request, samples)
        facts = _facts(source, files, request, expected, overflowing=rows[0]["overflowing_convs"])
        _write_check(folder / "check", samples, expected, source.card.names)
        _write_texts(folder, facts, expected)
        if request.target == "tensorrt":
            _write_deepstream(folder, facts)
        _write_triton(folder, facts)
        write_checksums(folder)
        refuse_foreign_folder(out)  # nobody may have put a file there meanwhile
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    logger.info("%d files, %.1f MB -> %s", sum(path.is_file() for path in out.rglob("*")), size, out)


def _write_networks(
    folder: Path, source: TorchNetwork, files: Sequence[PlannedFile], request: BundleRequest, samples: list[Sample]
) -> list[Row]:
    """Write the ONNX files, and calibration caches for several versions; returns how far each file is from torch."""
    count = 1 if request.open_batch else request.files.batch
    images = [np.repeat(sample.batch, count, axis=0) for sample in samples]
    rows = []
    for planned in files:
        written, row = write_file(source, planned, request, folder / planned.name, images)
        rows.append(row)
        logger.info("%s", describe(planned.name, row))
        if written.cache is not None:
            scales = read_cache(written.cache.read_text(encoding="utf-8"))
            written.cache.unlink()
            for version in filter(request.wants, CACHE_VERSIONS):
                text = write_cache(scales, version=CACHE_VERSIONS[version])
                (folder / cache_name(version)).write_text(text, encoding="utf-8", newline="\n")
    return rows


def _facts(
    source: TorchNetwork, files: Sequence[PlannedFile], request: BundleRequest, expected: Expected, *, overflowing: int
) -> Facts:
    card, allow = source.card, request.allow
    # Kernels of GPUs have half precision for whatever is not INT8.
    least = max(allow.float_error, FP16_TOLERANCE) if request.target == "tensorrt" else allow.float_error
    return Facts(
        request=request,
        interface=source.interface,
        variant=card.variant,
        name=f"{card.variant}_{request.kind}",
        image_size=card.image_size,
        names=card.names,
        files=files,
        allowed=round(least + allow.quantization_factor * expected.quantization_l2, 5),
        quantization=expected.quantization_l2,
        overflowing=0 if request.target == "tensorrt" else overflowing,
    )


def _write_check(folder: Path, samples: list[Sample], expected: Expected, names: tuple[str, ...]) -> None:
    folder.mkdir()
    for number, sample in enumerate(samples):
        done, data = cv2.imencode(".png", sample.picture)
        if not done:
            raise UserError("OpenCV cannot write PNG here; install opencv-python-headless")
        (folder / f"picture_{number}.png").write_bytes(data.tobytes())
    np.savez_compressed(folder / "inputs.npz", images=np.stack([sample.pixels for sample in samples]))
    outputs: dict[str, Any] = dict(expected.outputs)
    np.savez_compressed(folder / "expected.npz", **outputs)
    rows = zip(samples, expected.detections, strict=True)
    write_json(
        folder / "detections.json",
        {f"picture_{number}.png": listed(sample, found, names) for number, (sample, found) in enumerate(rows)},
    )


def _write_texts(folder: Path, facts: Facts, expected: Expected) -> None:
    interface, request = facts.interface, facts.request
    shutil.copyfile(check.__file__, folder / "check.py")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in facts.names), encoding="utf-8")
    (folder / "README.md").write_text(readme(facts), encoding="utf-8")
    numbers = json.dumps(preprocessing(interface, facts.image_size), indent=2)  # `write_json` would round the scale
    (folder / "preprocess.json").write_text(numbers + "\n", encoding="utf-8")
    description = {
        "made_by": MADE_BY,
        "kind": request.kind,
        "target": request.target,
        "network": facts.variant,
        "model": "model.engine" if request.target == "tensorrt" else facts.files[0].name,
        "files": [planned.name for planned in facts.files],
        "outputs": list(interface.outputs),
        **{key: value for key, value in asdict(interface).items() if key in ("form", "nms", "strides")},
        "score_threshold": score_threshold(interface),
        "iou_threshold": interface.iou_threshold,
        "max_detections": interface.max_detections,
        "allowed_l2": facts.allowed,
        "quantization_l2": facts.quantization,
        "detections": [rows.tolist() for rows in expected.detections],
    }
    write_json(folder / DESCRIPTION, description)


def _write_deepstream(folder: Path, facts: Facts) -> None:
    if deepstream_reason_against(facts.interface, tensorrt=facts.request.tensorrt):
        return
    text = deepstream_config(
        facts.interface,
        facts.names,
        model=facts.files[-1].name,
        cache=facts.caches[-1] if facts.caches else None,
        batch=1,
    )
    (folder / CONFIG).write_text(text, encoding="utf-8")
    shutil.copyfile(PARSER, folder / PARSER.name)


def _write_triton(folder: Path, facts: Facts) -> None:
    import onnx

    model = onnx.load(folder / facts.files[0].name)
    place = folder / "triton" / facts.name
    place.mkdir(parents=True)
    inputs, outputs = (_types(values) for values in (model.graph.input, model.graph.output))
    text = triton_config(facts.name, facts.request.target, inputs, outputs, max_batch=facts.request.max_batch)
    (place / "config.pbtxt").write_text(text, encoding="utf-8")


def _types(values: Sequence[onnx.ValueInfoProto]) -> dict[str, TensorType]:
    from onnx import helper

    found = {}
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
        found[value.name] = TensorType(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)
    return found
