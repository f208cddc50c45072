"""mAP of a torch network on a split of the dataset: what every stage that has a network shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.data.dataset import DetectionDataset
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
        meta: of its checkpoint (strides and image size).
    """
    import torch

    from yolov6core.models.head import decode

    device = next(network.parameters()).device
    size, strides = tuple(meta["image_size"]), meta["model"]["strides"]

    @torch.inference_mode()
    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        raw = network(images.to(device, memory_format=torch.channels_last))
        boxes, scores = decode(*raw, image_size=size, strides=strides)
        return boxes.cpu(), scores.cpu()

    return predict


def image_batches(
    dataset: DetectionDataset, meta: dict[str, Any], *, batch_size: int = 8, device: str = "cpu"
) -> Iterator[Tensor]:
    """Letterboxed batches float32 [B, 3, H, W] in 0..1 of a dataset, in its order."""
    for batch in dataset.eval_batches(image_size=tuple(meta["image_size"]), batch_size=batch_size):
        yield network_input(batch.images, device)


def evaluate_split(
    network: nn.Module, meta: dict[str, Any], split: str, *, batch_size: int, part: tuple[int, int] = (0, 1)
) -> EvalResult:
    """COCO figures of a network on a split of the dataset; the network is put into evaluation mode for the time.

    `part` (number, count): detect on a part of the images only. The figures are of the whole split all the same: put
    the detections of all parts together and measure again.
    """
    from yolov6core.data.dataset import DetectionDataset
    from yolov6core.evaluation.evaluator import evaluate

    dataset = DetectionDataset(DATASET, split)
    training = network.training
    network.eval()
    try:
        return evaluate(
            predictor(network, meta),
            dataset if part == (0, 1) else _Part(dataset, *part),
            image_size=tuple(meta["image_size"]),
            batch_size=batch_size,
        )
    finally:
        network.train(training)


class _Part:
    """Every `count`th image of a dataset, from number `first` on, against the ground truth of all."""

    def __init__(self, dataset: DetectionDataset, first: int, count: int) -> None:
        self.dataset = dataset
        self.indices = range(first, len(dataset), count)
        self.names = dataset.names
        self.image_ids = [dataset.image_ids[index] for index in self.indices]
        self.ground_truth = dataset.ground_truth

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> tuple[Any, Any]:
        return self.dataset.load(self.indices[index])

    def eval_batches(self, *, image_size: tuple[int, int], batch_size: int) -> Iterator[Any]:
        from yolov6core.data.loader import eval_batches

        return eval_batches(self, image_size=image_size, batch_size=batch_size)
