"""Which network of the table a file of weights belongs to."""

from __future__ import annotations

from yolov6core.base.errors import UserError
from yolov6core.models.variants import variant as look_up
from yolov6core.pretrained.weights import GivenWeights, block_for, fitting_variants


def identify(given: GivenWeights, variant: str | None = None) -> tuple[str, str]:
    """Variant and block form of a file.

    Args:
        variant: as the user says, where tensors alone do not tell.

    Raises:
        UserError: the file fits no network, or several; the message says what to do.
    """
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
