"""Entries in the metadata of ONNX files."""

from __future__ import annotations

import onnx

from yolov6core.exchange.onnx_notes import get_note, set_note


def test_notes_are_replaced_not_added():
    model = onnx.ModelProto()
    set_note(model, "dialect", "trt")
    set_note(model, "dialect", "ort")
    assert get_note(model, "dialect") == "ort"
    assert len(model.metadata_props) == 1
    assert get_note(model, "precision", "fp32") == "fp32"
