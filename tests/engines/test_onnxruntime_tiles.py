import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolov6core.engines import onnxruntime_engine
from yolov6core.engines.cpu import IntegerArithmetic, integer_arithmetic
from yolov6core.engines.onnxruntime_tiles import same_outputs, suit_tiles
from yolov6core.engines.runtime import BuildSettings


def network(channels=128, groups=1, lowest=-127, zero_point=0, readers=1):
    """Images through 3 -> channels -> channels, both quantized 3x3 convolutions; `readers` of the second's weights."""
    rng = np.random.default_rng(0)
    constants = {"step": np.float32(1 / 255), "zero": np.uint8(0)}
    constants["scale"] = np.full(channels, 0.01, np.float32)
    constants["first"] = rng.integers(-127, 128, (channels, 3, 3, 3), np.int8)
    constants["second"] = rng.integers(lowest, 128, (channels, channels // groups, 3, 3), np.int8)
    constants["second"][0, 0, 0, 0] = lowest
    constants["point"] = np.full(channels, zero_point, np.int8)
    nodes = []

    def rounded(source, step):
        nodes.append(helper.make_node("QuantizeLinear", [source, step, "zero"], [source + "_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [source + "_q", step, "zero"], [source + "_real"]))

    rounded("images", "step")
    for source, weight, out in (("images", "first", "a"), *[("a", "second", f"b{index}") for index in range(readers)]):
        inputs = [weight, "scale", "point"] if weight == "second" else [weight, "scale"]
        group = groups if weight == "second" else 1
        nodes.append(helper.make_node("DequantizeLinear", inputs, [out + "_weight"], axis=0))
        nodes.append(helper.make_node("Conv", [source + "_real", out + "_weight"], [out], pads=[1] * 4, group=group))
        constants[out + "_step"] = np.float32(0.02 if out == "a" else 0.5)
        rounded(out, out + "_step")
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 9, 7])],
        [helper.make_tensor_value_info(f"b{index}_real", TensorProto.FLOAT, None) for index in range(readers)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(model, *, integers=True):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not integers:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("integers", [True, False])
def test_the_large_convolution_changes_and_the_numbers_do_not(integers):
    before, after = network(), network()
    assert suit_tiles(after) == 1
    weights = [{tensor.name: numpy_helper.to_array(tensor) for tensor in m.graph.initializer} for m in (before, after)]
    assert np.array_equal(weights[1]["second"], weights[0]["second"] - 1)
    assert np.array_equal(weights[1]["first"], weights[0]["first"])
    assert (weights[1]["second_zero_point"] == -1).all()
    if integers and integer_arithmetic().of("onnxruntime") != "exact":
        pytest.skip("this CPU adds in 16 bits: other weights saturate elsewhere, and engines are left as they are")
    sessions = [session(model, integers=integers) for model in (before, after)]
    found = sessions[0].run(None, {"images": np.ones((1, 3, 9, 7), np.float32)})[0]
    assert len(np.unique(found)) > 100  # a check on numbers that differ
    assert same_outputs(*sessions)


@pytest.mark.parametrize(
    "case", [{"channels": 64}, {"groups": 2}, {"lowest": -128}, {"zero_point": 1}, {"readers": 2}], ids=str
)
def test_others_stay_as_they_are(case):
    # Two groups of 128 channels have too few weights as well, so that case has more channels.
    model = network(**{"channels": 256 if "groups" in case else 128} | case)
    before = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    assert suit_tiles(model) == 0
    assert before == {tensor.name: tensor.raw_data for tensor in model.graph.initializer}


def test_other_numbers_are_seen():
    other = network()
    weight = next(tensor for tensor in other.graph.initializer if tensor.name == "second")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), "second"))
    assert not same_outputs(session(network()), session(other))


@pytest.mark.parametrize(
    "flags, sums, proven, changes",
    [
        (("avx512_vnni", "amx_int8"), "exact", True, True),
        (("avx512_vnni",), "exact", True, False),
        (("avx512_vnni", "amx_int8"), "saturating", True, False),
        (("avx512_vnni", "amx_int8"), "exact", False, False),
    ],
)
def test_engines_change_where_the_cpu_has_tiles_and_they_are_right(monkeypatch, tmp_path, flags, sums, proven, changes):
    cpu = IntegerArithmetic(sums, {"onnxruntime": sums}, flags)
    monkeypatch.setattr(onnxruntime_engine, "integer_arithmetic", lambda: cpu)
    monkeypatch.setattr(onnxruntime_engine, "same_outputs", lambda *sessions: proven)
    path = tmp_path / "network.onnx"
    onnx.save(network(), path)
    info = onnxruntime_engine.build(path, tmp_path / "engine", BuildSettings(threads=1))
    written = (tmp_path / "engine" / info.file).read_bytes()
    assert (written != path.read_bytes()) == changes
    if changes:
        assert b"second_zero_point" in written
    assert info.int8_convs == 2
