"""Official tensor names to our names: tables of renames, applied to state dictionaries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

Rename = tuple[str, str | Callable[[re.Match], str]]
"""A pattern over the name and its replacement; all entries of a table are applied, in order."""

STAGE = r"((?:stages\.\d\.1|top_down\.\d|bottom_up\.\d)\.)"

COMMON: tuple[Rename, ...] = (
    (r"^backbone\.ERBlock_\d\.2\.sppf\.cv1\.", "backbone.pool.reduce."),
    (r"^backbone\.ERBlock_\d\.2\.sppf\.cv2\.", "backbone.pool.fuse."),
    (r"^backbone\.ERBlock_\d\.2\.cspsppf\.cv([134])\.", lambda m: f"backbone.pool.before.{'134'.index(m[1])}."),
    (r"^backbone\.ERBlock_\d\.2\.cspsppf\.cv([56])\.", lambda m: f"backbone.pool.after.{'56'.index(m[1])}."),
    (r"^backbone\.ERBlock_\d\.2\.cspsppf\.cv2\.", "backbone.pool.bypass."),
    (r"^backbone\.ERBlock_\d\.2\.cspsppf\.cv7\.", "backbone.pool.fuse."),
    (r"^backbone\.ERBlock_(\d)\.([01])\.", lambda m: f"backbone.stages.{int(m[1]) - 2}.{m[2]}."),
    (r"^neck\.reduce_layer(\d)\.", r"neck.reduce.\1."),
    (r"^neck\.upsample(\d)\.upsample_transpose\.", r"neck.fuse.\1.upsample."),
    (r"^neck\.Bifusion(\d)\.upsample\.upsample_transpose\.", r"neck.fuse.\1.upsample."),
    (r"^neck\.Bifusion(\d)\.cv1\.", r"neck.fuse.\1.same."),
    (r"^neck\.Bifusion(\d)\.cv2\.", r"neck.fuse.\1.finer.0."),
    (r"^neck\.Bifusion(\d)\.downsample\.", r"neck.fuse.\1.finer.1."),
    (r"^neck\.Bifusion(\d)\.cv3\.", r"neck.fuse.\1.fuse."),
    (r"^detect\.(cls|reg)_preds_(?:ab|dist)\.", r"head.aux_head.\1_preds."),
    (r"^detect\.", "head."),
    # MBLA keeps convolution and norm directly in its two 1x1 units, CSP stages wrap them
    (STAGE + r"cv1\.(conv|bn)\.", r"\1split.\2."),
    (STAGE + r"cv2\.(conv|bn)\.", r"\1fuse.\2."),
    (STAGE + r"m\.(\d+)\.(\d+)\.", r"\1branches.\2.\3."),
    (STAGE + r"cv1\.", r"\1main."),
    (STAGE + r"cv2\.", r"\1bypass."),
    (STAGE + r"cv3\.", r"\1fuse."),
    # Inside a run of repeated blocks the official first one stands apart.
    (STAGE + r"m\.conv1\.", r"\1blocks.0."),
    (STAGE + r"m\.block\.(\d+)\.", lambda m: f"{m[1]}blocks.{int(m[2]) + 1}."),
    (STAGE + r"conv1\.", r"\g<1>0."),
    (STAGE + r"block\.(\d+)\.", lambda m: f"{m[1]}{int(m[2]) + 1}."),
    (r"((?:blocks|branches\.\d)\.\d+\.)conv(\d)\.", lambda m: f"{m[1]}blocks.{int(m[2]) - 1}."),
    (r"\.alpha$", ".shortcut.weight"),
    (r"\.rbr_dense\.", ".dense."),
    (r"\.rbr_1x1\.", ".pointwise."),
    (r"\.rbr_identity\.", ".identity."),
    (r"\.rbr_reparam\.", ".conv."),
    (r"\.conv_1x1\.", ".pointwise."),
    (r"\.scale_1x1\.", ".scale_pointwise."),
    # The official convolution units wrap conv and batch norm once more.
    (r"\.block\.(conv|bn)\.", r".\1."),
)
THREE_LEVELS: tuple[Rename, ...] = (
    (r"^neck\.Rep_p([43])\.", lambda m: f"neck.top_down.{4 - int(m[1])}."),
    (r"^neck\.Rep_n([34])\.", lambda m: f"neck.bottom_up.{int(m[1]) - 3}."),
    (r"^neck\.downsample([12])\.", lambda m: f"neck.downsample.{2 - int(m[1])}."),
)
FOUR_LEVELS: tuple[Rename, ...] = (
    (r"^neck\.Rep_p([543])\.", lambda m: f"neck.top_down.{5 - int(m[1])}."),
    (r"^neck\.Rep_n([456])\.", lambda m: f"neck.bottom_up.{int(m[1]) - 4}."),
    (r"^neck\.downsample([012])\.", lambda m: f"neck.downsample.{2 - int(m[1])}."),
)
LITE: tuple[Rename, ...] = (
    (r"^backbone\.conv_0\.", "backbone.stem."),
    (r"^backbone\.lite_effiblock_(\d)\.", lambda m: f"backbone.stages.{int(m[1]) - 1}."),
    (r"(stages\.\d\.0\.)conv_dw_1\.", r"\1short.0."),
    (r"(stages\.\d\.0\.)conv_1\.", r"\1short.1."),
    (r"(stages\.\d\.0\.)conv_pw_2\.", r"\1long.0."),
    (r"(stages\.\d\.0\.)conv_dw_2\.", r"\1long.1."),
    (r"(stages\.\d\.0\.)se\.", r"\1long.2."),
    (r"(stages\.\d\.0\.)conv_2\.", r"\1long.3."),
    (r"(stages\.\d\.0\.)conv_dw_3\.", r"\1mix.0."),
    (r"(stages\.\d\.0\.)conv_pw_3\.", r"\1mix.1."),
    (r"(stages\.\d\.\d+\.)conv_pw_1\.", r"\1branch.0."),
    (r"(stages\.\d\.\d+\.)conv_dw_1\.", r"\1branch.1."),
    (r"(stages\.\d\.\d+\.)se\.", r"\1branch.2."),
    (r"(stages\.\d\.\d+\.)conv_1\.", r"\1branch.3."),
    (r"((?:long|branch)\.2\.)conv1\.", r"\1reduce."),
    (r"((?:long|branch)\.2\.)conv2\.", r"\1expand."),
    (r"^neck\.reduce_layer0\.", "neck.reduce.0."),
    (r"^neck\.reduce_layer([12])\.", lambda m: f"neck.fuse.{int(m[1]) - 1}.lateral."),
    (r"^neck\.Csp_p([43])\.", lambda m: f"neck.top_down.{4 - int(m[1])}."),
    (r"^neck\.Csp_n([34])\.", lambda m: f"neck.bottom_up.{int(m[1]) - 3}."),
    (r"((?:top_down|bottom_up)\.\d\.)conv_1\.", r"\1main.0."),
    (r"((?:top_down|bottom_up)\.\d\.)blocks\.conv_1\.", r"\1main.1."),
    (r"((?:top_down|bottom_up)\.\d\.)blocks\.conv_2\.", r"\1main.2."),
    (r"((?:top_down|bottom_up)\.\d\.)conv_2\.", r"\1bypass."),
    (r"((?:top_down|bottom_up)\.\d\.)conv_3\.", r"\1fuse."),
    (r"^neck\.downsample([12])\.", lambda m: f"neck.downsample.{2 - int(m[1])}."),
    (r"^neck\.p6_conv_1\.", "neck.coarser.before."),
    (r"^neck\.p6_conv_2\.", "neck.coarser.after."),
    # a depthwise pair
    (r"\.conv_dw_1\.", ".0.conv."),
    (r"\.bn_1\.", ".0.bn."),
    (r"\.conv_pw_1\.", ".1.conv."),
    (r"\.bn_2\.", ".1.bn."),
)

CONSTANTS = re.compile(r"^detect\.proj(_conv\.weight)?$")
"""Bin values of the distance distribution: official files store them, our head computes them."""


def rename_official(name: str, table: tuple[Rename, ...] = (*THREE_LEVELS, *COMMON)) -> str:
    """Our name of an official tensor or module path."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def table_for(names: set[str]) -> tuple[Rename, ...]:
    """The renames for the family of these official names."""
    if any(name.startswith("backbone.lite_effiblock_1.") for name in names):
        return (*LITE, *COMMON)
    if any(name.startswith("neck.Rep_p5.") for name in names):
        return (*FOUR_LEVELS, *COMMON)
    return (*THREE_LEVELS, *COMMON)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dictionary under our names, without the projection constants of the head."""
    table = table_for(set(state))
    return {rename_official(name, table): tensor for name, tensor in state.items() if not CONSTANTS.match(name)}
