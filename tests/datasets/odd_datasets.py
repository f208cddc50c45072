"""Small datasets in each format, in folders that a test names, and the classes of their images."""

from __future__ import annotations

import json

import cv2
import numpy as np

STEMS = tuple("abcdefgh")
SECTION = {
    "format": "auto", "train_split": "train", "val_split": "val", "val_fraction": 0.25, "select_fraction": 0.25,
    "calib_images": 2, "classes": None, "difficult": "keep", "min_box": 2.0, "voc_origin": 1, "images": "reference",
    "strict": False, "seed": 0,
}  # fmt: skip


def picture(path, size=(80, 100)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)


def class_of(stem):
    return "cat" if STEMS.index(stem[-1]) % 2 else "dog"


def xml(name, *, corners=(11, 21, 40, 60), size=(80, 100), head=""):
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return (
        f"{head}<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>"
        f"<object><name>{name}</name><bndbox>{tags}</bndbox></object></annotation>"
    )


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def voc(root, *, annotations="Annotations/{}.xml", images="JPEGImages/{}.jpg", stems=STEMS):
    for stem in stems:
        picture(root / images.format(stem))
        write(root / annotations.format(stem), xml(class_of(stem)))
    return root


def coco_document(stems=STEMS, *, name="{}.jpg", **more):
    return {
        "images": [{"id": n, "file_name": name.format(s), "height": 80, "width": 100} for n, s in enumerate(stems, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + STEMS.index(s) % 2, "bbox": [10, 20, 30, 40]} | more
            for n, s in enumerate(stems, 1)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }


def coco(root, document=None, *, file="annotations/instances_default.json", images="images/{}.jpg", stems=STEMS):
    for stem in stems:
        picture(root / images.format(stem))
    write(root / file, json.dumps(coco_document(stems) if document is None else document))
    return root


def yolo(root, *, images="images/{}.jpg", labels="labels/{}.txt", names="classes.txt", stems=STEMS):
    for stem in stems:
        picture(root / images.format(stem))
        write(root / labels.format(stem), f"{STEMS.index(stem[-1]) % 2} 0.25 0.5 0.3 0.5\n")
    if names:
        write(root / names, "dog\ncat\n")
    return root


def spoiled_png(path):
    picture(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
