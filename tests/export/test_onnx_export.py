from pathlib import Path

import numpy as np
import pytest

from yolov6core.engines.compatibility import RUNTIME_DIALECT
from yolov6core.engines.registry import RUNTIMES, open_engine
from yolov6core.engines.runtime import BuildSettings
from yolov6core.export.dialects import write_dialect
from yolov6core.export.onnx_export import to_onnx

SHAPE = (1, 3, 32, 32)


@pytest.mark.parametrize("dialect", ["openvino", "ort", "trt"])
def test_exporting_twice_gives_the_same_bytes(tmp_path, toy_net, dialect):
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in paths:
        write_dialect(toy_net(dialect), path, dialect=dialect, input_shape=SHAPE)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert str(Path.cwd()).encode() not in paths[0].read_bytes(), "no path of the machine in the file"


def test_graph_computes_no_shapes_at_run_time(toy_net):
    for dynamic in (False, True):
        model = to_onnx(toy_net("trt"), input_shape=SHAPE, dynamic_batch=dynamic)
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"Shape", "Slice", "Constant", "Gather", "Where"}


@pytest.mark.parametrize("dialect", ["openvino", "ort"])
def test_open_batch_equals_single_images(tmp_path, toy_net, images, dialect):
    path = tmp_path / "model.onnx"
    write_dialect(toy_net(dialect), path, dialect=dialect, input_shape=SHAPE, dynamic_batch=True)
    runtime = next(name for name, needs in RUNTIME_DIALECT.items() if needs == dialect)
    RUNTIMES[runtime].build(path, tmp_path / "engine", BuildSettings(threads=1))
    engine = open_engine(tmp_path / "engine")
    assert engine.info.input_shape == (-1, 3, 32, 32)
    together = engine.infer(images)
    for index in range(len(images)):
        single = engine.infer(images[index : index + 1])
        for a, b in zip(together, single, strict=True):
            np.testing.assert_allclose(a[index], b[0], rtol=0, atol=1e-5)


def test_opset_outside_the_range_is_refused(toy_net):
    with pytest.raises(ValueError, match="opset is 21; choose one of 17, 18, 19, 20"):
        to_onnx(toy_net("trt"), input_shape=SHAPE, opset=21)
