"""A video of drawn pictures, which gets its name when it is complete."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6core.base.errors import UserError
from yolov6core.serving.results_folder import ResultsFolder


class DrawnVideo:
    """Takes pictures uint8 BGR of one size and writes them as MPEG-4."""

    def __init__(self, results: ResultsFolder, name: str, rate: float) -> None:
        """Args: rate: frames a second."""
        self._results, self._name, self._rate = results, name, rate
        self._temporary = results.temporary(name)
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture. Raises UserError if OpenCV cannot write videos here."""
        if self._writer is None:
            height, width = picture.shape[:2]
            self._writer = cv2.VideoWriter(
                str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, (width, height)
            )
            if not self._writer.isOpened():
                raise UserError(
                    f"{self._results.path / self._name} cannot be written as a video; OpenCV lacks the codec mp4v"
                )
        self._writer.write(picture)

    def close(self, *, keep: bool = True) -> None:
        """Give the video its name; without pictures there is none.

        Args:
            keep: False after an error: what was written so far is removed.

        Raises:
            UserError: somebody put a file of its name there meanwhile.
        """
        try:
            if self._writer is not None:
                self._writer.release()
                if keep and self._temporary.is_file():
                    self._results.place(self._temporary, self._name)
        finally:
            self._temporary.unlink(missing_ok=True)
