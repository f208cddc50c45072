"""The batches of a whole training: shuffled, augmented, and the same on every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.loader import batch_sizes, epoch_plan, planned_batches
from yolov6core.data.transforms import Size

Share = Callable[[Sequence[int]], list[int]]
"""Images of a batch -> those of this process."""


class TrainingBatches:
    """(epoch, first batch) -> batches of uint8 images [B, 3, H, W] and targets [M, 6]; `len`: batches of an epoch.

    In the last `close_mosaic_epochs` epochs images are only flipped: the network, and above all its batch-norm
    statistics, settle on images as they are in use (YOLOX, 2107.08430, section 2.1).
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        augment: Mapping[str, float],
        image_size: Size,
        stride: int,
        batch_size: int,
        epochs: int,
        close_mosaic_epochs: int,
        seed: int,
        workers: int = 0,
        share: Share = list,
    ) -> None:
        """Args:
            augment: settings of `TrainTransform`, and `multi_scale`, see `loader.batch_sizes`.
            stride: the largest of the network.
            batch_size: images of a batch, of all processes together.
            workers: loader processes.
            share: picks this process's part of a batch.

        Raises:
            ValueError: `multi_scale` is too small for the stride.
        """
        settings = {name: value for name, value in augment.items() if name != "multi_scale"}
        flips = {name: value for name, value in settings.items() if name.startswith("flip")}
        self._full = TrainTransform(dataset, image_size=image_size, **settings)
        self._plain = TrainTransform(dataset, image_size=image_size, **(dict.fromkeys(settings, 0.0) | flips))
        self._multi_scale = augment["multi_scale"]
        self._count, self._batch_size, self._seed = len(dataset), batch_size, seed
        self._image_size, self._stride = image_size, stride
        self._full_epochs = epochs - close_mosaic_epochs
        self._workers, self._share = workers, share
        self._length = len(self._plan(0))
        self._sizes(0, self._multi_scale)  # raises now rather than in the first epoch

    def __len__(self) -> int:
        return self._length

    def __call__(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        full = epoch < self._full_epochs
        return planned_batches(
            self._full if full else self._plain,
            self._plan(epoch)[first:],
            seed=self._seed,
            epoch=epoch,
            workers=self._workers,
            sizes=self._sizes(epoch, self._multi_scale if full else 0.0)[first:],
        )

    def _plan(self, epoch: int) -> list[list[int]]:
        whole = epoch_plan(self._count, batch_size=self._batch_size, seed=self._seed, epoch=epoch)
        return [self._share(indices) for indices in whole]

    def _sizes(self, epoch: int, change: float) -> list[Size]:
        how = {"image_size": self._image_size, "stride": self._stride, "seed": self._seed}
        return batch_sizes(self._length, change=change, epoch=epoch, **how)
