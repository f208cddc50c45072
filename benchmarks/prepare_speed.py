"""How many annotated images `prepare-voc2yolo` takes per second, and in how much memory.

    python benchmarks/prepare_speed.py --images 21503 --folder /dev/shm

Writes a synthetic VOC tree as large as VOC 2007 + 2012 (16,551 images to train on, 4,952 to validate on, 2.5 boxes
each) into a temporary folder, runs the stage on it in a process of its own, and prints images per second and that
process's peak memory. The pictures are hard links to a few small JPEGs: prepare reads their headers only.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PICTURES = 64
VAL_SHARE = 4952 / 21503
CLASSES = [f"class{index:02d}" for index in range(20)]
OBJECT = """\t<object>
\t\t<name>{}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>{}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{}</xmin>
\t\t\t<ymin>{}</ymin>
\t\t\t<xmax>{}</xmax>
\t\t\t<ymax>{}</ymax>
\t\t</bndbox>
\t</object>
"""
ANNOTATION = """<annotation>
\t<folder>VOC2012</folder>
\t<filename>{}.jpg</filename>
\t<source>
\t\t<database>The VOC2012 Database</database>
\t\t<annotation>PASCAL VOC2012</annotation>
\t\t<image>flickr</image>
\t</source>
\t<size>
\t\t<width>500</width>
\t\t<height>375</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{}</annotation>
"""
CONVERT = """
import json, os, resource, sys, time
from pathlib import Path
from stages.params import PrepareParams
from stages.prepare_voc2yolo import prepare_voc2yolo
from yolov6core.param_sections import ParameterFile
start, used = time.perf_counter(), time.process_time()
prepare_voc2yolo(*ParameterFile(Path("params.yaml")).read(PrepareParams))
seconds, used = time.perf_counter() - start, time.process_time() - used
images = json.loads(Path("metrics/prepare.json").read_text())["images"]
print(images, seconds, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_tree(root: Path, images: int) -> None:
    """A VOC tree of `images` annotations and as many links to JPEGs of 500 x 375 pixels."""
    import cv2
    import numpy as np

    rng = random.Random(0)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "pictures"):
        (root / folder).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (PICTURES, 24, 32, 3), dtype=np.uint8)
    encoded = [cv2.imencode(".jpg", cv2.resize(picture, (500, 375)))[1].tobytes() for picture in noise]
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(images):
        stem = f"2012_{index:06d}"
        objects = []
        for _ in range(rng.choice((1, 1, 2, 2, 3, 6))):
            left, top = rng.randint(1, 400), rng.randint(1, 300)
            box = (left, top, left + rng.randint(5, 99), top + rng.randint(5, 74))
            objects.append(OBJECT.format(rng.choice(CLASSES), int(rng.random() < 0.1), *box))
        (root / f"Annotations/{stem}.xml").write_text(ANNOTATION.format(stem, "".join(objects)))
        picture = root / f"pictures/{index % PICTURES}_{index // 10_000}.jpg"
        if not picture.exists():
            picture.write_bytes(encoded[index % PICTURES])
        os.link(picture, root / f"JPEGImages/{stem}.jpg")
        rows["val" if index * VAL_SHARE % 1 < VAL_SHARE else "train"].append(stem)
    for name, stems in rows.items():
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(stems) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[21503])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where to put the temporary trees; /dev/shm is memory")
    options = parser.parse_args()
    for images in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_tree(Path(folder) / "VOC", images)
            params = (REPOSITORY / "params.yaml").read_text().replace("root: data/sample_voc", "root: VOC")
            (Path(folder) / "params.yaml").write_text(params)
            for turn in range(options.rounds):
                if turn:  # not deleted: ext4 is slow to create files for seconds after thousands were deleted
                    os.rename(f"{folder}/artifacts", f"{folder}/artifacts{turn}")
                done = subprocess.run(
                    [sys.executable, "-c", CONVERT],
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                    check=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                count, seconds, used, memory = (float(value) for value in done.stdout.split())
                print(
                    f"{count:.0f} images: {count / seconds:.0f} a second ({seconds:.2f} s, {used:.2f} s of them on a "
                    f"processor), peak {memory:.0f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
