"""A step of quantization-aware training against a step of float training, in turns in one process.

    python benchmarks/qat_step.py --variant yolov6s_v2 --size 320 --batch 16 --threads 2

A step is what the stages do: forward, detection loss, backward, gradient clipping, SGD, weight averaging. The float
network is in training form with batch norm (block repopt), the quantized one deployed and calibrated; `pairs` is the
same with weights for CPUs whose sums saturate, `learned` with scales that are learned. `teacher` is the quantized step
with a forward pass of the float teacher and the matching of outputs and features, as in qat-distill. `separate` is
`quantized` with ReLUs that are not merged into quantizers, `bf16` the float step with `train.amp: bf16`.
Images, boxes and weights are random: this is about speed only. Seconds are medians, ratios are those of each round.
On a busy machine `--clock cpu --threads 1` counts the seconds of this process alone.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from yolov6core.data.transforms import network_input
from yolov6core.int8.qat import QatTask, QatWeights, distilled_maps
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import new_card
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, learn_ranges_, set_dialect_, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.quant.rectifiers import with_merged_rectifiers
from yolov6core.tasks.detection import DetectionTask
from yolov6core.tasks.networks import fresh_network, placed
from yolov6core.training.loop import Batch, train_one_epoch
from yolov6core.training.recipe import Recipe
from yolov6core.training.train_state import make_train_state

RECIPE = Recipe(
    epochs=100,
    batch_size=16,
    lr=1e-7,  # almost nothing: the weights stay where they are
    final_lr_factor=0.1,
    momentum=0.9,
    weight_decay=0.0,
    warmup_epochs=0,
    close_mosaic_epochs=0,
    eval_every=100,
    seed=0,
)
LABELS_ONLY = QatWeights(distill_class=0.0, distill_box=0.0, distill_dfl=0.0, distill_features=0.0)
IOU = "siou"


class Task(Protocol):
    """(batch, epoch) -> loss terms, and their factors."""

    @property
    def weights(self) -> Mapping[str, float]: ...
    def __call__(self, batch: Batch, epoch: int) -> Mapping[str, Tensor]: ...


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
    size = (data[0].shape[-2], data[0].shape[-1])
    card = new_card(name, block="repopt", names=tuple(map(str, range(classes))), image_size=size)
    images = network_input(data[0])
    network = placed(fresh_network(card), "cpu")
    with torch.no_grad():
        network.train()(images)
    teacher = deploy_(copy.deepcopy(network).eval())
    quantized = insert_quantizers(teacher, cpu="saturating")
    set_ranges_(quantized, ranges(collect(quantized, [images]), Method("max")))
    pairs = set_dialect_(copy.deepcopy(quantized), "openvino_signed")
    learned, taught = copy.deepcopy(quantized), copy.deepcopy(quantized)
    learn_ranges_(learned)
    separate = copy.deepcopy(quantized)
    students = {
        "quantized": (quantized, LABELS_ONLY),
        "separate": (separate, LABELS_ONLY),
        "pairs": (pairs, LABELS_ONLY),
        "learned": (learned, LABELS_ONLY),
        "teacher": (taught, QatWeights()),
    }
    recipe = replace(RECIPE, batch_size=len(images))
    steps = {"float": one_step(network, DetectionTask(network, card, recipe, iou=IOU), data, recipe)}
    halved, half = copy.deepcopy(network), replace(recipe, amp="bf16")
    steps["bf16"] = one_step(halved, DetectionTask(halved, card, half, iou=IOU), data, half)
    for kind, (student, parts) in students.items():
        student = placed(student, "cpu")
        if kind != "separate":
            student = with_merged_rectifiers(student, keep=distilled_maps(student))
        steps[kind] = one_step(student, QatTask(student, teacher, card, parts=parts, iou=IOU), data, recipe)
    return steps


def one_step(model: nn.Module, task: Task, data: Batch, recipe: Recipe) -> Callable[[], None]:
    """A call that trains a network for one step on the batch."""
    state = make_train_state(model, recipe, batches_per_epoch=100)

    def step() -> None:
        train_one_epoch(state, [data], lambda batch: task(batch, 0), task.weights)

    return step


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
    parser.add_argument(
        "--kinds", nargs="+", default=["quantized", "separate", "pairs", "learned", "teacher"], help="beside float"
    )
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
