"""Batches for training and evaluation.

Training: a sample depends only on (seed, epoch, index), and the size of a batch only on (seed, epoch, position), so the
number of worker processes never changes a byte. Evaluation: letterboxed images with the geometry that maps boxes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov6core.data.transforms import Letterbox, Size, chw_rgb, letterbox

Transform = Callable[[int, np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.float32]]]


class ImageSource(Protocol):
    """Images and labels by index; `DetectionDataset` is one."""

    image_ids: list[int]

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Image uint8 BGR [h, w, 3], labels float32 [n, 5]: class, xyxy in pixels."""
        ...


@dataclass(frozen=True)
class EvalBatch:
    """Images uint8 RGB [B, 3, H, W], their ids, and the place of each in the network input."""

    images: Tensor
    image_ids: list[int]
    geometry: list[Letterbox]


def epoch_plan(count: int, *, batch_size: int, seed: int, epoch: int, drop_last: bool | None = None) -> list[list[int]]:
    """Shuffled sample indices of one epoch in batches.

    Args:
        drop_last: whether an incomplete last batch is dropped. None: only if there is a complete one, so that a data
            set smaller than a batch still gives one batch.

    Raises:
        ValueError: the epoch would have no batch.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"cannot make batches of {batch_size} from {count} images; both must be at least 1")
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    plan = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    drop = count >= batch_size if drop_last is None else drop_last
    if drop and len(plan[-1]) < batch_size:
        plan.pop()
    if not plan:
        raise ValueError(f"{count} images make no whole batch of {batch_size}; lower batch_size or keep the last batch")
    return plan


def train_batches(
    dataset: ImageSource,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    workers: int = 0,
    drop_last: bool | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled, augmented batches.

    Args:
        transform: (index, generator) -> (image uint8 [3, H, W], labels [n, 5]).
        workers: processes that prepare batches; 0 prepares them in this one. They live for one epoch.
        drop_last: see `epoch_plan`.

    Yields: images uint8 [B, 3, H, W] and targets float32 [M, 6]: image in batch, class, cx, cy, w, h.
    """
    plan = epoch_plan(len(dataset), batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last)
    return planned_batches(transform, plan, seed=seed, epoch=epoch, workers=workers)


def batch_sizes(count: int, *, image_size: Size, change: float, stride: int, seed: int, epoch: int) -> list[Size]:
    """Input sizes of an epoch's batches for multi-scale training (YOLO9000, 1612.08242, section 2).

    A size depends on (seed, epoch, position of the batch in the epoch), so all processes of a training draw the same
    sizes, and a resumed epoch does too.

    Args:
        count: batches of the epoch.
        image_size: (height, width) in pixels without the change, multiples of `stride`.
        change: largest relative change of both sides; 0 for one size.
        stride: pixels; sides are whole multiples of it.

    Raises:
        ValueError: `change` moves the longer side by less than one stride.
    """
    if 0 < change * max(image_size) < stride:
        raise ValueError(
            f"a change of {change} moves no side of {tuple(image_size)} by a whole stride of {stride}; "
            f"give at least {math.ceil(100 * stride / max(image_size)) / 100}, or 0 for one size"
        )
    # 1e-9: a bound that is a whole number of strides must not be lost to float rounding
    bounds = [
        (math.ceil(side * (1 - change) / stride - 1e-9), math.floor(side * (1 + change) / stride + 1e-9))
        for side in image_size
    ]
    sizes = []
    for draw in np.random.default_rng((seed, epoch, 0, 1)).uniform(-change, change, count):  # a key of no sample
        strides = [round(side * (1 + draw) / stride) for side in image_size]
        height, width = (min(max(n, low), high) * stride for n, (low, high) in zip(strides, bounds, strict=True))
        sizes.append((height, width))
    return sizes


def planned_batches(
    transform: Transform,
    plan: Sequence[Sequence[int]],
    *,
    seed: int,
    epoch: int,
    workers: int = 0,
    sizes: Sequence[Size] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the given sample indices, in that order; see `train_batches`.

    With several GPUs each rank passes its share of every batch of the common `epoch_plan`. Every batch is resized to
    its size among `sizes` (see `batch_sizes`); targets are fractions and stay as they are.
    """
    source = _PlannedBatches(transform, plan, seed, epoch, sizes)
    if workers == 0:
        for position in range(len(plan)):
            yield source[position]
        return
    yield from torch.utils.data.DataLoader(
        source, batch_size=None, num_workers=workers, worker_init_fn=_prepare_worker, prefetch_factor=2
    )


class _PlannedBatches(torch.utils.data.Dataset):
    """Item i is the i-th whole batch, so that a worker collates its own samples and sends two tensors."""

    def __init__(
        self,
        transform: Transform,
        plan: Sequence[Sequence[int]],
        seed: int,
        epoch: int,
        sizes: Sequence[Size] | None,
    ) -> None:
        self.transform, self.plan, self.seed, self.epoch, self.sizes = transform, plan, seed, epoch, sizes

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        indices = self.plan[position]
        generators = (np.random.default_rng((self.seed, self.epoch, index)) for index in indices)
        images, targets = collate([self.transform(index, rng) for index, rng in zip(indices, generators, strict=True)])
        if self.sizes is not None and self.sizes[position] != images.shape[-2:]:
            images = torch.nn.functional.interpolate(images, size=self.sizes[position], mode="bilinear")
        return images, targets


def _prepare_worker(_: int) -> None:
    # OpenCV's own threads would compete with the other workers for the same cores
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def collate(samples: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> tuple[Tensor, Tensor]:
    """Samples to images uint8 [B, 3, H, W] and targets float32 [M, 6]: image in batch, class, cx, cy, w, h."""
    # in a worker process, default_collate writes straight into memory that the training process shares
    images = torch.utils.data.default_collate([torch.from_numpy(image) for image, _ in samples])
    numbered = [np.insert(labels, 0, position, axis=1) for position, (_, labels) in enumerate(samples)]
    return images, torch.from_numpy(np.concatenate(numbered).astype(np.float32, copy=False))


def eval_batches(dataset: ImageSource, *, image_size: Size, batch_size: int, shrink: int = 0) -> Iterator[EvalBatch]:
    """All images in order, letterboxed to `image_size`; the last batch may be shorter.

    Args:
        image_size: (height, width) of the network input.
        shrink: pixels taken off height and width before fitting; the frame becomes grey.
    """
    plan = square_plan(range(len(dataset)), image_size=image_size, batch_size=batch_size)
    return rectangular_batches(dataset, plan, image_size=image_size, shrink=shrink)


def shrunk(image_size: Size, shrink: int) -> Size:
    """(height, width) that images are fitted into, so that a grey frame of `shrink` / 2 pixels on each side is left.

    Raises:
        ValueError: no pixel would be left.
    """
    inside = (image_size[0] - shrink, image_size[1] - shrink)
    if min(inside) < 1:
        raise ValueError(f"shrink {shrink} leaves nothing of image_size {image_size}; it is in pixels, make it smaller")
    return inside


def square_plan(indices: Sequence[int], *, image_size: Size, batch_size: int) -> list[tuple[list[int], Size]]:
    """The given images in order, in batches of the full network input."""
    starts = range(0, len(indices), batch_size)
    size = (image_size[0], image_size[1])
    return [(list(indices[start : start + batch_size]), size) for start in starts]


def rectangular_plan(
    source_sizes: Sequence[Size],
    *,
    image_size: Size,
    batch_size: int,
    stride: int,
    pad: float = 0.0,
    shrink: int = 0,
) -> list[tuple[list[int], Size]]:
    """Batches of images of similar shape, each with the smallest (height, width) that holds them.

    Args:
        source_sizes: (height, width) of every image.
        image_size: (height, width) that images are fitted into; each side of a batch is at most this plus padding.
        stride: pixels; sides are whole multiples of it.
        pad: further padding in strides before rounding up.
        shrink: see `eval_batches`; the frame is part of the size of a batch.

    Returns: image indices and size of each batch, tall batches first.
    """
    inside = shrunk(image_size, shrink)
    order = sorted(range(len(source_sizes)), key=lambda index: source_sizes[index][1] / source_sizes[index][0])
    plan = []
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        ratios = [min(inside[0] / h, inside[1] / w) for h, w in (source_sizes[i] for i in indices)]
        fitted = [max(source_sizes[i][axis] * r for i, r in zip(indices, ratios, strict=True)) for axis in (0, 1)]
        # 1e-9: a side that is a whole number of strides must not grow because of float rounding
        height, width = (math.ceil((side + shrink) / stride + pad - 1e-9) * stride for side in fitted)
        plan.append((indices, (height, width)))
    return plan


def rectangular_batches(
    dataset: ImageSource, plan: Sequence[tuple[list[int], Size]], *, image_size: Size, shrink: int = 0
) -> Iterator[EvalBatch]:
    """The batches of a `rectangular_plan`, or of any plan of image indices and sizes."""
    inside = shrunk(image_size, shrink)
    for indices, size in plan:
        yield _letterboxed(dataset, indices, size, inside)


def _letterboxed(dataset: ImageSource, indices: list[int], size: Size, inside: Size) -> EvalBatch:
    samples = [letterbox(*dataset.load(index), size=size, inside=inside) for index in indices]
    return EvalBatch(
        images=torch.from_numpy(np.stack([chw_rgb(image) for image, _, _ in samples])),
        image_ids=[dataset.image_ids[index] for index in indices],
        geometry=[geometry for _, _, geometry in samples],
    )
