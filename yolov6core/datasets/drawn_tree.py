"""A drawn dataset on disk: scenes of shapes as a VOC tree."""

from __future__ import annotations

from pathlib import Path

import cv2

from yolov6core.datasets.drawn import draw_scene, voc_xml

JPEG_QUALITY = 90


def write_drawn_tree(root: Path, *, images: int, seed: int) -> None:
    """Write `Annotations/`, `JPEGImages/` and `ImageSets/Main/{train,val,trainval}.txt` under `root`.

    Args:
        root: folder of the VOC tree, made where it is missing.
        images: number of images; every third goes to `val`, the others to `train`.
        seed: the series of scenes, see `drawn.draw_scene`.

    Raises:
        OSError: a file cannot be written.
    """
    folders = {name: root / name for name in ("Annotations", "JPEGImages", "ImageSets/Main")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[str]] = {"train": [], "val": [], "trainval": []}
    for index in range(images):
        stem = f"shapes_{index:04d}"
        scene = draw_scene(seed, index)
        done, encoded = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise OSError(f"OpenCV could not encode {stem}.jpg")
        (folders["JPEGImages"] / f"{stem}.jpg").write_bytes(encoded.tobytes())
        (folders["Annotations"] / f"{stem}.xml").write_text(voc_xml(scene, f"{stem}.jpg"), encoding="utf-8")
        splits["val" if index % 3 == 2 else "train"].append(stem)
        splits["trainval"].append(stem)
    for name, stems in splits.items():
        text = "".join(f"{stem}\n" for stem in stems)
        (folders["ImageSets/Main"] / f"{name}.txt").write_text(text, encoding="utf-8")
