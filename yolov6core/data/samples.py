"""Single images of a split to look at: chosen, or drawn at random; as they are, or as a training changes them."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from yolov6core.base.errors import UserError
from yolov6core.data.augment import TrainTransform
from yolov6core.data.dataset import DetectionDataset
from yolov6core.data.transforms import Image, Labels


def images_named(dataset: DetectionDataset, names: Sequence[str]) -> list[int]:
    """Indices of the images of these names, in the order given: file names, or whole paths as the split lists them.

    Raises:
        UserError: no image, or several, have a name.
    """
    found = []
    for name in names:
        fitting = [index for index, path in enumerate(dataset.paths) if name in (path.name, path.as_posix())]
        if len(fitting) == 1:
            found += fitting
            continue
        where = f"the split {dataset.split} of {dataset.directory}"
        if fitting:
            raise UserError(f"{len(fitting)} images of {where} are called {name}; give the whole path of one")
        near = get_close_matches(name, [path.name for path in dataset.paths], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"no image of {where} is called {name}{hint}")
    return found


def images_drawn(dataset: DetectionDataset, count: int, *, seed: int, with_class: str | None = None) -> list[int]:
    """Indices of `count` images drawn at random, ascending; all where there are no more.

    Args:
        with_class: only images that have a box of this class; None: any.

    Raises:
        UserError: there is no such class, or no image has it.
    """
    indices = list(range(len(dataset)))
    if with_class is not None:
        if with_class not in dataset.names:
            raise UserError(f"no class is called {with_class}; the dataset has {', '.join(dataset.names)}")
        label = dataset.names.index(with_class)
        indices = [index for index in indices if (dataset.labels_in(index, 1, 1)[:, 0] == label).any()]
        if not indices:
            raise UserError(f"no image of the split {dataset.split} has a box of class {with_class}")
    drawn = np.random.default_rng(seed).permutation(len(indices))[:count]
    return sorted(indices[position] for position in drawn)


def augmented(transform: TrainTransform, index: int, *, seed: int, epoch: int) -> tuple[Image, Labels]:
    """An image as a training with this seed gets it in an epoch (from 0), see `TrainingBatches`.

    Returns: image uint8 BGR [H, W, 3] and labels float32 [n, 5]: class, xyxy in pixels.
    """
    image, labels = transform(index, np.random.default_rng((seed, epoch, index)))
    height, width = image.shape[1:]
    centre, half = labels[:, 1:3], labels[:, 3:5] / 2
    corners = np.concatenate((centre - half, centre + half), axis=1) * np.array([width, height] * 2, dtype=np.float32)
    picture = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
    return picture, np.concatenate((labels[:, :1], corners), axis=1).astype(np.float32)
