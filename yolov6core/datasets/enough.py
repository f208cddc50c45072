"""Whether enough is left to train, to choose and to judge on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from yolov6core.base.inputs import printable
from yolov6core.datasets.annotated import DatasetError, Problem, count_problems
from yolov6core.datasets.images import Images

NAMED = 3
"""Files that messages name for each kind of problem."""


def need_enough(root: str, splits: Mapping[str, Images], problems: Sequence[Problem]) -> None:
    """Check that every split has an image and a box that is no crowd.

    Raises:
        DatasetError: says which split has none, and what was left out.
    """
    so_far = ", ".join(f"{kind} {count}" for kind, count in count_problems(problems).items() if count) or "none"
    for split, images in splits.items():
        if not len(images):
            raise DatasetError(f"no usable image in the split {split!r} of {root}; problems: {so_far}")
        if images.box_counts():
            continue
        crowds = images.crowd_counts().total()
        if crowds:
            raise DatasetError(
                f"no usable box in the split {split!r} of {root}: only crowd regions ({crowds} with iscrowd: 1), "
                "which are not learnt and not judged. CVAT writes iscrowd: 1 for masks; export polygons or boxes, "
                f"or set iscrowd to 0; problems: {so_far}"
            )
        named = sorted({class_of(problem) for problem in problems if problem.kind == "unknown_class"})
        hint = f"; classes in the data: {', '.join(named[:20])}" if named else ""
        if split == "select":
            hint += "; select is a part of the training images: annotate more of them, or raise prepare.select_fraction"
        raise DatasetError(f"no usable box in the split {split!r} of {root}; problems: {so_far}{hint}")


def need_two(root: str, train: Images) -> None:
    """Check that the training images can be parted. Raises DatasetError."""
    if len(train) < 2:
        raise DatasetError(
            f"one usable training image in {root}; at least two are needed, one to train and one to select on"
        )


def need_right_case(classes: Sequence[str] | None, problems: Sequence[Problem]) -> None:
    """Check that no class is left out for the case of its letters. Raises DatasetError with the right name."""
    asked = {name.casefold(): name for name in classes or ()}
    unknown = {class_of(problem) for problem in problems if problem.kind == "unknown_class"}
    wrong = sorted(name for name in unknown if name.casefold() in asked)
    if wrong:
        pairs = ", ".join(f"{asked[name.casefold()]!r} is {name!r} in the data" for name in wrong[:20])
        raise DatasetError(f"prepare.classes: {pairs}; write names as the data does, or rename them there")


def class_of(problem: Problem) -> str:
    """The class in the detail of a problem with a box."""
    return problem.detail.rpartition(" (")[0]


def problem_lines(problems: Sequence[Problem], meanings: Mapping[str, str]) -> list[str]:
    """A line for every kind of problem that occurred, each with the first files concerned."""
    lines = []
    for kind, meaning in meanings.items():
        found = [problem for problem in problems if problem.kind == kind]
        if found:
            lines.append(f"{kind}: {len(found)} ({meaning})")
        lines += [f"  {printable(problem.where)} {printable(problem.detail)}" for problem in found[:NAMED]]
        if len(found) > NAMED:
            lines.append("  ... all in report.json")
    return lines
