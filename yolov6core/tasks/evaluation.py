"""mAP of a torch network on a split of the dataset."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

from torch import nn

from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import DatasetView
from yolov6core.evaluation.coco_map import coco_metrics
from yolov6core.evaluation.evaluator import FIELD_LIMITS, DetectionLimits, EvalResult, evaluate
from yolov6core.models.card import NetworkCard
from yolov6core.models.decoded import predictor

Item = TypeVar("Item")
CACHE_MIB = 256
"""Memory for images of a split as networks get them: a training looks at the same ones after every few epochs."""


class Processes(Protocol):
    """The processes that share an evaluation, see `training.distributed.ProcessGroup`."""

    @property
    def rank(self) -> int: ...
    @property
    def count(self) -> int: ...
    def gather(self, item: Item, /) -> list[Item]: ...


class SplitEvaluator:
    """Network -> COCO figures on one split; the network is in evaluation mode for the time.

    Several processes share the images, and all get the figures of the whole split.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        card: NetworkCard,
        *,
        batch_size: int,
        limits: DetectionLimits = FIELD_LIMITS,
        processes: Processes | None = None,
        rectangular: bool = False,
    ) -> None:
        """Args:
        card: of the networks that will be evaluated.
        rectangular: images of similar shape in batches that are no larger than they need be, as the field validates
            during a training. Faster; figures differ a little from those of the square input that engines have.
        """
        self.dataset, self.card, self.batch_size, self.limits = dataset, card, batch_size, limits
        self.processes = processes
        part = (0, 1) if processes is None else (processes.rank, processes.count)
        stride = max(card.strides) if rectangular else None
        self._view = DatasetView(dataset, shrink=card.shrink, part=part, stride=stride, cache_mib=CACHE_MIB)

    @cached_property
    def truth(self) -> dict[str, Any]:
        """COCO annotations of the split."""
        return self.dataset.ground_truth()

    def __call__(self, network: nn.Module) -> EvalResult:
        processes = self.processes
        training = network.training
        network.eval()
        try:
            found = evaluate(
                predictor(network, self.card.strides),
                self._view,
                image_size=self.card.image_size,
                batch_size=self.batch_size,
                score_threshold=self.limits.score_threshold,
                iou_threshold=self.limits.iou_threshold,
                max_detections=self.limits.max_detections,
            )
        finally:
            network.train(training)
        return found if processes is None or processes.count == 1 else self._joined(found, processes)

    def _joined(self, found: EvalResult, processes: Processes) -> EvalResult:
        shares = processes.gather(found.detections)
        detections = {image: rows for share in shares for image, rows in share.items()}
        coco = coco_metrics(self.truth, detections)
        return replace(found, stats=coco.stats, per_class=coco.per_class, detections=detections, coco=coco)
