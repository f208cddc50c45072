"""What a user asks of exported files, whatever their network and dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from yolov6core.base.errors import UserError
from yolov6core.exchange.interface import Interface


@dataclass(frozen=True)
class FileForm:
    """The form of all files of an export or a bundle. Fields have the names of the parameters in section `export`.

    Attributes:
        form, nms, nms_classes, input, score_threshold, iou_threshold, max_detections: see `Interface`.
        image_size: (height, width) of the input; None: the training's.
        batch: images of one call, where the batch is fixed.
        dynamic_batch: any number of images.
        opset: see `onnx_export.to_onnx`; a dialect may ask for another one.
        qdq_activations: integers of dialect 'qdq', see `dialects.grid_of`.
        fp16: half precision for whatever is not INT8, in dialect 'trt'.
        simplify: see `dialects.write_traced`.
    """

    form: str = "decoded"
    nms: str = "none"
    nms_classes: str = "all"
    input: str = "float"
    score_threshold: float = 0.03
    iou_threshold: float = 0.65
    max_detections: int = 300
    image_size: tuple[int, int] | None = None
    batch: int = 1
    dynamic_batch: bool = False
    opset: int = 19
    qdq_activations: str = "uint8"
    fp16: bool = True
    simplify: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> FileForm:
        """Take the fields from values that may have more."""
        found: dict[str, Any] = {field.name: values[field.name] for field in fields(cls)}
        found["image_size"] = tuple(found["image_size"]) if found["image_size"] else None
        return cls(**found)

    def input_size(self, trained: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
        """(height, width) of the files' input.

        Args:
            trained: of the network.
            strides: of its levels.

        Raises:
            UserError: a side is no multiple of the largest stride.
        """
        height, width = self.image_size or trained
        stride = max(strides)
        if height % stride or width % stride:
            raise UserError(f"export.image_size is {[height, width]}; both sides have to be multiples of {stride}")
        return height, width

    def interface(self, strides: Sequence[int], shrink: int) -> Interface:
        """Inputs and outputs of the files of a network with these strides and this grey frame.

        Raises:
            ValueError: the fields contradict each other.
        """
        return Interface(
            form=self.form,
            nms=self.nms,
            nms_classes=self.nms_classes,
            input=self.input,
            strides=tuple(strides) if self.form == "raw" else (),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            shrink=shrink,
        )
