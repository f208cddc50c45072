"""Divides images into splits: disjoint, seeded, and with the same share of every class."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from yolov6core.datasets.annotated import Problem, stem_of
from yolov6core.datasets.images import Images

_NO_BOX = ("",)
_CANDIDATES = 1000  # images compared for each move towards the exact number; the best of them is good enough


def remove_shared(train: Images, val: Images) -> tuple[Images, Images, list[Problem]]:
    """Make splits disjoint: an image of both splits stays in `val` only; an image listed twice in a split stays once.

    Returns: the two splits sorted by path, and the problems found.
    """
    problems: list[Problem] = []
    splits: list[dict[str, int]] = []  # path -> place
    for images in (train, val):
        kept: dict[str, int] = {}
        for place, path in enumerate(images.paths()):
            if path in kept:
                problems.append(Problem("duplicate_entry", path))
            kept.setdefault(path, place)
        splits.append(kept)
    shared = sorted(splits[0].keys() & splits[1].keys())
    problems += [Problem("in_both_splits", path) for path in shared]
    for path in shared:
        del splits[0][path]
    ordered = [
        images.part(kept[path] for path in sorted(kept)) for images, kept in zip((train, val), splits, strict=True)
    ]
    return ordered[0], ordered[1], problems


def seeded_part(images: Images, count: int, seed: int) -> list[int]:
    """Places of `count` images, chosen by a hash of seed and name: other images hardly change the choice.

    Images of one name keep their order.
    """
    keys = [hashlib.sha256(f"{seed}/{stem_of(path)}".encode()).digest() for path in images.paths()]
    return sorted(range(len(keys)), key=keys.__getitem__)[:count]


def held_out_part(images: Images, count: int, seed: int) -> list[int]:
    """Places of `count` images to choose or to judge on: no class leaves the others, and boxes are among them.

    It is `stratified_part`, mended where its number of images would take all images of a class, or none with a box.
    """
    return _mended(_classes(images), stratified_part(images, count, seed), seeded_part(images, len(images), seed))


def fair_part(images: Images, count: int, seed: int) -> list[int]:
    """Places of `count` images: those of `seeded_part` while they hold every class fairly, else `held_out_part`.

    Fair: the only image of a class is not among them, further classes are in both parts, and the images of a class
    are within a quarter of its share, or two images.
    """
    places = seeded_part(images, count, seed)
    classes = _classes(images)
    total = Counter(name for names in classes for name in names if name)
    taken = Counter(name for place in places for name in classes[place] if name)
    share = count / max(len(images), 1)
    within = (abs(taken[name] - share * n) <= max(2.0, 0.25 * share * n) for name, n in total.items())
    both = (0 < taken[name] < n if n > 1 else not taken[name] for name, n in total.items())
    return places if taken and all(within) and all(both) else held_out_part(images, count, seed)


Classes = tuple[str, ...]


def _classes(images: Images) -> list[Classes]:
    """The classes of every image by its boxes; images without boxes are a class too, the empty name.

    Images of the same classes share a tuple: a million of them take the memory of a list.
    """
    shared: dict[Classes, Classes] = {}
    found = (tuple(sorted(set(names))) or _NO_BOX for names in images.box_names())
    return [shared.setdefault(names, names) for names in found]


def _mended(classes: Sequence[Classes], places: list[int], order: list[int]) -> list[int]:
    """The places, exchanged until every class has an image outside of them and, if one can, they hold a box."""
    total = Counter(name for names in classes for name in names)
    chosen = set(places)
    taken = Counter(name for place in chosen for name in classes[place])

    def fits(place: int) -> bool:
        return all(taken[name] + 1 < total[name] for name in classes[place] if name)

    def exchange(out: int, wanted: Iterable[int]) -> None:
        chosen.discard(out)
        taken.subtract(classes[out])
        into = next((place for place in wanted if place not in chosen and place != out and fits(place)), None)
        if into is not None:
            chosen.add(into)
            taken.update(classes[into])

    for place in sorted(chosen):
        if any(name and taken[name] >= total[name] for name in classes[place]):
            exchange(place, sorted(order, key=lambda other: classes[other] != _NO_BOX))
    if not any(name and count > 0 for name, count in taken.items()):
        boxed = [place for place in order if classes[place] != _NO_BOX and fits(place)]
        if boxed and chosen:
            exchange(min(chosen), boxed)
        elif boxed:
            chosen.add(boxed[0])
    return sorted(chosen) or places  # where each image is the only one of a class, a class has to leave


def stratified_part(images: Images, count: int, seed: int) -> list[int]:
    """Places of `count` images that hold the same share of the images of every class, in ascending order.

    The order is the hash of `seeded_part`, the rarest class first, as in iterative stratification (Sechidis et al.
    2011), but the order of classes is fixed: an image counts for its rarest class, and later classes only fill their
    missing share. A class of two images or more is in both parts; the only image of a class stays out. Images without
    objects are a class too.
    """
    order = seeded_part(images, len(images), seed)
    classes = _classes(images)
    total = Counter(name for names in classes for name in names)
    share = count / max(len(order), 1)
    wanted = {name: min(max(round(share * n), 1), n - 1) for name, n in total.items()}
    groups: dict[str, list[int]] = {}  # places by the image's rarest class
    for place in order:
        groups.setdefault(min(classes[place], key=lambda name: (total[name], name)), []).append(place)
    chosen: set[int] = set()
    taken: Counter[str] = Counter()
    for name in sorted(groups, key=lambda name: (total[name], name)):
        for place in groups[name][: max(wanted[name] - taken[name], 0)]:
            chosen.add(place)
            taken.update(classes[place])
    _reach(count, order, chosen, classes, wanted, taken)
    return sorted(chosen)


def _reach(
    count: int,
    order: list[int],
    chosen: set[int],
    classes: Sequence[Classes],
    wanted: Mapping[str, int],
    taken: Counter[str],
) -> None:
    """Add or remove the images that change the shares of the classes least, until `count` are chosen."""
    step = 1 if len(chosen) < count else -1

    def imbalance(place: int) -> tuple[int, float]:
        names = classes[place]
        emptied = sum(taken[name] == 1 for name in names) if step < 0 else sum(not wanted[name] for name in names)
        return emptied, sum((1 + 2 * step * (taken[name] - wanted[name])) / max(wanted[name], 1) for name in names)

    while len(chosen) != count:
        candidates = (place for place in order if (place in chosen) == (step < 0))
        best = min(itertools.islice(candidates, _CANDIDATES), key=imbalance)
        if step > 0:
            chosen.add(best)
        else:
            chosen.remove(best)
        for name in classes[best]:
            taken[name] += step
