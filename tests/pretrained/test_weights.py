"""Files of weights as people have them: wrapped names, foreign metadata, broken numbers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from yolov6core.base.errors import UserError
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.pretrained.weights import read_weights


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_detector(VARIANTS["test"], num_classes=3, block="conv_relu").state_dict()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_wrappers_are_taken_off(tmp_path, state, prefix, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    wrapped = {prefix + name: values for name, values in state.items()}
    if suffix == ".pt":
        torch.save(wrapped, path)
    else:
        save_file(wrapped, path)
    assert read_weights(path).tensors.keys() == state.keys()


def test_averages_and_compiled_parts_are_taken_off(tmp_path, state) -> None:
    wrapped = {"module." + name.replace("head.", "head._orig_mod."): values for name, values in state.items()}
    torch.save({"n_averaged": torch.tensor(3), **wrapped}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").tensors.keys() == state.keys()
    torch.save({**wrapped, **state}, tmp_path / "b.pt")
    with pytest.raises(UserError, match="twice"):
        read_weights(tmp_path / "b.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_are_named(tmp_path, state, value) -> None:
    broken = {name: values.clone() for name, values in state.items()}
    broken["head.cls_preds.0.bias"][1] = value
    torch.save(broken, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"1 tensors hold NaN or infinity \(head.cls_preds.0.bias\)"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("meta", [{"format": "pt"}, {"meta": "1"}, {"meta": "{}"}, {"meta": '{"a": 1}'}, {"meta": "["}])
def test_foreign_metadata_are_no_matter(tmp_path, state, meta) -> None:
    save_file(state, tmp_path / "a.safetensors", metadata=meta)
    assert read_weights(tmp_path / "a.safetensors").found == "plain tensors"


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"format_version": [1]},
        {"names": None},
        {"names": "abc"},
        {"names": [1, 2, 3]},
        {"image_size": 640},
        {"image_size": ["a", "b"]},
        {"model": []},
        {"variant": 3},
        {"quant": "int8"},
    ],
    ids=str,
)
def test_our_own_metadata_of_another_shape_are_one_message(tmp_path, state, change) -> None:
    meta = {"format_version": 1, "names": ["a", "b", "c"], "image_size": [64, 64], "variant": "test"}
    meta |= {"model": VARIANTS["test"].to_meta()}
    save_file(state, tmp_path / "a.safetensors", metadata={"meta": json.dumps(meta)})
    assert read_weights(tmp_path / "a.safetensors").names == ("a", "b", "c")
    save_file(state, tmp_path / "b.safetensors", metadata={"meta": json.dumps(meta | change)})
    with pytest.raises(UserError, match=r"b\.safetensors"):
        read_weights(tmp_path / "b.safetensors")
