"""Distillation terms: zero at the teacher, positive elsewhere, no gradient into the teacher."""

from __future__ import annotations

import math

import pytest
import torch

from yolov6core.losses.distill import channel_wise_kl, class_kl, distance_kl, fade, plain_output_distillation


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_class_kl_of_two_classes_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert class_kl(student, teacher, temperature=1).item() == pytest.approx(expected, abs=1e-6)
    assert class_kl(2 * student, 2 * teacher, temperature=2).item() == pytest.approx(4 * expected, abs=1e-5)


def test_every_term_is_zero_at_the_teacher_and_positive_elsewhere() -> None:
    ours, theirs = _normal(2, 5, 4), _normal(2, 5, 4, seed=1)
    sides, other_sides = _normal(6, 4, 17), _normal(6, 4, 17, seed=1)
    maps, other_maps = (
        [_normal(2, 3, 4, 5), _normal(2, 6, 2, 3)],
        [_normal(2, 3, 4, 5, seed=1), _normal(2, 6, 2, 3, seed=1)],
    )
    for same, different in (
        (class_kl(ours, ours), class_kl(ours, theirs)),
        (distance_kl(sides, sides).sum(), distance_kl(sides, other_sides).sum()),
        (channel_wise_kl(maps, maps), channel_wise_kl(maps, other_maps)),
    ):
        assert same.item() == pytest.approx(0, abs=1e-4)
        assert different > 1e-3 and different.dtype == torch.float32


def test_channel_wise_kl_ignores_a_constant_per_channel_and_averages_channels() -> None:
    maps, other = _normal(2, 3, 4, 5), _normal(2, 3, 4, 5, seed=1)
    shifted = maps + _normal(2, 3, 1, 1, seed=2)
    torch.testing.assert_close(channel_wise_kl([shifted], [other]), channel_wise_kl([maps], [other]))
    doubled = channel_wise_kl([torch.cat((maps, maps), 1)], [torch.cat((other, other), 1)])
    torch.testing.assert_close(doubled, channel_wise_kl([maps], [other]))


def test_distance_kl_is_the_mean_over_the_sides_of_each_anchor() -> None:
    student, teacher = torch.zeros(2, 4, 2), torch.zeros(2, 4, 2)
    teacher[1, 2, 0] = math.log(3.0)
    expected = (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 4
    torch.testing.assert_close(distance_kl(student, teacher, temperature=1), torch.tensor([0.0, expected]))


def test_distance_kl_of_no_anchors_is_zero_and_keeps_the_gradient() -> None:
    empty = torch.zeros(0, 4, 17, requires_grad=True)
    found = distance_kl(empty, empty.detach()).sum()
    found.backward()
    assert found.item() == 0 and empty.grad is not None


@pytest.mark.parametrize("temperature", [1.0, 20.0])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 5.0])
def test_class_kl_keeps_its_digits_in_float32(temperature: float, spread: float) -> None:
    student = (_normal(3, 50, 4) * spread).requires_grad_()
    teacher = _normal(3, 50, 4, seed=1) * spread
    exact_student = student.detach().double().requires_grad_()
    logs = [(item / temperature).log_softmax(dim=-1) for item in (exact_student, teacher.double())]
    exact = (logs[1].exp() * (logs[1] - logs[0])).sum() * temperature**2
    exact.backward()
    found = class_kl(student, teacher, temperature=temperature)
    found.backward()
    assert found.item() == pytest.approx(exact.item(), rel=1e-5 if spread > 0.1 else 1e-2)
    torch.testing.assert_close(student.grad, exact_student.grad.float(), rtol=1e-4, atol=1e-5)


def test_plain_output_distillation_pulls_towards_the_teacher() -> None:
    teacher = (_normal(2, 20, 3, seed=1), _normal(2, 20, 4, seed=2).abs() + 0.5)
    student = (_normal(2, 20, 3).requires_grad_(), (_normal(2, 20, 4, seed=3).abs() + 0.5).requires_grad_())
    assert all(abs(term.item()) < 1e-5 for term in plain_output_distillation(teacher, teacher).values())
    optimizer = torch.optim.Adam(student, lr=0.1)
    first = sum(plain_output_distillation(student, teacher).values()).item()
    for _ in range(100):
        optimizer.zero_grad()
        sum(plain_output_distillation(student, teacher).values()).backward()
        optimizer.step()
    assert sum(plain_output_distillation(student, teacher).values()).item() < 0.1 * first


def test_plain_output_distillation_does_not_grow_with_the_batch() -> None:
    student, teacher = (
        (_normal(2, 20, 3), torch.ones(2, 20, 4)),
        (_normal(2, 20, 3, seed=1), torch.full((2, 20, 4), 2.0)),
    )
    once = plain_output_distillation(student, teacher, temperature=2)
    twice = plain_output_distillation(
        *(tuple(item.repeat(2, 1, 1) for item in pair) for pair in (student, teacher)), temperature=2
    )
    assert len(once) == len(twice) > 1
    for name, term in once.items():
        torch.testing.assert_close(term, twice[name])


def test_the_teacher_gets_no_gradient() -> None:
    teacher = (_normal(1, 5, 3, seed=1).requires_grad_(), torch.ones(1, 5, 4, requires_grad=True))
    student = (_normal(1, 5, 3).requires_grad_(), torch.full((1, 5, 4), 2.0, requires_grad=True))
    terms = [*plain_output_distillation(student, teacher).values(), class_kl(student[0], teacher[0])]
    sum(terms).backward()
    assert teacher[0].grad is None and teacher[1].grad is None and student[0].grad.any()


def test_fade_runs_from_one_to_its_end() -> None:
    assert fade(0, 300) == 1
    assert fade(150, 300) == pytest.approx(0.505)
    assert fade(300, 300) == pytest.approx(0.01)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        class_kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0)
    with pytest.raises(ValueError, match="have to pair up"):
        channel_wise_kl([torch.zeros(1, 2, 3, 3)], [torch.zeros(1, 2, 3, 4)])
