"""Divides images into splits: disjoint, seeded, and with every class's share in each."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from yolov6core.data.annotated import AnnotatedImage, Problem

_CANDIDATES = 1000  # images looked at for each that is moved to reach the exact number; the best of these is good


def remove_shared(
    train: Iterable[AnnotatedImage], val: Iterable[AnnotatedImage]
) -> tuple[list[AnnotatedImage], list[AnnotatedImage], list[Problem]]:
    """Make splits disjoint: an image of both stays in `val` only, one listed twice in a split stays once.

    Returns: the two splits sorted by path, and the problems found.
    """
    problems: list[Problem] = []
    splits: list[dict[str, AnnotatedImage]] = []
    for images in (train, val):
        kept: dict[str, AnnotatedImage] = {}
        for image in images:
            if image.path in kept:
                problems.append(Problem("duplicate_entry", image.path))
            kept.setdefault(image.path, image)
        splits.append(kept)
    shared = sorted(splits[0].keys() & splits[1].keys())
    problems += [Problem("in_both_splits", path) for path in shared]
    for path in shared:
        del splits[0][path]
    ordered = [[kept[path] for path in sorted(kept)] for kept in splits]
    return ordered[0], ordered[1], problems


def seeded_part(images: Sequence[AnnotatedImage], count: int, seed: int) -> list[AnnotatedImage]:
    """`count` images chosen by a hash of seed and name: the choice hardly moves when other images come or go."""

    def key(image: AnnotatedImage) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}/{image.stem}".encode()).digest(), image.path

    return sorted(images, key=key)[:count]


def stratified_part(images: Sequence[AnnotatedImage], count: int, seed: int) -> list[AnnotatedImage]:
    """`count` images that hold the same share of the images of every class, chosen by the hash of `seeded_part`.

    Rarest class first, as in iterative stratification (Sechidis et al. 2011), with the order of classes fixed: an image
    counts for the rarest class in it, and later classes only take what is still missing from their share. A class of
    two images or more is in both parts; the only image of a class stays out. Images without objects are a class too.
    """
    order = seeded_part(images, len(images), seed)
    classes = {image.path: sorted({item.name for item in image.objects}) or [""] for image in order}
    total = Counter(name for names in classes.values() for name in names)
    share = count / max(len(order), 1)
    wanted = {name: min(max(round(share * n), 1), n - 1) for name, n in total.items()}
    groups: dict[str, list[AnnotatedImage]] = {}  # images by their rarest class
    for image in order:
        groups.setdefault(min(classes[image.path], key=lambda name: (total[name], name)), []).append(image)
    chosen: dict[str, AnnotatedImage] = {}
    taken: Counter[str] = Counter()
    for name in sorted(groups, key=lambda name: (total[name], name)):
        for image in groups[name][: max(wanted[name] - taken[name], 0)]:
            chosen[image.path] = image
            taken.update(classes[image.path])
    _reach(count, order, chosen, classes, wanted, taken)
    return list(chosen.values())


def _reach(
    count: int,
    order: list[AnnotatedImage],
    chosen: dict[str, AnnotatedImage],
    classes: Mapping[str, list[str]],
    wanted: Mapping[str, int],
    taken: Counter[str],
) -> None:
    """Add or remove the images that disturb the classes' shares least, until there are `count`."""
    step = 1 if len(chosen) < count else -1

    def harm(image: AnnotatedImage) -> tuple[int, float]:
        names = classes[image.path]
        emptied = sum(taken[name] == 1 for name in names) if step < 0 else sum(not wanted[name] for name in names)
        return emptied, sum((1 + 2 * step * (taken[name] - wanted[name])) / max(wanted[name], 1) for name in names)

    while len(chosen) != count:
        candidates = (image for image in order if (image.path in chosen) == (step < 0))
        best = min(itertools.islice(candidates, _CANDIDATES), key=harm)
        if step > 0:
            chosen[best.path] = best
        else:
            del chosen[best.path]
        for name in classes[best.path]:
            taken[name] += step
