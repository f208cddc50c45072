"""`infer` on every kind of source and engine, and what it says when something is wrong."""

from __future__ import annotations

import csv
import json
import logging
import os
import struct
import zlib

import cv2
import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from stages.__main__ import app
from stages.infer import infer
from tests.support import families
from tests.support.foreign import LAYOUTS, write_foreign
from tests.support.png import png_chunk
from yolov6core.base.errors import UserError
from yolov6core.engines.registry import RUNTIMES as BUILDERS
from yolov6core.engines.runtime import BuildSettings
from yolov6core.evaluation.nms import nms
from yolov6core.exchange.interface import Interface
from yolov6core.export.dialects import write_dialect, write_traced
from yolov6core.export.onnx_export import to_onnx
from yolov6core.models.decoded import DecodedNetwork
from yolov6core.serving import engine_detector

GREEN = (0, 255, 0)
RUNTIMES = ["openvino", "onnxruntime", "opencv"]


@pytest.fixture
def model(tmp_path, patches):
    return patches.write_patch_detector(tmp_path / "patches.onnx")


@pytest.fixture
def folder(tmp_path, patches):
    """Two pictures, a file that is no picture, and one that is none at all."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), patches.picture(GREEN, 1, 2))
    cv2.imwrite(str(folder / "b.png"), patches.picture((0, 0, 255), 3, 0, size=128))
    (folder / "c.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def found_in(out) -> list[dict]:
    return json.loads((out / "detections.json").read_text())["images"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("official", [False, True])
def test_a_plain_onnx_file_runs_everywhere(tmp_path, patches, folder, runtime, official) -> None:
    model = patches.write_patch_detector(tmp_path / "model.onnx", official=official)
    infer(model, str(folder), out=tmp_path / "out", runtime=runtime)
    first, second = found_in(tmp_path / "out")
    assert [(row["name"], row["box"]) for row in first["detections"]] == [("green", [16.0, 32.0, 32.0, 48.0])]
    # twice the size of the network input: boxes come back in pixels of the picture
    assert [(row["name"], row["box"]) for row in second["detections"]] == [("red", [96.0, 0.0, 128.0, 32.0])]
    assert first["detections"][0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert set(first["ms"]) == {"pre", "inference", "post"} and min(first["ms"].values()) > 0


def test_pictures_json_and_csv_are_written_and_bad_images_skipped(tmp_path, model, folder, caplog) -> None:
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        infer(model, str(folder), out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png.jpg",
        "b.png.jpg",
        "detections.csv",
        "detections.json",
    ]
    with (out / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["name"], float(row["x1"])) for row in rows] == [
        ("a.png", "green", 16),
        ("b.png", "red", 96),
    ]
    document = json.loads((out / "detections.json").read_text())
    assert document["skipped"] == [{"file": "c.jpg", "problem": "is no image that OpenCV can decode"}]
    assert "c.jpg is no image" in caplog.text and "a.png: 1 objects; pre " in caplog.text
    assert "2 pictures (1 skipped), 2 objects" in caplog.text
    drawn, plain = cv2.imread(str(out / "a.png.jpg")), cv2.imread(str(folder / "a.png"))
    assert drawn.shape == plain.shape and (drawn != plain).any()


def test_a_video_becomes_a_video(tmp_path, patches, model) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for column in range(3):
        writer.write(patches.picture(GREEN, column, 1))
    writer.release()
    infer(model, str(path), out=tmp_path / "out")
    images = found_in(tmp_path / "out")
    assert [(image["frame"], image["detections"][0]["box"][0]) for image in images] == [(0, 0.0), (1, 16.0), (2, 32.0)]
    clip = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and clip.get(cv2.CAP_PROP_FPS) == 10


def test_a_built_engine_runs_and_carries_its_names(tmp_path, model, folder) -> None:
    engine = tmp_path / "engines" / "float"
    info = BUILDERS["openvino"].build(model, engine, BuildSettings(threads=1))
    assert info.names == ("red", "green", "blue")
    assert info.inputs == {"images": (1, 3, 64, 64)} and info.outputs["scores"] == (1, 16, 3)
    for given in (engine, engine / "model.xml"):
        infer(given, str(folder), out=tmp_path / "out")
        assert found_in(tmp_path / "out")[0]["detections"][0]["name"] == "green"
    with pytest.raises(UserError, match="it holds float"):
        infer(engine.parent, str(folder), out=tmp_path / "out")
    with pytest.raises(UserError, match="was built for openvino"):
        infer(engine, str(folder), out=tmp_path / "out", runtime="opencv")
    sidecar = engine / "engine.json"
    sidecar.write_text(sidecar.read_text().replace(f'"version": "{info.version}"', '"version": "2019.1"'))
    with pytest.raises(UserError, match="dvc repro --force build-trt"):
        infer(engine, str(folder), out=tmp_path / "out")


def test_a_fixed_batch_is_filled_up(tmp_path, patches, folder) -> None:
    infer(patches.write_patch_detector(tmp_path / "four.onnx", batch=4), str(folder), out=tmp_path / "out")
    assert [image["detections"][0]["name"] for image in found_in(tmp_path / "out")] == ["green", "red"]


def test_images_are_set_into_the_grey_frame_that_a_file_asks_for(tmp_path, patches, model, folder, monkeypatch) -> None:
    given = onnx.load(model)
    given.metadata_props.add(key="shrink", value="16")
    onnx.save(given, model)
    fed, real = [], engine_detector.infer_any
    monkeypatch.setattr(engine_detector, "infer_any", lambda engine, batch: fed.append(batch) or real(engine, batch))
    infer(model, str(folder), out=tmp_path / "out", runtime="onnxruntime")
    frame = np.ones((64, 64), bool)
    frame[8:56, 8:56] = False
    np.testing.assert_allclose(fed[0][0][:, frame], 114 / 255, atol=1e-6)
    assert not np.isclose(fed[0][0][:, ~frame], 114 / 255, atol=1e-3).any()
    left, top, *_ = found_in(tmp_path / "out")[0]["detections"][0]["box"]
    cell = (left * 0.75 + 8, top * 0.75 + 8)
    assert cell == pytest.approx((16, 32), abs=0.01), "the one that holds the green square"


def test_names_are_taken_from_a_file(tmp_path, model, folder) -> None:
    (tmp_path / "names.txt").write_text("rouge\nvert\nbleu\n")
    (tmp_path / "data.yaml").write_text("names: {0: rosso, 1: verde, 2: blu}\n")
    for file, name in (("names.txt", "vert"), ("data.yaml", "verde")):
        infer(model, str(folder), out=tmp_path / "out", names=tmp_path / file)
        assert found_in(tmp_path / "out")[0]["detections"][0]["name"] == name
    with pytest.raises(UserError, match="does not exist"):
        infer(model, str(folder), out=tmp_path / "out", names=tmp_path / "none.txt")


def test_sources_that_are_not_there_are_named(tmp_path, model, folder) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "deep" / "below").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "deep" / "below" / "x.png"), np.zeros((8, 8, 3), np.uint8))
    for source, message in (
        (tmp_path / "none.jpg", "does not exist"),
        (tmp_path / "empty", "holds no images"),
        (tmp_path / "deep", "there are some in .*below"),
        (folder / "notes.txt", "neither an image"),
        (tmp_path / "broken.mp4", "video .* cannot be opened"),
        ("97", "camera 97 cannot be opened"),
        (folder / "c.jpg", "none of the 1 pictures"),
    ):
        with pytest.raises(UserError, match=message):
            infer(model, str(source), out=tmp_path / "out")


def test_the_source_is_never_written_over(model, folder) -> None:
    with pytest.raises(UserError, match="overwritten"):
        infer(model, str(folder), out=folder)


def test_models_that_do_not_fit_are_named(tmp_path, patches, folder) -> None:
    (tmp_path / "text.onnx").write_text("nothing")
    for model, runtime, message in (
        (tmp_path / "text.onnx", "auto", "no runtime takes|cannot be read"),
        (tmp_path / "none.onnx", "auto", "neither an ONNX file nor a folder"),
        (tmp_path, "auto", "neither an ONNX file nor a folder"),
        (patches.write_patch_detector(tmp_path / "m.onnx"), "tensorrt", "choose auto or one of openvino"),
    ):
        with pytest.raises(UserError, match=message):
            infer(model, str(folder), out=tmp_path / "out", runtime=runtime)


def test_the_command_answers_errors_in_one_line(tmp_path, model) -> None:
    options = ["infer", "--engine", str(model), "--source", str(tmp_path / "none.jpg")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 1 and result.stderr.strip().splitlines()[-1].startswith("error: source ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        *((name, "openvino") for name in ("yolov6n6", "yolov6m", "yolov6_lite_s")),
        ("yolov6n6", "opencv"),
        ("yolov6_lite_s", "opencv"),
    ],
)
def test_networks_with_four_levels_or_distance_bins_are_run(tmp_path, name, runtime) -> None:
    """What torch finds in a picture of exactly the network's size, which is not square."""
    network, strides = families.float_network(name)
    module = DecodedNetwork(network, strides=strides)
    image = np.random.default_rng(0).integers(0, 256, (*families.IMAGE, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    write_dialect(module, tmp_path / "m.onnx", dialect="openvino", input_shape=(1, 3, *families.IMAGE))
    infer(tmp_path / "m.onnx", str(tmp_path / "image.png"), out=tmp_path / "o", runtime=runtime, score=0.0)
    found = np.array([[*row["box"], row["score"], row["class"]] for row in found_in(tmp_path / "o")[0]["detections"]])
    with torch.inference_mode():
        pixels = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))[None] / 255
        boxes, scores = (value[0].numpy() for value in module(pixels))
    options = {"score_threshold": 0.0, "iou_threshold": 0.45, "max_detections": 300, "multi_label": False}
    wanted = nms(boxes, scores, **options)
    wanted[:, :4] = wanted[:, :4].clip(0, np.array([*families.IMAGE[::-1]] * 2))
    assert len(found) == len(wanted) > 5
    best = wanted[:5, 4] > wanted[1:6, 4] + 1e-4  # ties may come in another order
    np.testing.assert_allclose(found[:5][best], wanted[:5][best], atol=0.02)


def write_clip(path, patches):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for column in range(3):
        writer.write(patches.picture(GREEN, column, 1))
    writer.release()


def test_no_file_of_anybody_else_is_replaced(tmp_path, patches, model, folder) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_clip(clip, patches)
    before = clip.read_bytes()
    with pytest.raises(UserError, match=r"clip\.mp4 is there, .* overwritten"):
        infer(model, str(clip), out=tmp_path)
    assert clip.read_bytes() == before and not (tmp_path / "detections.json").exists()
    for name in ("a.png.jpg", "detections.json", "detections.csv"):
        out.mkdir()
        (out / name).write_text("[1, 2]")
        with pytest.raises(UserError, match=f"{name} is there"):
            infer(model, str(folder), out=out)
        assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "[1, 2]"
        (out / name).unlink()
        out.rmdir()
    with pytest.raises(UserError, match=r"clip\.mp4 is a file"):
        infer(model, str(folder), out=clip)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="overwritten"):
        infer(model, str(folder), out=tmp_path / "link")


def test_outputs_of_an_earlier_run_are_replaced_until_they_are_changed(tmp_path, patches, model, folder) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_clip(clip, patches)
    for source in (folder, clip, folder, clip):
        infer(model, str(source), out=out)
    assert {path.name for path in out.iterdir()} == {
        *("a.png.jpg", "b.png.jpg", "clip.mp4", "detections.csv", "detections.json")
    }
    (out / "b.png.jpg").write_bytes(b"a drawing of mine")
    with pytest.raises(UserError, match=r"b\.png\.jpg is there"):
        infer(model, str(folder), out=out)
    assert (out / "b.png.jpg").read_bytes() == b"a drawing of mine"


def test_pictures_of_one_run_do_not_replace_each_other(tmp_path, patches, model, folder) -> None:
    cv2.imwrite(str(folder / "a.png.jpg"), patches.picture(GREEN, 0, 0))
    infer(model, str(folder), out=tmp_path / "out")
    assert {"a.png.jpg", "a.png.2.jpg", "b.png.jpg"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_sources_that_are_no_regular_files_or_claim_too_much_are_told(tmp_path, model, folder, caplog) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    for name, message in (("pipe.png", "a pipe"), ("gone.png", "a link to nothing")):
        with pytest.raises(UserError, match=message):
            infer(model, str(tmp_path / name), out=tmp_path / "out")
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (folder / "c.jpg").unlink()
    (folder / "bomb.png").write_bytes(head + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b""))
    os.mkfifo(folder / "pipe.png")
    infer(model, str(folder), out=tmp_path / "out")
    (skipped,) = json.loads((tmp_path / "out" / "detections.json").read_text())["skipped"]
    assert skipped["file"] == "bomb.png" and "pixels" in skipped["problem"]
    for number in ("9" * 30, "99999999999"):
        with pytest.raises(UserError, match=number):
            infer(model, number, out=tmp_path / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", [None, "{0: 'red', 1: 'green', 2: 'blue'}"])
def test_files_of_other_projects_run(tmp_path, folder, layout, names) -> None:
    model = write_foreign(tmp_path / "model.onnx", layout, names=names)
    ambiguous = names is None and layout in ("objectness swapped", "scores")
    if ambiguous:  # 5 + C and 4 + C in the order of the other project: only the names tell
        return
    infer(model, str(folder), out=tmp_path / "out")
    (first,) = found_in(tmp_path / "out")[0]["detections"]
    assert (first["class"], first["name"]) == (1, "green" if names else "1")
    assert first["box"] == pytest.approx([16.0, 32.0, 32.0, 48.0], abs=0.01)
    assert first["score"] == pytest.approx(1, abs=1e-3)


def test_suppression_inside_and_outside_take_one_class_a_box(tmp_path, folder) -> None:
    """A grey cell is red, green and blue at once."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:32, 16:32] = (200, 220, 240)
    cv2.imwrite(str(tmp_path / "grey.png"), image)
    found = {}
    for form in ("none", "topk", "onnx"):
        interface = Interface(nms=form, score_threshold=0.3, iou_threshold=0.5, max_detections=16, candidates=48)
        path = tmp_path / f"{form}.onnx"
        module = PatchNet()
        traced = to_onnx(module, input_shape=(1, 3, 64, 64))
        write_traced(traced, path, dialect="ort", fp16=False, interface=interface, names=("red", "green", "blue"))
        infer(path, str(tmp_path / "grey.png"), out=tmp_path / form)
        found[form] = [(row["name"], row["box"], row["score"]) for row in found_in(tmp_path / form)[0]["detections"]]
    assert (
        found["none"]
        == found["topk"]
        == found["onnx"]
        == [("red", [16, 16, 32, 32], pytest.approx(240 / 255, abs=1e-3))]
    )


class Neighbours(torch.nn.Module):
    """Four anchors wherever one looks: a red one and, over it, a weaker one that is red or green; two at one place."""

    def __init__(self) -> None:
        super().__init__()
        boxes = [[0, 0, 20, 20], [1, 0, 21, 20], [40, 40, 60, 60], [40, 40, 60, 60]]
        scores = [[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.6, 0.0, 0.0], [0.0, 0.0, 0.5]]
        self.register_buffer("boxes", torch.tensor([boxes], dtype=torch.float32))
        self.register_buffer("scores", torch.tensor([scores]))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = 0 * images.mean(dim=(1, 2, 3), keepdim=True)[..., 0]
        return self.boxes + nothing, self.scores + nothing


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_best_classes_are_suppressed_inside_as_outside(tmp_path, folder, caplog, runtime) -> None:
    found, told = {}, {}
    for form, classes in (("none", "all"), ("topk", "all"), ("topk", "best"), ("onnx", "best")):
        interface = Interface(
            nms=form, nms_classes=classes, score_threshold=0.3, iou_threshold=0.45, max_detections=4, candidates=12
        )
        path = tmp_path / f"{form}.onnx"
        traced = to_onnx(Neighbours(), input_shape=(1, 3, 64, 64))
        write_traced(traced, path, dialect="openvino", interface=interface, names=("red", "green", "blue"))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            infer(path, str(folder), out=tmp_path / form / classes, runtime=runtime, score=0.3, iou=0.45)
        told[form, classes] = caplog.text.count("export.nms_classes=best")
        (rows, *_) = found_in(tmp_path / form / classes)
        found[form, classes] = [(row["name"], row["box"], row["score"]) for row in rows["detections"]]
    plain = found["none", "all"]
    assert [name for name, _, _ in plain] == ["red", "red", "blue"] and plain[1][1] == plain[2][1]
    assert found["topk", "best"] == found["onnx", "best"] == plain
    assert [name for name, _, _ in found["topk", "all"]] == ["red", "green", "red"]
    assert told == {("none", "all"): 0, ("topk", "all"): 1, ("topk", "best"): 0, ("onnx", "best"): 0}


class PatchNet(torch.nn.Module):
    """The patch detector as a module."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = np.mgrid[:4, :4].reshape(2, -1) * 16
        corners = np.stack((columns, rows, columns + 16, rows + 16), axis=1).astype(np.float32)
        self.register_buffer("corners", torch.from_numpy(corners)[None])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.nn.functional.avg_pool2d(images, 16).flatten(2).transpose(1, 2)
        return self.corners + 0 * scores.sum(dim=2, keepdim=True), scores


def test_scores_that_are_none_end_in_one_message(tmp_path, patches) -> None:
    """Only bright pictures show that the scores are not what they should be."""
    model = onnx.load(write_foreign(tmp_path / "m.onnx", "scores swapped"))
    for node in model.graph.node:
        if node.op_type == "AveragePool":
            node.input[0] = "brighter"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), "two"))
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["images", "two"], ["brighter"]))
    onnx.save(model, tmp_path / "m.onnx")
    cv2.imwrite(str(tmp_path / "a.png"), patches.picture((0, 255, 0), 1, 2))
    with pytest.raises(UserError, match="scores from 0 to 2, which should lie in"):
        infer(tmp_path / "m.onnx", str(tmp_path / "a.png"), out=tmp_path / "out")
