"""Command lines and configurations of a bundle, and DeepStream's parser against a stub of its header."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from yolov6core.bundle.deepstream import PARSER, deepstream_config, deepstream_reason_against
from yolov6core.bundle.request import BundleRequest, planned_files
from yolov6core.bundle.triton import TensorType, triton_config
from yolov6core.bundle.trtexec import build_lines
from yolov6core.exchange.interface import Interface

REMOVED_IN_11 = ("--fp16", "--int8", "--calib", "--best", "--stronglyTyped")


def commands(version: str, *, quantized: bool = True) -> list[str]:
    lines = [line for route in build_lines(quantized=quantized).values() for line in route if line.version == version]
    return [line.command((3, 64, 96), (1, 8, 8)) for line in lines]


def test_tensorrt_11_gets_no_option_that_it_removed():
    (line,) = commands("11")
    assert not any(option in line for option in REMOVED_IN_11)
    assert line.startswith("trtexec --onnx=model.onnx --saveEngine=model.engine ")


def test_tensorrt_10_is_strongly_typed_or_has_a_cache():
    assert "--stronglyTyped" in commands("10")[0] and "--int8" not in commands("10")[0]
    assert "--int8 --fp16 --calib=calib.trt10.3.0.table" in commands("10.3")[0]


def test_tensorrt_8_gets_opset_17_and_both_routes():
    explicit, cached = commands("8.6")
    assert "--onnx=model.opset17.onnx" in explicit and "--int8 --fp16" in explicit and "--calib" not in explicit
    assert "--onnx=model.plain.onnx" in cached and "--calib=calib.trt8.6.1.table" in cached
    (only,) = commands("8.6", quantized=False)
    assert "--int8" not in only and "--fp16" in only


def test_lines_are_for_one_batch_or_for_a_range():
    (line,) = build_lines(quantized=False)["float"][:1]
    assert line.command((3, 64, 96), (1, 1, 1)).endswith("--shapes=images:1x3x64x96")
    assert line.command((3, 64, 96), (1, 8, 32)).endswith(
        "--minShapes=images:1x3x64x96 --optShapes=images:8x3x64x96 --maxShapes=images:32x3x64x96"
    )


def test_an_unknown_target_lists_the_known_ones():
    request = BundleRequest("qat", "ncnn", *(None,) * 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tensorrt, openvino, onnxruntime"):
        planned_files(request)


OUTPUTS = {"boxes": TensorType("float32", (-1, 84, 4)), "scores": TensorType("float32", (-1, 84, 5))}


def test_triton_puts_requests_together_where_the_batch_is_open():
    text = triton_config("net", "tensorrt", {"images": TensorType("float32", (-1, 3, 64, 96))}, OUTPUTS, max_batch=16)
    assert "max_batch_size: 16" in text and "dynamic_batching {" in text
    assert "dims: [ 3, 64, 96 ]" in text and "dims: [ 84, 5 ]" in text
    assert 'platform: "tensorrt_plan"' in text and 'default_model_filename: "model.plan"' in text


def test_triton_gets_whole_shapes_where_the_batch_is_fixed():
    outputs = {"num_dets": TensorType("int32", (1, 1))}
    text = triton_config("net", "openvino", {"images": TensorType("uint8", (1, 64, 96, 3))}, outputs, max_batch=16)
    assert "max_batch_size: 0" in text and "dynamic_batching" not in text
    assert "TYPE_UINT8 dims: [ 1, 64, 96, 3 ]" in text and "TYPE_INT32 dims: [ 1, 1 ]" in text
    assert 'backend: "openvino"' in text


def test_deepstream_clusters_only_what_the_graph_has_not():
    plain = deepstream_config(Interface(), ("a", "b"), model="a.onnx", cache="b.table")
    assert "network-mode=1" in plain and "cluster-mode=2" in plain and "nms-iou-threshold=0.65" in plain
    listed = deepstream_config(Interface(nms="efficient_nms", classes=2), ("a", "b"), model="a.onnx")
    assert "network-mode=2" in listed and "cluster-mode=4" in listed and "calib" not in listed
    keys = re.findall(r"^([\w-]+)=", plain, re.MULTILINE)
    assert len(keys) == len(set(keys)) and "num-detected-classes=2" in plain


def test_deepstream_says_why_not():
    assert "export.input float" in deepstream_reason_against(Interface(input="uint8"))
    assert "export.form decoded" in deepstream_reason_against(Interface(form="raw", strides=(8,)))
    assert "TensorRT 11" in deepstream_reason_against(Interface(), tensorrt="11")
    assert not deepstream_reason_against(Interface(), tensorrt="10") + deepstream_reason_against(Interface())


HEADER = """
#include <vector>
struct NvDsInferDims { unsigned int numDims; unsigned int d[8]; unsigned int numElements; };
struct NvDsInferLayerInfo {
    int dataType; NvDsInferDims inferDims; int bindingIndex; const char *layerName; void *buffer;
};
struct NvDsInferNetworkInfo { unsigned int width, height, channels; };
struct NvDsInferParseDetectionParams {
    unsigned int numClassesConfigured; std::vector<float> perClassPreclusterThreshold, perClassPostclusterThreshold;
};
struct NvDsInferObjectDetectionInfo { unsigned int classId; float left, top, width, height, detectionConfidence; };
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(function) static_assert(sizeof(&function) > 0, "")
"""
PROGRAM = """
#include <cstdio>
#include "deepstream_parser.cpp"
int main() {
    float boxes[] = {-4, 2, 10, 20, 5, 5, 8, 8, 90, 60, 99, 70}, scores[] = {0.9f, 0.1f, 0.2f, 0.1f, 0.3f, 0.8f};
    int count = 2, classes[] = {1, 0, 1};
    NvDsInferNetworkInfo network{96, 64, 3};
    NvDsInferParseDetectionParams params{2, {0.25f, 0.25f}, {}};
    NvDsInferLayerInfo all[] = {{0, {2, {3, 2}, 6}, 0, "scores", scores}, {0, {2, {3, 4}, 12}, 1, "boxes", boxes}};
    NvDsInferLayerInfo listed[] = {{0, {1, {1}, 1}, 0, "num_dets", &count}, {0, {2, {3, 4}, 12}, 1, "boxes", boxes},
                                   {0, {1, {3}, 3}, 2, "scores", scores}, {0, {1, {3}, 3}, 3, "classes", classes}};
    using Layers = std::vector<NvDsInferLayerInfo>;
    for (const auto &layers : {Layers(all, all + 2), Layers(listed, listed + 4)}) {
        std::vector<NvDsInferObjectDetectionInfo> objects;
        if (!NvDsInferParseYolov6(layers, network, params, objects)) return 1;
        for (auto &o : objects)
            std::printf("%u %.1f %.1f %.1f %.1f %.1f\\n", o.classId, o.left, o.top, o.width, o.height,
                        o.detectionConfidence);
        std::printf("-\\n");
    }
    std::vector<NvDsInferObjectDetectionInfo> none;
    return NvDsInferParseYolov6({all[0]}, network, params, none) ? 1 : 0;
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_deepstream_parser_clips_and_filters(tmp_path):
    """Against a stub with the members of NVIDIA's header that the parser reads."""
    (tmp_path / "nvdsinfer_custom_impl.h").write_text(HEADER)
    shutil.copyfile(PARSER, tmp_path / "deepstream_parser.cpp")
    (tmp_path / "main.cpp").write_text(PROGRAM)
    build = ["g++", "-std=c++17", "-Wall", "-Werror", "-I.", "-o", "parse", "main.cpp"]
    subprocess.run(build, cwd=tmp_path, check=True)
    result = subprocess.run(["./parse"], cwd=tmp_path, capture_output=True, text=True, check=True)
    everywhere, listed = result.stdout.split("-\n")[:2]
    assert everywhere.splitlines() == [
        "0 0.0 2.0 10.0 18.0 0.9",
        "0 90.0 60.0 6.0 4.0 0.3",
        "1 90.0 60.0 6.0 4.0 0.8",
    ]
    assert listed.splitlines() == ["1 0.0 2.0 10.0 18.0 0.9"]
