"""A training step alone and beside a busy process, by how threads wait: spinning, yielding, and as `auto` chooses.

    python benchmarks/waiting.py --size 160 --batch 8 --threads 2 --steps 20 --rounds 5

YOLOv6-N with RepOptimizer's blocks, as in `training_step.py`. Every measurement is a process of its own, because the
setting counts only before torch is loaded; they take turns, round after round. "Beside" is beside one Python process
that computes without pause. Milliseconds: median over all steps, and the worst step. Aims on two cores: `auto` alone at
most 1.03 times the best, and beside a busy process at most 2.2 times. It wants a machine that is else idle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from yolov6core.base.waiting import OWN_SETTINGS, busy_cores, settle_waiting

MODES = ("spin", "yield", "auto")
PLACES = ("alone", "beside")
AIM_ALONE, AIM_BESIDE = 1.03, 2.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured_here(options)))
        return
    print(f"busy cores before: {busy_cores(1.0):.2f} (near 0 on a quiet machine)", flush=True)
    seconds: dict[tuple[str, str], list[float]] = {(mode, place): [] for mode in MODES for place in PLACES}
    for number in range(options.rounds):
        for place in PLACES:
            for mode in MODES[number % len(MODES) :] + MODES[: number % len(MODES)]:
                with busy_process() if place == "beside" else contextlib.nullcontext():
                    seconds[mode, place] += measured(mode)
    report(seconds)


def measured_here(options: argparse.Namespace) -> dict[str, object]:
    """What was settled, and the seconds of every step, in this process."""
    settled = settle_waiting(options.measure, threads=options.threads)
    import torch  # only now: libgomp reads the setting when it is loaded
    from training_step import WARM_UP, steps

    torch.set_num_threads(options.threads)
    rows = list(steps("yolov6n_v2", "repopt", options))[WARM_UP:]
    return {"settled": settled, "seconds": [sum(row.values()) for row in rows]}


def measured(mode: str) -> list[float]:
    """Seconds of every step, measured in a process of its own."""
    env = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", mode]
    found = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    print(f"{1000 * statistics.median(found['seconds']):8.0f} ms  {found['settled']}", flush=True)
    return found["seconds"]


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Beside a process that computes without pause."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def report(seconds: dict[tuple[str, str], list[float]]) -> None:
    """The table, and how `auto` stands to its aims."""
    medians = {case: 1000 * statistics.median(values) for case, values in seconds.items()}
    print(f"{'':8}{'alone':>10}{'worst':>10}{'beside':>10}{'worst':>10}   ms")
    for mode in MODES:
        cells = [f"{medians[mode, place]:10.0f}{1000 * max(seconds[mode, place]):10.0f}" for place in PLACES]
        print(f"{mode:8}{''.join(cells)}")
    best = min(medians[mode, "alone"] for mode in MODES)
    print(f"auto alone to the best alone: {medians['auto', 'alone'] / best:.3f} (aim: at most {AIM_ALONE})")
    print(f"auto beside to the best alone: {medians['auto', 'beside'] / best:.2f} (aim: at most {AIM_BESIDE})")


if __name__ == "__main__":
    main()
