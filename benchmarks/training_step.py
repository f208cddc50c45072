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
from dataclasses import replace

import torch
from torch import Tensor

from yolov6core.data.transforms import network_input
from yolov6core.losses.detection import DetectionLoss
from yolov6core.models.card import new_card
from yolov6core.models.detector import Detector
from yolov6core.tasks.detection import LOSS_WEIGHTS, detection_criterion
from yolov6core.tasks.networks import fresh_network, placed
from yolov6core.training.loop import clip_gradients_
from yolov6core.training.recipe import Recipe
from yolov6core.training.repopt import attach_multipliers, scales_from_state
from yolov6core.training.schedule import set_step_
from yolov6core.training.train_state import TrainState, make_train_state

CASES = (("yolov6n_v2", "repopt"), ("yolov6n_v2", "scaled"), ("yolov6n", "repvgg"))
CLASSES = 3
BOXES = 25
PHASES = ("to_float", "forward", "loss", "backward", "optimizer", "average")
WARM_UP = 3
RECIPE = Recipe(
    epochs=10,
    batch_size=16,
    lr=0.01,
    final_lr_factor=0.1,
    momentum=0.937,
    weight_decay=5e-4,
    warmup_epochs=1,
    close_mosaic_epochs=0,
    eval_every=10,
    seed=0,
)


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
    names, size = tuple(map(str, range(CLASSES))), (options.size, options.size)
    card = new_card(name, block=block, names=names, image_size=size)
    network = fresh_network(card)
    if block == "repopt":
        searched = fresh_network(replace(card, block="scaled"))
        attach_multipliers(network, scales_from_state(searched.state_dict()))
    network = placed(network.train(), "cpu")
    criterion = detection_criterion(card, iou="siou")
    recipe = replace(RECIPE, batch_size=options.batch)
    state = make_train_state(network, recipe, batches_per_epoch=options.steps)
    for step in range(WARM_UP + options.steps):
        yield one_step(network, state, criterion, random_batch(options.batch, options.size, seed=step))


def one_step(
    network: Detector, state: TrainState, criterion: DetectionLoss, batch: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """The step of `train_one_epoch`, timed."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[phase] = time.perf_counter() - started

    set_step_(state.optimizer, state.schedule, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    with timed("to_float"):
        images = network_input(batch[0])
    with timed("forward"):
        output = network.training_output(images)
    with timed("loss"):
        size = (images.shape[-2], images.shape[-1])
        terms = criterion(output.cls_logits, output.distances, batch[1], image_size=size, epoch=1)
        total = torch.stack([LOSS_WEIGHTS[name] * term for name, term in terms.items()]).sum()
    with timed("backward"):
        total.backward()
    with timed("optimizer"):
        clip_gradients_(network, state.grad_clip_norm)
        state.optimizer.step()
    with timed("average"):
        state.ema.update(network)
    state.step += 1
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
