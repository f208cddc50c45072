"""What stages share at their edges."""

from __future__ import annotations

import errno
import os

import pytest
import typer

from stages.shared.shell import errors_as_exit_codes
from yolov6core.base.atomic import replace_folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_any_stage_with_a_message(number, capsys):
    with pytest.raises(typer.Exit), errors_as_exit_codes():
        raise OSError(number, os.strerror(number))
    assert f"error: an output could not be written ({os.strerror(number)})" in capsys.readouterr().err


def test_other_errors_of_the_system_keep_their_traceback(tmp_path):
    with pytest.raises(PermissionError), errors_as_exit_codes(), replace_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "no")
