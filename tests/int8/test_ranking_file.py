"""Rankings that other tools made: their files, their names, and what is told of names that mean nothing here."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from yolov6core.base.errors import UserError
from yolov6core.int8.block_ranking import block_of, block_rows, blocks_of, measure_one_float
from yolov6core.int8.ranking_file import ranked_layers, read_ranking
from yolov6core.models.blocks import deploy_
from yolov6core.models.detector import build_detector
from yolov6core.models.variants import VARIANTS
from yolov6core.quant.insert import insert_quantizers
from yolov6core.quant.selection import Score
from yolov6core.quant.sensitivity import quantized_names


@pytest.mark.parametrize(
    "text",
    [
        "a.b\nc.0.conv\n",
        "\ufeff# made elsewhere\na.b 0.41\n\nc.0.conv 0.40  # the last\n",
        "layer,sensitivity,fast\na.b,0.1,2\nc.0.conv,0.05,1\n",
        "a.b: 35.1\nc.0.conv: 36\n",
        "Top0: float a.b, mAP 0.2655\nTop1: float c.0.conv, mAP 0.2654\n",
        "Top0: Using fp16 a.b, ap = 0.51196\nTop1: Using fp16 c.0.conv, ap = 0.51\n",
        '["a.b", "c.0.conv"]',
        '{"a.b": 0.1, "c.0.conv": 0.05}',
    ],
    ids=["names", "numbers", "table", "colons", "log", "log of another tool", "list", "object"],
)
def test_files_of_many_tools_are_read(tmp_path, text):
    (tmp_path / "r.txt").write_text(text, encoding="utf-8")
    assert read_ranking(tmp_path / "r.txt") == ["a.b", "c.0.conv"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "{broken", "layer,sensitivity\n", "[1, 2]"])
def test_files_without_names_are_refused(tmp_path, text):
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(UserError, match=r"sensitivity.from_file: .*r.txt names no layer; write one a line"):
        read_ranking(tmp_path / "r.txt")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sensitivity.from_file: .*absent.txt cannot be read"):
        read_ranking(tmp_path / "absent.txt")


@pytest.fixture(scope="module")
def layers() -> list[str]:
    return quantized_names(insert_quantizers(deploy_(build_detector(VARIANTS["test"], num_classes=2).eval())))


OFFICIAL = {
    "backbone.stem.rbr_reparam": ["backbone.stem.conv"],
    "backbone.ERBlock_2": ["backbone.stages.0.0.conv", "backbone.stages.0.1.0.conv"],
    "backbone.ERBlock_5.2.sppf.cv2.conv": ["backbone.pool.fuse.conv"],
    "neck.upsample0": ["neck.fuse.0.upsample.conv"],
    "neck.Rep_p3.conv1.rbr_reparam": ["neck.top_down.1.0.conv"],
    "detect.stems.1.conv": ["head.stems.1.conv"],
    "detect.cls_convs.2": ["head.cls_convs.2.conv"],
}
"""Name of a layer or block of the official network -> layers of the smallest network here."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_names_of_the_official_networks_are_understood(layers, name):
    found = ranked_layers([name], layers, VARIANTS["test"], path=Path("r.txt"))
    assert found[: len(OFFICIAL[name])] == OFFICIAL[name]
    parents = {layer.rpartition(".")[0].rstrip(".0123456789") for layer in found}
    assert len(parents) == 1, "nothing but the block itself"


def test_the_last_stage_has_the_pool(layers):
    found = ranked_layers(["backbone.ERBlock_5"], layers, VARIANTS["test"], path=Path("r.txt"))
    assert {block_of(name) for name in found} == {"backbone.stages.3", "backbone.pool"}


def test_the_levels_decide_what_official_names_mean():
    layers = ["neck.top_down.0.0.conv", "neck.top_down.1.0.conv"]
    for variant, expected in (("yolov6s_v2", layers[0]), ("yolov6s6", layers[1])):
        assert ranked_layers(["neck.Rep_p4"], layers, VARIANTS[variant], path=Path("r.txt")) == [expected]


def test_our_names_blocks_and_patterns_keep_their_order(layers, caplog):
    names = ["head.stems.*", "backbone.stem.conv", "nothing.here", "neck.fuse.0", "head.stems.0"]
    with caplog.at_level(logging.WARNING):
        found = ranked_layers(names, layers, VARIANTS["test"], path=Path("r.txt"))
    assert found[:4] == [*(f"head.stems.{level}.conv" for level in range(3)), "backbone.stem.conv"]
    assert found[4:] and all(name.startswith("neck.fuse.0.") for name in found[4:]) and len(set(found)) == len(found)
    assert "1 of the names in r.txt fit no quantized convolution and are passed over: nothing.here" in caplog.text


def test_names_of_another_network_are_refused(layers):
    with pytest.raises(UserError, match=r"none of the 2 names in r.txt \(model.24, model.25, ...\) fits a quantized"):
        ranked_layers(["model.24", "model.25"], layers, VARIANTS["test"], path=Path("r.txt"))


def test_blocks_are_the_modules_that_people_name():
    expected = {
        "backbone.stem.conv": "backbone.stem",
        "backbone.stages.1.0.conv": "backbone.stages.1",
        "backbone.pool.fuse.conv": "backbone.pool",
        "neck.fuse.0.upsample.conv": "neck.fuse.0",
        "head.cls_preds.0": "head.cls_preds.0",
        "model.24.m.0": "model.24",
        "stem": "stem",
    }
    assert {name: block_of(name) for name in expected} == expected


def test_rows_of_blocks_add_up():
    shares = {"a.0.x": 0.5, "b.0.x": 0.3, "b.0.y": 0.2}
    rows = block_rows(shares, {"a.0.x": 0.1, "b.0.x": 0.2, "b.0.y": 0.3}, ["b.0.y"])
    assert [row["block"] for row in rows] == ["a.0", "b.0"]
    assert rows[1] == {"block": "b.0", "layers": 2, "sensitivity": 0.5, "cost": 0.5, "float": 1}


def test_the_best_part_stands_first_and_a_run_goes_on(tmp_path, caplog):
    gains = {"a.0.x": 0.01, "b.0.x": 0.03, "b.0.y": -0.01}
    asked: list[tuple[str, ...]] = []

    def verify(names: tuple[str, ...]) -> Score:
        asked.append(names)
        if len(asked) == 4:
            raise KeyboardInterrupt
        value = 0.4 + sum(gains[name] for name in names)
        return Score(value, (value, value + 0.001))

    state = tmp_path / "s.json"
    with pytest.raises(KeyboardInterrupt):
        measure_one_float(list(gains), verify=verify, single_layers=True, state=state)
    with caplog.at_level(logging.INFO):
        rows = measure_one_float(list(gains), verify=verify, single_layers=True, state=state)
    assert asked[:3] == [(), ("a.0.x",), ("b.0.x", "b.0.y")] and asked[4:] == [("b.0.x",), ("b.0.y",)]
    assert [(row.kind, row.name) for row in rows][:2] == [("layer", "b.0.x"), ("block", "b.0")]
    assert rows[0].gain == pytest.approx(0.03) and rows[-1].gain == pytest.approx(-0.01)
    assert "Top0: float b.0.x, mAP 0.4300 (gain +0.0300, standard error 0.0000)" in caplog.text
    assert read_ranking_of(caplog.text, tmp_path)[0] == "b.0.x", "the log is a ranking"
    only = measure_one_float(list(gains), verify=verify, single_layers=False)
    assert [row.kind for row in only] == ["block", "block"] and list(blocks_of(gains)) == ["a.0", "b.0"]


def read_ranking_of(log: str, folder: Path) -> list[str]:
    lines = [line[line.index("Top") :] for line in log.splitlines() if "Top" in line]
    (folder / "log.txt").write_text("\n".join(lines))
    return read_ranking(folder / "log.txt")
