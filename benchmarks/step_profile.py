"""Where the time of a training step goes: the operators of torch, in milliseconds and as a share of the step.

    python benchmarks/step_profile.py --kinds float quantized teacher --rows 12

The steps are those of `qat_step.py`. For convolutions the table has the rate of their products and sums as well, and
for comparison that of a large matrix product: about what the processor can do. Shares are of the time in operators,
measured by torch.profiler, which slows the small ones down.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from qat_step import make_steps, random_batch
from torch.profiler import ProfilerActivity, profile

CLASSES, BOXES = 3, 8
WARM_UP = 3
SIDE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov6n_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", default=["float", "quantized", "teacher"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data = random_batch(options.batch, options.size, boxes=BOXES, classes=CLASSES)
    steps = make_steps(options.variant, data, classes=CLASSES)
    print(f"matrix product of {SIDE} x {SIDE}: {matrix_rate():.0f} GFLOP/s")
    for kind in options.kinds:
        print_table(kind, profiled(steps[kind], options.steps), options)


def matrix_rate() -> float:
    """GFLOP/s of a product of two square matrices, the best of ten."""
    matrix = torch.randn(SIDE, SIDE)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds) / 1e9


def profiled(step: Callable[[], None], count: int) -> Any:
    """Events of `count` steps, after those that warm up."""
    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as found:
        for _ in range(count):
            step()
    return found


def print_table(kind: str, found: Any, options: argparse.Namespace) -> None:
    """The operators that take longest by themselves, and the rate of the convolutions."""
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"{kind}: {total / options.steps / 1000:.0f} ms a step in operators")
    for event in events[: options.rows]:
        milliseconds = event.self_cpu_time_total / options.steps / 1000
        share, calls = event.self_cpu_time_total / total, event.count / options.steps
        print(f"  {event.key:<46}{milliseconds:>8.1f} ms{share:>7.1%}{calls:>7.0f} calls")
    forward = sum(event.flops for event in events if event.key == "aten::conv2d")
    for name, passes in (("aten::mkldnn_convolution", 1), ("aten::convolution_backward", 2)):
        spent = sum(event.self_cpu_time_total for event in events if event.key == name)
        print(f"  {name}: {passes * forward / spent / 1000:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
