"""What the form of the 3x3 block costs in INT8: RepVGG, QARepVGG and RepOpt blocks, alike in all else.

    nice python benchmarks/block_forms.py --out ../forms --set model.image_size=[96,96] train.epochs=30

Each form and seed has a folder of its own under `--out`: data, training, PTQ, partial and QAT of the pipeline, and
`row.json`. A series that was interrupted goes on where it was. Figures are of torch networks on the validation images:
mAP50:95 in points, and `agreement` with the float network's own detections in percent. `per tensor` and `per channel`
are PTQ with one scale for the weights of a layer, as the papers had it, or for each output channel; activations by the
largest value, and every convolution in INT8 but the prediction layers. `ptq`, `partial` and `qat` are the pipeline's.

`kernel peak`: largest weight of a fused 3x3 kernel over the root mean square, the worst layer; `channel spread`: its
largest channel over the median one, likewise; `tensor noise`: power of the error of one scale over that of the weights,
in decibels, the worst layer; `activation peak`: largest value of a tensor over its 99.9th percentile, the worst tensor.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from seeds import changed_params, run_stages
from torch import Tensor, nn

from stages.shared import paths
from yolov6core.base.atomic import write_json
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import image_batches
from yolov6core.evaluation.agreement import agreement
from yolov6core.quant.calibrate import Statistics, collect, ranges
from yolov6core.quant.insert import freeze_weight_ranges_, insert_quantizers, quantized_convolutions, set_ranges_
from yolov6core.quant.observers import Method, clipped_range
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.tasks.networks import load_float

FORMS = ("repvgg", "qarepvgg", "qarepvggv2", "repopt")
STAGES = (
    *("prepare-voc2yolo", "search-scales", "train-repopt"),
    *("detect-cpu", "ptq-calib", "sensitivity", "qat-distill"),
)
BATCH = 16
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="changes of params.yaml")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: dict[str, list[Row]] = {}
    for seed in options.seeds:  # seed by seed, so that an interrupted series still compares all forms
        for form in options.forms:
            row = cell(options.out.resolve() / form / f"seed{seed}", form, seed, options)
            rows.setdefault(form, []).append(row)
            print(form, seed, "  ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
    for line in table(rows):
        print(line)


def cell(folder: Path, form: str, seed: int, options: argparse.Namespace) -> Row:
    """Train and quantize one form with one seed, unless it was done before."""
    done = folder / "row.json"
    if not done.exists():
        scales = [] if form == "repopt" else ["search.scales=none"]
        params = changed_params(seed, [f"train.block={form}", *scales, *options.set])
        params["runtime"]["threads"] = options.threads
        run_stages(folder, params, STAGES)
        with contextlib.chdir(folder):
            write_json(done, measured())
    return json.loads(done.read_text(encoding="utf-8"))


def measured() -> Row:
    """Figures of the networks in the present folder."""
    network, card = load_float(paths.WEIGHTS["float"])
    on_val = SplitEvaluator(DetectionDataset(paths.DATASET, "val"), card, batch_size=BATCH)
    calib = DetectionDataset(paths.DATASET, "calib")
    batches = image_batches(calib, image_size=card.image_size, shrink=card.shrink, batch_size=BATCH)
    gm = insert_quantizers(network, dialect_name="openvino")
    found = collect(gm, batches)
    set_ranges_(gm, ranges(found, Method("max")))
    truth = on_val(network)
    row = {"float": 100 * truth.stats["map50_95"]}
    for name, one_scale in (("per tensor", True), ("per channel", False)):
        quantized = copy.deepcopy(gm)
        if one_scale:
            freeze_weight_ranges_(quantized)
            for conv in quantized_convolutions(quantized):
                conv.weight_amax.fill_(conv.weight_amax.max())
        result = on_val(quantized)
        row[name] = 100 * result.stats["map50_95"]
        row[f"agreement {name}"] = 100 * agreement(on_val.truth, truth.detections, result.detections)
    for name, metrics in (("ptq", "ptq"), ("partial", "partial"), ("qat", "qat")):
        text = (paths.METRICS / f"{metrics}.json").read_text(encoding="utf-8")
        row[name] = 100 * json.loads(text)["map50_95"]
    return row | kernel_facts(network) | {"activation peak": activation_peak(found)}


def kernel_facts(network: nn.Module) -> Row:
    """The worst fused 3x3 kernel of a deployed network."""
    kernels = [m.weight.detach() for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    return {
        "kernel peak": max(float(kernel.abs().max() / kernel.square().mean().sqrt()) for kernel in kernels),
        "channel spread": max(channel_spread(kernel) for kernel in kernels),
        "tensor noise": max(noise_of_one_scale(kernel) for kernel in kernels),
    }


def channel_spread(kernel: Tensor) -> float:
    """Largest magnitude of a kernel [O, I, kh, kw] over the median of its output channels' magnitudes."""
    peaks = kernel.abs().amax(dim=(1, 2, 3))
    return float(peaks.max() / peaks.median())


def noise_of_one_scale(kernel: Tensor) -> float:
    """Power of the rounding error of an int8 grid over that of the weights, in decibels."""
    step = kernel.abs().max() / 127
    error = (kernel / step).round() * step - kernel
    return 10 * math.log10(float(error.square().mean() / kernel.square().mean()))


def activation_peak(found: Statistics) -> float:
    """Largest value of a tensor over its 99.9th percentile, for the tensor in which it is largest."""
    ratios = []
    for name, histogram in found.histograms.items():
        _, cut = clipped_range(histogram, Method("percentile", 99.9))
        if name not in found.inputs and cut > 0:
            ratios.append(histogram.high / cut)
    return max(ratios)


def table(rows: Mapping[str, list[Row]]) -> list[str]:
    """Mean and standard deviation over the seeds, one line a figure, in Markdown; INT8 beside float as differences."""
    forms = list(rows)
    lines = [f"| | {' | '.join(forms)} |", "|---" * (len(forms) + 1) + "|"]
    for name in rows[forms[0]][0]:
        relative = name in ("per tensor", "per channel", "ptq", "partial", "qat")
        cells = []
        for form in forms:
            values = [row[name] - (row["float"] if relative else 0.0) for row in rows[form]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):{'+' if relative else ''}.2f} ± {spread:.2f}")
        lines.append(f"| {name}{' to float' if relative else ''} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
