"""An official checkpoint as a file of this project, and what was found in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from yolov6core.base.atomic import full_disk_explained, temporary_name
from yolov6core.base.errors import UserError
from yolov6core.base.own_files import place_new, refuse_taken
from yolov6core.models.card import NetworkCard
from yolov6core.models.cost import cost_of
from yolov6core.models.variants import VARIANTS, ModelSpec
from yolov6core.pretrained.identify import identify
from yolov6core.pretrained.weights import (
    GivenWeights,
    empty_network,
    load_weights_,
    read_weights,
)
from yolov6core.tasks.networks import save_float
from yolov6core.training.repopt import save_scales, scales_from_state

MAX_SIDE = 8192
"""Longest side of an input, in pixels."""


def import_checkpoint(
    checkpoint: Path,
    *,
    out: Path,
    variant: str | None = None,
    names: Sequence[str] | None = None,
    side: int | None = None,
) -> str:
    """Write a checkpoint of this project (of a hyper-search: its scales) and return what was found, as lines of text.

    Raises:
        UserError: the file is refused or fits no network (the message names tensors and counts), or `out` is another
            file that is there.
    """
    refuse_taken(out, sources=(checkpoint,))
    given = read_weights(checkpoint)
    name, block = identify(given, variant)
    spec = VARIANTS[name]
    network = empty_network(spec, block, given)
    match = load_weights_(network, given, where="checkpoint")
    lines = [
        f"{checkpoint}: {given.found}",
        f"network: {name}, block form {block}, auxiliary head: {given.aux_head}, "
        + ("batch norm folded" if given.deployed else "training form"),
        f"tensors: all {match.matched} match",
        f"classes: {given.num_classes}"
        + (f" ({', '.join(given.names[:8])} ...)" if given.names else ", without names"),
    ]
    if given.blocks == "scaled":
        lines.append(_write_scales(given, name, out))
    else:
        side = _side(side, spec)
        card = NetworkCard(
            spec=spec,
            variant=name,
            block=block,
            names=_names(given, names),
            image_size=(side, side),
            aux_head=given.aux_head,
            deployed=given.deployed,
        )
        _place(out, lambda path: save_float(path, network, card))
        cost = cost_of(network, image_size=(side, side))
        lines.append(f"deployed: {cost.deployed_parameters:,} parameters, {cost.gflops:.2f} GFLOPs at {side} pixels")
        lines.append(f"-> {out}: set train.weights to it, model.variant to {name} and train.block to {block}")
    return "\n".join(lines)


def _names(given: GivenWeights, names: Sequence[str] | None) -> tuple[str, ...]:
    chosen = tuple(names or given.names or (str(index) for index in range(given.num_classes)))
    if len(chosen) != given.num_classes:
        raise UserError(f"--names has {len(chosen)} names, the file {given.num_classes} classes")
    return chosen


def _side(given: int | None, spec: ModelSpec) -> int:
    """Side of the square input: the usual one, or as given. Raises UserError if the network has no such input."""
    stride = max(spec.strides)
    side = (320 if spec.stage == "lite" else 640) if given is None else given
    if side % stride or not stride <= side <= MAX_SIDE:
        below = min(max(side // stride, 1), MAX_SIDE // stride) * stride
        raise UserError(
            f"--image-size is {side}; a multiple of {stride} up to {MAX_SIDE} is needed, for example {below}"
            + (f" or {below + stride}" if stride < side < MAX_SIDE else "")
        )
    return side


def _place(out: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a name of its own first, and give it its name unless another file has it."""
    temporary = temporary_name(out)
    with full_disk_explained(out):
        try:
            write(temporary)
            place_new(temporary, out)
        except PermissionError as error:
            raise UserError(f"--out {out} cannot be written ({error.strerror}); give another name") from None
        finally:
            temporary.unlink(missing_ok=True)


def _write_scales(given: GivenWeights, variant: str, out: Path) -> str:
    scales = scales_from_state(given.tensors)
    _place(out, lambda path: save_scales(path, scales, variant=variant))
    return f"-> {out}: scales of {len(scales)} blocks; set search.scales to it and model.variant to {variant}"
