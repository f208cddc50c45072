"""Raw maps, pixels as input, metadata, onnxsim: inputs and outputs other than float images and all boxes."""

import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from yolov6core.engines.compatibility import check_combination
from yolov6core.engines.onnx_facts import read_facts
from yolov6core.exchange.calibration_cache import read_cache
from yolov6core.exchange.interface import Interface, decode_maps
from yolov6core.export.dialects import GRID, write_traced
from yolov6core.export.onnx_export import RAW_OUTPUTS, to_onnx
from yolov6core.export.onnx_graph import simplified
from yolov6core.export.onnx_run import open_detector, open_outputs
from yolov6core.models.head import decode

SHAPE = (1, 3, 32, 64)
STRIDES = (8, 16)


class Maps(nn.Module):
    """Two levels: images [B, 3, H, W] to logits [B, A, 2] and distances [B, A, 4 * bins]."""

    def __init__(self, bins=1):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList([nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 8, 2, stride=2)])
        self.cls = nn.ModuleList(nn.Conv2d(8, 2, 1) for _ in STRIDES)
        self.reg = nn.ModuleList(nn.Conv2d(8, 4 * bins, 1) for _ in STRIDES)

    def forward(self, images):
        maps = [self.down[0](images).relu()]
        maps.append(self.down[1](maps[0]).relu())

        def joined(layers):
            return torch.cat([layer(x).flatten(2) for layer, x in zip(layers, maps, strict=True)], 2).transpose(1, 2)

        return joined(self.cls), joined(self.reg)


@pytest.fixture
def pixels():
    """Two images of whole pixel values, [2, 3, H, W] in 0..1."""
    values = np.random.default_rng(3).integers(0, 256, (2, *SHAPE[1:]))
    return values.astype(np.float32) / np.float32(255)


def raw_trace(bins=1, **options):
    return to_onnx(Maps(bins), input_shape=SHAPE, outputs=RAW_OUTPUTS, **options)


@pytest.mark.parametrize("bins", [1, 17])
def test_maps_decode_as_in_torch(bins):
    torch.manual_seed(1)
    logits = [torch.randn(2, 3, 32 // s, 64 // s) * 50 for s in STRIDES]
    distances = [torch.randn(2, 4 * bins, 32 // s, 64 // s) for s in STRIDES]
    flat = [torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2) for maps in (logits, distances)]
    wanted = decode(*flat, image_size=(32, 64), strides=STRIDES)
    arrays = [[x.numpy() for x in maps] for maps in (logits, distances)]
    found = decode_maps(*arrays, image_size=(32, 64), strides=STRIDES)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bins", [1, 17])
@pytest.mark.parametrize("dialect, fp16", [("openvino", False), ("ort", False), ("trt", True)])
def test_raw_files_give_the_maps(tmp_path, pixels, dialect, fp16, bins):
    interface = Interface(form="raw", strides=STRIDES)
    trace = raw_trace(bins, opset=19, dynamic_batch=True)
    export = write_traced(trace, tmp_path / "raw.onnx", dialect=dialect, fp16=fp16, interface=interface)
    maps = open_outputs(export.path, dialect)(pixels)
    assert {name: maps[name].shape for name in interface.outputs} == {
        "logits_8": (2, 2, 4, 8),
        "logits_16": (2, 2, 2, 4),
        "distances_8": (2, 4 * bins, 4, 8),
        "distances_16": (2, 4 * bins, 2, 4),
    }
    assert {values.dtype for values in maps.values()} == {np.dtype(np.float32)}
    boxes, scores = open_detector(export.path, dialect)(pixels)
    with torch.no_grad():
        wanted = decode(*Maps(bins)(torch.from_numpy(pixels)), image_size=(32, 64), strides=STRIDES)
    np.testing.assert_allclose(boxes, wanted[0].numpy(), rtol=1e-3, atol=0.1 if fp16 else 1e-3)
    np.testing.assert_allclose(scores, wanted[1].numpy(), rtol=1e-3, atol=1e-3 if fp16 else 1e-5)
    assert read_facts(export.path, "tensorrt_rtx" if fp16 else "openvino").interface == interface


def test_raw_needs_one_map_per_level(tmp_path):
    with pytest.raises(ValueError, match="2 maps, the network has 3 levels"):
        interface = Interface(form="raw", strides=(8, 16, 32))
        write_traced(raw_trace(), tmp_path / "raw.onnx", dialect="ort", interface=interface)


@pytest.mark.parametrize("dialect", ["openvino", "ort", "trt", "cache"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_pixels_give_what_float_images_give(tmp_path, toy_net, dialect, dynamic):
    """Bit-equal: pixels are divided as on the host, and from there on the graphs are the same."""
    net = toy_net(GRID[dialect], exact=True)
    trace = to_onnx(net, input_shape=(1, 3, 32, 32), dynamic_batch=dynamic, opset=19)
    images = np.random.default_rng(4).integers(0, 256, (2 if dynamic else 1, 3, 32, 32)).astype(np.float32) / 255
    plain = write_traced(trace, tmp_path / "plain.onnx", dialect=dialect)
    export = write_traced(trace, tmp_path / "pixels.onnx", dialect=dialect, interface=Interface(input="uint8"))
    entry = onnx.load(export.path).graph.input[0].type.tensor_type
    assert entry.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in entry.shape.dim[1:]] == [32, 32, 3]
    bgr = export.interface.feed(images)
    np.testing.assert_array_equal(bgr[0, 5, 7], np.rint(images[0, ::-1, 5, 7] * 255))
    found = open_detector(export.path, dialect)(images)
    for a, b in zip(found, open_detector(plain.path, dialect)(images), strict=True):
        if dialect == "openvino":  # multiplies by 1 / 255, a last bit apart
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


def test_a_cache_names_the_network_input_behind_the_pixels(tmp_path, toy_net):
    trace = to_onnx(toy_net("trt"), input_shape=(1, 3, 32, 32))
    export = write_traced(trace, tmp_path / "a.onnx", dialect="cache", interface=Interface(input="uint8"))
    scales = read_cache(export.cache.read_text())
    assert "images" not in scales
    assert scales["images_scaled"] == pytest.approx(1 / 127)
    names = {name for node in onnx.load(export.path).graph.node for name in (*node.input, *node.output)}
    assert set(scales) <= names


@pytest.mark.parametrize("options", [{"form": "raw", "strides": STRIDES}, {"input": "uint8"}])
def test_other_interfaces_are_as_repeatable(tmp_path, options):
    if "form" in options:
        traces = [raw_trace() for _ in range(2)]
    else:
        traces = [to_onnx(Maps(), input_shape=SHAPE) for _ in range(2)]
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for trace, path in zip(traces, paths, strict=True):
        write_traced(trace, path, dialect="openvino", interface=Interface(**options))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_default_interface_leaves_no_trace_in_a_file(tmp_path):
    export = write_traced(to_onnx(Maps(), input_shape=SHAPE), tmp_path / "a.onnx", dialect="ort")
    model = onnx.load(export.path)
    assert {entry.key for entry in model.metadata_props} == {"dialect", "precision"}
    assert Interface.of(model) == Interface()


def test_metadata_comes_back():
    for interface in (
        Interface(form="raw", strides=(8, 16, 32, 64), input="uint8"),
        Interface(nms="topk", classes=80, score_threshold=0.25, iou_threshold=0.5, max_detections=17, candidates=99),
        Interface(nms="onnx", nms_classes="best", classes=3),
        Interface(shrink=4),
    ):
        model = onnx.ModelProto()
        for key, value in interface.notes().items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        assert Interface.of(model) == interface


def test_files_of_earlier_versions_list_boxes_by_all_their_classes():
    model = onnx.ModelProto()
    for key, value in Interface(nms="topk", nms_classes="best").notes().items():
        if key != "nms_classes":
            model.metadata_props.add(key=key, value=value)
    assert Interface.of(model).nms_classes == "all"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"form": "boxes"}, "form is 'boxes'; choose one of decoded, raw"),
        ({"nms": "soft"}, "choose one of none, topk, onnx, efficient_nms"),
        ({"nms_classes": "two"}, "nms_classes is 'two'; choose one of all, best"),
        ({"input": "bf16"}, "choose one of float, uint8"),
        ({"form": "raw", "nms": "topk", "strides": (8,)}, "suppresses decoded boxes"),
        ({"form": "raw"}, "needs the strides"),
        ({"nms": "topk", "max_detections": 300, "candidates": 100}, "candidates is 100"),
        ({"nms": "topk", "candidates": 5000}, "at most 3840"),
        ({"max_detections": 0}, "max_detections is 0"),
    ],
)
def test_impossible_interfaces_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Interface(**options)


def test_onnxsim_changes_no_number_and_keeps_the_integers(tmp_path, toy_net, images):
    pytest.importorskip("onnxsim")
    trace = to_onnx(toy_net("trt"), input_shape=(1, 3, 32, 32), opset=19)
    plain = write_traced(trace, tmp_path / "plain.onnx", dialect="trt")
    small = write_traced(trace, tmp_path / "small.onnx", dialect="trt", simplify=True)
    again = write_traced(trace, tmp_path / "again.onnx", dialect="trt", simplify=True)
    assert small.path.read_bytes() == again.path.read_bytes()
    before, after = (onnx.load(path) for path in (plain.path, small.path))
    assert [(e.key, e.value) for e in before.metadata_props] == [(e.key, e.value) for e in after.metadata_props]
    assert sum(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4 for t in after.graph.initializer) == 6
    check_combination(after, "tensorrt_rtx")
    for a, b in zip(*(open_detector(path, "trt")(images[:1]) for path in (plain.path, small.path)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_onnxsim_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    with pytest.raises(ValueError, match="pip install onnxsim"):
        simplified(onnx.ModelProto())
