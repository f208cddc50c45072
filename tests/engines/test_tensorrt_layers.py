"""Lists of layers in the forms that TensorRT gives them: the inspector's JSON, and verbose logs of three kinds."""

import json

import pytest

from yolov6core.engines.tensorrt_layers import audit, layers_of_json, layers_of_log

MYELIN = """Engine Layer Information:
Name: a, LayerType: kgen, Inputs: [ { Name: images, Datatype: Float }], Outputs: [], Metadata: [ONNX Layer: /stem/Conv]
Name: /stem/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,3,8,8], Datatype: Int8 }], Const
Name: /up/Conv_myl0_3, LayerType: deconv, Inputs: [ { Name: y, Datatype: Half, Format: (NHWC) }], Constants
Name: __myl_x_myl0_4, LayerType: correlation, Inputs: [ { Name: z, Datatype: Int8 }], Metadata: [ONNX Layer: /b/Conv]
"""
DETAILED = """Engine Layer Information:
Name: /stem/Conv + /act/Relu, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, \
Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [], TacticName: t
Name: /up/Conv, LayerType: CaskDeconvolutionV2, Inputs: [ { Name: y, Format/Datatype: Row major linear FP16 }], Outputs
Name: /b/Conv, LayerType: CaskConvolution, Inputs: [ { Name: z, Format/Datatype: Row major Int8 format }], Outputs: []
""".replace("\\\n", "")
OLD = """Layer(Reformat): Reformatting CopyNode for Input Tensor 0 to /stem/Conv, Tactic: 0, images[Float(1,3,8,8)] -> x[Int8(1,3,8,8)]
Layer(CaskConvolution): /stem/Conv + /act/Relu, Tactic: 0x1bd5, x[Int8(1,3,8,8)] -> /act/Relu_output_0[Int8(1,16,4,4)]
Layer(CaskDeconvolutionV2): /up/Conv, Tactic: 12, /act/Relu_output_0[Half(1,16,4,4)] -> u[Half(1,16,8,8)]
Layer(CaskConvolution): /b/Conv + /add/Add, Tactic: 12, q[Int8(1,16,8,8)], u[Half(1,16,8,8)] -> b[Half(1,16,8,8)]
"""  # noqa: E501
CONVOLUTIONS = ("/stem/Conv", "/up/Conv", "/b/Conv")


@pytest.mark.parametrize("log", [MYELIN, DETAILED, OLD], ids=["rtx", "8.5 to 11", "8"])
def test_the_builder_log_is_read_in_every_form(log):
    assert audit(layers_of_log(log.splitlines()), CONVOLUTIONS) == (["/stem/Conv", "/b/Conv"], ["/up/Conv"])


def layer(name: str, kind: str = "CaskConvolution", data: str = "Row major Int8 format", **more: str) -> dict:
    return {"Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": data}], **more}


def test_siblings_that_were_merged_are_counted_one_by_one():
    merged = layer("/cls/Conv + /cls/Relu || /reg/Conv + /reg/Relu")
    text = json.dumps({"Layers": [merged, layer("/last/Conv", data="Channel major FP16 format")]})
    integer, real = audit(layers_of_json(text), ["/cls/Conv", "/reg/Conv", "/last/Conv"])
    assert (integer, real) == (["/cls/Conv", "/reg/Conv"], ["/last/Conv"])


def test_the_inspector_of_version_11_has_another_key_for_types():
    rows = [{"Name": "/a/Conv", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "DataType": "Int8"}]}]
    text = json.dumps({"Layers": rows, "I/O Tensors": []})
    assert audit(layers_of_json(text), ["/a/Conv"]) == (["/a/Conv"], [])


def test_metadata_and_compiled_regions_name_convolutions_too():
    rows = [
        layer("__myl_Conv_1", "gemm", "Int8", Metadata="\x1e[ONNX Layer: /a/Conv]\x1f[ONNX Layer: /a/Relu]"),
        layer("{ForeignNode[/b/Conv.../c/Mul]}", "Myelin", "Int8", Metadata="[ONNX Layer: /b/Conv]"),
        layer("__myl_Mul", "kgen", "Half", Metadata="[ONNX Layer: /a/Conv]"),
    ]
    assert audit(layers_of_json(json.dumps({"Layers": rows})), ["/a/Conv", "/b/Conv", "/none/Conv"]) == (
        ["/a/Conv", "/b/Conv"],
        ["/none/Conv"],
    )


@pytest.mark.parametrize("text", ["", "{}", '{"Layers": ["/a/Conv + /a/Relu"]}', "[1]", '{"Layers": [{"Name": "a"}]}'])
def test_what_names_no_types_tells_nothing(text):
    assert audit(layers_of_json(text), ["/a/Conv"]) == ([], [])
    assert audit(layers_of_log(text.splitlines()), ["/a/Conv"]) == ([], [])
