"""`import-checkpoint`: an official checkpoint as a file of this project, and what was found in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages._report import stage_errors
from yolov6core.errors import UserError

if TYPE_CHECKING:
    from stages._weights import GivenWeights

Out = Annotated[Path, typer.Option("--out", help="The file to write.")]
Variant = Annotated[str | None, typer.Option("--variant", help="Which network it is, where tensors alone do not tell.")]
Names = Annotated[
    str | None, typer.Option("--names", help="Class names, separated by commas, where the file has none.")
]
Side = Annotated[int | None, typer.Option("--image-size", help="Side of the square input [320 for Lite, else 640].")]


def import_checkpoint_cli(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt of the official trainer, or .safetensors of its tensors.")],
    out: Out = Path("imported.safetensors"),
    variant: Variant = None,
    names: Names = None,
    image_size: Side = None,
) -> None:
    """Convert an official checkpoint, running nothing of it, for `train.weights` (or `search.scales`)."""
    with stage_errors():
        given = names.split(",") if names else None
        typer.echo(import_checkpoint(checkpoint, out=out, variant=variant, names=given, side=image_size))


def import_checkpoint(
    checkpoint: Path, *, out: Path, variant: str | None = None, names: list[str] | None = None, side: int | None = None
) -> str:
    """Write a checkpoint of this project (of a hyper-search: its scales) and return what was found, as lines of text.

    Raises:
        UserError: the file is refused or fits no network; the message names tensors and counts.
    """
    from stages._weights import empty_network, load_weights_, read_weights
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.models.cost import cost_of
    from yolov6core.models.variants import VARIANTS

    given = read_weights(checkpoint)
    name, block = _identify(given, variant)
    spec = VARIANTS[name]
    network = empty_network(spec, block, given)
    match = load_weights_(network, given, where="checkpoint")
    lines = [
        f"{checkpoint}: {given.found}",
        f"network: {name}, block form {block}, branch for training: {given.branch}, "
        + ("batch norm folded" if given.deployed else "training form"),
        f"tensors: all {match.matched} match",
        f"classes: {given.num_classes}"
        + (f" ({', '.join(given.names[:8])} ...)" if given.names else ", without names"),
    ]
    if given.blocks == "scaled":
        lines.append(_write_scales(given, name, out))
    else:
        side = side or (320 if spec.stage == "lite" else 640)
        meta = {
            "model": spec.to_meta(),
            "variant": name,
            "block": block,
            "branch": given.branch,
            "names": _names(given, names),
            "image_size": [side, side],
            "deployed": given.deployed,
        }
        save_checkpoint(out, network.state_dict(), meta)
        cost = cost_of(network, image_size=(side, side))
        lines.append(f"deployed: {cost.deployed_parameters:,} parameters, {cost.gflops:.2f} GFLOPs at {side} pixels")
        lines.append(f"-> {out}: set train.weights to it, model.variant to {name} and train.block to {block}")
    return "\n".join(lines)


def _identify(given: GivenWeights, variant: str | None) -> tuple[str, str]:
    from stages._weights import block_for, fitting_variants
    from yolov6core.models.variants import variant as look_up

    if variant is not None:
        try:
            return variant, block_for(given, look_up(variant).block)
        except ValueError as error:
            raise UserError(f"--variant: {error}") from None
    found = fitting_variants(given)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            f"{given.path} ({given.found}; {len(given.tensors)} tensors, {given.num_classes} classes) has the tensors "
            "of no network in the table; give the nearest with --variant to see what differs"
        )
    raise UserError(
        f"{given.path} fits {' and '.join(name for name, _ in found)}, which differ in nothing that tensors show; "
        "say which with --variant"
    )


def _names(given: GivenWeights, names: list[str] | None) -> list[str]:
    chosen: Any = names or given.names or [str(index) for index in range(given.num_classes)]
    if len(chosen) != given.num_classes:
        raise UserError(f"--names has {len(chosen)} names, the file {given.num_classes} classes")
    return list(chosen)


def _write_scales(given: GivenWeights, variant: str, out: Path) -> str:
    from yolov6core.checkpoint import save_checkpoint
    from yolov6core.training.repopt import scales_from_state, scales_to_tensors

    scales = scales_from_state(given.tensors)
    save_checkpoint(out, scales_to_tensors(scales), {"variant": variant})
    return f"-> {out}: scales of {len(scales)} blocks; set search.scales to it and model.variant to {variant}"
