"""The card of a network: metadata and back, old metadata, and wrong ones."""

from __future__ import annotations

import dataclasses
import json

import pytest

from yolov6core.models.card import CardError, NetworkCard, QuantizationCard, new_card
from yolov6core.models.variants import VARIANTS

CARD = new_card("yolov6n_v2", names=("a", "b"), image_size=(64, 96), shrink=6)
INT8 = QuantizationCard("percentile_99.99", "openvino", "saturating", ("x.conv", "y.conv"), "frozen")


@pytest.mark.parametrize(
    "card",
    [CARD, CARD.quantized(INT8), dataclasses.replace(CARD, deployed=True, aux_head="anchors")],
    ids=["float", "int8", "aux"],
)
def test_cards_survive_the_file(card):
    assert NetworkCard.from_meta(json.loads(json.dumps(card.to_meta()))) == card


def test_a_card_answers_what_a_loss_asks():
    assert CARD.num_classes == 2 and CARD.strides == (8, 16, 32) and CARD.block == "repopt" and CARD.reg_max == 0
    assert dataclasses.replace(CARD, aux_head="distribution").reg_max == 16
    assert new_card("yolov6m", names=("a",), image_size=(64, 64)).reg_max == 16


def test_metadata_of_version_0_1_are_read():
    meta = CARD.to_meta()
    meta["branch"] = meta.pop("aux_head")
    meta["quant"] = {"method": "max", "float_layers": ["b", "a"], "weight_ranges": "follow"}
    found = NetworkCard.from_meta(meta)
    assert found.quantization == QuantizationCard("max", "trt", "exact", ("a", "b"), "follow")
    assert dataclasses.replace(found, quantization=None) == CARD


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": {"depht": 1}},
        {"names": None},
        {"image_size": [64]},
        {"quant": {}},
        {"quant": {"method": "max", "weight_ranges": "thawed"}},
        {"quant": {"method": "max", "cpu": "quantum"}},
    ],
    ids=str,
)
def test_wrong_metadata_are_refused(change):
    with pytest.raises(CardError, match="the metadata describe no network"):
        NetworkCard.from_meta(CARD.to_meta() | change)


def test_sizes_and_variants_are_checked():
    with pytest.raises(ValueError, match="yolov6z"):
        new_card("yolov6z", names=("a",), image_size=(64, 64))
    with pytest.raises(ValueError, match="multiples of 64 for yolov6n6"):
        new_card("yolov6n6", names=("a",), image_size=(64, 96))
    assert all(new_card(name, names=("a",), image_size=(128, 128)).spec is spec for name, spec in VARIANTS.items())
