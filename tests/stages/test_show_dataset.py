"""`show-dataset`: sheets of chosen and drawn images, and nothing of anybody else's is lost."""

from __future__ import annotations

from pathlib import Path

import cv2
import pandas as pd
import pytest

from stages.draw_sample import draw_sample
from tests.support.pipeline import run_small

SHOWN = Path("artifacts/show")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    draw_sample(folder / "data" / "sample_voc", images=24, seed=20240)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_small("prepare-voc2yolo").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def project(prepared, monkeypatch) -> None:
    monkeypatch.chdir(prepared)


def show(*arguments: str, out: Path = SHOWN, **changes: dict):
    return run_small("show-dataset", "--out", str(out), *arguments, **changes)


def names(split: str) -> list[str]:
    return [Path(line).name for line in Path(f"artifacts/dataset/{split}.txt").read_text().split()]


def test_drawn_images_fill_sheets_and_a_table():
    result = show("--count", "7", "--columns", "2", "--rows", "2")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in SHOWN.glob("*.jpg")) == ["sheet_001.jpg", "sheet_002.jpg"]
    table = pd.read_csv(SHOWN / "images.csv")
    assert table["sheet"].tolist() == [1] * 4 + [2] * 3 and set(table["picture"]) < set(names("train"))
    assert f"7 pictures with {table['boxes'].sum()} boxes" in result.output
    first, second = (cv2.imread(str(SHOWN / f"sheet_00{number}.jpg")) for number in (1, 2))
    assert first.shape[1] == second.shape[1] and first.std() > 10
    before = (SHOWN / "sheet_001.jpg").read_bytes()
    assert show("--count", "7", "--columns", "2", "--rows", "2").exit_code == 0
    assert (SHOWN / "sheet_001.jpg").read_bytes() == before, "same seed, same sheets"
    assert show("--count", "1").exit_code == 0
    assert [path.name for path in SHOWN.glob("*.jpg")] == ["sheet_001.jpg"], "an earlier run's sheets are gone"


def test_named_images_of_a_split_before_and_after_augmentation(tmp_path):
    name = names("val")[1]
    chosen = ("--split", "val", "--image", name)
    assert show(*chosen, out=tmp_path / "plain").exit_code == 0
    assert pd.read_csv(tmp_path / "plain" / "images.csv")["picture"].tolist() == [name]
    assert show(*chosen, "--epochs", "2", out=tmp_path / "changed").exit_code == 0
    assert pd.read_csv(tmp_path / "changed" / "images.csv")["picture"].tolist() == [
        f"{name}, epoch 1",
        f"{name}, epoch 2",
    ]
    still = dict.fromkeys(("mosaic", "translate", "scale", "hsv_h", "hsv_s", "hsv_v", "flip_lr"), 0.0)
    assert show(*chosen, "--epochs", "1", out=tmp_path / "still", augment=still).exit_code == 0
    whole, changed, unchanged = (
        pd.read_csv(tmp_path / folder / "images.csv")["boxes"][0] for folder in ("plain", "changed", "still")
    )
    assert unchanged == whole, "without strengths every box stays"
    assert (tmp_path / "changed" / "sheet_001.jpg").read_bytes() != (tmp_path / "still" / "sheet_001.jpg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--split", "test"), "--split is test; choose one of train, select, val, calib"),
        (("--image", "absent.jpg"), "is called absent.jpg"),
        (("--with-class", "dog"), "no class is called dog; the dataset has disc, rectangle"),
    ],
)
def test_what_is_not_there_is_named(arguments, part, tmp_path):
    result = show(*arguments, out=tmp_path / "out")
    assert result.exit_code == 1 and part in result.output
    assert not (tmp_path / "out").exists()


def test_files_of_others_stay(tmp_path):
    mine = tmp_path / "sheet_001.jpg"
    mine.write_bytes(b"mine")
    result = show(out=tmp_path)
    assert result.exit_code == 1 and "not as an earlier run of show-dataset wrote it" in result.output
    assert mine.read_bytes() == b"mine" and [path.name for path in tmp_path.iterdir()] == ["sheet_001.jpg"]


def test_damaged_images_are_left_out(prepared, tmp_path, caplog):
    name = names("train")[0]
    path = prepared / "data" / "sample_voc" / "JPEGImages" / name
    whole = path.read_bytes()
    path.write_bytes(b"no picture")
    try:
        result = show("--image", name, out=tmp_path / "none")
        assert result.exit_code == 1 and "none of the 1 images could be read" in result.output
        result = show("--image", name, "--image", names("train")[1], out=tmp_path / "one")
        assert result.exit_code == 0 and "left out: image" in result.output and name in result.output
        assert pd.read_csv(tmp_path / "one" / "images.csv")["picture"].tolist() == [names("train")[1]]
    finally:
        path.write_bytes(whole)


def test_it_needs_a_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = show()
    assert result.exit_code == 1 and "dvc repro prepare-voc2yolo" in result.output
