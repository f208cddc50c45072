"""`params.yaml`: one strict pydantic model a section, in the order of the file; no torch, so that answers come at once.

Every key is needed and checked. A whole number is fine where a number is wanted; nothing else is converted. Checks
between the keys of a section are its `conflicts`. All problems come at once, in the order of the file; the text after
"allowed:" comes from the type of the field. The file itself explains the keys.
"""

from __future__ import annotations

import difflib
import reprlib
import types
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, overload

import typer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from yolov6core.yaml_text import parse_yaml

Text = Annotated[str, Field(pattern=r"^[^\x00]+$", description="text that is not empty, without null characters")]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.01, le=0.9)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Threads = Annotated[int, Field(ge=0, le=256)]
Mebibytes = Annotated[int, Field(ge=0, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
RENAMED = {
    "plain_epochs": "close_mosaic_epochs",
    "accumulate_to": "nominal_batch_size",
    "max_norm": "grad_clip_norm",
    "atss_epochs": "atss_warmup_epochs",
    "branch": "aux_head",
    "new_tensors": "reinit",
    "wild_ratio": "outlier_ratio",
    "chains": "cross_layer",
    "match_class": "distill_class",
    "match_box": "distill_box",
    "match_dfl": "distill_dfl",
    "features": "distill_features",
}
"""Earlier names of keys and values -> names of today, for messages."""
SECTIONS: dict[str, type[Section]] = {}
"""Name of a section -> its model, in the order of the file."""


def _whole(value: object) -> object:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


WHOLE = BeforeValidator(_whole)  # pydantic takes True and 1.0 for the literal 1


class Section(BaseModel):
    """A section of `params.yaml`; `section` is its name there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
    section: ClassVar[str]

    def __init_subclass__(cls, section: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if section is not None:
            cls.section, SECTIONS[section] = section, cls

    def conflicts(self) -> Iterator[str]:
        """Problems between values that are fine each on its own, one line each."""
        yield from ()

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        if problems := list(self.conflicts()):
            raise ValueError("\n".join(problems))
        return self


class ModelParams(Section, section="model"):
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


class AugmentParams(Section, section="augment"):
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


class PrepareParams(Section, section="prepare"):
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
    strict: bool
    seed: Seed

    def conflicts(self) -> Iterator[str]:
        if self.classes is not None and (not self.classes or len(set(self.classes)) != len(self.classes)):
            yield f"classes is {show(self.classes)}; give different names, or null for all that occur"
        if not self.train_split or not self.val_split:
            yield "train_split and val_split need at least one name each"


class LoopParams(Section):
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
    amp: Literal["off", "bf16", "fp16"]
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
        "published", "repopt", "repvgg", "qarepvgg", "qarepvggv2", "conv_relu", "conv_silu", "conv_hardswish"
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


class PtqParams(Section, section="ptq"):
    """How activation ranges are chosen, what is done to the network, and which accuracy it must keep."""

    method: Literal["auto", "max", "percentile", "mse", "entropy"]
    percentiles: list[Annotated[float, Field(ge=50, le=100)]]
    dialect: Literal["openvino", "ort", "trt"]
    cpu: Literal["auto", "exact", "saturating"]
    batch_size: BatchSize
    predictions: Literal["float", "int8"]
    float_layers: list[str]
    equalize: Literal["off", "depthwise", "cross_layer", "all"]
    adaround: Annotated[int, Field(ge=0, le=100_000)]
    bias_correction: Literal["off", "fast"]
    min_retention: Share
    on_failure: Literal["warn", "fail"]
    outlier_ratio: Annotated[float, Field(ge=1)]

    def conflicts(self) -> Iterator[str]:
        if self.method == "percentile" and not self.percentiles:
            yield "percentiles is empty, but method is percentile; give at least one"


class SensitivityParams(Section, section="sensitivity"):
    """How layers are ranked, and how much the float ones may cost or must gain."""

    metric: Literal["fast", "exact"]
    images: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: BatchSize
    max_drop: Share | None
    max_layers: Annotated[int, Field(ge=0, le=10_000)] | None
    max_slowdown: Annotated[float, Field(ge=0, le=100)] | None
    cost: Literal["auto", "openvino", "macs"]
    float_layers: list[str] | None

    def conflicts(self) -> Iterator[str]:
        if self.float_layers is None and self.max_drop == self.max_layers == self.max_slowdown is None:
            yield "nothing limits the float layers; give max_drop, max_layers or max_slowdown"


class QatParams(LoopParams, section="qat"):
    """The fine-tuning of the quantized network: start, scales and losses. A weight of 0 leaves its loss out."""

    start: Literal["ptq", "partial"]
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


class ExportParams(Section, section="export"):
    """The form of the ONNX files, and how far they may be from torch."""

    opset: Annotated[Literal[17, 18, 19, 20], WHOLE]
    dialects: list[Literal["openvino", "ort", "trt", "cache"]]
    batch: Annotated[int, Field(ge=1, le=1024)]
    dynamic_batch: bool
    image_size: list[Annotated[int, Field(ge=32, le=8192)]] | None
    form: Literal["decoded", "raw"]
    nms: Literal["none", "topk", "onnx", "efficient_nms"]
    score_threshold: Share
    iou_threshold: Share
    max_detections: Annotated[int, Field(ge=1, le=1000)]
    input: Literal["float", "uint8"]
    simplify: bool
    fp16: bool
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


class EngineParams(Section, section="engine"):
    """The runtime, and how its engines run."""

    runtime: Literal["auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime"]
    threads: Threads
    hint: Literal["latency", "throughput"]
    precision: Literal["f32", "bf16", "f16"]
    max_batch: BatchSize
    workspace_mib: Mebibytes
    optimization_level: Annotated[int, Field(ge=0, le=5)]
    calibration_cache: bool

    def conflicts(self) -> Iterator[str]:
        if self.calibration_cache and self.runtime not in ("auto", "tensorrt"):
            yield f"calibration_cache is for runtime tensorrt, runtime is {self.runtime}"


class EvalParams(Section, section="eval"):
    """Detection thresholds, and how long latency is measured."""

    score_threshold: Share
    iou_threshold: Share
    max_detections: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: BatchSize
    rounds: Annotated[int, Field(ge=1, le=1000)]
    repeats: Annotated[int, Field(ge=1, le=10_000)]
    samples: Annotated[int, Field(ge=0, le=1000)]


class RuntimeParams(Section, section="runtime"):
    """How the stages run on this machine. No stage depends on it in `dvc.yaml`: a change re-runs nothing."""

    threads: Threads
    workers: Annotated[int, Field(ge=0, le=64)]
    cache_mib: Mebibytes
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:(0|[1-9][0-9]?))?)$", description="cpu | cuda | cuda:N")]


S = TypeVar("S", bound=Section)
A = TypeVar("A", bound=Section)
B = TypeVar("B", bound=Section)
C = TypeVar("C", bound=Section)
D = TypeVar("D", bound=Section)
E = TypeVar("E", bound=Section)
F = TypeVar("F", bound=Section)


class ParamsError(Exception):
    """All problems of a parameter file, one a line."""


@overload
def read_params(path: Path, a: type[A], /) -> tuple[A]: ...
@overload
def read_params(path: Path, a: type[A], b: type[B], /) -> tuple[A, B]: ...
@overload
def read_params(path: Path, a: type[A], b: type[B], c: type[C], /) -> tuple[A, B, C]: ...
@overload
def read_params(path: Path, a: type[A], b: type[B], c: type[C], d: type[D], /) -> tuple[A, B, C, D]: ...
@overload
def read_params(path: Path, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /) -> tuple[A, B, C, D, E]: ...
@overload
def read_params(
    path: Path, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], f: type[F], /
) -> tuple[A, B, C, D, E, F]: ...
def read_params(path: Path, /, *sections: type[Section]) -> tuple[Section, ...]:
    """The sections of a parameter file, in the order asked for.

    Prints all problems and exits with code 2 if there are any.
    """
    try:
        return parse_params(load_params(path), *sections, where=str(path))
    except ParamsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def load_params(path: Path) -> object:
    """The document of a parameter file, not checked; raises ParamsError if it is missing, not UTF-8 or not YAML."""
    if not path.is_file():
        raise ParamsError(f"{path} is missing; run from the project's root or give --params")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ParamsError(f"{path} is nested too deeply") from error
    except (ValueError, OSError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from error


def parse_params(document: object, *sections: type[S], where: str = "params") -> tuple[S, ...]:
    """The sections of a parsed document, in the order asked for; raises ParamsError that names every problem."""
    if not isinstance(document, dict):
        raise ParamsError(f"{where} must hold a mapping of sections, found {type(document).__name__}")
    found: dict[object, list[str]] = {model.section: [] for model in sections}
    filled = [_fill(model, document, found[model.section]) for model in sections]
    for name in document:
        if name not in SECTIONS:
            found[name] = [_unknown("section", "", name, SECTIONS)]
    problems = [line for name in {**document, **found} for line in found.get(name, [])]
    if problems:
        raise ParamsError(f"{where}: {len(problems)} problem(s)\n  " + "\n  ".join(problems))
    return tuple(section for section in filled if section is not None)


def _fill(model: type[S], document: dict[Any, Any], problems: list[str]) -> S | None:
    """One section of a document; `problems` gets a line for everything that is wrong with it."""
    name, fields = model.section, model.model_fields
    values = document.get(name)
    if not isinstance(values, dict):
        seen = f"found {show(values)}" if name in document else "missing"
        problems.append(f"{name}: a section with the keys {', '.join(fields)} is needed, {seen}")
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # by key; conflicts have none
        wrong = {(*e["loc"], "")[0]: e["msg"] for e in error.errors(include_url=False, include_input=False)}
    allowed = {key: describe(hint) for key, hint in typing.get_type_hints(model, include_extras=True).items()}
    for key, value in values.items():
        if key not in fields:
            problems.append(_unknown("parameter", f"{name}.", key, fields))
        elif key in wrong:
            new = RENAMED.get(value) if isinstance(value, str) else None
            renamed = f"{value!r} is renamed to {new!r}" if repr(new) in allowed[key] else ""
            problems.append(f"{name}.{key}: " + (renamed or f"{show(value)} is not allowed; allowed: {allowed[key]}"))
    missing = [key for key in fields if key not in {*values, *(RENAMED.get(key) for key in values)}]
    problems += [f"{name}.{key}: missing; allowed: {allowed[key]}" for key in missing]
    problems += [f"{name}: {line}" for line in wrong.get("", "").removeprefix("Value error, ").splitlines()]
    return None


def _unknown(kind: str, prefix: str, key: object, known: Collection[str]) -> str:
    if not isinstance(key, str):
        return f"{prefix}{show(key)}: the name of a {kind} is text"
    if RENAMED.get(key) in known:
        return f"{prefix}{key}: renamed to {RENAMED[key]}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"{prefix}{key}: unknown {kind}; {hint}"


def show(value: object) -> str:
    """A value for a message, shortened if it is long."""
    short = reprlib.Repr()
    short.maxstring, short.maxlist, short.maxlevel = 100, 20, 2
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of too many digits"


def describe(hint: Any) -> str:
    """A type hint in words, for messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        infos = [info for info in args[1:] if isinstance(info, FieldInfo)]
        words = [info.description for info in infos if info.description]
        return words[0] if words else " ".join([describe(args[0]), *map(_bounds, infos)])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in args)
    if origin is Literal:
        return " | ".join(repr(choice) for choice in args)
    if origin is list:
        return f"list of ({describe(args[0])})"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, str(hint))


def _bounds(info: FieldInfo) -> str:
    names = ("gt", "ge", "le")
    limits = {name: getattr(bound, name) for bound in info.metadata for name in names if hasattr(bound, name)}
    if {"ge", "le"} <= limits.keys():
        return f"from {limits['ge']} to {limits['le']}"
    words = zip(names, ("above", "at least", "at most"), strict=True)
    return " and ".join(f"{word} {limits[name]}" for name, word in words if name in limits)
