"""`params.yaml`: one strict pydantic model a section, in the order of the file; no torch, so that answers come at once.

The file itself explains the keys; `yolov6core.param_sections` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from yolov6core.models.variants import VARIANTS
from yolov6core.param_sections import Section, show

Text = Annotated[str, Field(pattern=r"^[^\x00]+$", description="text that is not empty, without null characters")]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.01, le=0.9)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Threads = Annotated[int, Field(ge=0, le=256)]
Mebibytes = Annotated[int, Field(ge=0, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _whole(value: object) -> object:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


WHOLE = BeforeValidator(_whole)  # pydantic takes True and 1.0 for the literal 1


class ProjectSection(Section):
    """A section of this project, with the names that keys and values had until version 0.1."""

    renamed: ClassVar[Mapping[str, str]] = {
        "plain_epochs": "close_mosaic_epochs",
        "accumulate_to": "nominal_batch_size",
        "max_norm": "grad_clip_norm",
        "atss_epochs": "atss_warmup_epochs",
        "branch": "aux_head",
        "new_tensors": "reinit",
        "wild_ratio": "outlier_ratio",
        "chains": "cross_layer",
        "off": "none",
        "match_class": "distill_class",
        "match_box": "distill_box",
        "match_dfl": "distill_dfl",
        "features": "distill_features",
    }


class ModelParams(ProjectSection, section="model"):
    """The network; shared by every stage that builds one."""

    variant: str
    image_size: Annotated[
        list[Annotated[int, Field(ge=32, le=4096, multiple_of=32)]],
        Field(min_length=2, max_length=2, description="[height, width], both multiples of 32 from 32 to 4096"),
    ]
    shrink: Annotated[int, Field(ge=0, le=4096)]

    def conflicts(self) -> Iterator[str]:
        if 2 * self.shrink > min(self.image_size):
            yield f"shrink is {self.shrink}; the grey frame has at most half a side of {self.image_size}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network input, pixels."""
        return self.image_size[0], self.image_size[1]


class AugmentParams(ProjectSection, section="augment"):
    """Random changes of training images; shared by every stage that trains."""

    mosaic: Share
    mixup: Share
    degrees: Annotated[float, Field(ge=0, le=180)]
    translate: Share
    scale: Annotated[float, Field(ge=0, le=0.95)]
    shear: Annotated[float, Field(ge=0, le=60)]
    hsv_h: Annotated[float, Field(ge=0, le=0.5)]
    hsv_s: Share
    hsv_v: Share
    flip_lr: Share
    flip_ud: Share
    multi_scale: Annotated[float, Field(ge=0, le=0.9)]


class PrepareParams(ProjectSection, section="prepare"):
    """Where the dataset lies, how it is read, what is left out, how it is split."""

    root: Text
    format: Literal["auto", "voc", "coco", "yolo"]
    train_split: str | list[Text]
    val_split: str | list[Text]
    val_fraction: Fraction
    select_fraction: Fraction
    calib_images: Annotated[int, Field(ge=1, le=10_000_000)]
    classes: list[Text] | None
    difficult: Literal["keep", "drop"]
    min_box: Weight
    voc_origin: Annotated[Literal[0, 1], WHOLE]
    images: Literal["reference", "hardlink", "copy"]
    decode: Literal["all", "judged"] = "all"
    strict: bool
    seed: Seed

    def conflicts(self) -> Iterator[str]:
        if self.classes is not None and (not self.classes or len(set(self.classes)) != len(self.classes)):
            yield f"classes is {show(self.classes)}; give different names, or null for all that occur"
        if not self.train_split or not self.val_split:
            yield "train_split and val_split need at least one name each"


class LoopParams(ProjectSection):
    """Keys of every training: `search`, `train` and `qat`."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: BatchSize
    lr: Annotated[float, Field(ge=0, le=10)]
    final_lr_factor: Share
    momentum: Annotated[float, Field(ge=0, le=0.9999)]
    weight_decay: Share
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)]
    close_mosaic_epochs: Epochs
    iou: Literal["iou", "giou", "diou", "ciou", "siou"]
    eval_every: Annotated[int, Field(ge=1, le=100_000)]
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
    seed: Seed


class TrainingParams(LoopParams):
    """Keys of the trainings of a float network: `search` and `train`."""

    atss_warmup_epochs: Epochs
    freeze_norm_epochs: Epochs
    nominal_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None
    optimizer: Literal["sgd", "adamw"]
    schedule: Literal["cosine", "constant"]
    grad_clip_norm: Annotated[float, Field(ge=1e-6)]
    amp: Literal["none", "bf16", "fp16"]
    compile: bool
    sync_norm: bool
    rectangular: bool

    def conflicts(self) -> Iterator[str]:
        nominal = self.nominal_batch_size
        if nominal is not None and nominal % self.batch_size:
            yield f"nominal_batch_size is {nominal}; give a multiple of batch_size ({self.batch_size}), or null"
        if self.optimizer == "sgd" and self.momentum == 0:
            yield "momentum is 0, but optimizer sgd uses Nesterov momentum; give a momentum above 0, or choose adamw"


class SearchParams(TrainingParams, section="search"):
    """The training that searches scales for RepOptimizer, or a file of scales that makes it unnecessary."""

    scales: Text | None
    scale_lr: Annotated[float, Field(ge=0, le=1000)]


class TrainParams(TrainingParams, section="train"):
    """The float training. `epochs` may be 0: `weights` are then taken as they are."""

    block: Literal[
        "published", "repopt", "repvgg", "qarepvgg", "qarepvggv2", "dbb", "conv_relu", "conv_silu", "conv_hardswish"
    ]
    aux_head: Literal["none", "anchors", "distribution"]
    weights: Text | None
    reinit: list[str]
    teacher: Text | None
    distill_class: Weight
    distill_dfl: Weight
    distill_features: Weight
    epochs: Epochs

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.teacher is not None and self.aux_head == "anchors":
            yield (
                "aux_head is anchors and teacher is set; the two are not combined: "
                "set aux_head to none or teacher to null"
            )
        if self.teacher is not None and not self.distill_class + self.distill_dfl + self.distill_features:
            yield "teacher is set, but distill_class, distill_dfl and distill_features are 0; raise one"
        if self.weights is None and self.epochs == 0:
            yield "epochs is 0, but weights is null; train for some epochs or give weights"
        if self.weights is None and self.reinit:
            yield f"reinit is {show(self.reinit)}, but weights is null; all tensors are new then"


class PtqParams(ProjectSection, section="ptq"):
    """How activation ranges are chosen, what is done to the network, and which accuracy it must keep."""

    method: Literal["auto", "max", "percentile", "mse", "entropy"]
    percentiles: list[Annotated[float, Field(ge=50, le=100)]]
    dialect: Literal["auto", "openvino", "ort", "trt"]
    cpu: Literal["auto", "exact", "saturating"]
    batch_size: BatchSize
    predictions: Literal["float", "int8"]
    float_layers: list[str]
    equalize: Literal["none", "depthwise", "cross_layer", "all"]
    adaround: Annotated[int, Field(ge=0, le=100_000)]
    bias_correction: Literal["none", "fast"]
    min_retention: Share
    on_failure: Literal["warn", "fail"]
    outlier_ratio: Annotated[float, Field(ge=1)]

    def conflicts(self) -> Iterator[str]:
        if self.method == "percentile" and not self.percentiles:
            yield "percentiles is empty, but method is percentile; give at least one"


class SensitivityParams(ProjectSection, section="sensitivity"):
    """How layers are ranked, and how much the float ones may cost or must gain."""

    metric: Literal["fast", "exact"]
    images: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: BatchSize
    max_drop: Share | None
    max_layers: Annotated[int, Field(ge=0, le=10_000)] | None
    max_slowdown: Annotated[float, Field(ge=0, le=100)] | None
    cost: Literal["auto", "openvino", "tensorrt", "macs"]
    float_layers: list[str] | None
    from_file: Text | None = None
    one_float: Literal["none", "blocks", "layers"] = "none"

    def conflicts(self) -> Iterator[str]:
        if self.float_layers is not None and self.from_file is not None:
            yield "float_layers and from_file are set; float_layers names the layers, from_file an order: give one"
        if self.float_layers is None and self.max_drop == self.max_layers == self.max_slowdown is None:
            yield "nothing limits the float layers; give max_drop, max_layers or max_slowdown"


class QatParams(LoopParams, section="qat"):
    """The fine-tuning of the quantized network: start, scales and losses. A weight of 0 leaves its loss out."""

    start: Literal["ptq", "partial"]
    teacher: Text | None = None
    scales: Literal["fixed", "learned", "reestimate"]
    keep_multipliers: bool
    momentum: Annotated[float, Field(gt=0, le=0.9999)]  # it is Nesterov's: qat has no other optimizer than SGD
    detection: Weight
    distill_class: Weight
    distill_box: Weight
    distill_dfl: Weight
    distill_features: Weight
    temperature: Annotated[float, Field(ge=0.01, le=100)]

    def conflicts(self) -> Iterator[str]:  # distill_dfl alone is not enough: few networks have distance bins
        if not self.detection + self.distill_class + self.distill_box + self.distill_features:
            yield "all of detection, distill_class, distill_box and distill_features are 0; nothing would be learned"


class ExportParams(ProjectSection, section="export"):
    """The form of the ONNX files, and how far they may be from torch."""

    opset: Annotated[Literal[17, 18, 19, 20], WHOLE]
    dialects: list[Literal["openvino", "ort", "trt", "cache", "qdq"]]
    qdq_activations: Literal["uint8", "int8"]
    batch: Annotated[int, Field(ge=1, le=1024)]
    dynamic_batch: bool
    image_size: list[Annotated[int, Field(ge=32, le=8192)]] | None
    form: Literal["decoded", "raw"]
    nms: Literal["none", "topk", "onnx", "efficient_nms"]
    nms_classes: Literal["all", "best"] = "all"
    score_threshold: Share
    iou_threshold: Share
    max_detections: Annotated[int, Field(ge=1, le=1000)]
    input: Literal["float", "uint8"]
    simplify: bool
    fp16: bool
    naive: bool
    check_images: Annotated[int, Field(ge=1, le=10_000)]
    tolerance: Share
    quant_tolerance: Annotated[float, Field(ge=0, le=100)]

    def conflicts(self) -> Iterator[str]:
        if not self.dialects or len(set(self.dialects)) < len(self.dialects):
            yield f"dialects is {show(self.dialects)}; name at least one, each once"
        if self.fp16 and self.opset < 19 and "trt" in self.dialects:
            yield f"fp16 needs opset 19 or 20, opset is {self.opset}"
        if self.dynamic_batch and self.batch != 1:
            yield f"batch is {self.batch} and dynamic_batch true; a fixed batch needs dynamic_batch false"
        if self.image_size is not None and len(self.image_size) != 2:
            yield f"image_size is {show(self.image_size)}; give [height, width], or null for the training's"
        if self.form == "raw" and self.nms != "none":
            yield f"nms {self.nms} suppresses decoded boxes; choose form decoded, or nms none"
        others = [name for name in self.dialects if name not in ("trt", "cache")]
        if self.nms == "efficient_nms" and others:
            yield (
                f"nms efficient_nms is a plugin of TensorRT, dialects has {', '.join(others)}; "
                "leave dialects [trt, cache], or choose nms onnx or topk"
            )
        ours = [name for name in self.dialects if name in ("trt", "cache")]
        if self.nms == "onnx" and ours:
            yield (
                f"nms onnx gives a number of boxes that TensorRT cannot plan for, dialects has {', '.join(ours)}; "
                "leave dialects [openvino, ort], or choose nms topk"
            )


class EngineParams(ProjectSection, section="engine"):
    """The runtime, and how its engines run."""

    runtime: Literal["auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime"]
    threads: Threads
    hint: Literal["latency", "throughput"]
    precision: Literal["f32", "bf16", "f16"]
    max_batch: BatchSize
    workspace_mib: Mebibytes
    optimization_level: Annotated[int, Field(ge=0, le=5)]
    calibration_cache: bool
    slower_int8: Literal["refuse", "allow"] = "refuse"
    dla_core: Annotated[int, Field(ge=0, le=64)] | None = None
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False

    def conflicts(self) -> Iterator[str]:
        if self.calibration_cache and self.runtime not in ("auto", "tensorrt"):
            yield f"calibration_cache is for runtime tensorrt, runtime is {self.runtime}"
        for name in ("dla_core", "hardware_compatibility", "version_compatible"):
            value = getattr(self, name)
            asked = value not in (None, "none") and value is not False
            if asked and self.runtime not in ("auto", "tensorrt"):
                yield f"{name} is for runtime tensorrt, runtime is {self.runtime}"


class EvalParams(ProjectSection, section="eval"):
    """Detection thresholds, and how long latency is measured."""

    score_threshold: Share
    iou_threshold: Share
    max_detections: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: BatchSize
    rounds: Annotated[int, Field(ge=1, le=1000)]
    repeats: Annotated[int, Field(ge=1, le=10_000)]
    samples: Annotated[int, Field(ge=0, le=1000)]


class RuntimeParams(ProjectSection, section="runtime"):
    """How the stages run on this machine. No stage depends on it in `dvc.yaml`: a change re-runs nothing."""

    threads: Threads
    workers: Annotated[int, Field(ge=0, le=64)]
    cache: Literal["none", "ram", "disk"] = "ram"
    cache_mib: Mebibytes
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|cuda(:(0|[1-9][0-9]?))?)$", description="auto | cpu | cuda | cuda:N")
    ]
    waiting: Literal["auto", "spin", "yield"] = "auto"
    tensorboard: Text | None = None


def conflicts_between(sections: Mapping[str, Any]) -> Iterator[str]:
    """Problems between sections, by the table of networks and the devices.

    Args:
        sections: name -> section, all of the file.
    """
    model, augment, runtime = (sections[name] for name in ("model", "augment", "runtime"))
    if model.variant not in VARIANTS:
        yield f"model.variant: {show(model.variant)} is unknown; choose one of {', '.join(VARIANTS)}"
        return
    spec = VARIANTS[model.variant]
    stride = max(spec.strides)
    for name, size in (("model", model.image_size), ("export", sections["export"].image_size)):
        if size is not None and any(side % stride for side in size):
            yield f"{name}.image_size is {size}; both sides have to be multiples of {stride} for {model.variant}"
    if 0 < augment.multi_scale * max(model.image_size) < stride:
        yield (
            f"augment.multi_scale: a change of {augment.multi_scale} moves no side of {model.image_size} by a whole "
            f"stride of {stride}; give at least {math.ceil(100 * stride / max(model.image_size)) / 100}, or 0"
        )
    train = sections["train"]
    block = spec.block if train.block == "published" else train.block
    if spec.stage == "lite" and block != spec.block:
        yield f"train.block is {train.block}; {model.variant} has no other blocks than {spec.block} (or published)"
    if train.aux_head == "anchors" and not spec.anchors:
        yield f"train.aux_head is anchors; {model.variant} has no anchors: choose none"
    if train.aux_head == "distribution" and spec.reg_max:
        yield f"train.aux_head is distribution; {model.variant} predicts distance bins itself: choose none"
    for name in ("search", "train", "qat"):
        devices, batch = sections[name].devices, sections[name].batch_size
        if devices != "auto" and batch % devices:
            yield f"{name}.batch_size is {batch}; it has to be a multiple of {name}.devices ({devices})"
    for name in ("search", "train"):
        if sections[name].amp == "fp16" and runtime.device == "cpu":
            yield f"{name}.amp is fp16, which needs runtime.device cuda (it is {runtime.device}); take bf16 or none"
