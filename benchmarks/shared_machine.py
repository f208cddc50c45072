"""The whole pipeline alone and beside a busy process: how many times as long each stage takes, and all of them.

    python benchmarks/shared_machine.py --set search.epochs=2 train.epochs=4 qat.epochs=1

All stages in folders of their own, once alone and once beside one Python process that computes without pause. Aim on
two cores: at most 2.5 times in all. Trainings are short here; a stage's own ratio tells what more epochs would do. It
wants a machine that is else idle.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

from seeds import STAGES, changed_params, run_stages
from waiting import busy_process

from yolov6core.base.waiting import OWN_SETTINGS

AIM = 2.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="changes of params.yaml")
    options = parser.parse_args()
    for name in OWN_SETTINGS:  # which runtime.waiting obeys
        os.environ.pop(name, None)
    params = changed_params(0, options.set)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place in ("alone", "beside"):
            for stage in STAGES:
                with busy_process() if place == "beside" else contextlib.nullcontext():
                    started = time.perf_counter()
                    run_stages(Path(folder) / place, params, [stage])
                seconds.setdefault(stage, []).append(time.perf_counter() - started)
                print(f"{place:8}{stage:18}{seconds[stage][-1]:8.1f} s", flush=True)
    for stage, (alone, beside) in seconds.items():
        print(f"{stage:18}{alone:8.1f}{beside:8.1f} s   {beside / alone:.2f} times")
    alone, beside = (sum(times) for times in zip(*seconds.values(), strict=True))
    print(f"all stages: {alone:.0f} s alone, {beside:.0f} s beside, {beside / alone:.2f} times (aim: at most {AIM})")


if __name__ == "__main__":
    main()
