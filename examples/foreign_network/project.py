"""Somebody's project: a network in the manner of YOLOv5-n with its training and its score.

Of this repository it uses the dataset that `prepare-voc2yolo` has made, the augmentation, the loss and COCO's figures.
The network has SiLU, C3 stages, three max-pools in a row, nearest upsampling, and modules numbered from 0 to 24, of
which 24 predicts. It gives class logits [B, A, C], and distances [B, A, 4] of the sides in strides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.loader import train_batches
from yolov6core.data.transforms import network_input
from yolov6core.evaluation.evaluator import evaluate
from yolov6core.losses.detection import DetectionLoss
from yolov6core.models.decoded import predictor

STRIDES, SIZE, BATCH = (8, 16, 32), (128, 128), 16
SPLITS = {name: DetectionDataset("artifacts/dataset", name) for name in ("train", "select", "calib", "val")}
NAMES = SPLITS["val"].names


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class C3(nn.Module):
    """Two halves of the channels, one of them through residual units."""

    def __init__(self, inputs: int, outputs: int, units: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.worked, self.passed, self.join = Conv(inputs, half), Conv(inputs, half), Conv(2 * half, outputs)
        self.units = nn.ModuleList(nn.Sequential(Conv(half, half), Conv(half, half, 3)) for _ in range(units))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.worked(x)
        for unit in self.units:
            y = y + unit(y) if self.shortcut else unit(y)
        return self.join(torch.cat((y, self.passed(x)), 1))


class Pool(nn.Module):
    """Three max-pools in a row, all of them kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.join = Conv(channels, channels // 2), Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        once = self.pool(x)
        twice = self.pool(once)
        return self.join(torch.cat((x, once, twice, self.pool(twice)), 1))


class Concat(nn.Module):
    """Joins maps."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat((first, second), 1)


class Predict(nn.Module):
    """One convolution a level."""

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(c, classes + 4, 1) for c in channels)
        for layer in self.levels:
            nn.init.constant_(layer.bias[:classes], -4.6)  # a score of 0.01
            nn.init.constant_(layer.bias[classes:], 1.0)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        maps = zip(self.levels, (fine, middle, coarse), strict=True)
        rows = torch.cat([layer(x).flatten(2) for layer, x in maps], 2).transpose(1, 2)
        return rows[..., :-4], rows[..., -4:]


class Yolov5Like(nn.Module):
    """Images [B, 3, H, W] in 0..1, sides multiples of 32, to raw outputs; 1.8 million parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers = [Conv(3, 16, 5, 2), Conv(16, 32, 3, 2), C3(32, 32), Conv(32, 64, 3, 2), C3(64, 64, 2)]
        layers += [Conv(64, 128, 3, 2), C3(128, 128, 3), Conv(128, 256, 3, 2), C3(256, 256), Pool(256)]
        layers += [Conv(256, 128), nn.Upsample(scale_factor=2.0), Concat(), C3(256, 128, shortcut=False)]
        layers += [Conv(128, 64), nn.Upsample(scale_factor=2.0), Concat(), C3(128, 64, shortcut=False)]
        layers += [Conv(64, 64, 3, 2), Concat(), C3(128, 128, shortcut=False)]
        layers += [Conv(128, 128, 3, 2), Concat(), C3(256, 256, shortcut=False), Predict((64, 128, 256), classes)]
        self.model = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        m, x, kept = self.model, images, {}
        others = {12: 6, 16: 4, 19: 14, 22: 10}  # concat -> module whose result it joins
        for number in range(24):
            x = m[number](x, kept[others[number]]) if number in others else m[number](x)
            kept[number] = x
        return m[24](kept[17], kept[20], kept[23])


def score(network: nn.Module, split: str) -> float:
    """mAP50:95 on a split."""
    predict = predictor(network.eval(), STRIDES)
    return evaluate(predict, SPLITS[split], image_size=SIZE, batch_size=BATCH).stats["map50_95"]


def train(network: nn.Module, loss: Callable[[Tensor, Tensor], Mapping[str, Tensor]], epochs: int, lr: float) -> None:
    """Train on the sum of the terms that `loss` gives for images [B, 3, H, W] and targets [M, 6]."""
    data = SPLITS["train"]
    optimizer = torch.optim.AdamW(network.train().parameters(), lr)
    steps = epochs * max(1, len(data) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    sample = TrainTransform(data, image_size=SIZE, mosaic=0.2, scale=0.3, hsv_s=0.3, hsv_v=0.3)
    for epoch in range(epochs):
        for images, targets in train_batches(data, sample, batch_size=BATCH, seed=0, epoch=epoch):
            optimizer.zero_grad()
            torch.stack([*loss(network_input(images), targets).values()]).sum().backward()
            optimizer.step()
            schedule.step()


def trained(epochs: int) -> nn.Module:
    """The float network."""
    torch.manual_seed(0)
    network, terms = Yolov5Like(len(NAMES)), DetectionLoss(num_classes=len(NAMES), strides=STRIDES)
    train(network, lambda x, targets: terms(*network(x), targets, image_size=SIZE, epoch=0), epochs, lr=4e-3)
    return network.eval()
