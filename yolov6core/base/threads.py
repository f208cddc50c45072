"""What this machine computes with: threads and devices."""

from __future__ import annotations

import os

import cv2
import torch

from yolov6core.base.errors import UserError


def set_threads(threads: int) -> int:
    """Give torch `threads` threads (0: all cores) and OpenCV one; returns the number in use.

    The thread count changes the order of floating-point sums, so weights are byte-identical only for equal counts.
    """
    count = threads or os.cpu_count() or 1
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    return count


def describe_device(device: str, *, processes: int = 1) -> str:
    """A device of torch in words, with the CPU threads in use: `cuda:0 (NVIDIA T4), 8 CPU threads`.

    Args:
        processes: that work alike, this one included.
    """
    name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
    count = torch.get_num_threads()
    several = f" in each of {processes} processes" if processes > 1 else ""
    return f"{device}{name}, {count} CPU thread{'s' if count > 1 else ''}{several}"


def compute_device(name: str) -> str:
    """`auto` becomes `cuda` where torch sees a GPU, else `cpu`; other names stay.

    Raises:
        UserError: a GPU that torch does not see.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return "cuda" if count else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= count:
        raise UserError(f"runtime.device is {name}, but torch sees {count} GPU(s) here; set it to auto or cpu")
    return name
