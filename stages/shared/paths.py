"""Where the pipeline's artifacts lie, from the project's root; `dvc.yaml` names the same paths."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
DATASET = Path("artifacts/dataset")
SPLITS = ("train", "select", "val", "calib")
"""Of a prepared dataset."""
LABELLED = Path("artifacts/labelled")
"""Sheets of images with their boxes, to look at before a training."""
SCALES = Path("artifacts/scales")
TRAIN = Path("artifacts/train")
PTQ = Path("artifacts/ptq")
SENSITIVITY = Path("artifacts/sensitivity")
QAT = Path("artifacts/qat")
ONNX = Path("artifacts/onnx")
ENGINES = Path("artifacts/engines")
EVAL = Path("artifacts/eval")
REPORT = Path("artifacts/report")
INFER = Path("artifacts/infer")
SHOW = Path("artifacts/show")
BUNDLE = Path("artifacts/bundle")

SCALES_FILE = SCALES / "scales.safetensors"
FOLDERS = {"float": TRAIN, "ptq": PTQ, "partial": SENSITIVITY, "qat": QAT}
WEIGHTS = {kind: folder / "weights.safetensors" for kind, folder in FOLDERS.items()}
"""Kind of model -> its checkpoint."""
MADE_BY = {"float": "train-repopt", "ptq": "ptq-calib", "partial": "sensitivity", "qat": "qat-distill"}
"""Kind of model -> the stage that makes it."""
KINDS = ("float", "naive", "ptq", "partial", "qat")
"""All kinds of model in files and engines; `naive` is what the runtime's own tool makes of the float network."""

SAMPLE = Path("data/sample_voc")
"""The sample dataset that stands in the repository."""

METRICS = Path("metrics")
"""`prepare.json`, `train.json`, ... and `eval/<kind>.json`."""

CPU = Path(".cpu.json")
"""Not in DVC's cache and not in Git: it belongs to the machine, and a clone makes its own."""
DIALECT = Path(".dialect.json")
"""Which integers INT8 is judged on; it belongs to the machine as well."""
RESUME = Path(".ckpt")
"""State of interrupted runs, and timings of TensorRT's kernels: ignored by Git and DVC."""

PRETRAINED = Path("pretrained")
"""Files from elsewhere, that the pipeline may depend on."""
GIVEN = Path("artifacts/given")
"""Digests of those that parameters name."""
GIVEN_TO = {stage: GIVEN / f"{stage}.json" for stage in ("search-scales", "train-repopt", "sensitivity", "qat-distill")}
"""Stage -> digests of the files from elsewhere that it reads."""

CHECK_IMAGES = "check_images.npz"
"""Beside exported files: the images that the export compared them on."""
CHECK_REPORT = "check.json"
"""Beside exported files: how far each is from torch."""


def training_labels() -> tuple[Path, ...]:
    """Files that trainings learn from and choose by: a run is continued only on the very same images and labels."""
    labels = ("annotations/instances_train.json", "annotations/instances_select.json")
    names = ("train.txt", "digests.txt", *labels)
    return tuple(DATASET / name for name in names)
