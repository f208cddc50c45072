"""Division of images into splits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from yolov6core.datasets.annotated import AnnotatedImage, AnnotatedObject
from yolov6core.datasets.images import Images
from yolov6core.datasets.split import fair_part, held_out_part, remove_shared, seeded_part, stratified_part


def images_of(*classes):
    """An image for every string; each letter is an object of that class."""
    box = (0.0, 0.0, 9.0, 9.0)
    return Images(
        AnnotatedImage(f"{i:05d}.jpg", (10, 10), tuple(AnnotatedObject(c, box) for c in text))
        for i, text in enumerate(classes)
    )


def count_images(images):
    return Counter(name for image in images for name in {item.name for item in image.objects})


def test_splits_become_disjoint():
    a, b, c = (AnnotatedImage(f"{name}.jpg", None, ()) for name in "abc")
    train, val, problems = remove_shared(Images([c, b, a, a]), Images([b]))
    assert (list(train), list(val)) == ([a, c], [b])
    assert [problem.kind for problem in problems] == ["duplicate_entry", "in_both_splits"]


@pytest.mark.parametrize("part", [seeded_part, stratified_part])
def test_the_choice_is_stable(part):
    images = images_of(*["abc"[i % 3] for i in range(100)])

    def choose(images, seed=0):
        return {*images.part(part(images, 20, seed)).paths()}

    chosen = choose(images)
    assert len(chosen) == 20
    assert chosen == choose(images.part(range(99, -1, -1)))
    assert chosen != choose(images, seed=1)
    assert len(chosen & choose(images.part(range(95)))) >= 15


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_every_class_keeps_its_share(seed, fraction):
    """20 classes, the commonest 200 times as frequent as the rarest, one to four to an image, some images empty."""
    rng = np.random.default_rng(seed)
    weights = 200.0 ** -np.linspace(0, 1, 20)
    letters = [chr(ord("a") + i) for i in range(20)]
    drawn = [rng.choice(letters, rng.integers(0, 5), p=weights / weights.sum()) for _ in range(3000)]
    images = images_of(*["".join(names) for names in drawn])
    count = round(fraction * len(images))
    val = images.part(stratified_part(images, count, seed))
    assert len(val) == len({*val.paths()}) == count
    total, part = count_images(images), count_images(val)
    for name, number in total.items():
        assert abs(part[name] - fraction * number) <= max(1.5, 0.03 * fraction * number), name
    empty = sum(not image.objects for image in images)
    assert sum(not image.objects for image in val) == pytest.approx(fraction * empty, abs=10)
    chance = count_images(images.part(seeded_part(images, count, seed)))
    error, by_chance = (sum(abs(c[n] / k - fraction) for n, k in total.items()) for c in (part, chance))
    assert error < by_chance / 2


def test_rare_classes_are_in_both_parts():
    images = images_of(*["a"] * 96, "ab", "ab", "ac", "d")
    for seed in range(20):
        val = images.part(stratified_part(images, 10, seed))
        assert len(val) == 10
        held_out = count_images(val)
        assert held_out["b"] == 1, "one of two"
        assert held_out["c"] + held_out["d"] == 0, "the only image of a class is for training"


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_the_number_is_kept_whatever_the_classes(count):
    images = images_of("abc", "bcd", "cde", "dea", "eab", "abcde", "a", "b", "c", "d", "e", "", "")
    assert len(stratified_part(images, count, 3)) == count
    assert len(stratified_part(images_of(*["ab"] * 13), count, 3)) == count
    assert len(stratified_part(images_of(*[""] * 13), count, 3)) == count


@pytest.mark.parametrize("part", [fair_part, held_out_part])
@pytest.mark.parametrize("seed", range(10))
def test_no_class_leaves_the_others_and_boxes_are_held_out(part, seed):
    for texts in (["a"] * 5 + ["b", "b", "c"], ["ab", "", "", "", "ab"], ["a", "b", "a", "b"], ["abc", "abc", "a"]):
        for count in range(1, len(texts)):
            images = images_of(*texts)
            places = part(images, count, seed)
            inside, outside = images.divide(places)
            assert set(outside.box_counts()) == set(images.box_counts()), (texts, count)
            assert inside.box_counts() or count == 0


def test_a_fair_choice_by_chance_stays():
    images = images_of(*["abc"[i % 3] for i in range(300)])
    assert fair_part(images, 60, 0) == seeded_part(images, 60, 0)


def test_crowds_are_no_boxes_of_a_class():
    crowd = AnnotatedObject("c", (0.0, 0.0, 9.0, 9.0), crowd=True)
    images = Images([*images_of("a", "a", "a"), AnnotatedImage("z.jpg", (10, 10), (crowd,))])
    assert images.box_counts() == {"a": 3} and images.crowd_counts() == {"c": 1}
    assert images.part(fair_part(images, 1, 0)).box_counts() == {"a": 1}
