"""Errors that the user can mend, and the logger of the project."""

from __future__ import annotations

import logging

logger = logging.getLogger("yolov6-quant")
BRIEF_CHARACTERS = 300
"""Of a library's message that is quoted."""


class UserError(Exception):
    """A problem that the user can mend: commands print it without a traceback and exit with code 1."""


class Interrupted(Exception):
    """The work was asked to stop and has saved its state; the message, if any, says how to continue.

    The exit code is 130, except for processes that another process started and answers for.
    """

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def brief(error: BaseException) -> str:
    """A library's message in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:BRIEF_CHARACTERS] if text else type(error).__name__
