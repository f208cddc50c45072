"""Self-distillation: nothing to learn from itself, a fading teacher, averaging, small models' head, single classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov6core.losses.detection import DetectionLoss
from yolov6core.losses.self_distillation import SelfDistillationLoss

SIZE = (64, 96)
ANCHORS = 8 * 12 + 4 * 6 + 2 * 3
TARGETS = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.6], [1, 0, 0.3, 0.4, 0.3, 0.3], [1, 2, 0.7, 0.5, 0.4, 0.8]])
BATCH = {"image_size": SIZE, "epoch": 0}
TAUGHT = ("distill_class", "distill_dfl")
Outputs = tuple[Tensor, ...]


def _outputs(seed: int, *, classes: int = 3, reg_max: int = 16, direct: bool = False) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, ANCHORS, classes, generator=generator)
    sides = torch.rand(2, ANCHORS, 4 * (reg_max + 1), generator=generator) * 2 + 0.5
    middle = [torch.rand(2, ANCHORS, 4, generator=generator) * 4 + 1] if direct else []
    return tuple(item.requires_grad_() for item in (logits, *middle, sides))


def _loss(*, classes: int = 3, reg_max: int = 16, warmup_epochs: int = 0, **settings: Any) -> SelfDistillationLoss:
    detection = DetectionLoss(num_classes=classes, reg_max=reg_max, warmup_epochs=warmup_epochs)
    return SelfDistillationLoss(detection, **({"epochs": 10} | settings))


@pytest.mark.parametrize("published_sums", [False, True])
def test_a_student_like_its_teacher_has_the_labels_to_learn_only(published_sums: bool) -> None:
    outputs, loss = _outputs(0), _loss(published_sums=published_sums)
    terms, labels = loss(outputs, outputs, TARGETS, **BATCH), loss.detection(*outputs, TARGETS, **BATCH)
    assert list(terms) == ["class", "iou", "dfl", *TAUGHT]
    assert all(torch.equal(terms[name], labels[name]) for name in labels)
    assert all(abs(terms[name].item()) < 1e-4 for name in TAUGHT)


def test_terms_are_scalars_with_gradient_into_the_student_only() -> None:
    student, teacher = _outputs(0), _outputs(1)
    terms = _loss()((student[0].bfloat16(), student[1]), teacher, TARGETS, **BATCH)
    assert all(term.dtype == torch.float32 and term.ndim == 0 and term > 0 for term in terms.values())
    sum(terms[name] for name in TAUGHT).backward()
    assert student[0].grad.any() and student[1].grad.any()
    assert teacher[0].grad is None and teacher[1].grad is None
    background = ~_loss().detection.assign(*student, TARGETS, **BATCH).positive
    assert student[0].grad[background].any() and not student[1].grad[background].any()


def test_the_teacher_fades() -> None:
    student, teacher = _outputs(0), _outputs(1)
    first, middle = (_loss()(student, teacher, TARGETS, image_size=SIZE, epoch=epoch) for epoch in (0, 5))
    for name in TAUGHT:
        torch.testing.assert_close(middle[name], 0.505 * first[name])
    assert torch.equal(first["iou"], middle["iou"])


def test_class_divergence_by_hand() -> None:
    """At temperature 1, two classes, scores 0.5, 0.5 against 0.75, 0.25: softmax of the difference 0.5."""
    student, teacher = (torch.zeros(1, ANCHORS, 2) for _ in range(2))
    teacher[0, 7] = torch.tensor([math.log(3), -math.log(3)])
    sides = torch.zeros(1, ANCHORS, 4)
    loss = _loss(classes=2, reg_max=0, temperature=1.0)
    terms = loss((student, sides), (teacher, sides), torch.zeros(0, 6), **BATCH)
    share = 1 / (1 + math.exp(-0.5))
    expected = share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))
    assert list(terms) == ["class", "iou", "distill_class"], "no bins, no maps"
    assert terms["distill_class"].item() == pytest.approx(expected, rel=1e-5)


def test_only_the_published_sums_grow_with_the_batch() -> None:
    student, teacher = _outputs(0), _outputs(1)
    again = TARGETS + torch.tensor([2.0, 0, 0, 0, 0, 0])
    twice = [tuple(item.repeat(2, 1, 1) for item in outputs) for outputs in (student, teacher)]
    for published_sums, growth in ((False, 1.0), (True, 2.0)):
        loss = _loss(published_sums=published_sums)
        one = loss(student, teacher, TARGETS, **BATCH)
        two = loss(*twice, torch.cat((TARGETS, again)), **BATCH)
        for name, term in one.items():
            torch.testing.assert_close(two[name], (growth if name == "distill_class" else 1.0) * term)


def test_distances_weigh_by_soft_target_unless_as_published() -> None:
    """Distances that differ at one positive only: its own weight counts, not the average of all."""
    student = _outputs(0)
    loss, published = _loss(), _loss(published_sums=True)
    scores = loss.detection.assign(*student, TARGETS, **BATCH).scores.sum(dim=-1)
    positive = scores > 0
    found = []
    for pick in (scores.argmax(), scores.masked_fill(~positive, 2).argmin()):
        sides = student[1].detach().clone()
        sides.view(-1, 4, 17)[pick] = sides.view(-1, 4, 17)[pick].flip(-1)
        terms = [item(student, (student[0], sides), TARGETS, **BATCH)["distill_dfl"] for item in (loss, published)]
        weight, mean = scores.flatten()[pick], scores.sum() / positive.sum()
        torch.testing.assert_close(terms[0] / weight, terms[1] / mean, rtol=1e-3, atol=0)
        found.append(terms)
    assert found[0][0] > found[1][0]


def test_small_models_learn_distances_without_bins_too() -> None:
    student, teacher = _outputs(0, direct=True), _outputs(1)
    terms = _loss()(student, teacher, TARGETS, **BATCH)
    assert list(terms) == ["class", "iou", "dfl", "direct_iou", *TAUGHT]
    bins_only = _loss()((student[0], student[2]), teacher, TARGETS, **BATCH)
    assert all(torch.equal(bins_only[name], terms[name]) for name in bins_only)
    terms["direct_iou"].backward()
    assert student[1].grad.any() and student[2].grad is None
    same = _loss()(student, _outputs(1, direct=True), TARGETS, **BATCH)
    assert "direct_iou" in same, "the teacher's own distances without bins are not used"


def test_perfect_direct_distances_cost_nothing() -> None:
    student = _outputs(0, direct=True)
    loss = _loss()
    assigned = loss.detection.assign(student[0], student[2], TARGETS, **BATCH)
    positives = loss.detection.positives(assigned, image_size=SIZE)
    direct = torch.zeros(2 * ANCHORS, 4)
    direct[positives.index] = torch.cat(
        (positives.centre - positives.boxes[:, :2], positives.boxes[:, 2:] - positives.centre), dim=1
    )
    terms = loss((student[0], direct.view(2, ANCHORS, 4), student[2]), _outputs(1), TARGETS, **BATCH)
    assert terms["direct_iou"].item() == pytest.approx(0, abs=1e-5) and terms["iou"] > 0.1


def test_the_first_epochs_use_the_other_assigner_here_too() -> None:
    student, teacher = _outputs(0, direct=True), _outputs(1)
    early, late = (_loss(warmup_epochs=epochs)(student, teacher, TARGETS, **BATCH) for epochs in (1, 0))
    assert early["direct_iou"] != late["direct_iou"]


@pytest.mark.parametrize("published_sums", [False, True])
def test_no_targets_leave_the_teacher_of_classes(published_sums: bool) -> None:
    student, teacher = _outputs(0, direct=True), _outputs(1)
    terms = _loss(published_sums=published_sums)(student, teacher, torch.zeros(0, 6), **BATCH)
    sum(terms.values()).backward()
    assert [name for name, term in terms.items() if term.item() != 0] == ["class", "distill_class"]
    assert student[0].grad.isfinite().all() and not student[1].grad.any() and not student[2].grad.any()


def test_a_single_class_is_taught_too() -> None:
    student, teacher = _outputs(0, classes=1), _outputs(1, classes=1)
    rows = TARGETS * torch.tensor([1, 0, 1, 1, 1, 1])
    term = _loss(classes=1)(student, teacher, rows, **BATCH)["distill_class"]
    term.backward()
    assert term > 1e-3 and student[0].grad.any()


def test_feature_maps_count_on_every_level() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.randn(2, 4, side, side, generator=generator) for side in (8, 4, 2, 1)] for _ in range(2))
    outputs = _outputs(0)

    def term(levels: int) -> float:
        terms = _loss()(outputs, outputs, TARGETS, **BATCH, maps=(ours[:levels], theirs[:levels]))
        return terms["distill_features"].item()

    assert term(1) > 0.1 and term(2) > term(1) + 0.1 and term(3) > term(2) + 0.1
    assert term(4) == pytest.approx(term(3)), "one cell is a distribution without choice"


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs is 0"):
        _loss(epochs=0)
    with pytest.raises(ValueError, match="temperature is 0"):
        _loss(temperature=0)(_outputs(0), _outputs(1), TARGETS, **BATCH)
    with pytest.raises(ValueError, match="same anchors, classes and distance bins"):
        _loss()(_outputs(0), _outputs(1, reg_max=7), TARGETS, **BATCH)
