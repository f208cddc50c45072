"""draw-sample: draw the sample dataset that stands in the repository (not a DVC stage)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SAMPLE_ROOT = Path("data/sample_voc")
SAMPLE_IMAGES = 560
SAMPLE_SEED = 20240
JPEG_QUALITY = 90


def draw_sample_cli(
    root: Annotated[Path, typer.Option(help="Folder of the VOC tree; its files are replaced.")] = SAMPLE_ROOT,
    images: Annotated[int, typer.Option(min=4, help="Number of images, every third for validation.")] = SAMPLE_IMAGES,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same dataset.")] = SAMPLE_SEED,
) -> None:
    """Draw synthetic scenes of shapes and write them as a VOC dataset."""
    draw_sample(root, images=images, seed=seed)
    typer.echo(f"{images} images in {root}")


def draw_sample(root: Path, *, images: int = SAMPLE_IMAGES, seed: int = SAMPLE_SEED) -> None:
    """Write `Annotations/`, `JPEGImages/` and `ImageSets/Main/{train,val,trainval}.txt` under `root`.

    Args:
        root: folder of the VOC tree, made where it is missing.
        images: number of images; every third goes to `val`, the others to `train`.
        seed: the series of scenes, see `yolov6core.datasets.drawn.draw_scene`.

    Raises:
        OSError: a file cannot be written.
    """
    import cv2

    from yolov6core.datasets.drawn import draw_scene, voc_xml

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
