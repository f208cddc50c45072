"""Options that all commands have which read parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.shared import paths

ParamsFile = Annotated[
    Path, typer.Option("--params", help="The parameter file, or one that holds only what differs from params.yaml.")
]
DEFAULT_PARAMS = paths.PARAMS
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A value for this run, as qat.epochs=1; may be given again.")
]
