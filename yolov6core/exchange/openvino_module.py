"""OpenVINO, loaded without its telemetry."""

from __future__ import annotations

import sys
from typing import Any

TELEMETRY = "openvino_telemetry"
"""Package that sends usage data, with a lasting client id, to an analytics server."""


def load_openvino() -> Any:
    """The module `openvino`. Its telemetry is kept from loading first; OpenVINO then uses a stub of its own.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(TELEMETRY, None)  # an import of it raises ImportError
    import openvino

    return openvino
