"""mAP of a torch network on a split of the dataset: what every stage that has a network shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.data.loader import EvalBatch
    from yolov6core.evaluation.evaluator import EvalResult

DATASET = Path("artifacts/dataset")


def network_input(images: Tensor, device: str) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in 0..1 on `device`, channels last (the layout of the fastest convolutions)."""
    import torch

    return images.to(device, memory_format=torch.channels_last).float().div_(255)


def predictor(network: nn.Module, meta: dict[str, Any]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images float32 [B, 3, H, W] in 0..1 to boxes [B, A, 4] xyxy pixels and scores [B, A, C], on the network's device.

    Args:
        network: float or quantized, gives raw outputs.
        meta: of its checkpoint (strides). Sizes are those of the images.
    """
    import torch

    from yolov6core.models.head import decode

    device = next(network.parameters()).device
    strides = meta["model"]["strides"]

    @torch.inference_mode()
    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        raw = network(images.to(device, memory_format=torch.channels_last))
        boxes, scores = decode(*raw, image_size=tuple(images.shape[-2:]), strides=strides)
        return boxes.cpu(), scores.cpu()

    return predict


def image_batches(
    dataset: DetectionDataset, meta: dict[str, Any], *, batch_size: int = 8, device: str = "cpu"
) -> Iterator[Tensor]:
    """Letterboxed batches float32 [B, 3, H, W] in 0..1 of a dataset, in its order, in the grey frame of `meta`."""
    for batch in View(dataset, shrink=grey_frame(meta)).eval_batches(
        image_size=tuple(meta["image_size"]), batch_size=batch_size
    ):
        yield network_input(batch.images, device)


def grey_frame(meta: Mapping[str, Any]) -> int:
    """Pixels, half of them a side, that images leave grey in the input of the network that `meta` describes."""
    return meta.get("shrink", 0)


def evaluate_split(
    network: nn.Module,
    meta: dict[str, Any],
    split: str,
    *,
    batch_size: int,
    part: tuple[int, int] = (0, 1),
    rectangular: bool = False,
) -> EvalResult:
    """COCO figures of a network on a split of the dataset; the network is put into evaluation mode for the time.

    Args:
        part: (number, count): detect on a part of the images only. The figures are of the whole split all the same:
            put the detections of all parts together and measure again.
        rectangular: images of similar shape in batches that are no larger than they need be, as the field validates
            during a training. Faster; figures differ a little from those of the square input that engines have.
    """
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.evaluation.evaluator import evaluate

    stride = max(meta["model"]["strides"]) if rectangular else None
    dataset = DetectionDataset(DATASET, split)
    training = network.training
    network.eval()
    try:
        return evaluate(
            predictor(network, meta),
            View(dataset, shrink=grey_frame(meta), part=part, stride=stride),
            image_size=tuple(meta["image_size"]),
            batch_size=batch_size,
        )
    finally:
        network.train(training)


class View:
    """A dataset in other batches than its own, against the ground truth of all its images.

    Args:
        shrink: pixels of the grey frame around images, see `eval_batches`.
        part: (number, count) of the images to take.
        stride: makes batches rectangular, with sides of whole strides; every part has its share of the same batches.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        shrink: int = 0,
        part: tuple[int, int] = (0, 1),
        stride: int | None = None,
    ) -> None:
        self.dataset, self.shrink, self.part, self.stride = dataset, shrink, part, stride
        self.names, self.ground_truth = dataset.names, dataset.ground_truth

    def eval_batches(self, *, image_size: tuple[int, int], batch_size: int) -> Iterator[EvalBatch]:
        from yolov6core.data.loader import rectangular_batches, rectangular_plan, square_plan

        number, count = self.part
        if self.stride is None:
            plan = square_plan(range(number, len(self.dataset), count), image_size=image_size, batch_size=batch_size)
        else:
            plan = rectangular_plan(
                self.dataset.source_sizes(),
                image_size=image_size,
                batch_size=batch_size,
                stride=self.stride,
                shrink=self.shrink,
            )[number::count]
        return rectangular_batches(self.dataset, plan, image_size=image_size, shrink=self.shrink)
