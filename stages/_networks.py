"""The network that a training builds, and what a checkpoint says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages._params import ModelParams
from yolov6core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov6core.models.detector import Detector


@dataclass(frozen=True)
class Architecture:
    """What a training adds to the variant: the form of its 3x3 blocks, and the head's branch for training."""

    block: str
    branch: str = "none"


def network_meta(model: ModelParams, architecture: Architecture, *, names: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint of a network says about it; UserError for a variant or size that does not exist."""
    from yolov6core.models.variants import variant

    try:
        spec = variant(model.variant)
    except ValueError as error:
        raise UserError(f"model.variant: {error}") from None
    coarsest = max(spec.strides)
    if any(side % coarsest for side in model.size):
        raise UserError(
            f"model.image_size is {list(model.size)}; both sides have to be multiples of {coarsest} for {model.variant}"
        )
    meta = {
        "model": spec.to_meta(),
        "variant": model.variant,
        "block": block_form(model, architecture),
        "branch": architecture.branch,
        "names": list(names),
        "image_size": list(model.size),
    }
    return meta | {"shrink": model.shrink} if model.shrink else meta


def block_form(model: ModelParams, architecture: Architecture) -> str:
    """The form of the 3x3 blocks, looked up where the variant's published one is asked for."""
    from yolov6core.models.variants import VARIANTS

    return VARIANTS[model.variant].block if architecture.block == "published" else architecture.block


def fresh_network(meta: Mapping[str, Any]) -> Detector:
    """The network that `meta` describes, with fresh weights, in training form; UserError if there is no such one."""
    from yolov6core.models.detector import build_detector
    from yolov6core.models.variants import ModelSpec

    spec = ModelSpec.from_meta(meta["model"])
    form = {"block": meta.get("block"), "branch": meta.get("branch", "none")}
    try:
        return build_detector(spec, num_classes=len(meta["names"]), **form)
    except ValueError as error:
        raise UserError(f"model.variant {meta['variant']}: {error}") from None


def stored_network(tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, path: Path) -> Detector:
    """The network of a float checkpoint in the form it was stored in, evaluation mode.

    Fresh weights are drawn on the way, as in `fresh_network`.

    Raises:
        UserError: the tensors of `path` are not those of the network that its `meta` describes.
    """
    from yolov6core.models.blocks import deploy_

    network = fresh_network(meta).eval()
    if meta.get("deployed"):
        deploy_(network)
    load_tensors(network, tensors, path=path)
    return network


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path) -> None:
    """Fill a network with the tensors of a file; UserError naming the file where they do not fit."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the network it describes; make it again ({error})") from None
