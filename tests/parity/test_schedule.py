"""Learning rates, momentum, decay groups and weight averaging against simulated trainings.

The record differs from our own default on purpose: its cosine moves once an epoch and is one epoch behind, its warm-up
lasts at least 1000 steps (more than a small training has), counts its first step as 0 and aims at the cosine of the
current epoch, which then holds until that epoch's end. Our schedule moves with every step. So every row is computed by
a schedule of its own, constant but for the warm-up. Batch scaling and gradient accumulation have no counterpart: rate
and decay are parameters, every batch is a step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.golden import golden_files
from yolov6core.training.ema import ModelEma
from yolov6core.training.schedule import Schedule, bounded_warmup, set_step_, sgd

FILES = pytest.mark.parametrize("name", golden_files("schedule*.json"))
LONG = 10**9
"""Steps of a training so long that nothing of ours is bounded by its length."""
GROUPS = {"plain": "lr_group0_bn_weights", "kernels": "lr_group1_weights", "biases": "lr_group2_biases"}


def _close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-15)


def _schedule(*, lr: float, factor: float, total: int, **warmup: float) -> Schedule:
    off = {"warmup_steps": 0, "momentum": 0.0, "warmup_momentum": 0.0, "warmup_bias_lr": 0.0}
    return Schedule(base_lr=lr, final_factor=factor, total_steps=total, **(off | warmup))


def _cosine(run: dict[str, Any]) -> Schedule:
    """One step of ours is one epoch of the record."""
    solver = run["solver_config"]
    factor = {"Cosine": solver["lrf"], "Constant": 1.0}[solver["lr_scheduler"]]
    return _schedule(lr=run["lr0_after_batch_scaling"], factor=factor, total=run["epochs"])


def _row_schedule(run: dict[str, Any], *, epoch: int, step: int, biases: bool) -> Schedule:
    """Our schedule whose step `step - 1` is the record's step `step` of the whole training."""
    solver, length = run["solver_config"], run["warmup_steps"]
    begins_inside = epoch * run["steps_per_epoch"] <= length
    rate = _cosine(run).lr(epoch if begins_inside else epoch - 1)
    if biases and 0 < step <= length:
        rate *= length / step  # our biases fall towards the rate of the others, theirs towards the end of the ramp
    return _schedule(
        lr=rate,
        factor=1.0,
        total=LONG,
        warmup_steps=length,
        momentum=solver["momentum"],
        warmup_momentum=solver["warmup_momentum"],
        warmup_bias_lr=solver["warmup_bias_lr"],
    )


def _runs(golden: Callable, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    runs = golden(name)[1]["runs"]
    assert runs
    yield from runs.items()


def _rows(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (dict(zip(run["columns"], row, strict=True)) for row in run["rows"])


def _optimizer(weight_decay: float) -> torch.optim.SGD:
    return sgd(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), momentum=0.9, weight_decay=weight_decay)


@FILES
def test_rates_and_momentum_of_every_step(golden: Callable, name: str) -> None:
    optimizer = _optimizer(0.0)
    for case, run in _runs(golden, name):
        for row in _rows(run):
            epoch, step = row["epoch"], row["epoch"] * run["steps_per_epoch"] + row["step"]
            for group in optimizer.param_groups:
                schedule = _row_schedule(run, epoch=epoch, step=step, biases=group["name"] == "biases")
                set_step_(optimizer, schedule, step - 1 if run["warmup_steps"] else step)
                place = (case, group["name"], epoch, row["step"])
                assert group["lr"] == _close(row[GROUPS[group["name"]]]), place
                assert group["momentum"] == _close(row["momentum"]), place


@FILES
def test_rates_after_every_epoch(golden: Callable, name: str) -> None:
    for case, run in _runs(golden, name):
        for epoch, *rates, factor in run["after_epoch"]:
            found = _cosine(run).lr(epoch)
            assert all(found == _close(rate) for rate in rates), (case, epoch)
            assert found / run["lr0_after_batch_scaling"] == _close(factor), (case, epoch)


@FILES
def test_length_of_the_warmup(golden: Callable, name: str) -> None:
    for case, run in _runs(golden, name):
        if run["warmup_steps"] == 0:
            continue  # a fine-tuning: the record switches it off, whatever its settings say
        epochs, steps = run["solver_config"]["warmup_epochs"], run["steps_per_epoch"]
        assert max(bounded_warmup(epochs, steps, LONG), 1000) == run["warmup_steps"], case
        own = bounded_warmup(epochs, steps, run["epochs"] * steps)
        assert own <= run["epochs"] * steps / 5, f"{case}: ours leaves the warm-up of a short training too"


@FILES
def test_only_kernels_decay(golden: Callable, name: str) -> None:
    for case, run in _runs(golden, name):
        groups = {group["name"]: group for group in _optimizer(run["weight_decay_after_scaling"]).param_groups}
        assert [groups[name]["weight_decay"] for name in GROUPS] == run["weight_decay_per_group"], case


@FILES
def test_decay_of_the_average(golden: Callable, name: str) -> None:
    ema, tables = ModelEma(nn.Identity(), total_steps=LONG), golden(name)[1]["tables"]
    assert (ema.decay, ema.ramp) == (tables["ema_decay_constant"], tables["ema_time_constant"])
    for updates, decay in tables["ema_decay_at_update_count"]:
        assert ema.decay_at(updates) == _close(decay), updates
    for case, run in _runs(golden, name):
        for row in _rows(run):
            found = ema.decay_at(row["ema_updates_total"])
            assert found == _close(row["ema_decay_at_that_count"]), (case, row["epoch"], row["step"])


@FILES
def test_cosine_tables(golden: Callable, name: str) -> None:
    tables = golden(name)[1]["tables"]
    found = [re.fullmatch(r"cosine_factor_epochs(\d+)_lrf([\d.e-]+)", key) for key in tables]
    assert any(found)
    for match in filter(None, found):
        epochs, end = int(match[1]), float(match[2])
        schedule = _schedule(lr=1.0, factor=end, total=epochs)
        for epoch, factor in tables[match[0]]:
            # past its end the record's cosine rises again; ours stays
            assert schedule.lr(epoch) == _close(factor if epoch <= epochs else end), (match[0], epoch)


def _network(state: dict[str, list]) -> nn.Module:
    """A module whose tensors are those of a recorded state."""
    network = nn.Module()
    for name, values in state.items():
        network.register_buffer(name.replace(".", "_"), torch.tensor(values))
    return network


@FILES
def test_average_of_a_small_network(golden: Callable, name: str) -> None:
    example = golden(name)[1]["ema_example"]
    ema = ModelEma(_network(example["start"]), total_steps=LONG)
    assert example["after_each_update"]
    for update in example["after_each_update"]:
        ema.update(_network(update["model"]))
        for key, values in update["ema"].items():
            found: Tensor = ema.model.get_buffer(key.replace(".", "_"))
            if found.is_floating_point():
                torch.testing.assert_close(found, torch.tensor(values), rtol=1e-6, atol=1e-7)
            else:  # the record leaves batch counters where they were; ours follow
                assert found.tolist() == update["model"][key]
