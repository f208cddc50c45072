"""The parts of `check.py`, against what the library does, and its TensorRT part against a GPU made of memory."""

from __future__ import annotations

import ast
import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from yolov6core.bundle import check
from yolov6core.data.transforms import letterbox
from yolov6core.evaluation.nms import nms
from yolov6core.exchange.interface import Interface

SOURCE = Path(check.__file__).read_text(encoding="utf-8")
ABOUT = {"form": "decoded", "nms": "none", "score_threshold": 0.25, "iou_threshold": 0.65, "max_detections": 300}


def test_it_is_short_and_runs_in_python_3_10_with_numpy_and_opencv_alone():
    assert len(SOURCE.splitlines()) <= 200
    tree = ast.parse(SOURCE, feature_version=(3, 10))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    own = {"argparse", "ctypes", "importlib", "json", "sys", "time", "pathlib", "__future__"}
    assert names - own == {"cv2", "numpy"}


@pytest.mark.parametrize("shape", [(37, 91), (64, 64), (480, 640), (1, 300), (333, 250)])
@pytest.mark.parametrize("shrink", [0, 5])
def test_pictures_are_prepared_as_for_single_pictures_here(shape, shrink):
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    size = (64, 96)
    inside = (size[0] - shrink, size[1] - shrink)
    wanted, _, _ = letterbox(picture, np.zeros((0, 5), np.float32), size=size, inside=inside, nearest=True)
    np.testing.assert_array_equal(check.letterbox(picture, size, shrink, 114), wanted)


@pytest.mark.parametrize("form", ["float", "uint8"])
def test_the_input_is_fed_as_the_interface_says(form):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 8, 6), dtype=np.uint8)
    wanted = Interface(input=form).feed(pixels.astype(np.float32) / np.float32(255))
    found = check.fed(pixels, form)
    assert found.dtype == wanted.dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted)


def outputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Boxes [1, 90, 4] that overlap much, and scores [1, 90, 3]."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 30, (90, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(10, 40, (90, 2))), 1).astype(np.float32)
    return {"boxes": boxes[None], "scores": rng.random((1, 90, 3), dtype=np.float32)}


def test_suppression_is_that_of_the_library():
    found = outputs()
    options = {name: ABOUT[name] for name in ("score_threshold", "iou_threshold", "max_detections")}
    wanted = nms(found["boxes"][0], found["scores"][0], **options)
    assert 20 < len(wanted) < 300
    np.testing.assert_allclose(check.detections(found, ABOUT), wanted, atol=1e-6)


def described(found: dict[str, np.ndarray], **options: object) -> dict[str, object]:
    return {**ABOUT, "allowed_l2": 0.01, "detections": [check.detections(found, ABOUT).tolist()], **options}


def test_equal_outputs_agree_and_wrong_ones_do_not():
    found = outputs()
    expected = {name: value for name, value in found.items()}
    about = described(found)
    assert check.compare([found], expected, about)[0]
    assert check.compare([{**found, "boxes": found["boxes"] * np.float32(1.005)}], expected, about)[0]
    for name in found:
        assert not check.compare([{**found, name: found[name] * np.float32(1.02)}], expected, about)[0]
        broken = found[name].copy()
        broken[0, 0, 0] = np.nan
        assert not check.compare([{**found, name: broken}], expected, about)[0]


def listed(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows as a suppression in the graph gives them, with room for two more."""
    room = np.concatenate((rows, np.full((2, 6), 9.0)))[None].astype(np.float32)
    count = np.array([[len(rows)]], np.int32)
    return {"num_dets": count, "boxes": room[..., :4], "scores": room[..., 4], "classes": room[..., 5].astype(np.int32)}


def test_listed_detections_are_compared_both_ways():
    rows = check.detections(outputs(), ABOUT)[:12]
    about = described(outputs(), nms="topk", detections=[rows.tolist()])
    weak = np.array([[0, 0, 5, 5, 0.3, 0]])
    assert check.compare([listed(rows)], {}, about)[0]
    assert check.compare([listed(np.concatenate((rows, weak)))], {}, about)[0], "a weak detection may come and go"
    more = np.concatenate((rows, [[0, 0, 5, 5, 0.9, 0], [50, 0, 55, 5, 0.9, 1]]))
    moved = rows + np.array([40, 40, 40, 40, 0, 0])
    other = rows + np.array([0, 0, 0, 0, 0, 1])
    for wrong in (rows[3:], more, moved, other):
        assert not check.compare([listed(wrong)], {}, about)[0]


class Gpu:
    """The driver's calls on ordinary memory."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, np.ndarray] = {}

    def __call__(self, name: str, *arguments) -> None:
        self.calls.append(name)
        if name == "cuMemAlloc_v2":
            block = np.zeros(arguments[1].value, np.uint8)
            arguments[0]._obj.value = block.ctypes.data
            self.memory[block.ctypes.data] = block
        elif name in ("cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2"):
            target, source, size = arguments
            ctypes.memmove(target.value, source.value, size.value)


class FakeEngine:
    """Gives the mean of each image, and takes any batch up to 4; its tensors are listed with the output first."""

    tensors = {"mean": "OUTPUT", "images": "INPUT"}

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.address, self.shape = gpu, {}, (0, 3, 4, 4)
        self.num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT"

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3, 4, 4) if name == "images" else (-1, 1)


class FakeContext:
    """Knows the real shapes."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.batch, self.address = engine, 0, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return True

    def execute_async_v3(self, stream: object) -> bool:
        memory = {name: self.engine.gpu.memory[self.address[name]].view(np.float32) for name in self.address}
        memory["mean"][:] = memory["images"].reshape(self.batch, -1).mean(1)
        return True


def fake_tensorrt(gpu: Gpu, plan: bytes = b"plan") -> SimpleNamespace:
    def deserialize(data: bytes) -> FakeEngine | None:
        return FakeEngine(gpu) if data == plan else None

    return SimpleNamespace(
        __version__="10.3.0",
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, severity: None}),
        init_libnvinfer_plugins=lambda logger, namespace: True,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
        TensorIOMode=SimpleNamespace(INPUT="INPUT"),
        nptype=lambda kind: np.float32,
    )


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(check, "cuda", gpu)
    return gpu


def options(path: Path, batch: int = 2) -> SimpleNamespace:
    return SimpleNamespace(model=path, device=None, batch=batch, threads=0)


def test_an_engine_of_tensorrt_is_fed_and_read(tmp_path, gpu):
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    run, batch, _ = check.open_tensorrt(fake_tensorrt(gpu), options(path))
    images = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    assert batch == 2
    np.testing.assert_allclose(run(images)["mean"][:, 0], images.reshape(2, -1).mean(1), rtol=1e-6)
    first = run(images)["mean"]
    run(images * 2)
    np.testing.assert_allclose(first[:, 0], images.reshape(2, -1).mean(1), rtol=1e-6, err_msg="outputs are copies")
    assert gpu.calls[0] == "cuInit" and gpu.calls.count("cuMemAlloc_v2") == 2


def test_engines_that_do_not_fit_are_named(tmp_path, gpu):
    path = tmp_path / "model.engine"
    path.write_bytes(b"of another GPU")
    with pytest.raises(RuntimeError, match="build it here"):
        check.open_tensorrt(fake_tensorrt(gpu), options(path))
    path.write_bytes(b"plan")
    with pytest.raises(RuntimeError, match="another --batch"):
        check.open_tensorrt(fake_tensorrt(gpu), options(path, batch=5))
