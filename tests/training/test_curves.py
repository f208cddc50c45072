"""Curves for TensorBoard: what is drawn, and that an interrupted training draws no step twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from tests.training.test_loop import batches, losses_of, make_learner
from yolov6core.base.errors import Interrupted, UserError
from yolov6core.training import curves
from yolov6core.training.fit import fit
from yolov6core.training.interruption import CheckpointManager, ResumePoint
from yolov6core.training.recipe import Recipe
from yolov6core.training.train_state import TrainState

RECIPE = Recipe(
    epochs=3,
    batch_size=4,
    lr=0.1,
    final_lr_factor=0.1,
    momentum=0.9,
    weight_decay=0.0,
    warmup_epochs=1,
    close_mosaic_epochs=0,
    eval_every=2,
    seed=0,
)
Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def numbers_of_two_digits(monkeypatch) -> None:
    """TensorBoard reads files of one second in the order of their names, and the number 10 stands before 9 there."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(10))


def train(state: TrainState, folder: Path, *, drawn: bool = True) -> list[dict[str, float]]:
    """Three epochs of five steps."""
    point = ResumePoint(folder / "state" / "state.safetensors", curves=folder / "curves" if drawn else None)
    compute = losses_of(state.model)

    def evaluate(_model: nn.Module) -> dict[str, float]:
        return {"map50_95": 0.25, "map50": 0.5}

    run = fit(
        state,
        RECIPE,
        batches=lambda epoch, first: batches(epoch)[first:],
        losses=lambda batch, epoch: compute(batch),
        weights={"mse": 1.0},
        evaluate=evaluate,
        resume=point,
    )
    return run.rows


def points(folder: Path) -> Points:
    """What TensorBoard shows of a folder: tag -> (step, value)."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Points, list[dict[str, float]]]:
    """Points and rows of a training that nothing interrupts."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "EVERY", 2)
        rows = train(make_learner(), folder)
    return points(folder / "curves"), rows


def test_steps_and_epochs_are_drawn_over_the_steps(straight):
    drawn, rows = straight
    assert [step for step, _ in drawn["step/mse"]] == [2, 4, 6, 8, 10, 12, 14]
    assert [step for step, _ in drawn["epoch/mse"]] == [5, 10, 15]
    for name in ("epoch", "lr", "mse", "total"):
        assert [value for _, value in drawn[f"epoch/{name}"]] == pytest.approx([row[name] for row in rows])
    assert drawn["select/map50_95"] == [(10, 0.25), (15, 0.25)] and drawn["select/map50"] == [(10, 0.5), (15, 0.5)]


def test_a_step_has_the_loss_of_its_batches_alone(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(curves, "EVERY", 1)
    rows = train(make_learner(accumulate=2), tmp_path)
    drawn = points(tmp_path / "curves")["step/total"]
    assert [step for step, _ in drawn] == list(range(1, 10)), "five batches are three steps"
    for epoch, row in enumerate(rows):
        first, second, third = (value for _, value in drawn[3 * epoch : 3 * epoch + 3])
        assert (2 * first + 2 * second + third) / 5 == pytest.approx(row["total"], rel=1e-5)


@pytest.mark.parametrize("stopped_at", [1, 4, 7, 13])
@pytest.mark.parametrize("saved", [True, False], ids=["asked to stop", "killed"])
def test_a_continued_training_draws_what_a_straight_one_draws(straight, tmp_path, monkeypatch, stopped_at, saved):
    monkeypatch.setattr(curves, "EVERY", 2)
    after_step = CheckpointManager.after_step

    def stop(manager: CheckpointManager, progress) -> None:
        if manager.state.step == stopped_at:
            manager.request.asked = saved
            if not saved:
                raise KeyboardInterrupt
        after_step(manager, progress)

    with monkeypatch.context() as patch, pytest.raises(Interrupted if saved else KeyboardInterrupt):
        patch.setattr(CheckpointManager, "after_step", stop)
        train(make_learner(), tmp_path)
    rows = train(make_learner(), tmp_path)
    assert rows == straight[1]
    again = points(tmp_path / "curves")
    assert again == straight[0], "every step once, with the values of an uninterrupted training"


def test_the_same_training_again_takes_the_place_of_the_first(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "EVERY", 2)
    train(make_learner(), tmp_path)
    (tmp_path / "state" / "state.safetensors").unlink()
    train(make_learner(), tmp_path)
    assert points(tmp_path / "curves") == straight[0]


def test_curves_change_no_weight(tmp_path):
    pytest.importorskip("tensorboard")
    with_curves, without = make_learner(), make_learner()
    train(with_curves, tmp_path / "with")
    train(without, tmp_path / "without", drawn=False)
    assert not (tmp_path / "without" / "curves").exists()
    for name, tensor in without.model.state_dict().items():
        assert tensor.equal(with_curves.model.state_dict()[name]), name


def test_a_missing_package_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"runtime\.tensorboard is set.*pip install -e '\.\[tensorboard\]'.*null"):
        train(make_learner(), tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "curves").write_text("mine")
    with pytest.raises(UserError, match=r"runtime\.tensorboard: .*curves is a file"):
        train(make_learner(), tmp_path)
    assert (tmp_path / "curves").read_text() == "mine"
