from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov6core.datasets.drawn import CLASS_NAMES, SceneStyle, _rasterise, _voc_box, draw_scene, voc_xml
from yolov6core.datasets.voc import parse_voc

SAMPLE = Path(__file__).parents[2] / "data/sample_voc"
SEED = 20240
FILES = sorted((SAMPLE / "Annotations").glob("*.xml"))


@pytest.mark.slow
def test_the_committed_sample_is_what_the_script_draws():
    for index in range(0, len(FILES), 8):
        scene = draw_scene(SEED, index)
        stem = f"shapes_{index:04d}"
        assert (SAMPLE / "Annotations" / f"{stem}.xml").read_text() == voc_xml(scene, f"{stem}.jpg")
        stored = cv2.imread(str(SAMPLE / "JPEGImages" / f"{stem}.jpg"))
        assert stored.shape == scene.image.shape
        assert np.abs(stored.astype(int) - scene.image).mean() < 12  # JPEG's loss


def test_the_sample_is_small_complete_and_balanced():
    lists = {n: (SAMPLE / f"ImageSets/Main/{n}.txt").read_text().split() for n in ("train", "val", "trainval")}
    assert (len(lists["train"]), len(lists["val"])) == (374, 186)
    assert sorted(lists["train"] + lists["val"]) == lists["trainval"] == [path.stem for path in FILES]
    assert sorted(path.stem for path in (SAMPLE / "JPEGImages").iterdir()) == lists["trainval"]
    assert 2e6 < sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 4e6
    annotations = [parse_voc(path.read_bytes()) for path in FILES]
    counts = [len(annotation.objects) for annotation in annotations]
    assert min(counts) == 1 and max(counts) == 12
    names = [item.name for annotation in annotations for item in annotation.objects]
    assert all(names.count(name) > 400 for name in CLASS_NAMES) and set(names) == set(CLASS_NAMES)
    for annotation in annotations:
        height, width = annotation.size
        for item in annotation.objects:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= width and 0 <= top < bottom <= height and min(right - left, bottom - top) >= 6


def test_scenes_differ_and_repeat():
    first, again, other = draw_scene(1, 0), draw_scene(1, 0), draw_scene(1, 1)
    assert (first.image == again.image).all() and first.objects == again.objects
    assert first.objects != other.objects
    assert draw_scene(2, 0).objects != first.objects


def test_style_reaches_the_scene():
    style = SceneStyle(most_objects=1, smallest=60, largest=0.5)
    assert {len(draw_scene(0, index, style).objects) for index in range(6)} == {1}


@pytest.mark.parametrize(
    "corners", [((10, 20), (30, 20), (30, 50), (10, 50)), ((0, 0), (160, 0), (160, 128), (0, 128))]
)
def test_box_of_a_drawn_rectangle_is_exact(corners):
    mask = _rasterise((128, 160), np.array(corners, float), None)
    (left, top), (right, bottom) = corners[0], corners[2]
    assert _voc_box(mask) == (left + 1, top + 1, right, bottom)
