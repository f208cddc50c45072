"""One process among others, without the others: their number only changes what is asked of it."""

from __future__ import annotations

import torch
from torch import nn

from yolov6core.losses.detection import DetectionLoss
from yolov6core.training.distributed import ProcessGroup, device_count, join, with_averaged_gradients


def test_alone_nothing_changes():
    processes = join("cpu")
    assert processes == ProcessGroup(rank=0, count=1, device="cpu") and processes.main
    values = torch.rand(3)
    assert processes.sum(values) is values and processes.mean(values) is values
    assert processes.any(True) and not processes.any(False) and processes.gather("a") == ["a"]
    losses = lambda batch, epoch: {}  # noqa: E731
    assert with_averaged_gradients(nn.Linear(1, 1), losses, processes) is losses


def test_shares_are_equal_and_miss_nothing_that_divides():
    shares = [ProcessGroup(rank, 3).share(list(range(8))) for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]


def test_devices():
    assert device_count(3, "cpu") == 3 and device_count("auto", "cpu") == 1


def test_losses_of_shares_average_to_the_loss_of_the_batch():
    """With the sum of soft targets over all shares, what DistributedDataParallel averages is the whole batch's."""
    torch.manual_seed(0)
    logits, distances = torch.randn(4, 84, 2), torch.rand(4, 84, 4) * 2
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.4], [0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.7, 0.8], [0.5, 0.6, 0.3, 0.3]])
    targets = torch.cat((torch.arange(4.0)[:, None], torch.tensor([[0.0], [1.0], [1.0], [0.0]]), boxes), dim=1)
    settings = {"image_size": (64, 64), "epoch": 0}
    whole = DetectionLoss(num_classes=2)(logits, distances, targets, **settings)

    totals = []
    for step in ("sums", "terms"):
        parts = []
        for first in (0, 2):
            rows = targets[first : first + 2] - torch.tensor([first, 0, 0, 0, 0, 0])
            loss = DetectionLoss(num_classes=2)
            if step == "sums":
                loss.normalise_over(2, lambda total: totals.append(total) or total)
            else:
                loss.normalise_over(2, lambda total: torch.stack(totals).sum())
            parts.append(loss(logits[first : first + 2], distances[first : first + 2], rows, **settings))
    for name, value in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value)
