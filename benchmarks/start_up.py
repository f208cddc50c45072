"""How long commands take before they do anything, and how long DVC takes to find that nothing is to be done.

    python benchmarks/start_up.py --rounds 5

Every measurement is a process of its own; they take turns. Medians in seconds, with the smallest and the largest. `dvc
status` compares all inputs and outputs of the repository in the present folder with dvc.lock, and changes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CASES = {
    "python alone": (0, "-c", "pass"),
    "import torch": (0, "-c", "import torch"),
    "stages --help": (0, "-m", "stages", "--help"),
    "a wrong parameter": (2, "-m", "stages", "train-repopt", "--set", "train.epochs=-1"),
    "dvc --version": (0, "-m", "dvc", "--version"),
    "dvc status": (0, "-m", "dvc", "status"),
}
"""Name -> expected exit code, and arguments of Python."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(options.rounds + 1):
        for name, (code, *arguments) in CASES.items():
            started = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
            if done.returncode != code:
                raise SystemExit(f"{name} ended with {done.returncode} instead of {code}: {done.stderr}")
            if number:  # the first round fills the disk's cache
                seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
