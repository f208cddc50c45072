"""Time of one training step, phase by phase: YOLOv6-N at 320 pixels, batch 16, with the blocks it is trained with.

    python benchmarks/training_step.py --size 320 --batch 16 --threads 2 --steps 20

A step is what the stages do: forward, loss with its assigner, backward, gradient clipping, SGD and weight averaging,
here in the open to time each. Medians in milliseconds. Images and weights are random and boxes are drawn at random,
25 an image: their number matters to the loss, their meaning does not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from stages._losses import LOSS_WEIGHTS, detection_criterion
from stages._training import make_learner
from torch import Tensor, nn

from yolov6core.models.detector import build_detector
from yolov6core.models.variants import variant
from yolov6core.training.loop import Learner
from yolov6core.training.repopt import attach_multipliers, scales_from_state
from yolov6core.training.schedule import set_step_

CASES = (("yolov6n_v2", "repopt"), ("yolov6n_v2", "scaled"), ("yolov6n", "repvgg"))
CLASSES = 3
BOXES = 25
PHASES = ("to_float", "forward", "loss", "backward", "optimizer", "average")
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=320, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("variant      block   " + "".join(f"{phase:>10}" for phase in (*PHASES, "total")) + "   images/s")
    for name, block in CASES:
        rows = [times for times in steps(name, block, options)][WARM_UP:]
        medians = [statistics.median(row[phase] for row in rows) for phase in PHASES]
        total = statistics.median(sum(row.values()) for row in rows)
        shown = "".join(f"{1000 * value:>10.1f}" for value in (*medians, total))
        print(f"{name:<13}{block:<8}{shown}{options.batch / total:>11.1f}", flush=True)


def steps(name: str, block: str, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Seconds of every phase, step by step."""
    torch.manual_seed(0)
    network = build_detector(variant(name), num_classes=CLASSES, block=block).train()
    if block == "repopt":
        searched = build_detector(variant(name), num_classes=CLASSES, block="scaled")
        attach_multipliers(network, scales_from_state(searched.state_dict()))
    network.to(memory_format=torch.channels_last)
    meta = {"names": list(range(CLASSES)), "model": variant(name).to_meta()}
    criterion = detection_criterion(meta, iou="siou", atss_epochs=0)
    recipe = SimpleNamespace(epochs=10, lr=0.01, final_lr_factor=0.1, momentum=0.9, weight_decay=5e-4, warmup_epochs=1)
    learner = make_learner(network, recipe=recipe, steps_per_epoch=options.steps)
    for step in range(WARM_UP + options.steps):
        yield one_step(learner, criterion, random_batch(options.batch, options.size, seed=step))


def one_step(learner: Learner, criterion: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The step of `train_one_epoch`, timed."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[phase] = time.perf_counter() - started

    set_step_(learner.optimizer, learner.schedule, learner.step)
    learner.optimizer.zero_grad(set_to_none=True)
    with timed("to_float"):
        images = batch[0].to(memory_format=torch.channels_last).float().div_(255)
    with timed("forward"):
        output = learner.model.training_output(images)
    with timed("loss"):
        size = tuple(images.shape[-2:])
        terms = criterion(output.cls_logits, output.distances, batch[1], image_size=size, epoch=1)
        total = sum(LOSS_WEIGHTS[name] * term for name, term in terms.items())
    with timed("backward"):
        total.backward()
    with timed("optimizer"):
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.max_norm)
        learner.optimizer.step()
    with timed("average"):
        learner.ema.update(learner.model)
    learner.step += 1
    return seconds


def random_batch(count: int, size: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [B, 3, size, size] and targets [M, 6]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    number = torch.arange(count).repeat_interleave(BOXES)[:, None]
    label = torch.randint(CLASSES, (len(number), 1), generator=generator)
    centre = torch.rand(len(number), 2, generator=generator) * 0.8 + 0.1
    sides = torch.rand(len(number), 2, generator=generator) * 0.2 + 0.05
    return images, torch.cat((number, label, centre, sides), dim=1)


if __name__ == "__main__":
    main()
