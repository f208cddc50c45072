"""What a recipe asks of the devices that it runs on."""

from __future__ import annotations

import logging

import pytest

from stages.shared.trainings import recipe_of
from tests.support.pipeline import section
from yolov6core.base.errors import UserError, logger
from yolov6core.training.devices import check_batch, check_precision
from yolov6core.training.distributed import ProcessGroup
from yolov6core.training.recipe import Recipe


def recipe(**changes: object) -> Recipe:
    return recipe_of(section("train", **changes))


def test_a_batch_is_shared_equally_or_refused():
    check_batch(8, ProcessGroup(rank=0, count=4))
    with pytest.raises(UserError, match="batch_size is 8; it has to be a multiple of the 3 devices"):
        check_batch(8, ProcessGroup(rank=0, count=3))


def test_only_the_first_process_speaks(monkeypatch):
    levels: list[int] = []
    monkeypatch.setattr(logger, "setLevel", levels.append)
    check_batch(8, ProcessGroup(rank=0, count=2))
    assert levels == []
    check_batch(8, ProcessGroup(rank=1, count=2))
    assert levels == [logging.ERROR]


def test_half_precision_is_for_devices_that_have_it():
    cpu, gpu = ProcessGroup(device="cpu"), ProcessGroup(device="cuda:0")
    for amp in ("none", "bf16"):
        check_precision(recipe(amp=amp), cpu)
    check_precision(recipe(amp="fp16"), gpu)
    with pytest.raises(UserError, match="amp is fp16, which needs runtime.device cuda"):
        check_precision(recipe(amp="fp16"), cpu)


@pytest.mark.parametrize(("device", "count"), [("cpu", 1), ("cpu", 2), ("cuda:0", 1)])
def test_batch_norm_is_synchronised_on_several_gpus_only(device, count):
    check_precision(recipe(sync_norm=True), ProcessGroup(count=2, device="cuda:0"))
    with pytest.raises(UserError, match="several CUDA devices only"):
        check_precision(recipe(sync_norm=True), ProcessGroup(count=count, device=device))
