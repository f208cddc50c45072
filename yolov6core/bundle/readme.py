"""The page that explains a bundle to who unpacks it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from yolov6core.bundle.deepstream import CONFIG, deepstream_reason_against
from yolov6core.bundle.request import BundleRequest, PlannedFile
from yolov6core.bundle.trtexec import CACHE_VERSIONS, build_lines, cache_name
from yolov6core.exchange.interface import Interface

KINDS = {"float": "float", "ptq": "INT8 by calibration", "partial": "INT8, some layers float", "qat": "INT8 by QAT"}
WIDTH = 120


@dataclass(frozen=True)
class Facts:
    """What the page is about.

    Attributes:
        variant: of the network.
        name: of the model in Triton.
        image_size: (height, width) of the input.
        files: of the target, in the order in which they are described.
        allowed: relative L2 error up to which outputs count as equal.
        quantization: relative L2 error of quantization itself; 0 for a float network.
        overflowing: convolutions that are wrong on CPUs whose sums of 8-bit products saturate.
    """

    request: BundleRequest
    interface: Interface
    variant: str
    name: str
    image_size: tuple[int, int]
    names: tuple[str, ...]
    files: Sequence[PlannedFile]
    allowed: float
    quantization: float
    overflowing: int

    @property
    def quantized(self) -> bool:
        """Whether the network has integer layers."""
        return self.request.kind != "float"

    @property
    def caches(self) -> list[str]:
        """Names of the calibration caches, in the order of the versions that read them."""
        cached = any(planned.dialect == "cache" for planned in self.files)
        return [cache_name(version) for version in filter(self.request.wants, CACHE_VERSIONS) if cached]

    @property
    def on_gpu(self) -> bool:
        """Whether an engine has to be built first."""
        return self.request.target == "tensorrt"


def readme(facts: Facts) -> str:
    """Text of `README.md`."""
    parts = [*_head(facts), *_check(facts), *_outputs(facts)]
    if facts.on_gpu:
        parts += [*_build(facts), *_deepstream(facts)]
    return "\n\n".join([*parts, *_triton(facts), *_contents(facts)]) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def _block(*lines: str) -> str:
    return "\n".join(("```", *lines, "```"))


def _head(facts: Facts) -> list[str]:
    height, width = facts.image_size
    classes = ", ".join(facts.names[:8]) + (", ..." if len(facts.names) > 8 else "")
    return [
        f"# {facts.variant}, {KINDS[facts.request.kind]}, for {facts.request.target}",
        _paragraph(
            f"A detector of {len(facts.names)} classes ({classes}) for pictures of {height} x {width} pixels (height x "
            "width). This folder holds everything that a device needs to build, run and check it. `sha256sum -c "
            "SHA256SUMS` says whether it arrived whole. The pictures in `check/` are calibration images."
        ),
    ]


def _check(facts: Facts) -> list[str]:
    runtime = "" if facts.on_gpu else f" {facts.request.target}"
    before = "Build an engine first (below). TensorRT's Python module comes with TensorRT." if facts.on_gpu else ""
    noise = (
        f"Quantization itself changes them by {facts.quantization:.4f}, and every runtime rounds some values otherwise."
        if facts.quantized
        else ""
    )
    return [
        "## Check",
        *([before] if before else []),
        _block(f"pip install numpy opencv-python-headless{runtime}", "python check.py"),
        _paragraph(
            "It runs the network on the inputs in `check/inputs.npz`, compares outputs and detections with those of "
            f"the network in PyTorch{', with its fake quantizers' if facts.quantized else ''} (`check/expected.npz`, "
            "`check/detections.json`), and times it. Outputs agree where their relative error (L2) is at most "
            f"{facts.allowed:.4f}. {noise} Exit code 0: they agree, 1: they do not, 2: the network could not run. "
            "`python check.py --help` lists the options."
        ),
        *([_sums(facts)] if facts.overflowing else []),
    ]


def _sums(facts: Facts) -> str:
    return _paragraph(
        f"**Made for CPUs that add 8-bit products exactly**: with VNNI, AMX or ARM's dot product. On others "
        f"{facts.overflowing} convolutions overflow. Outputs are then further off, maybe within the bound, and mAP is "
        "lost: make the network for `ptq.cpu: saturating` there."
    )


def _outputs(facts: Facts) -> list[str]:
    interface = facts.interface
    if interface.nms != "none":
        text = (
            "`num_dets` [B, 1], `boxes` [B, K, 4] as x1, y1, x2, y2 in pixels of the input, `scores` [B, K] and "
            "`classes` [B, K]; the first `num_dets` of each image count. Scores below "
            f"{interface.score_threshold} are gone, and boxes that overlap a better one of their class by more than "
            f"{interface.iou_threshold} (IoU). {_competing(interface)}"
        )
    elif interface.form == "raw":
        text = (
            f"for each stride S of {', '.join(map(str, interface.strides))} `logits_S` [B, C, H/S, W/S] and "
            "`distances_S` [B, 4, H/S, W/S], or 4 x bins. Scores are the sigmoid of the logits. Distances go from the "
            "centre of a cell to left, top, right and bottom, in units of S; with bins, they are the mean of the bins' "
            "numbers under a softmax."
        )
    else:
        text = (
            "`boxes` [B, A, 4] as x1, y1, x2, y2 in pixels of the input and `scores` [B, A, C] in 0..1, for A anchors "
            "and C classes. Non-maximum suppression is left to you; `check.py` shows one."
        )
    return [
        "## Input and outputs",
        _paragraph(
            "`preprocess.json` says in numbers and in words how a picture becomes the input `images`. `labels.txt` "
            f"names the classes in the order of the scores. Outputs: {text}"
        ),
    ]


def _competing(interface: Interface) -> str:
    if interface.nms_classes == "best":
        return "Each box takes part in its best class alone."
    return "A box takes part in every class above that score, and may be listed by several."


def _build(facts: Facts) -> list[str]:
    sides = (*facts.image_size, 3) if facts.interface.input == "uint8" else (3, *facts.image_size)
    most, listed = facts.request.max_batch, []
    for route, lines in build_lines(quantized=facts.quantized).items():
        for line in (line for line in lines if facts.request.wants(line.version)):
            listed += ["", f"# TensorRT {line.version}, {route}: batch 1, or any batch up to {most}"]
            listed += [line.command(sides, batches) for batches in ((1, 1, 1), (1, most, most))]
    choice = (
        "Prefer Q/DQ: the file says which layers run in INT8. With a calibration cache TensorRT decides that itself."
    )
    return [
        "## Build",
        _paragraph(f"On the device, in this folder; take one line. {choice if facts.caches else ''}"),
        _block(*listed[1:]),
        *(_caches(facts.caches[-1]) if facts.caches else ()),
    ]


def _caches(name: str) -> list[str]:
    return [
        _paragraph(
            "The first line of a cache names the version of TensorRT that reads it. Another version does not use it: "
            "it calibrates anew, which trtexec does on random numbers, or fails. Write that line anew for other "
            "versions, with 10000 x major + 100 x minor + patch (before version 10: 1000 x major), as for 10.7.0:"
        ),
        _block(f"sed '1s/.*/TRT-100700-EntropyCalibration2/' {name} > calib.mine.table"),
    ]


def _deepstream(facts: Facts) -> list[str]:
    if reason := deepstream_reason_against(facts.interface, tensorrt=facts.request.tensorrt):
        return ["## DeepStream", _paragraph(f"There is no configuration for DeepStream: {reason}.")]
    frame = (
        f"It cannot make the grey frame of {facts.interface.shrink / 2:g} pixels: objects are larger than in training. "
        "Measure what that costs."
        if facts.interface.shrink
        else ""
    )
    return [
        "## DeepStream",
        _paragraph(
            f"`{CONFIG}` configures Gst-nvinfer. Its parser is built once, by the lines at the top of "
            "`deepstream_parser.cpp`. nvinfer pads pictures with black, where the training had grey, and scales them "
            f"by filters of its own. {frame}"
        ),
    ]


def _triton(facts: Facts) -> list[str]:
    model, name = ("model.engine", "model.plan") if facts.on_gpu else ("model.onnx", "model.onnx")
    batch = "puts requests together (dynamic batching)" if facts.request.open_batch else "has a fixed batch"
    engine = ", and needs an engine for any batch" if facts.on_gpu else ""
    return [
        "## Triton",
        _paragraph(
            f"`triton/{facts.name}/config.pbtxt` {batch}{engine}. Copy the folder `triton`: the copy becomes Triton's "
            "repository of models. In it:"
        ),
        _block(f"mkdir {facts.name}/1 && cp .../{model} {facts.name}/1/{name}"),
    ]


def _contents(facts: Facts) -> list[str]:
    rows = {planned.name: f"network for {planned.reads}" for planned in facts.files}
    rows |= {name: "calibration cache for the version of TensorRT in its name" for name in facts.caches}
    rows |= {
        "check.py": "checks and times the network; Python 3.10, numpy, OpenCV and the runtime",
        "check/picture_*.png": "pictures, as they are before `preprocess.json`",
        "check/inputs.npz": "what they become: uint8 [pictures, 3, height, width], red, green, blue",
        "check/expected.npz": "outputs that PyTorch gives for them, by name",
        "check/detections.json": "detections that PyTorch gives for them, in pixels of picture and input",
        "preprocess.json": "the way from a picture to the input",
        "labels.txt": "names of the classes",
        "bundle.json": "what `check.py` needs to know",
        "SHA256SUMS": "checksums of all other files",
    }
    untried = "TensorRT, DeepStream and Triton were" if facts.on_gpu else "Triton was"
    return [
        "## Files",
        "\n".join(["| file | is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in rows.items())]),
        _paragraph(
            "Where this folder was written, the networks were compared with PyTorch on the pictures in `check/`, by "
            f"exact arithmetic. {untried} not run there."
        ),
    ]
