"""Schedule, averaging, one epoch, and state that continues exactly where it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov6core.training.ema import ModelEma
from yolov6core.training.loop import EpochProgress, NonFiniteLossError, clip_gradients_, train_one_epoch
from yolov6core.training.resume import load_state, save_state
from yolov6core.training.schedule import OPTIMIZERS, Schedule, bounded_warmup
from yolov6core.training.train_state import TrainState

SCHEDULE = Schedule(
    base_lr=0.1,
    final_factor=0.1,
    total_steps=100,
    warmup_steps=10,
    momentum=0.9,
    warmup_momentum=0.5,
    warmup_bias_lr=0.2,
)


def make_learner(seed: int = 0, optimizer: str = "sgd", **settings) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 6, 6))
    stepper = OPTIMIZERS[optimizer](model, momentum=0.9, weight_decay=1e-3)
    return TrainState(model, stepper, SCHEDULE, ModelEma(model, total_steps=100), **settings)


def batches(epoch: int):
    generator = torch.Generator().manual_seed(epoch)
    return [(torch.rand(4, 3, 6, 6, generator=generator), torch.rand(4, 2, generator=generator)) for _ in range(5)]


def losses_of(model):
    return lambda batch: {"mse": (model(batch[0]) - batch[1]).square().mean()}


def test_schedule_values():
    assert SCHEDULE.lr(0) == pytest.approx(0.01)
    assert SCHEDULE.lr(9) == pytest.approx(0.1, rel=0.03)
    assert SCHEDULE.lr(50) == pytest.approx(0.055)
    assert SCHEDULE.lr(100) == SCHEDULE.lr(500) == pytest.approx(0.01)
    assert SCHEDULE.bias_lr(0) == pytest.approx(0.2 * 0.9 + 0.01 * 0.1)
    assert SCHEDULE.bias_lr(10) == SCHEDULE.lr(10)
    assert SCHEDULE.momentum_at(0) == pytest.approx(0.54) and SCHEDULE.momentum_at(10) == 0.9
    assert bounded_warmup(3, steps_per_epoch=13, total_steps=130) == 26, "a fifth of a short training at most"
    assert bounded_warmup(3, steps_per_epoch=13, total_steps=13_000) == 39


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3, float("inf"), float("nan")])
def test_clipping_is_that_of_torch(scale):
    ours, theirs = make_learner().model, make_learner().model
    norm = None
    for limit in (10.0, None):  # None: exactly the norm, where rounding decides
        for model in (ours, theirs):
            torch.manual_seed(1)
            for parameter in list(model.parameters())[1:]:  # one has no gradient
                parameter.grad = torch.randn_like(parameter) * scale
        limit = norm if limit is None else limit
        norm = float(nn.utils.clip_grad_norm_(theirs.parameters(), limit))
        clip_gradients_(ours, limit)
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.grad is two.grad is None or torch.equal(one.grad.nan_to_num(7.0), two.grad.nan_to_num(7.0))


def test_only_kernels_decay():
    decayed = {g["name"]: g["weight_decay"] for g in make_learner().optimizer.param_groups}
    assert decayed == {"plain": 0.0, "kernels": 1e-3, "biases": 0.0}


def test_average_is_the_recursion_of_its_decay():
    state = make_learner()
    weight = state.model[0].weight
    expected = weight.detach().clone()
    for step in range(1, 6):
        weight.data.add_(1.0)
        state.model[1].num_batches_tracked.add_(1)
        state.ema.update(state.model)
        expected += (weight.detach() - expected) * (1 - state.ema.decay_at(step))
    torch.testing.assert_close(state.ema.model[0].weight, expected)
    assert state.ema.model[1].num_batches_tracked.item() == 6, "counters follow instead of being averaged"
    assert ModelEma(state.model, total_steps=10**6).decay == 0.9999


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path):
    straight = make_learner()
    for epoch in range(4):
        train_one_epoch(straight, batches(epoch), losses_of(straight.model), {"mse": 1.0})
    broken = make_learner()
    for epoch in range(2):
        train_one_epoch(broken, batches(epoch), losses_of(broken.model), {"mse": 1.0})
    save_state(tmp_path / "s.safetensors", broken, extra={"best": torch.ones(2)}, progress={"next_epoch": 2})
    resumed = make_learner(seed=9)
    extra, progress = load_state(tmp_path / "s.safetensors", resumed)
    assert progress == {"next_epoch": 2} and torch.equal(extra["best"], torch.ones(2))
    for epoch in range(2, 4):
        train_one_epoch(resumed, batches(epoch), losses_of(resumed.model), {"mse": 1.0})
    for key, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
        assert torch.equal(straight.ema.model.state_dict()[key], resumed.ema.model.state_dict()[key]), key


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"optimizer": "adamw"}], ids=str)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_training_interrupted_inside_an_epoch_ends_in_the_same_bytes(tmp_path, settings, step):
    class Stop(Exception):
        pass

    def stop(progress: EpochProgress) -> None:
        if broken.step == step:
            progress = {"batches": progress.batches, "sums": progress.sums}
            save_state(tmp_path / "s.safetensors", broken, extra={}, progress=progress)
            raise Stop

    straight, broken, resumed = (make_learner(seed, **settings) for seed in (0, 0, 9))
    means = train_one_epoch(straight, batches(0), losses_of(straight.model), {"mse": 1.0})
    with pytest.raises(Stop):
        train_one_epoch(broken, batches(0), losses_of(broken.model), {"mse": 1.0}, after_step=stop)
    progress = EpochProgress(**load_state(tmp_path / "s.safetensors", resumed)[1])
    left = batches(0)[progress.batches :]
    assert means == train_one_epoch(resumed, left, losses_of(resumed.model), {"mse": 1.0}, progress=progress)
    assert resumed.step == straight.step
    for key, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
        assert torch.equal(straight.ema.model.state_dict()[key], resumed.ema.model.state_dict()[key]), key


def test_accumulated_gradients_are_those_of_the_larger_batch():
    whole, parts = make_learner(), make_learner(accumulate=2)
    large = batches(0)[0]
    small = [tuple(half) for half in zip(*(part.chunk(2) for part in large), strict=True)]
    for state, given in ((whole, [large]), (parts, small)):
        train_one_epoch(state, given, losses_of(state.model), {"mse": 1.0}, freeze_norm=True)
        assert state.step == 1
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_last_step_of_an_epoch_takes_what_is_left():
    state = make_learner(accumulate=2)
    train_one_epoch(state, batches(0), losses_of(state.model), {"mse": 1.0})
    assert state.step == 3


def test_adamw_follows_the_schedule():
    state = make_learner(optimizer="adamw")
    train_one_epoch(state, batches(0)[:1], losses_of(state.model), {"mse": 1.0})
    group = state.optimizer.param_groups[0]
    assert group["lr"] == SCHEDULE.lr(0) and group["betas"] == (SCHEDULE.momentum_at(0), 0.999)


def test_scaled_gradients_make_the_same_step():
    """What float16 needs on CUDA, with the scaler that torch has for the CPU."""
    plain, scaled = make_learner(), make_learner(scaler=torch.amp.GradScaler("cpu"))
    for state in (plain, scaled):
        train_one_epoch(state, batches(0), losses_of(state.model), {"mse": 1.0})
    for ours, theirs in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_non_finite_loss_stops_before_the_weights_change():
    state = make_learner()
    before = state.model[0].weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match="mse nan") as error:
        train_one_epoch(state, batches(0), lambda _: {"mse": state.model[0].weight.sum() * float("nan")}, {"mse": 1})
    assert torch.equal(before, state.model[0].weight)
    assert torch.equal(error.value.batch[0], batches(0)[0][0])


def test_frozen_norm_uses_and_keeps_its_stored_statistics():
    state = make_learner()
    norm = state.model[1]
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(1.0)
    seen = []
    state.model[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    convolved = []
    state.model[1].register_forward_pre_hook(lambda _, inputs: convolved.append(inputs[0].detach()))
    train_one_epoch(state, batches(0)[:1], losses_of(state.model), {"mse": 1.0}, freeze_norm=True)
    assert (norm.running_mean == 0.3).all()
    torch.testing.assert_close(seen[0], (convolved[0] - 0.3) / (1 + norm.eps) ** 0.5)
    train_one_epoch(state, batches(0)[:1], losses_of(state.model), {"mse": 1.0})
    assert not (norm.running_mean == 0.3).any(), "and the next epoch is an ordinary one again"


def test_an_epoch_without_batches_is_an_error():
    with pytest.raises(ValueError, match="no batches"):
        train_one_epoch(make_learner(), [], lambda _: {}, {})
