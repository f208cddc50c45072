"""Terms of quantization-aware training: detection, and the float network as teacher."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from tests.support.quantized_start import pixels
from yolov6core.int8.qat import QatTask, QatWeights, distilled_maps
from yolov6core.models.blocks import deploy_
from yolov6core.models.card import NetworkCard
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS, ModelSpec
from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.insert import insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method

BINS = dataclasses.replace(VARIANTS["yolov6s_base"], width=0.0625, depth=0.17)


def pair(spec: ModelSpec, classes: int) -> tuple[nn.Module, nn.Module, NetworkCard]:
    """(student, teacher, card): the same network, quantized without an error that anyone would see, and float."""
    torch.manual_seed(0)
    teacher = deploy_(build_detector(spec, num_classes=classes).eval())
    student = insert_quantizers(teacher)
    set_ranges_(student, ranges(collect(student, [pixels() / 255]), Method("max")))
    names = tuple(map(str, range(classes)))
    return student, teacher, NetworkCard(spec, "test", spec.block, names, image_size=(64, 64))


def terms_of(student: nn.Module, teacher: nn.Module, card: NetworkCard, targets=None, **parts: float) -> dict:
    return QatTask(student, teacher, card, parts=QatWeights(**parts), iou="siou")((pixels(), targets), 0)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("spec", "bins"), [(VARIANTS["test"], False), (BINS, True)], ids=["distances", "bins"])
def test_terms(spec, bins, classes):
    student, teacher, card = pair(spec, classes)
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.4, 0.4], [1, classes - 1, 0.4, 0.6, 0.3, 0.5]])
    terms = terms_of(student, teacher, card, targets)
    dfl = {"dfl", "distill_dfl"} if bins else set()
    assert set(terms) == {"class", "iou", "distill_class", "distill_box", "distill_features"} | dfl
    assert set(terms) <= set(QatWeights().factors())
    assert all(term.isfinite() and term >= -1e-6 for term in terms.values())
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.slow
def test_distillation_is_zero_for_the_teacher_itself():
    for spec in (VARIANTS["test"], BINS):
        _, teacher, card = pair(spec, 2)
        terms = terms_of(copy.deepcopy(teacher), teacher, card, detection=0)
        assert {"distill_class", "distill_box", "distill_features"} <= set(terms)
        assert all(term.detach().abs() < 1e-4 for term in terms.values()), terms


def test_without_detection_no_labels_are_read():
    student, teacher, card = pair(VARIANTS["test"], 2)
    terms = terms_of(student, teacher, card, detection=0)
    assert set(terms) == {"distill_class", "distill_box", "distill_features"}
    only = {"detection": 0, "distill_class": 0, "distill_box": 0, "distill_dfl": 0}
    assert set(terms_of(student, teacher, card, **only)) == {"distill_features"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov6n", "yolov6m", "yolov6l6", "yolov6s_mbla", "yolov6_lite_s"])
def test_maps_are_found_in_every_family(name):
    student, teacher, _ = pair(dataclasses.replace(VARIANTS[name], width=0.0625, depth=0.17), 2)
    paths = distilled_maps(teacher)
    assert len(paths) == len(VARIANTS[name].strides)
    assert all(type(student.get_submodule(path)) is type(teacher.get_submodule(path)) for path in paths)
