"""Names of the official checkpoints' tensors in terms of ours: one table of renames, applied to state dictionaries."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# (pattern over the official name, our name); first match wins and patterns are tried in order until none applies.
RENAMES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.ERBlock_5\.2\.sppf\.cv1\.", "backbone.pool.reduce."),
    (r"^backbone\.ERBlock_5\.2\.sppf\.cv2\.", "backbone.pool.fuse."),
    (r"^backbone\.ERBlock_([2-5])\.([01])\.", lambda m: f"backbone.stages.{int(m[1]) - 2}.{m[2]}."),
    (r"^neck\.Rep_p4\.", "neck.top_down.0."),
    (r"^neck\.Rep_p3\.", "neck.top_down.1."),
    (r"^neck\.Rep_n3\.", "neck.bottom_up.0."),
    (r"^neck\.Rep_n4\.", "neck.bottom_up.1."),
    (r"^neck\.reduce_layer([01])\.", r"neck.reduce.\1."),
    (r"^neck\.upsample([01])\.upsample_transpose\.", r"neck.upsample.\1."),
    (r"^neck\.downsample2\.", "neck.downsample.0."),
    (r"^neck\.downsample1\.", "neck.downsample.1."),
    (r"^detect\.", "head."),
    # Inside a run of repeated blocks the official first one stands apart.
    (r"(stages\.\d\.1|top_down\.\d|bottom_up\.\d)\.conv1\.", r"\1.0."),
    (r"(stages\.\d\.1|top_down\.\d|bottom_up\.\d)\.block\.(\d+)\.", lambda m: f"{m[1]}.{int(m[2]) + 1}."),
    (r"\.rbr_dense\.", ".dense."),
    (r"\.rbr_1x1\.", ".pointwise."),
    (r"\.rbr_identity\.", ".identity."),
    (r"\.conv_1x1\.", ".pointwise."),
    (r"\.scale_1x1\.", ".scale_pointwise."),
    # The official convolution units wrap conv and batch norm once more.
    (r"\.block\.(conv|bn)\.", r".\1."),
)

CONSTANTS = re.compile(r"^detect\.proj(_conv\.weight)?$")
"""Bin values of the distance distribution: stored as tensors there, computed here."""


def rename_official(name: str) -> str:
    """Our name of an official tensor or module path."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dictionary under our names, without the projection constants of the head."""
    return {rename_official(name): tensor for name, tensor in state.items() if not CONSTANTS.match(name)}
