"""A network traced for files of all dialects, each on its own grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from yolov6core.base.errors import UserError
from yolov6core.exchange.onnx_notes import JUDGED_ON, set_note
from yolov6core.export.file_form import FileForm
from yolov6core.export.grids import CACHE_GRID, choose_grid_, note_quantized, other_grid
from yolov6core.export.onnx_export import OUTPUTS, RAW_OUTPUTS, to_onnx
from yolov6core.quant.insert import QuantizedModel, state_of, uncalibrated

if TYPE_CHECKING:
    import onnx

FLOAT = "float"
"""The grid of a network without quantization."""


class Tracer:
    """Traces a float or quantized network. The network stays on the grid that was asked for last."""

    def __init__(
        self, network: nn.Module, decoded: nn.Module, files: FileForm, *, image_size: tuple[int, int], weights: Path
    ) -> None:
        """Args:
        network: gives raw outputs (see `models.head`); a quantized one has constant weight scales, and is on the grid
            that it was judged on.
        decoded: the same network with boxes and scores as outputs.
        image_size: (height, width) of the files' input.
        weights: checkpoint of the network, for messages.
        """
        self.network, self.decoded, self.files = network, decoded, files
        self._image_size, self._weights = image_size, weights
        self._grid = {"nms": files.nms, "dynamic_batch": files.dynamic_batch, "activations": files.qdq_activations}
        # As loaded: `set_grid` makes further layers float.
        state = state_of(network) if isinstance(network, QuantizedModel) else None
        self._floats, self._judged = (state.float_layers, state.dialect.name) if state else (frozenset(), "")
        self._traced: dict[tuple[str, int, str], onnx.ModelProto] = {}

    def set_grid(self, dialect: str) -> str:
        """Put the network on the grid of a dialect's files; returns its name, see `grids.choose_grid_`, or FLOAT.

        Raises:
            UserError: the network was not calibrated for this grid.
        """
        if not isinstance(self.network, QuantizedModel):
            return FLOAT
        grid = choose_grid_(self.network, dialect, self._floats, **self._grid)
        if missing := uncalibrated(self.network):
            raise UserError(
                f"{self._weights} has no ranges for {len(missing)} tensors that dialect {dialect} quantizes, such as "
                f"{missing[0]}: take {dialect!r} out of export.dialects, or choose another --target of a bundle, or "
                "calibrate with 'dvc repro ptq-calib'"
            )
        return grid

    def trace(self, dialect: str, opset: int, *, form: str = "") -> onnx.ModelProto:
        """The network as ONNX for files of a dialect, traced once for each grid and opset; nobody may change it.

        Args:
            form: instead of that of the files.

        Raises:
            UserError: see `set_grid`.
            ValueError: opset out of range.
        """
        key = self.set_grid(dialect), opset, form or self.files.form
        if key not in self._traced:
            self._traced[key] = self._trace(dialect, *key)
        return self._traced[key]

    def _trace(self, dialect: str, grid: str, opset: int, form: str) -> onnx.ModelProto:
        raw, files = form == "raw", self.files
        model = to_onnx(
            self.network if raw else self.decoded,
            input_shape=(files.batch, 3, *self._image_size),
            dynamic_batch=files.dynamic_batch,
            opset=opset,
            outputs=RAW_OUTPUTS if raw else OUTPUTS,
        )
        if grid == CACHE_GRID and isinstance(self.network, QuantizedModel):
            note_quantized(model, self.network, self._floats)
        if self._judged and other_grid(self._judged, dialect, **self._grid):
            set_note(model, JUDGED_ON, self._judged)
        return model
