"""Another float network as the teacher of quantization-aware training: a larger one, or one that does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.support.quantized_start import pixels
from yolov6core.base.errors import UserError
from yolov6core.int8.qat import QatTask, QatWeights
from yolov6core.int8.qat_teacher import load_qat_teacher
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS, ModelSpec
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import QuantizedModel, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method
from yolov6core.tasks.networks import save_float

SMALL = VARIANTS["test"]
WIDER = dataclasses.replace(SMALL, width=0.125)
BINS = dataclasses.replace(VARIANTS["yolov6s_base"], width=0.0625, depth=0.17)


def card_of(spec: ModelSpec, names: tuple[str, ...] = ("a", "b")) -> NetworkCard:
    return NetworkCard(spec, "test", spec.block, names, image_size=(64, 64))


@pytest.fixture(scope="module")
def student() -> tuple[QuantizedModel, NetworkCard]:
    torch.manual_seed(0)
    model = insert_quantizers(deploy_(build_detector(SMALL, num_classes=2).eval()))
    set_ranges_(model, ranges(collect(model, [pixels() / 255]), Method("max")))
    return model, card_of(SMALL)


def write_teacher(path: Path, card: NetworkCard) -> Path:
    """A network that finds more than fresh ones do, all of which find nothing."""
    torch.manual_seed(1)
    network = build_detector(card.spec, num_classes=card.num_classes, block=card.block)
    with torch.no_grad():
        for layer in network.head.cls_preds:
            layer.bias.add_(3)
    save_float(path, network, card)
    return path


@pytest.mark.parametrize(
    ("spec", "features", "bins"),
    [(SMALL, 1.0, 4), (WIDER, 0.0, 4), (BINS, 0.0, 4 * (BINS.reg_max + 1))],
    ids=["same shape", "wider", "with bins"],
)
def test_a_teacher_of_another_file_teaches(student, tmp_path, spec, features, bins):
    model, card = student
    path = write_teacher(tmp_path / "t.safetensors", card_of(spec))
    teacher = load_qat_teacher(path, model, card, features=features > 0, device="cpu")
    assert teacher(pixels() / 255)[1].shape[-1] == bins
    parts = QatWeights(detection=0, distill_features=features)
    terms = QatTask(model, teacher, card, parts=parts, iou="siou")((pixels(), torch.zeros(0, 6)), 0)
    assert set(terms) == {"distill_class", "distill_box"} | ({"distill_features"} if features else set())
    assert terms["distill_class"] > 1e-3, "it says other things than the student"
    sum(terms.values()).backward()


@pytest.mark.parametrize(
    ("card", "features", "message"),
    [
        (card_of(WIDER), True, "channels, those of the network to be trained (test) [8, 16, 32]; set qat.distill_feat"),
        (card_of(SMALL, ("a", "c")), False, "classes of t.safetensors (test) are ['a', 'c'], those of the network"),
        (card_of(dataclasses.replace(VARIANTS["yolov6n6"], width=0.0625)), False, "strides of t.safetensors"),
    ],
    ids=["width", "classes", "levels"],
)
def test_a_teacher_that_does_not_fit_is_refused(student, tmp_path, monkeypatch, card, features, message):
    monkeypatch.chdir(tmp_path)
    path = write_teacher(Path("t.safetensors"), card)
    with pytest.raises(UserError) as caught:
        load_qat_teacher(path, *student, features=features, device="cpu")
    assert str(caught.value).startswith("qat.teacher: ") and message in str(caught.value), caught.value


def test_a_file_that_is_no_teacher_is_refused(student, tmp_path):
    with pytest.raises(UserError, match=r"qat.teacher: .*absent.safetensors does not exist.*import-checkpoint"):
        load_qat_teacher(tmp_path / "absent.safetensors", *student, features=False, device="cpu")
