"""The ModelSpec of a state dictionary, inferred from names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from yolov6core.models.variants import LITE, ModelSpec, Stage

MAX_BLOCKS = 1000
"""More blocks of one kind are in no network."""


def infer_spec(tensors: Mapping[str, Tensor]) -> ModelSpec:
    """A spec with the channels and repeats of the tensors, and depth and width 1.

    Tensors do not show the activation (`block`), the box loss and the anchors: these keep their defaults. This
    serves checkpoints whose depth and width are not published.

    Args:
        tensors: under our names, in training or deployed form.

    Raises:
        ValueError: the tensors do not belong to a YOLOv6 network.
    """
    reader = _Reader(tensors)
    try:
        return reader.lite() if "backbone.stages.0.0.short.0.conv.weight" in tensors else reader.spec()
    except KeyError as error:
        raise ValueError(f"the {len(tensors)} tensors are not those of a YOLOv6 network: {error} is missing") from None
    except (IndexError, ZeroDivisionError) as error:  # tensors without channels
        raise ValueError(f"the {len(tensors)} tensors are not those of a YOLOv6 network ({error})") from None


def explicit(spec: ModelSpec) -> ModelSpec:
    """The same network with depth and width 1, and with defaults for values that tensors do not show."""
    plain = ModelSpec()
    lite = spec.stage == "lite"
    neck = (lambda count: count) if lite else spec.channels
    stem, *stages = spec.backbone_channels
    return replace(
        spec,
        depth=1.0,
        width=1.0,
        block=plain.block,
        csp_ratio=plain.csp_ratio,
        iou_type=plain.iou_type,
        anchors=plain.anchors,
        backbone_channels=(stem if lite else spec.channels(stem), *(spec.channels(count) for count in stages)),
        backbone_repeats=spec.backbone_repeats if lite else tuple(map(_even(spec), spec.backbone_repeats)),
        top_down=tuple(map(neck, spec.top_down)),
        bottom_up=tuple(map(neck, spec.bottom_up)),
        neck_repeats=spec.neck_repeats if lite else _even(spec)(spec.neck_repeats),
    )


def _even(spec: ModelSpec) -> Callable[[int], int]:
    """Repeats as stages count them: CSP and MBLA stages consist of pairs."""
    return spec.repeats if spec.stage == "rep" else lambda count: 2 * max(spec.repeats(count) // 2, 1)


class _Reader:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def spec(self) -> ModelSpec:
        stage = self._stage()
        levels = self._count(r"head\.stems\.(\d+)\.")
        stages = range(self._count(r"backbone\.stages\.(\d+)\."))
        return ModelSpec(
            stage=stage,
            csp_ratio=ModelSpec().csp_ratio
            if stage == "rep"
            else self._ratio([f"backbone.stages.{i}.1" for i in stages], stage),
            fusion="bifusion" if "neck.fuse.0.fuse.conv.weight" in self.tensors else "concat",
            pool="csp_sppf" if "backbone.pool.bypass.conv.weight" in self.tensors else "sppf",
            backbone_channels=(
                self._outputs("backbone.stem"),
                *(self._outputs(f"backbone.stages.{i}.0") for i in stages),
            ),
            backbone_repeats=tuple(self._repeats(f"backbone.stages.{i}.1", stage) for i in stages),
            top_down=tuple(self._outputs(f"neck.reduce.{i}") for i in range(levels - 1)),
            bottom_up=tuple(self._outputs(f"head.stems.{i}") for i in range(1, levels)),
            neck_repeats=self._repeats("neck.top_down.0", stage),
            strides=tuple(8 << level for level in range(levels)),
            reg_max=self.tensors["head.reg_preds.0.bias"].shape[0] // 4 - 1,
        )

    def lite(self) -> ModelSpec:
        stages = range(self._count(r"backbone\.stages\.(\d+)\."))
        neck = (self._outputs("neck.reduce.0"),) * 2
        channels = tuple(self._outputs(f"backbone.stages.{i}.0.mix.1") for i in stages)
        return replace(
            LITE,
            backbone_channels=(self._outputs("backbone.stem"), *channels),
            backbone_repeats=tuple(self._count(rf"backbone\.stages\.{i}\.(\d+)\.") for i in stages),
            top_down=neck,
            bottom_up=neck,
        )

    def _stage(self) -> Stage:
        if "neck.top_down.0.split.conv.weight" in self.tensors:
            return "mbla"
        return "csp" if "neck.top_down.0.main.conv.weight" in self.tensors else "rep"

    def _ratio(self, stages: Sequence[str], kind: str) -> float:
        """A ratio whose product with the output channels, rounded down, gives the hidden channels of every stage."""
        inner = "main" if kind == "csp" else "branches.0.0.blocks.0"
        pairs = [(self._outputs(f"{stage}.{inner}"), self._outputs(f"{stage}.fuse")) for stage in stages]
        return (max(hidden / out for hidden, out in pairs) + min((hidden + 1) / out for hidden, out in pairs)) / 2

    def _repeats(self, stage: str, kind: str) -> int:
        stage = re.escape(stage)
        if kind == "rep":
            return self._count(rf"{stage}\.(\d+)\.")
        if kind == "csp":
            return 2 * self._count(rf"{stage}\.blocks\.(\d+)\.")
        last = self._count(rf"{stage}\.branches\.(\d+)\.") - 1
        return 2 * self._count(rf"{stage}\.branches\.{last}\.(\d+)\.")

    def _outputs(self, block: str) -> int:
        """Output channels of a block of any form."""
        for inner in ("conv.weight", "dense.conv.weight"):
            if f"{block}.{inner}" in self.tensors:
                return self.tensors[f"{block}.{inner}"].shape[0]
        raise KeyError(f"{block}.conv.weight")

    def _count(self, pattern: str) -> int:
        """One more than the largest index that a pattern captures in a name."""
        found = (re.match(pattern, name) for name in self.tensors)
        indices = [int(match[1]) for match in found if match]
        if not indices or max(indices) >= MAX_BLOCKS:
            raise KeyError(pattern)
        return max(indices) + 1
