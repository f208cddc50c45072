"""Environments in which a child process takes the integer kernels of another CPU than the one at hand.

python tests/support/cpu_modes.py avx2 benchmarks/engine_speed.py     # anything after `python`, in a mode
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

MODES = ("here", "openvino-avx2", "avx512", "avx2")
"""`here`: nothing hidden. `openvino-avx2`: oneDNN, and by it OpenVINO, held to AVX2. `avx512`: no VNNI; `avx2`: no
AVX-512 either, for every library of the process."""
SOURCE = Path(__file__).with_name("cpuid_mask.c")
HIDDEN = {"avx512": "vnni", "avx2": "avx512"}


def environment(mode: str, folder: Path) -> dict[str, str]:
    """Variables of a child process in this mode; skips the test, saying why, where the mode cannot be had.

    Args:
        folder: where a library may be built.
    """
    if mode == "here":
        return dict(os.environ)
    if "CPUID_MASK" in os.environ:
        pytest.skip("instructions are hidden from this process already")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"the CPU is {platform.machine()}: it has no AVX2 kernels")
    if mode == "openvino-avx2":
        return {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    return {**os.environ, "LD_PRELOAD": str(_mask(folder)), "CPUID_MASK": HIDDEN[mode]}


@cache
def _mask(folder: Path) -> Path:
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("hiding instructions needs Linux and gcc")
    library = folder / "cpuid_mask.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    tried = {**os.environ, "LD_PRELOAD": str(library), "CPUID_MASK": "vnni"}
    result = subprocess.run(["true"], env=tried, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"instructions of this CPU cannot be hidden: {result.stderr.strip()}")
    return library


def run_in(mode: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command line in a mode, from the project's root, and return what it printed."""
    root = Path(__file__).parents[2]
    env = {**environment(mode, folder), "PYTHONPATH": str(root), "GOMP_SPINCOUNT": "1000"}
    return subprocess.run([sys.executable, *command], cwd=root, env=env, capture_output=True, text=True, timeout=280)


def main() -> None:
    mode, *command = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(subprocess.run([sys.executable, *command], env=environment(mode, Path(folder))).returncode)


if __name__ == "__main__":
    main()
