"""Errors that a person can mend, and the logger of the project."""

from __future__ import annotations

import logging

logger = logging.getLogger("yolov6-quant")


class StageError(Exception):
    """A problem that a person can mend: printed without a traceback, exit code 1."""


class StageStopped(Exception):
    """The stage was asked to stop and did so in good order: the message, if any, says how to continue.

    The exit code is 130, but for processes that another one started and answers for.
    """

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
