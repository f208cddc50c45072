"""A dataset in other batches than its own: a part of it, rectangular, or in a grey frame."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.loader import EvalBatch, rectangular_batches, rectangular_plan, square_plan
from yolov6core.data.transforms import Size, network_input


class DatasetView:
    """A dataset in other batches, against the ground truth of all its images."""

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        shrink: int = 0,
        part: tuple[int, int] = (0, 1),
        stride: int | None = None,
        cache_mib: int = 0,
    ) -> None:
        """Args:
        shrink: pixels of the grey frame around images, see `eval_batches`.
        part: (number, count) of the images to take.
        stride: makes batches rectangular, with sides of whole strides; every part has its share of the same batches.
        cache_mib: MiB of memory for batches that later passes of the same sizes take as they are; 0 keeps none.
        """
        self.dataset, self.shrink, self.part, self.stride = dataset, shrink, part, stride
        self._kept: dict[tuple[Size, int, int], EvalBatch] = {}
        self._room = cache_mib * 2**20

    def __len__(self) -> int:
        """Images; of a part, so many that all parts have as many or one less."""
        return -(-len(self.dataset) // self.part[1])

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.dataset.names

    def ground_truth(self) -> dict:
        """COCO annotations of the whole dataset."""
        return self.dataset.ground_truth()

    def eval_batches(self, *, image_size: Size, batch_size: int) -> Iterator[EvalBatch]:
        """Letterboxed batches in order, or tall ones first where they are rectangular; do not write into them."""
        image_size = (image_size[0], image_size[1])
        for place, batch in enumerate(self._plan(image_size, batch_size)):
            yield self._batch((image_size, batch_size, place), batch)

    def _batch(self, key: tuple[Size, int, int], planned: tuple[list[int], Size]) -> EvalBatch:
        if key in self._kept:
            return self._kept[key]
        (batch,) = rectangular_batches(self.dataset, [planned], image_size=key[0], shrink=self.shrink)
        if batch.images.nbytes <= self._room:
            self._room -= batch.images.nbytes
            self._kept[key] = batch
        return batch

    def _plan(self, image_size: Size, batch_size: int) -> list[tuple[list[int], Size]]:
        number, count = self.part
        if self.stride is None:
            return square_plan(range(number, len(self.dataset), count), image_size=image_size, batch_size=batch_size)
        return rectangular_plan(
            self.dataset.source_sizes(),
            image_size=image_size,
            batch_size=batch_size,
            stride=self.stride,
            shrink=self.shrink,
        )[number::count]


def image_batches(
    dataset: DetectionDataset, *, image_size: Size, shrink: int = 0, batch_size: int = 8, device: str = "cpu"
) -> Iterator[Tensor]:
    """Letterboxed batches float32 [B, 3, H, W] in 0..1 of a dataset, in its order, channels last."""
    view = DatasetView(dataset, shrink=shrink)
    for batch in view.eval_batches(image_size=image_size, batch_size=batch_size):
        yield network_input(batch.images, device)
