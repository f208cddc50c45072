"""What changes the size of the network's input: multi-scale training, rectangular validation, the grey frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from stages.shared.paths import DATASET
from tests.support.pipeline import run_small, small_card, small_project
from yolov6core.base.checkpoint import load_checkpoint
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.views import DatasetView, image_batches
from yolov6core.models.decoded import predictor
from yolov6core.tasks import detection, evaluation, self_distillation
from yolov6core.tasks.evaluation import SplitEvaluator
from yolov6core.training import interruption, loop

pytestmark = pytest.mark.slow

WEIGHTS = Path("artifacts/train/weights.safetensors")
SCALED = {"multi_scale": 0.5}
STRIDES = (8, 16, 32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    with small_project(tmp_path_factory.mktemp("sizes"), images=20) as folder:
        assert train(aux_head="distribution").exit_code == 0
        WEIGHTS.rename("teacher.safetensors")
    return folder


@pytest.fixture
def project(prepared, monkeypatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def train(*, augment=None, model=None, runtime=None, **changes):
    recipe = {"block": "conv_relu", "epochs": 2, "close_mosaic_epochs": 1, "batch_size": 2} | changes
    return run_small("train-repopt", train=recipe, augment=augment or {}, model=model or {}, runtime=runtime or {})


@pytest.fixture
def seen(monkeypatch) -> list[tuple[int, int]]:
    """The size of every batch that a training learns from."""
    sizes = []
    real = detection.network_input

    def network_input(images, device):
        sizes.append(tuple(images.shape[-2:]))
        return real(images, device)

    monkeypatch.setattr(detection, "network_input", network_input)
    monkeypatch.setattr(self_distillation, "network_input", network_input)
    return sizes


@pytest.mark.parametrize(
    "changes", [{"aux_head": "anchors"}, {"aux_head": "distribution", "teacher": "teacher.safetensors"}], ids=str
)
def test_batches_of_many_sizes_teach_and_plain_ones_have_the_networks(project, seen, changes):
    result = train(augment=SCALED, **changes, distill_features=1.0)
    assert result.exit_code == 0, result.output
    steps = len(seen) // 2
    assert len(set(seen[:steps])) > 1 and set(seen[:steps]) <= {(h, w) for h in (32, 64, 96) for w in (64, 96, 128)}
    assert set(seen[steps:]) == {(64, 96)}


def test_a_search_takes_them_too(project, seen):
    result = run_small("search-scales", augment=SCALED, search={"epochs": 1, "close_mosaic_epochs": 0, "batch_size": 2})
    assert result.exit_code == 0 and len(set(seen)) > 1, result.output


def test_neither_loader_processes_nor_a_kill_change_a_byte(project, monkeypatch):
    assert train(augment=SCALED).exit_code == 0
    alone = WEIGHTS.read_bytes()
    assert train(augment=SCALED, runtime={"workers": 1}).exit_code == 0
    assert WEIGHTS.read_bytes() == alone
    real, count = loop.set_step_, iter(range(100))

    def deadly(*arguments) -> None:
        if next(count) == 3:  # in the first epoch, whose batches have many sizes
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(interruption, "SAVE_SECONDS", 0.0)
        patch.setattr(loop, "set_step_", deadly)
        assert train(augment=SCALED).exit_code == 130
    result = train(augment=SCALED)
    assert "continuing after epoch 0 of 2 and 3 batches" in result.output
    assert WEIGHTS.read_bytes() == alone
    assert train().exit_code == 0 and WEIGHTS.read_bytes() != alone


def test_three_batches_are_shown(project):
    assert train(epochs=1).exit_code == 0
    assert cv2.imread("artifacts/train/batch.jpg").shape == (3 * 64, 2 * 96, 3)


def test_a_change_that_changes_nothing_is_refused(project):
    result = train(augment={"multi_scale": 0.3})
    assert result.exit_code == 2 and "augment.multi_scale: a change of 0.3 moves no side" in result.output


def test_processes_share_the_same_rectangular_batches(project):
    dataset = DetectionDataset(DATASET, "train")

    def images(part: tuple[int, int]) -> dict[int, torch.Tensor]:
        batches = DatasetView(dataset, part=part, stride=32).eval_batches(image_size=(160, 160), batch_size=3)
        return {number: image for batch in batches for number, image in zip(batch.image_ids, batch.images, strict=True)}

    whole, shares = images((0, 1)), [images((number, 2)) for number in range(2)]
    assert sorted(whole) == dataset.image_ids == sorted([*shares[0], *shares[1]])
    assert all(torch.equal(image, whole[number]) for share in shares for number, image in share.items())
    assert len({image.shape for image in whole.values()}) > 1


def test_epochs_are_chosen_on_rectangles_and_measured_on_squares(project, monkeypatch):
    real, sizes = evaluation.predictor, {"select": set(), "val": set()}

    def recording(network, strides):
        predict = real(network, strides)
        split = "select" if not sizes["select"] else "val"  # the one evaluation of the epoch comes first
        return lambda images: (sizes[split].add(tuple(images.shape[-2:])), predict(images))[1]

    monkeypatch.setattr(evaluation, "predictor", recording)
    result = train(rectangular=True, epochs=1, model={"image_size": [160, 160]})
    assert result.exit_code == 0, result.output
    assert min(map(min, sizes["select"])) < 160 and sizes["val"] == {(160, 160)}


class Ones(torch.nn.Module):
    """A network that predicts boxes of two strides at every anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = images.shape[-2:]
        anchors = sum(height // stride * (width // stride) for stride in STRIDES)
        return torch.zeros(len(images), anchors, 1), torch.ones(len(images), anchors, 4)


@pytest.mark.parametrize("size", [(64, 96), (32, 160)])
def test_predictions_are_decoded_at_the_size_of_the_images(size):
    boxes, _ = predictor(Ones(), STRIDES)(torch.zeros(1, 3, *size))
    assert boxes[0, -1].tolist() == [size[1] - 48, size[0] - 48, size[1] + 16, size[0] + 16]


def test_the_grey_frame_is_part_of_the_network(project):
    assert train(epochs=1).exit_code == 0
    plain = load_checkpoint(WEIGHTS)[1]
    assert "shrink" not in plain
    assert train(epochs=1, model={"shrink": 6}).exit_code == 0
    meta = load_checkpoint(WEIGHTS)[1]
    assert meta == plain | {"shrink": 6}
    dataset = DetectionDataset(DATASET, "val")
    how = {"image_size": (64, 96), "batch_size": 4}
    for images in image_batches(dataset, shrink=6, **how):
        frame = images.clone()
        frame[:, :, 3:-3, 3:-3] = 114 / 255
        assert torch.equal(frame, torch.full_like(frame, 114 / 255))
    assert any((images[:, :, 0] != 114 / 255).any() for images in image_batches(dataset, **how))


def test_an_evaluation_sees_the_grey_frame(project, monkeypatch):
    given = []
    monkeypatch.setattr(evaluation, "predictor", lambda *_: lambda images: (given.append(images), none(images))[1])
    dataset = DetectionDataset(DATASET, "val")
    card = replace(small_card(dataset.names, size=(64, 96)), shrink=10)
    for rectangular in (False, True):
        SplitEvaluator(dataset, card, batch_size=2, rectangular=rectangular)(Ones())
    assert len({tuple(images.shape[-2:]) for images in given}) > 1
    for images in given:
        assert (images[:, :, :5] == 114 / 255).all() and (images[..., -5:] == 114 / 255).all()


def none(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    classes = len(DetectionDataset(DATASET, "val").names)
    return torch.zeros(len(images), 1, 4), torch.zeros(len(images), 1, classes)
