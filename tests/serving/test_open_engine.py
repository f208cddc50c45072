"""Engine folders and files of names as they get damaged: one message, or the right names."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import patch_detector
from tests.support.foreign import write_foreign
from yolov6core.base.errors import UserError
from yolov6core.engines.registry import RUNTIMES
from yolov6core.engines.runtime import SIDECAR, BuildSettings
from yolov6core.serving.open_engine import class_names, open_any, open_folder


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """An engine of each runtime on the CPU."""
    root = tmp_path_factory.mktemp("engines")
    model = patch_detector.write_patch_detector(root / "model.onnx")
    for name in ("openvino", "onnxruntime"):
        RUNTIMES[name].build(model, root / name, BuildSettings(threads=1))
    return {name: root / name for name in ("openvino", "onnxruntime")}


@pytest.fixture(params=["openvino", "onnxruntime"])
def folder(request, tmp_path, built) -> Path:
    shutil.copytree(built[request.param], tmp_path / "engine")
    return tmp_path / "engine"


def tamper(folder: Path, *keys: str, value: Any) -> None:
    document = json.loads((folder / SIDECAR).read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / SIDECAR).write_text(json.dumps(document))


WRONG: list[tuple[tuple[str, ...], Any]] = [
    (("runtime",), "tensorflow"),
    (("runtime",), ["openvino"]),
    (("runtime",), None),
    (("version",), 3),
    (("device",), "TPU"),
    (("file",), "../../../etc/passwd"),
    (("file",), "/etc/passwd"),
    (("file",), "other.xml"),
    (("file",), ""),
    (("file",), None),
    (("input_shape",), None),
    (("input_shape",), [1, 3, 64]),
    (("input_shape",), [1, 3, 32, 32]),
    (("input_shape",), [1, 3, 10**9, 10**9]),
    (("input_shape",), [10**9, 3, 64, 64]),
    (("input_shape",), [0, 3, 64, 64]),
    (("input_shape",), ["1", 3, 64, 64]),
    (("settings",), None),
    (("settings", "threads"), 10**9),
    (("settings", "threads"), -1),
    (("settings", "hint"), "fast"),
    (("settings", "precision"), 8),
    (("settings", "unknown"), 1),
    (("convs",), "many"),
    (("convs",), -5),
    (("int8_convs",), 7),
    (("float_layers",), None),
    (("float_layers",), "all"),
    (("inputs",), []),
    (("outputs",), {"boxes": None}),
    (("names",), None),
    (("names",), [None, "a", "b"]),
    (("names",), "abc"),
    (("names",), ["a", "b"]),
    (("interface",), None),
    (("interface", "form"), "cooked"),
    (("interface", "form"), "raw"),
    (("interface", "nms"), "topk"),
    (("interface", "input"), "uint8"),
    (("interface", "strides"), None),
    (("interface", "strides"), [0]),
    (("interface", "score_threshold"), float("nan")),
    (("interface", "shrink"), 64),
    (("interface", "shrink"), -1),
    (("deviation",), "none"),
    (("build_s",), float("inf")),
    (("added",), 1),
]


@pytest.mark.parametrize(("keys", "value"), WRONG, ids=str)
def test_a_tampered_sidecar_is_one_message(tmp_path, built, keys, value) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(built["openvino"], folder)
    tamper(folder, *keys, value=value)
    with pytest.raises(UserError) as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe{", b"[" * 100000, b'{"a": ' + b"9" * 5000 + b"}", b"{}", bytes(100)],
    ids=lambda data: repr(data[:8]),
)
def test_a_sidecar_that_is_no_document_is_one_message(folder, data) -> None:
    (folder / SIDECAR).write_bytes(data)
    with pytest.raises(UserError, match=SIDECAR):
        open_folder(folder)


def test_a_truncated_sidecar_is_one_message(folder) -> None:
    whole = (folder / SIDECAR).read_bytes()
    for length in range(0, len(whole) - 2, 97):
        (folder / SIDECAR).write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read"):
            open_folder(folder)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "other", "folder", "pipe"])
def test_damaged_weights_are_one_message(folder, damage) -> None:
    for path in sorted(folder.iterdir()):
        if path.name == SIDECAR:
            continue
        data = path.read_bytes()
        path.unlink()
        if damage == "empty":
            path.write_bytes(b"")
        elif damage == "short":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "other":
            path.write_bytes(bytes(reversed(data)))
        elif damage == "folder":
            path.mkdir()
        elif damage == "pipe":
            os.mkfifo(path)
        with pytest.raises(UserError, match="dvc repro --force build-trt"):
            open_folder(folder)
        path.rmdir() if damage == "folder" else path.unlink(missing_ok=True)
        path.write_bytes(data)
    open_folder(folder)


NAMES = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.txt", "red\ngreen\nblue\n", NAMES),
        ("a.txt", "\ufeffred\r\ngreen\r\nblue", NAMES),
        ("a.txt", "red\rgreen\rblue\r\n\r\n", NAMES),
        ("a.txt", "red\n\ngreen\nblue\n", NAMES),  # three names for three classes
        ("a.txt", "red\n\nblue\n", ("red", "1", "blue")),
        ("a.txt", "\u7ea2\n\u7eff\n\u84dd\n".encode("gb18030"), ("\u7ea2", "\u7eff", "\u84dd")),
        ("a.txt", "red\ngreen\nblue\n".encode("utf-16"), NAMES),
        ("a.yaml", "names: {0: red, 1: green, 2: blue}", NAMES),
        ("a.yaml", "names: {2: blue, 0: red, 1: green}", NAMES),
        ("a.yaml", "names: {0: red, 2: blue}", ("red", "1", "blue")),
        ("a.yaml", "names: [red, green, blue]\nnc: 3", NAMES),
        ("a.YML", "names: [red, green, blue]\nnc: 3", NAMES),
        ("a.yaml", "0: red\n1: green\n2: blue", NAMES),
        ("a.yaml", "\ufeffnames: [red, green, blue]", NAMES),
        ("a.json", '["red", "green", "blue"]', NAMES),
        ("a.json", '{"names": {"1": "green", "0": "red", "2": "blue"}}', NAMES),
    ],
)
def test_names_are_read_as_they_are_meant(tmp_path, built, name, data, wanted) -> None:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    assert class_names(path, open_folder(built["openvino"]), dataset=tmp_path / "none") == wanted


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", "holds no names"),
        ("a.txt", b"\n\n", "holds no names"),
        ("a.yaml", b"", "a list of names"),
        ("a.yaml", b"names:", "a list of names"),
        ("a.yaml", b"names: [red, null, blue]", "class 1 has no name"),
        ("a.yaml", b"names: {one: red}", "no number of a class"),
        ("a.yaml", b"nc: 3", "no entry 'names'"),
        ("a.yaml", b"names: [", "not valid YAML"),
        ("a.yaml", b"names: !!python/object:os.system [x]", "a.yaml"),
        ("a.json", b"[" * 100000, "a.json"),
        (
            "a.yaml",
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n".encode()
                for p, n in zip("abcdefghijkl", "bcdefghijklm", strict=True)
            )
            + b"names: *m",
            "anchors",
        ),
    ],
)
def test_names_that_are_none_are_one_message(tmp_path, built, name, data, message) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        class_names(path, open_folder(built["openvino"]), dataset=tmp_path / "none")


def test_wrong_counts_and_blank_lines_are_told(tmp_path, built, caplog) -> None:
    engine = open_folder(built["openvino"])
    for text, message in (("a\nb", "2 names, the engine 3 classes"), ("a\n\nc", "line 2 is empty, so class 1")):
        (tmp_path / "a.txt").write_text(text)
        with caplog.at_level(logging.WARNING):
            class_names(tmp_path / "a.txt", engine, dataset=tmp_path / "none")
        assert message in caplog.text
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="does not exist"):
        class_names(tmp_path / "pipe.txt", engine, dataset=tmp_path / "none")


def test_files_that_are_no_models_are_one_message(tmp_path) -> None:
    write_foreign(tmp_path / "short.onnx", "scores")
    (tmp_path / "short.onnx").write_bytes((tmp_path / "short.onnx").read_bytes()[:300])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "page.onnx").write_bytes(b"<html>not found</html>")
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("short.onnx", "empty.onnx", "page.onnx", "pipe.onnx"):
        with pytest.raises(UserError, match=name) as caught:
            open_any(tmp_path / name)
        assert "\n" not in str(caught.value)
