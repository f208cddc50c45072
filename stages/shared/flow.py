"""What each stage reads and writes, in the order of the pipeline: for help, for the line that a stage begins with, and
for the one that names the next command. `dvc.yaml` has the same paths, and a test compares."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from stages.shared import paths

_METRICS = paths.METRICS
_ARTIFACTS = (
    *(paths.DATASET, paths.SCALES, paths.TRAIN, paths.PTQ),
    *(paths.SENSITIVITY, paths.QAT, paths.ONNX, paths.ENGINES),
)


@dataclass(frozen=True)
class Flow:
    """One stage.

    Attributes:
        section: of params.yaml that is the stage's own; empty if it has none.
        others: sections that it obeys, too.
        reads, writes: files and folders.
        optional: those of `reads` that only some parameters ask for.
    """

    section: str
    others: tuple[str, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    optional: tuple[Path, ...] = ()


FLOW = {
    "prepare-voc2yolo": Flow("prepare", (), (), (paths.DATASET, paths.LABELLED, _METRICS / "prepare.json")),
    "given-files": Flow(
        "",
        ("search", "train", "sensitivity", "qat"),
        (paths.PRETRAINED,),
        (paths.GIVEN,),
        optional=(paths.PRETRAINED,),
    ),
    "search-scales": Flow(
        "search",
        ("model", "augment", "runtime"),
        (paths.DATASET, paths.GIVEN_TO["search-scales"]),
        (paths.SCALES,),
        optional=(paths.DATASET, paths.GIVEN_TO["search-scales"]),
    ),
    "train-repopt": Flow(
        "train",
        ("model", "augment", "eval", "runtime"),
        (paths.DATASET, paths.SCALES, paths.GIVEN_TO["train-repopt"]),
        (paths.TRAIN, _METRICS / "train.json"),
        optional=(paths.GIVEN_TO["train-repopt"],),
    ),
    "detect-cpu": Flow("ptq", ("engine",), (), (paths.CPU, paths.DIALECT)),
    "ptq-calib": Flow(
        "ptq",
        ("eval", "runtime"),
        (paths.DATASET, paths.TRAIN, paths.CPU, paths.DIALECT),
        (paths.PTQ, _METRICS / "ptq.json"),
    ),
    "sensitivity": Flow(
        "sensitivity",
        ("eval", "runtime"),
        (paths.DATASET, paths.TRAIN, paths.PTQ, paths.GIVEN_TO["sensitivity"]),
        (paths.SENSITIVITY, _METRICS / "partial.json"),
        optional=(paths.GIVEN_TO["sensitivity"],),
    ),
    "qat-distill": Flow(
        "qat",
        ("augment", "eval", "runtime"),
        (paths.DATASET, paths.TRAIN, paths.PTQ, paths.SENSITIVITY, paths.SCALES, paths.GIVEN_TO["qat-distill"]),
        (paths.QAT, _METRICS / "qat.json"),
        optional=(paths.PTQ, paths.SENSITIVITY, paths.SCALES, paths.GIVEN_TO["qat-distill"]),
    ),
    "export-onnx": Flow(
        "export",
        ("engine", "runtime"),
        (paths.DATASET, paths.TRAIN, paths.PTQ, paths.SENSITIVITY, paths.QAT),
        (paths.ONNX,),
    ),
    "build-trt": Flow("engine", (), (paths.DATASET, paths.ONNX), (paths.ENGINES,), optional=(paths.DATASET,)),
    "eval-trt": Flow("eval", (), (paths.DATASET, paths.ENGINES), (paths.EVAL, _METRICS / "eval")),
    "report": Flow(
        "",
        ("model", "augment", "prepare", "search", "train", "ptq", "sensitivity", "qat", "export", "engine", "eval"),
        (*_ARTIFACTS, paths.EVAL),
        (paths.REPORT,),
        optional=_ARTIFACTS,
    ),
}
"""Name of a stage -> what it reads and writes."""
LAST = list(FLOW)[-1]

CONTENTS = {
    paths.DATASET: "labels, lists of images, COCO files, digests of the images",
    paths.LABELLED: "sheets of images with their boxes, to look at before a training",
    paths.SCALES: "a scale for each channel and branch, and how far each moved from 1",
    paths.TRAIN: "the float network, losses of each epoch, mAP on select, three labelled batches",
    paths.CPU: "how the CPU that INT8 is for adds integers",
    paths.DIALECT: "the dialect whose integers choices are made on",
    paths.PTQ: "the calibrated network, activation ranges by each method, histograms",
    paths.SENSITIVITY: "layers in order of their INT8 error, the partially quantized network",
    paths.QAT: "the fine-tuned network, losses of each epoch, mAP on select",
    paths.ONNX: "an ONNX file for each model and dialect, their errors against torch",
    paths.ENGINES: "engines of the runtime at hand, what runs in INT8",
    paths.EVAL: "tables, curves and pictures: mAP in 0..1, latency in ms, images/s, size in MB",
    paths.REPORT: "index.html: tables, curves, ranges and pictures of the run",
    paths.PRETRAINED: "weights, scales and rankings from elsewhere that parameters name",
    paths.GIVEN: "digests of those files, for each stage that reads some",
    paths.GIVEN_TO["search-scales"]: "digest of the file that search.scales names",
    paths.GIVEN_TO["train-repopt"]: "digests of the files that train.weights and train.teacher name",
    paths.GIVEN_TO["sensitivity"]: "digest of the file that sensitivity.from_file names",
    paths.GIVEN_TO["qat-distill"]: "digest of the file that qat.teacher names",
    _METRICS / "prepare.json": "numbers of images, boxes, classes and problems",
    _METRICS / "eval": "a file for each model: mAP, latency in ms, size in MB, speedup",
} | {_METRICS / f"{name}.json": "mAP on val, 0..1" for name in ("train", "ptq", "partial", "qat")}
"""What stands there, with units."""


def missing_inputs(stage: str, *, also: Container[Path] = ()) -> list[tuple[Path, str]]:
    """What a stage needs and is not there, and the stage that makes it.

    Args:
        also: optional inputs that the present parameters ask for.
    """
    flow = FLOW[stage]
    needed = [path for path in flow.reads if (path not in flow.optional or path in also) and not path.exists()]
    return [(path, next(name for name, other in FLOW.items() if path in other.writes)) for path in needed]


def next_command(stage: str, params: Path = paths.PARAMS) -> str:
    """The command after a stage; after the last one, how to use the result.

    Args:
        params: the parameter file of the run.
    """
    stages = list(FLOW)
    if stage == LAST:
        return f"python -m stages infer --engine {paths.ENGINES / 'qat'} --source IMAGE_OR_FOLDER"
    given = "" if params == paths.PARAMS else f" --params {params}"
    return f"python -m stages {stages[stages.index(stage) + 1]}{given}"
