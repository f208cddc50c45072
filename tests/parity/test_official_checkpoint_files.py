"""Checkpoint files that the official trainer wrote, against the recorded contents: every number exact."""

from __future__ import annotations

import pytest
import torch

from tests.support.golden import GOLDEN, golden_files
from yolov6core.pretrained.official_file import OfficialCheckpoint, read_official_checkpoint

FILES = pytest.mark.parametrize("name", golden_files("official_*.pt"))


@pytest.fixture
def case(golden, name: str) -> tuple[OfficialCheckpoint, dict[str, torch.Tensor], dict]:
    """The file as read here, the arrays recorded for it and its meta data."""
    arrays, meta = golden("official_checkpoint_expected.npz")
    stem = name.removesuffix(".pt")
    own = {
        key.removeprefix(f"{stem}/"): torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith(f"{stem}/")
    }
    if not any(key.startswith("model_state/") for key in own):
        # A stripped file holds the average of the unstripped one, whose state is recorded once.
        source = f"{stem.removesuffix('_stripped')}/ema_state/"
        own |= {
            key.replace(source, "model_state/"): torch.from_numpy(arrays[key])
            for key in arrays.files
            if key.startswith(source)
        }
    return read_official_checkpoint(GOLDEN / name), own, meta[name]


@pytest.mark.slow
@FILES
def test_states_are_exact(case, name):
    found, expected, meta = case
    present = [part for part in ("model", "ema") if meta["types"][part] != "builtins.NoneType"]
    assert list(found.parts) == present
    assert found.weights is found.parts[present[-1]]
    for part, state in found.parts.items():
        assert list(state) == meta[part]["state_names_in_order"]
        assert sorted({str(tensor.dtype) for tensor in state.values()}) == sorted(meta[part]["dtypes"])
        for key, tensor in state.items():
            recorded = expected[f"{part}_state/{key}"]
            assert tensor.dtype == recorded.dtype and torch.equal(tensor, recorded), f"{part}: {key}"


@FILES
def test_description_and_progress(case, name):
    found, _, meta = case
    assert found.kind == ("trainer" if "ema" in found.parts else "stripped")
    assert list(found.names) == meta["model"]["names"]
    assert found.num_classes == meta["model"]["nc"]
    assert list(found.strides) == meta["model"]["stride"]
    assert found.epoch == meta["epoch"]
    assert found.updates == meta["updates"]
    assert list(found.results) == meta["results"]


@FILES
def test_optimizer_is_exact(case, name):
    found, expected, meta = case
    if "optimizer_param_groups" not in meta:
        assert found.optimizer is None
        return
    assert list(found.optimizer.groups) == meta["optimizer_param_groups"]
    prefix = "optimizer_momentum_buffer/"
    recorded = {int(key.removeprefix(prefix)): value for key, value in expected.items() if key.startswith(prefix)}
    assert sorted(found.optimizer.momentum) == sorted(recorded) and len(recorded) == meta["optimizer_state_count"]
    for index, buffer in found.optimizer.momentum.items():
        assert buffer.dtype == recorded[index].dtype and torch.equal(buffer, recorded[index]), index
