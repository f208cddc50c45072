"""`draw-sample`: draw the sample dataset that stands in the repository (not a stage of the pipeline)."""

from __future__ import annotations

from pathlib import Path

from yolov6core.datasets.drawn_tree import write_drawn_tree


def draw_sample(root: Path, *, images: int, seed: int) -> str:
    """Write the dataset, see `write_drawn_tree`; returns one line for people."""
    write_drawn_tree(root, images=images, seed=seed)
    return f"{images} images in {root}"
