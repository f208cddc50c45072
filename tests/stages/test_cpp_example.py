"""The C++ example is compiled and finds what Python finds; skipped where compiler, CMake or OpenVINO are missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from stages.infer import infer
from tests.support import families
from tests.support.foreign import write_foreign
from yolov6core.engines.registry import RUNTIMES
from yolov6core.engines.runtime import BuildSettings
from yolov6core.exchange.interface import Interface
from yolov6core.exchange.onnx_notes import set_note
from yolov6core.export.dialects import write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.models.decoded import DecodedNetwork

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    openvino = pytest.importorskip("openvino")
    config = Path(openvino.__file__).parent / "cmake"
    if not config.is_dir() or not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("CMake, a C++ compiler, and OpenVINO's own CMake files are needed")
    build = tmp_path_factory.mktemp("build")
    for command in (
        ["cmake", "-S", str(SOURCE), "-B", str(build), f"-DOpenVINO_DIR={config}"],
        ["cmake", "--build", str(build)],
    ):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "warning" not in result.stdout + result.stderr
    return build / "detect"


def detect(program: Path, model: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    """Rows class, score, x1, y1, x2, y2."""
    path = folder / "image.ppm"
    cv2.imwrite(str(path), image)
    command = [str(program), str(model), str(path), "0.1", "0.45"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return np.array([line.split() for line in result.stdout.splitlines()], dtype=np.float64).reshape(-1, 6)


def detect_in_python(model: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    cv2.imwrite(str(folder / "image.png"), image)
    infer(model, str(folder / "image.png"), out=folder / "out", runtime="openvino", score=0.1, iou=0.45)
    rows = json.loads((folder / "out" / "detections.json").read_text())["images"][0]["detections"]
    return np.array([[row["class"], row["score"], *row["box"]] for row in rows]).reshape(-1, 6)


@pytest.mark.parametrize("shape", [(64, 64), (64, 48), (32, 40), (200, 150), (97, 131)])
def test_cpp_finds_what_python_finds(program, tmp_path, patches, shape) -> None:
    """Enlarged, shrunk and untouched pictures; scores differ by the rounding of pixels, at most one level of 255."""
    model = patches.write_patch_detector(tmp_path / "model.onnx")
    coarse = np.random.default_rng(shape[0]).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    found, wanted = detect(program, model, image, tmp_path), detect_in_python(model, image, tmp_path)
    assert len(found) == len(wanted) > 5
    found, wanted = (rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 0]))] for rows in (found, wanted))
    np.testing.assert_array_equal(found[:, 0], wanted[:, 0])
    np.testing.assert_allclose(found[:, 1], wanted[:, 1], atol=1.5 / 255)
    np.testing.assert_allclose(found[:, 2:], wanted[:, 2:], atol=0.011)


@pytest.mark.parametrize("form", ["onnx", "engine"])
def test_cpp_knows_of_the_grey_frame(program, tmp_path, patches, form) -> None:
    path = patches.write_patch_detector(tmp_path / "model.onnx")
    model = onnx.load(path)
    set_note(model, "shrink", "24")
    onnx.save(model, path)
    wanted = detect_in_python(path, np.full((50, 70, 3), 200, np.uint8), tmp_path)
    if form == "engine":
        RUNTIMES["openvino"].build(path, tmp_path / "engine", BuildSettings())
        path = tmp_path / "engine" / "model.xml"
    found = detect(program, path, np.full((50, 70, 3), 200, np.uint8), tmp_path)
    assert len(found) == len(wanted) > 5
    found, wanted = (rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 0]))] for rows in (found, wanted))
    np.testing.assert_allclose(found[:, 2:], wanted[:, 2:], atol=0.011)


FORMS = {
    "decoded": {},
    "raw": {"form": "raw"},
    "uint8": {"input": "uint8"},
    "raw uint8": {"form": "raw", "input": "uint8"},
    "topk": {"nms": "topk"},
    "onnx": {"nms": "onnx"},
    "best class": {"nms": "onnx", "nms_classes": "best"},
    "topk uint8": {"nms": "topk", "input": "uint8"},
}


@pytest.mark.parametrize(("built", "open_batch"), [(False, True), (True, False)])
@pytest.mark.parametrize("form", FORMS)
def test_cpp_reads_every_form_that_is_exported(program, tmp_path, form, built, open_batch) -> None:
    network, strides = families.float_network("yolov6n6")
    raw = FORMS[form].get("form") == "raw"
    names = ("logits", "distances") if raw else ("boxes", "scores")
    module = network if raw else DecodedNetwork(network, strides=strides)
    shape = (1, 3, *families.IMAGE)
    traced = to_onnx(module, input_shape=shape, dynamic_batch=open_batch, outputs=names)
    interface = Interface(**FORMS[form], strides=strides if raw else (), score_threshold=0.05, max_detections=100)
    path = tmp_path / "model.onnx"
    write_traced(traced, path, dialect="openvino", interface=interface, names=("a", "b", "c"))
    if built:
        RUNTIMES["openvino"].build(path, tmp_path / "engine", BuildSettings())
        path = tmp_path / "engine" / "model.xml"
    coarse = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = cv2.resize(coarse, families.IMAGE[::-1], interpolation=cv2.INTER_CUBIC)
    found, wanted = detect(program, path, image, tmp_path), detect_in_python(path, image, tmp_path)
    assert len(found) == len(wanted) > 5
    found, wanted = (rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 0]))] for rows in (found, wanted))
    np.testing.assert_array_equal(found[:, 0], wanted[:, 0])
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], atol=0.02)


def test_cpp_reads_headers_with_comments(program, tmp_path, patches) -> None:
    model = patches.write_patch_detector(tmp_path / "model.onnx")
    image = patches.picture((0, 255, 0), 1, 2)
    for number, header in enumerate((b"P6\n64 64\n255\n", b"P6 # GIMP\n# by hand\n64 # wide\n64\n# last\n255\n")):
        path = tmp_path / f"{number}.ppm"
        path.write_bytes(header + image[..., ::-1].tobytes())
        result = subprocess.run([str(program), str(model), str(path)], capture_output=True, text=True)
        assert result.stdout == "1 1.0000 16.00 32.00 32.00 48.00\n", result.stderr


def test_cpp_says_what_is_wrong(program, tmp_path, patches) -> None:
    model = patches.write_patch_detector(tmp_path / "model.onnx")
    (tmp_path / "bad.ppm").write_bytes(b"P5 1 1 255 x")
    for arguments, code, message in (
        ([], 2, "usage"),
        ([str(model), str(tmp_path / "none.ppm")], 1, "cannot be read"),
        ([str(model), str(tmp_path / "bad.ppm")], 1, "no binary PPM"),
        ([str(patches.write_patch_detector(tmp_path / "four.onnx", batch=4)), "x.ppm"], 1, "no single image"),
        ([str(write_foreign(tmp_path / "foreign.onnx", "scores")), "x.ppm"], 1, "has no output 'boxes'"),
    ):
        result = subprocess.run([str(program), *arguments], capture_output=True, text=True)
        assert result.returncode == code and message in result.stderr
