"""Writes small dataset folders for tests: coloured rectangles on noise, one label per rectangle."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

NAMES = ["disc", "square", "cross"]
SIZES = [(96, 128), (120, 80), (64, 64), (200, 150), (50, 140), (128, 128)]


def make_dataset(
    root: Path, *, count: int = 6, suffix: str = ".png", splits: tuple[str, ...] = ("train", "val")
) -> Path:
    """A dataset folder `root/dataset` with `count` images in `root/images`; the same images stand in every split."""
    rng = np.random.default_rng(7)
    folder, pictures = root / "dataset", root / "images"
    for made in (folder / "labels", folder / "annotations", pictures):
        made.mkdir(parents=True)
    images, annotations, paths = [], [], []
    for number in range(1, count + 1):
        height, width = SIZES[(number - 1) % len(SIZES)]
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        rows = []
        # every fourth image has no objects
        for _ in range(0 if number % 4 == 0 else int(rng.integers(1, 4))):
            box_w, box_h = int(rng.integers(12, width // 2)), int(rng.integers(12, height // 2))
            x, y, label = (
                int(rng.integers(0, width - box_w)),
                int(rng.integers(0, height - box_h)),
                int(rng.integers(3)),
            )
            image[y : y + box_h, x : x + box_w] = rng.integers(150, 255, 3)
            rows.append(
                f"{label} {(x + box_w / 2) / width:.8f} {(y + box_h / 2) / height:.8f} "
                f"{box_w / width:.8f} {box_h / height:.8f}"
            )
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "iscrowd": 0,
                    "bbox": [x, y, box_w, box_h],
                    "area": box_w * box_h,
                }
            )
        path = pictures / f"picture_{number:03d}{suffix}"
        cv2.imwrite(str(path), image)
        (folder / "labels" / f"{path.stem}.txt").write_text("".join(row + "\n" for row in rows))
        images.append({"id": number, "file_name": path.as_posix(), "height": height, "width": width})
        paths.append(path.as_posix())
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
    }
    for split in splits:
        (folder / f"{split}.txt").write_text("\n".join(paths) + "\n")
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    (folder / "dataset.yaml").write_text("names: [" + ", ".join(NAMES) + "]\n")
    return folder
