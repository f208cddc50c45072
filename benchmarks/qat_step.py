"""A step of quantization-aware training against a step of float training, in turns in one process.

    python benchmarks/qat_step.py --variant yolov6s_v2 --size 320 --batch 16 --threads 2

A step is what the stages do: forward, detection loss, backward, gradient clipping, SGD, weight averaging. The float
network is in training form with batch norm (block repopt), the quantized one deployed and calibrated; `pairs` is the
same with weights for CPUs whose sums saturate. `teacher` is the
quantized step with a forward pass of the float teacher and the matching of outputs and features, as in qat-distill.
Images, boxes and weights are random: this is about speed only. Seconds are medians, ratios are those of each round.
On a busy machine `--clock cpu --threads 1` counts the seconds of this process alone.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from stages._losses import LOSS_WEIGHTS, detection_criterion
from stages._training import make_learner
from torch import Tensor, nn

from stages.qat_distill import distillation_losses, loss_weights
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, learn_ranges_, set_dialect_, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.training.distributed import Ranks
from yolov6core.training.loop import Batch, train_one_epoch

RECIPE = SimpleNamespace(  # a learning rate of almost nothing: the weights stay where they are
    epochs=100, lr=1e-7, final_lr_factor=0.1, momentum=0.9, weight_decay=0.0, warmup_epochs=0, iou="siou"
)
TERMS = SimpleNamespace(
    detection=1.0, distill_class=1.0, distill_box=1.0, distill_dfl=1.0, features=1.0, temperature=1.0, iou="siou"
)


def random_batch(batch: int, size: int, *, boxes: int, classes: int) -> Batch:
    """uint8 images [batch, 3, size, size] and `boxes` targets in each."""
    targets = torch.rand(batch * boxes, 6)
    targets[:, 0] = torch.arange(batch).repeat_interleave(boxes)
    targets[:, 1] = torch.randint(0, classes, (batch * boxes,))
    targets[:, 2:] = targets[:, 2:] * 0.5 + 0.25
    targets[:, 4:] *= 0.4
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8), targets


def make_steps(name: str, data: Batch, *, classes: int) -> dict[str, Callable[[], None]]:
    """One training step of each kind, by name; the first is what the others are compared with."""
    spec = dataclasses.replace(variant(name), block="repopt")
    size = tuple(data[0].shape[-2:])
    meta = {"model": spec.to_meta(), "names": list(range(classes)), "image_size": size}
    images = (data[0].float() / 255).contiguous(memory_format=torch.channels_last)
    network = build_detector(spec, num_classes=classes).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network.train()(images)
    teacher = deploy_(copy.deepcopy(network).eval())
    quantized = insert_quantizers(teacher, cpu="saturating")
    set_ranges_(quantized, ranges(collect(quantized, [images]), Method("max")))
    pairs = set_dialect_(copy.deepcopy(quantized), "openvino_signed")
    learned = copy.deepcopy(quantized)
    learn_ranges_(learned)

    criterion = detection_criterion(meta, iou=RECIPE.iou, atss_epochs=0)

    def detection(model: nn.Module) -> Callable[[Batch], dict[str, Tensor]]:
        return lambda batch: criterion(*model(images), batch[1], image_size=size, epoch=0)

    taught = copy.deepcopy(quantized)
    distilled = distillation_losses(taught, teacher, meta=meta, qat=TERMS, ranks=Ranks())
    kinds = {
        "float": (network, detection(network)),
        "quantized": (quantized, detection(quantized)),
        "pairs": (pairs, detection(pairs)),
        "learned": (learned, detection(learned)),
        "teacher": (taught, lambda batch: distilled(batch, 0)),
    }
    weights = LOSS_WEIGHTS | loss_weights(TERMS)
    steps = {}
    for kind, (model, losses) in kinds.items():
        learner = make_learner(model.to(memory_format=torch.channels_last), recipe=RECIPE, steps_per_epoch=100)
        steps[kind] = lambda learner=learner, losses=losses: train_one_epoch(learner, [data], losses, weights)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--boxes", type=int, default=8, help="targets an image")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--kinds", nargs="+", default=["quantized", "pairs", "learned", "teacher"], help="beside float")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = random_batch(options.batch, options.size, boxes=options.boxes, classes=options.classes)
    steps = make_steps(options.variant, data, classes=options.classes)
    steps = {kind: steps[kind] for kind in ("float", *options.kinds)}
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(options.rounds + 1):
        for kind, step in steps.items():
            started = clock()
            step()
            if number:  # the first round warms up
                seconds[kind].append(clock() - started)
    print(
        f"{options.variant}, {options.size} px, batch {options.batch}, {options.threads} threads, {options.clock} clock"
    )
    for kind, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["float"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{kind:<10} {statistics.median(values):.3f} s   x {middle:.3f} (quartiles {low:.3f} .. {high:.3f})")


if __name__ == "__main__":
    main()
